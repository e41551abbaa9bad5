"""The l1 or linf constant on a box as mixed-integer programs, solved by HiGHS.

Jordan and Dimakis, "Exactly computing the local Lipschitz constant of ReLU networks" (2020), write
values and derivatives of a network with one binary variable per kink. A solver works with
tolerances, so its optimum is an estimate.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from holdfast.brackets.branching.cells import Limits
from holdfast.brackets.branching.pieces import PiecewiseNet
from holdfast.sdp.form import Array

Line = dict[int, float]
"""Coefficients by variable."""

Entry = tuple[Line, float]
"""A line and a constant."""


@dataclass
class _Program:
    """Variables with their limits, and rows of constraints."""

    limits: list[tuple[float, float]] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[tuple[Line, float, float]] = field(default_factory=list)

    @property
    def finite(self) -> bool:
        """Whether all limits are numbers that the solver can take."""
        return bool(np.isfinite(self.limits).all())

    def copy(self) -> "_Program":
        """Return a program that can grow by itself."""
        return _Program([*self.limits], [*self.whole], [*self.rows])

    def variable(self, low: float, high: float, whole: bool = False) -> int:
        """Add a variable and return its number."""
        self.limits.append((low, high))
        self.whole.append(whole)
        return len(self.limits) - 1

    def demand(self, line: Line, low: float, high: float) -> None:
        """Demand low <= line <= high."""
        self.rows.append((line, low, high))

    def choose(self, binary: int, line: Line, constant: float, reach: float) -> int:
        """Return a variable that is line + constant where the binary is 1, and 0 elsewhere."""
        product = self.variable(-reach, reach)
        self.demand({product: 1.0, binary: -reach}, -np.inf, 0.0)
        self.demand({product: 1.0, binary: reach}, 0.0, np.inf)
        gap = {product: 1.0} | {place: -value for place, value in line.items()}
        self.demand({**gap, binary: 2.0 * reach}, -np.inf, constant + 2.0 * reach)
        self.demand({**gap, binary: -2.0 * reach}, constant - 2.0 * reach, np.inf)
        return product

    def best(self, gain: Line, seconds: float) -> tuple[float, Array] | None:
        """Maximise, and return the value and the variables; None where nothing was found."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import lil_array

        matrix = lil_array((len(self.rows), len(self.limits)))
        for k, (line, _, _) in enumerate(self.rows):
            for place, value in line.items():
                matrix[k, place] = value
        lows = np.array([low for _, low, _ in self.rows])
        highs = np.array([high for _, _, high in self.rows])
        cost = np.zeros(len(self.limits))
        cost[list(gain)] = [-value for value in gain.values()]
        found = milp(
            cost,
            integrality=np.array(self.whole, int),
            bounds=Bounds(*np.array(self.limits).T),
            constraints=LinearConstraint(matrix.tocsr(), lows, highs),  # pyright: ignore
            options={"time_limit": seconds},
        )
        return None if found.x is None else (-found.fun, found.x)


@np.errstate(over="ignore", invalid="ignore")
def milp_estimate(
    network: PiecewiseNet, limits: Limits, norm: float, seconds: float
) -> tuple[float, Array | None]:
    """Estimate the l1 or linf constant on a box, and return a point of the best cell.

    Args:
        network: Its pieces.
        limits: Lower and upper ends of the box.
        norm: 1 or inf.
        seconds: Time for all rows (inf) or columns (1) of the Jacobian together.

    Returns:
        The largest norm found, within the tolerances of the solver, and an input in its cell.
    """
    end = time.perf_counter() + seconds
    left, right = network.left / network.divisor, network.right / network.divisor
    network = replace(network, left=left, right=right, divisor=np.ones_like(left))
    program, jacobian = _derivatives(network, limits)
    reach = float(_steepest(network).max()) + 1.0
    best: tuple[float, Array | None] = (0.0, None)
    if not program.finite:
        return best
    for line in zip(*jacobian, strict=True) if norm == 1.0 else jacobian:
        remaining = end - time.perf_counter()
        if remaining <= 0.0:
            break
        own = program.copy()
        found = own.best(_absolute(own, line, reach), remaining)
        if found is not None and found[0] > best[0]:
            best = found[0], found[1][: network.inputs]
    return best


