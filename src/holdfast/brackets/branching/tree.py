"""Best-first branch and bound on the sides of the units of a network of linear pieces.

Jordan and Dimakis, "Exactly computing the local Lipschitz constant of ReLU networks" (2020), and
Bhowmick, D'Souza, Raghavan, "LipBaB: computing exact Lipschitz constant of ReLU networks" (2021),
branch on boxes of Jacobians; here the l2 bound of a cell is LipSDP with the slopes that are left,
and a cell is left out only where exact arithmetic proves that it has no interior.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.brackets.branching.cells import Cell, Limits, look_inside
from holdfast.brackets.branching.jacobian import constant_upper
from holdfast.brackets.branching.pieces import PiecewiseNet, pieces
from holdfast.brackets.lower.pairs import SteepPair, best_pair, contains, pairs_along
from holdfast.brackets.lower.steepest import steepest_directions
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph
from holdfast.sdp.form import Array
from holdfast.types import Region


@dataclass
class Goal:
    """What a search is to reach, as its caller knows it at any time.

    Attributes:
        norm: 1, 2 or inf.
        region: Where the inputs lie; None for everywhere.
        tolerance: Stop when upper / lower <= 1 + tolerance.
        lower: Returns the best lower bound so far.
        spent: Returns whether the time is over.
    """

    norm: float
    region: Region | None
    tolerance: float
    lower: Callable[[], float]
    spent: Callable[[], bool]

    def reached(self, bound: float) -> bool:
        """Return whether an upper bound need not be improved on."""
        return bound <= self.lower() * (1.0 + self.tolerance)


def branch(graph: Graph, goal: Goal) -> Iterator[float | SteepPair]:
    """Yield proved upper bounds and pairs with large slopes until both meet.

    Args:
        graph: Captured model.
        goal: What to reach.

    Yields:
        Ever smaller upper bounds, and witnesses above `goal.lower()`; nothing where the network is
        not made of linear pieces that meet in 0 or has too many of them. Where the region has no
        interior or no end, the bounds are those of all inputs.
    """
    where = goal.region
    limits = None if where is None else _ends(where)
    if limits is not None and not _is_solid(*limits):
        where = limits = None
    try:
        network = _pieces_in(graph, where)
    except Unsupported:
        return
    # With more units that can be on either side branching does not end in anybody's time.
    if len(network.kinked) <= 64:
        yield from _Tree(graph.double(), network, limits, goal).run()


def _ends(region: Region) -> Limits:
    """Return the ends of the box around a region, flattened."""
    low, high = Regions.of(region).box()
    return low.flatten().numpy(), high.flatten().numpy()


def _pieces_in(graph: Graph, region: Region | None) -> PiecewiseNet:
    """Return the pieces that a region meets."""
    if region is None:
        return pieces(graph)
    return pieces(*Relaxed(graph, Regions.of(region)).slopes())


def _is_solid(low: Array, high: Array) -> bool:
    """Return whether a box has an interior and ends."""
    return bool((low < high).all() and np.isfinite([low, high]).all())


@dataclass
class _Tree:
    """One search.

    Attributes:
        graph: In float64.
        network: Its pieces.
        limits: Ends of a box around the region; None for all inputs.
        goal: What to reach.
    """

    graph: Graph
    network: PiecewiseNet
    limits: Limits | None
    goal: Goal
    _heap: list[tuple[float, int, Cell]] = field(default_factory=list)
    _count: Iterator[int] = field(default_factory=itertools.count)
    _done: float = 0.0

    def run(self) -> Iterator[float | SteepPair]:
        """Split the cell with the largest bound, again and again."""
        root = Cell.whole(self.network)
        bound = self._bound(root)
        if math.isinf(bound):  # weights too extreme for the bounds of its parts as well
            return
        self._push(root, bound)
        last = math.inf
        while self._heap:
            upper = max(-self._heap[0][0], self._done)
            if upper < last:
                last = upper
                yield upper
            if self.goal.reached(-self._heap[0][0]) or self.goal.spent():
                return
            negative, _, cell = heapq.heappop(self._heap)
            if not len(cell.free):
                self._done = max(self._done, -negative)
                continue
            unit = self._choice(cell)
            for side in (-1, 1):
                yield from self._enter(cell.split(unit, side), -negative)
        if self._done < last:
            yield self._done

    def _enter(self, cell: Cell, bound: float) -> Iterator[SteepPair]:
        """Bound one half of a cell, and keep it unless nothing is in it."""
        bound = min(bound, self._bound(cell))
        if self.goal.reached(bound):
            self._done = max(self._done, bound)
            return
        room = look_inside(cell, self.limits)
        if room.empty:
            return
        if room.point is not None:
            yield from self._pair(torch.from_numpy(room.point))
        self._push(cell, bound)

    def _push(self, cell: Cell, bound: float) -> None:
        heapq.heappush(self._heap, (-bound, next(self._count), cell))

    def _bound(self, cell: Cell) -> float:
        low, high = cell.slopes()
        return constant_upper(self.network, low, high, self.goal.norm, 1e-4)

    def _choice(self, cell: Cell) -> int:
        """Return the unit to split: one that is linear in x, and whose kink matters most."""
        low, high = cell.slopes()
        weights = _influence(self.network, 0.5 * (low + high))[cell.free]
        linear = np.array([cell.is_linear(unit) for unit in cell.free.tolist()])
        # The first free unit reads no other free one, so that some unit is linear.
        return int(cell.free[np.where(linear, weights, -1.0).argmax()])

    def _pair(self, point: Tensor) -> Iterator[SteepPair]:
        """Yield the steepest pair at a point where it is the best so far."""
        points = point.reshape(1, *self.graph.perturbed_input.shape)
        if self.limits is None and not bool(contains(self.goal.region, points)):
            return  # of a search among all inputs in place of a region
        directions, values = steepest_directions(self.graph, points, self.goal.norm)
        if float(values[0]) <= self.goal.lower():
            return
        for first, second in pairs_along(points, directions, self.goal.region):
            witness = best_pair(self.graph, first, second, self.goal.norm)
            if witness.slope > self.goal.lower():
                yield witness


@np.errstate(over="ignore", invalid="ignore")
def _influence(network: PiecewiseNet, slopes: np.ndarray) -> np.ndarray:
    """Return per unit how much of the output's change passes its kink, at the given slopes."""
    d, units, slopes = network.inputs, len(network.B), slopes / network.divisor
    into = np.zeros((d + units, d))
    into[:d] = np.eye(d)
    arriving = np.zeros(units)
    for unit, row in enumerate(network.B):
        line = row[: d + unit] @ into[: d + unit]
        arriving[unit] = np.linalg.norm(line)
        into[d + unit] = slopes[unit] * line
    out = network.C.copy()
    for unit in reversed(range(units)):
        out[:, : d + unit] += np.outer(out[:, d + unit] * slopes[unit], network.B[unit, : d + unit])
    leaving = np.linalg.norm(out[:, d:], axis=0)
    return arriving * leaving * np.abs(network.right - network.left) / network.divisor
