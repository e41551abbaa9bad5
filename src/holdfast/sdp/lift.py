"""From a captured graph to the normal form: differences of two inputs, unit by unit.

Sorts and maxima are comparisons of two (`holdfast.graph.comparisons`), and these have a slope: with
g = relu(a - b), max(a, b) = b + g and min(a, b) = a - g. For pairs (MaxMin) this says what the
quadratic constraints of Pauli et al., "Novel quadratic constraints for extending LipSDP beyond
slope-restricted activations" (2024), say: the sum is kept and the difference does not grow.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.errors import Unsupported
from holdfast.graph.comparisons import NOT_WRITTEN, with_pairs
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import Reading, read
from holdfast.ops import OPS, Kind, rules
from holdfast.ops.record import Params
from holdfast.rounding import exponent_of, gamma, scaled
from holdfast.sdp.form import HEADROOM, Array, NormalForm, norm_rows


@dataclass(frozen=True)
class Signal:
    """A value of the network as a linear map of the coordinates (x, v) seen so far.

    Attributes:
        rows: [entries, inputs + units so far].
        error: Rounding error of the rows, [entries, 1 + units so far], as in `NormalForm`.
    """

    rows: Array
    error: Array


Ranges = Mapping[str, tuple[Tensor, Tensor]]
"""By node, smallest and largest slope of every entry: of an elementwise node itself, and of a
comparison the slopes of relu(a - b)."""


@np.errstate(over="ignore", invalid="ignore")  # `NormalForm` refuses what overflowed
def normal_form(graph: Graph, most_units: int, ranges: Ranges | None = None) -> NormalForm:
    """Return the normal form of a captured network, not yet reduced.

    Args:
        graph: Captured model, or a part of one.
        most_units: Give up beyond so many activations: the matrices grow with their square.
        ranges: Slopes that hold on a convex region; those over the real line where missing.

    Returns:
        The form; its output is the network's, flattened.

    Raises:
        Unsupported: When an op is not made of linear maps and slopes, or there are too many units.
    """
    return _Lift(with_pairs(graph.double()), most_units, ranges or {}).form()


class _Lift:
    """Walks the graph and records its activations.

    Args:
        graph: In float64, with maxima as comparisons.
        most_units: Give up beyond so many.
        ranges: Slopes by node.
    """

    def __init__(self, graph: Graph, most_units: int, ranges: Ranges) -> None:
        self.graph, self.most_units, self.ranges = graph, most_units, ranges
        self.inputs = math.prod(graph.perturbed_input.shape)
        self.units = 0
        self._activated: list[tuple[Signal, Array, Array]] = []

    def form(self) -> NormalForm:
        """Return the normal form of the whole graph."""
        table = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: self._move,
                Kind.SUM: self._add,
                Kind.SCALAR: self._elementwise,
            },
            {"compare": self._compare},
        )
        reading: Reading[Signal | None] = Reading("LipSDP", table, NOT_WRITTEN)
        start = Signal(np.eye(self.inputs), np.zeros((self.inputs, 1)))
        env = read(self.graph, reading, {self.graph.perturbed_input.name: start})
        output = self._wide(env.get(self.graph.output), self.graph[self.graph.output].shape)
        wide = [self._widen(signal) for signal, _, _ in self._activated]
        width = self.inputs + self.units
        B = np.vstack([np.zeros((0, width)), *[signal.rows for signal in wide]])
        B_error = np.vstack([np.zeros((0, 1 + self.units)), *[signal.error for signal in wide]])
        low = np.concatenate([np.zeros(0), *[low for _, low, _ in self._activated]])
        high = np.concatenate([np.zeros(0), *[high for _, _, high in self._activated]])
        exact = not (B_error.any() or output.error.any())
        errors = (None, None) if exact else (B_error, output.error)
        return NormalForm(B, output.rows, low, high, self.inputs, *errors)

    def _widen(self, signal: Signal) -> Signal:
        """Give a signal columns for all units so far."""
        missing = self.inputs + self.units - signal.rows.shape[1]
        if not missing:
            return signal
        pad = ((0, 0), (0, missing))
        return Signal(np.pad(signal.rows, pad), np.pad(signal.error, pad))

    def _wide(self, signal: Signal | None, shape: Sequence[int]) -> Signal:
        """Return a signal with all columns; one that nothing moves is zero."""
        if signal is not None:
            return self._widen(signal)
        entries = math.prod(shape)
        zeros = np.zeros((entries, self.inputs + self.units))
        return Signal(zeros, np.zeros((entries, 1 + self.units)))

    def _shape(self, node: Node, k: int = 0) -> tuple[int, ...]:
        return self.graph[node.inputs[k]].shape

    def _affine(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        signal = self._wide(signals[0], self._shape(node))
        shape = self._shape(node)
        rows = _apply(node.facts.linear(node.params), signal.rows, shape)
        bound = node.facts.absolute(node.params)
        # Applied to single coordinates, stored coefficients come out unrounded.
        exact = node.facts.stored(node.params) and _single_coordinates(signal.rows)
        plain = exact and not signal.error.any() and bool(np.isin(signal.rows, (0.0, 1.0)).all())
        if not plain and _may_underflow(bound[1], signal):
            raise Unsupported("LipSDP", [node.obstacle("weights whose products underflow")])
        error = _apply(bound, signal.error, shape) * HEADROOM
        if not exact:
            sizes = _apply(bound, norm_rows(signal.rows, self.inputs), shape)
            count = node.facts.roundings(node.params, shape) + 8
            error = (error + gamma(count) * sizes) * HEADROOM
        return Signal(rows, error)

    def _move(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        shapes = [self._shape(node, k) for k in range(len(node.inputs))]
        wide = [self._wide(s, shape) for s, shape in zip(signals, shapes, strict=True)]
        op, params = node.facts.linear(node.params)

        def moved(parts: list[Array]) -> Array:
            columns = [_columns(part, shape) for part, shape in zip(parts, shapes, strict=True)]
            return flat_rows(OPS[op].run(columns, params)).T.contiguous().numpy()

        return Signal(moved([s.rows for s in wide]), moved([s.error for s in wide]))

    def _elementwise(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        signal = self._wide(signals[0], self._shape(node))
        return self._activate(node, signal, node.facts.slopes(node.params))

    def _activate(self, node: Node, signal: Signal, everywhere: tuple[float, float]) -> Signal:
        """Add one unit per entry, with the node's slopes, and return their outputs."""
        low, high = everywhere
        if node.name in self.ranges:
            low, high = (side.flatten().numpy() for side in self.ranges[node.name])
        size, before = len(signal.rows), self.units
        if before + size > self.most_units:
            why = f"more than {self.most_units} activations"
            raise Unsupported("LipSDP", [node.obstacle(why)])
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise Unsupported("LipSDP", [node.obstacle("no finite slopes")])
        signal, exponent = _in_range(signal)
        self._activated.append((signal, np.full(size, low), np.full(size, high)))
        self.units += size
        rows = np.zeros((size, self.inputs + self.units))
        rows[:, self.inputs + before :] = np.eye(size) * 2.0**exponent
        return Signal(rows, np.zeros((size, 1 + self.units)))

    def _sum(self, left: Signal, right: Signal, sign: float = 1.0) -> Signal:
        """Return left + right or left - right.

        Knuth's two sums give what an addition of floating-point numbers rounds off, exactly.
        """
        left, right = self._widen(left), self._widen(right)
        a, b = left.rows, sign * right.rows
        rows = a + b
        back = rows - a
        lost = np.abs((a - (rows - back)) + (b - back))
        error = (left.error + right.error) * HEADROOM + norm_rows(lost, self.inputs)
        return Signal(rows, error)

    def _add(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        moving = [signal for signal in signals if signal is not None]
        total = moving[0]
        for signal in moving[1:]:
            total = self._sum(total, signal)
        return total

    def _compare(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        """Return both ends of a pair through one unit per entry."""
        a, b = (self._wide(signal, node.shape[1:]) for signal in signals)
        gap = self._activate(node, self._sum(a, b, -1.0), (0.0, 1.0))
        low, high = self._sum(a, gap, -1.0), self._sum(b, gap)
        rows, error = np.vstack([low.rows, high.rows]), np.vstack([low.error, high.error])
        return Signal(rows, error)


def _columns(rows: Array, shape: Sequence[int]) -> Tensor:
    """Return the columns of a signal as a batch of values of the given shape."""
    return torch.from_numpy(np.ascontiguousarray(rows.T)).reshape(-1, *shape)


def _apply(operation: tuple[str, Params], rows: Array, shape: Sequence[int]) -> Array:
    """Apply a linear operation to every column."""
    op, params = operation
    return flat_rows(OPS[op].run([_columns(rows, shape)], params)).T.contiguous().numpy()


def _single_coordinates(rows: Array) -> bool:
    """Return whether every entry is one coordinate, and every coordinate in at most one entry.

    A coordinate may be multiplied by a power of two, which rounds nothing.
    """
    powers = np.isin(np.frexp(rows)[0], (0.0, 0.5)).all()
    return bool(powers and ((rows != 0).sum(0) <= 1).all())


def _may_underflow(params: Params, signal: Signal) -> bool:
    """Return whether a product of a coefficient and an entry may come near the smallest float64.

    The bounds of rounding are relative, and say nothing about a product that vanishes.
    """
    named = [(name, params.get(name)) for name in ("weight", "factor", "divisor")]
    sizes = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in named if v is not None}
    coefficients = [(1.0 / a if name == "divisor" else a).numpy() for name, a in sizes.items()]
    least = [_least_exponent(part) for part in (*coefficients, signal.rows)]
    return sum(least) < -960 or sum(least[:-1]) + _least_exponent(signal.error) < -1015


def _least_exponent(values: Array) -> int:
    """Return the e with the smallest |entry| but 0 in [2^(e - 1), 2^e), or 0 where that is more."""
    sizes = np.abs(values[values != 0.0])
    return min(math.frexp(float(sizes.min()))[1], 0) if sizes.size else 0


def _in_range(signal: Signal) -> tuple[Signal, int]:
    """Multiply extreme rows by 2^-e to entries around 1, where that is exact.

    Activations are bounded by their slopes alone, which stay the same in other units.

    Returns:
        The signal, and e.
    """
    rows, error = map(torch.from_numpy, (signal.rows, signal.error))
    exponent = exponent_of(rows)
    if abs(exponent) < 100:
        return signal, 0
    near, known = scaled(rows, -exponent), scaled(error, -exponent)
    same = torch.equal(scaled(near, exponent), rows) and torch.equal(scaled(known, exponent), error)
    return (Signal(near.numpy(), known.numpy()), exponent) if same else (signal, 0)