def _derivatives(network: PiecewiseNet, limits: Limits) -> tuple[_Program, list[list[Entry]]]:
    """Write the network and its Jacobian; return the entries of the Jacobian, row by row."""
    d, units = network.inputs, len(network.B)
    program = _Program()
    for low, high in zip(*limits, strict=True):
        program.variable(low, high)
    values: list[Entry] = [({k: 1.0}, 0.0) for k in range(d)]
    slopes: list[list[Entry]] = [[({}, float(j == k)) for j in range(d)] for k in range(d)]
    reach, steep = _sizes(network, limits), _steepest(network)
    for unit in range(units):
        line, constant = _combined(network.B[unit], values, float(network.offset[unit]))
        columns = [_combined(network.B[unit], [s[j] for s in slopes], 0.0) for j in range(d)]
        left, right = float(network.left[unit]), float(network.right[unit])
        if left == right:
            values.append(_scaled(line, constant, left))
            slopes.append([_scaled(*column, left) for column in columns])
            continue
        side = program.variable(0, 1, whole=True)
        size = float(reach[unit])
        program.demand({**line, side: -size}, -np.inf, -constant)
        program.demand({**line, side: -size}, -size - constant, np.inf)
        positive = program.choose(side, line, constant, size)
        values.append(_bent(line, constant, positive, (left, right)))
        slopes.append([])
        for (row, offset), most in zip(columns, steep[d + unit], strict=True):
            chosen = program.choose(side, row, offset, float(most) + 1.0)
            slopes[-1].append(_bent(row, offset, chosen, (left, right)))
    return program, [
        [_combined(row, [s[j] for s in slopes], 0.0) for j in range(d)] for row in network.C
    ]


def _combined(row: Array, parts: Sequence[Entry], constant: float) -> Entry:
    """Return a weighted sum of lines."""
    total: Line = {}
    for place in np.flatnonzero(row[: len(parts)]).tolist():
        line, offset = parts[place]
        constant += float(row[place]) * offset
        for variable, value in line.items():
            total[variable] = total.get(variable, 0.0) + float(row[place]) * value
    return total, constant


def _scaled(line: Line, constant: float, factor: float) -> Entry:
    return {place: factor * value for place, value in line.items()}, factor * constant


def _bent(line: Line, constant: float, positive: int, slopes: tuple[float, float]) -> Entry:
    """Return left * line + (right - left) * its part above 0."""
    left, right = slopes
    bent, offset = _scaled(line, constant, left)
    return {**bent, positive: right - left}, offset


def _absolute(program: _Program, entries: Sequence[Entry], reach: float) -> Line:
    """Return a sum of new variables that are the absolute values of entries below `reach`."""
    gain: Line = {}
    for line, constant in entries:
        sign = program.variable(0, 1, whole=True)
        size = program.variable(0.0, reach)
        gap = {size: 1.0} | {place: -value for place, value in line.items()}
        program.demand({**gap, sign: 2.0 * reach}, -np.inf, constant + 2.0 * reach)
        gap = {size: 1.0} | dict(line)
        program.demand({**gap, sign: -2.0 * reach}, -np.inf, -constant)
        gain[size] = 1.0
    return gain


def _steepest(network: PiecewiseNet) -> Array:
    """Return bounds of the derivatives of every pre-activation and value, [inputs + units, inputs].

    A coordinate of the network is one of its outputs at least, so this bounds the outputs too.
    """
    d = network.inputs
    sizes = np.zeros((d + len(network.B), d))
    sizes[:d] = np.eye(d)
    found = sizes.copy()
    for unit, row in enumerate(network.B):
        found[d + unit] = np.abs(row) @ sizes
        slope = max(abs(network.left[unit]), abs(network.right[unit]))
        sizes[d + unit] = slope * found[d + unit]
    return np.maximum(found, sizes)


def _sizes(network: PiecewiseNet, limits: Limits) -> Array:
    """Return bounds of the pre-activations on the box, [units]."""
    d = network.inputs
    sizes = np.concatenate([np.maximum(*np.abs(limits)), np.zeros(len(network.B))])
    found = np.zeros(len(network.B))
    for unit, row in enumerate(network.B):
        found[unit] = np.abs(row) @ sizes + abs(network.offset[unit])
        slope = max(abs(network.left[unit]), abs(network.right[unit]))
        sizes[d + unit] = slope * found[unit]
    return found
