"""Exact values on a part of a box where units are on known sides, as affine maps of the input.

Where every unit that one reads is on a known side, its value is affine in the input, and stored
numbers make its coefficients rational. Only the entries that it reads are followed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.bounds.forward import ramp
from holdfast.brackets.branching.merging import exact_map
from holdfast.brackets.branching.rationals import RationalRow
from holdfast.brackets.lower.pairs import distances_upper
from holdfast.graph.ir import Graph, Node
from holdfast.ops import Kind
from holdfast.rounding import TINY, UNIT, lengths_down, next_down
from holdfast.sdp.form import Array

Sides = Mapping[str, NDArray[np.int8]]
"""By node: -1, 1 or 0 (either side) for every place."""


Rows = dict[tuple[str, int], RationalRow]
"""Exact values by node and place."""


class _UndecidedError(Exception):
    """A value is not affine, or its coefficients are not at hand."""


@dataclass
class Maps:
    """The linear maps of a graph in exact numbers, made as they are needed.

    Attributes:
        graph: In float64, with all maxima as comparisons.
    """

    graph: Graph
    _linear: dict[str, tuple[NDArray, NDArray, NDArray] | None] = field(default_factory=dict)
    _wires: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    _slopes: dict[str, list[list[float]]] = field(default_factory=dict)
    _wide: dict[tuple[str, tuple[int, ...]], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entry = self.graph.perturbed_input.name

    def linear(self, node: Node) -> tuple[NDArray, NDArray, NDArray]:
        """Return the matrix [outputs, inputs], divisors and offsets [outputs] of an affine node."""
        if node.name not in self._linear:
            shape = self.graph[node.inputs[0]].shape
            self._linear[node.name] = exact_map(node, shape)
        found = self._linear[node.name]
        if found is None:
            raise _UndecidedError
        return found

    def wires(self, node: Node) -> list[tuple[str, int]]:
        """Return which place of which input each entry is."""
        if node.op == "pad":
            raise _UndecidedError  # adds constants
        if node.name not in self._wires:
            parts, sources = [], []
            for name in node.inputs:
                shape = self.graph[name].shape
                count = math.prod(shape)
                first = len(sources)
                parts.append(torch.arange(first, first + count).reshape(1, *shape).double())
                sources += [(name, place) for place in range(count)]
            moved = node.facts.run(parts, node.params)
            self._wires[node.name] = [sources[k] for k in moved.flatten().long().tolist()]
        return self._wires[node.name]

    def slopes(self, node: Node) -> list[list[float]]:
        """Return the slopes of each unit left and right of 0."""
        if node.name not in self._slopes:
            ends = ramp(node)
            if ends is None:
                raise _UndecidedError
            self._slopes[node.name] = [end.flatten().tolist() for end in ends]
        return self._slopes[node.name]

    def wide(self, name: str, shape: tuple[int, ...]) -> list[int]:
        """Return which place of a value each entry is when it is broadcast to a shape."""
        if (name, shape) not in self._wide:
            own = self.graph[name].shape
            places = np.arange(math.prod(own)).reshape(own)
            self._wide[name, shape] = np.broadcast_to(places, shape).flatten().tolist()
        return self._wide[name, shape]


@np.errstate(over="ignore", invalid="ignore")
def deepest_point(rows: Sequence[RationalRow], low: Array, high: Array) -> tuple[Array, float]:
    """Return the middle of the largest scaled copy of a box that fits between walls and its faces.

    Args:
        rows: Of the walls, (gradient, offset), positive inside.
        low: [d], ends of the box.
        high: [d], above `low`.

    Returns:
        The point, and the scale of the copy, 1 for the box itself; 0 where nothing was found.
    """
    from scipy.optimize import linprog  # heavy, and needed by few commands

    d, middle, half = len(low), 0.5 * (low + high), 0.5 * (high - low)
    table = np.array([row.floats() for row in rows]).reshape(-1, d + 1)
    # In units of the box: g . u + b >= t |g|_1, and |u| <= 1 - t.
    slopes, offsets = table[:, :d] * half, table[:, d] + table[:, :d] @ middle
    lengths = np.maximum(np.abs(slopes).sum(1), 1e-300)[:, None]
    faces = np.vstack([np.eye(d, d + 1), -np.eye(d, d + 1)])
    faces[:, d] = 1.0
    tight = np.vstack([np.hstack([-slopes / lengths, np.ones((len(slopes), 1))]), faces])
    ends = np.concatenate([offsets / lengths[:, 0], np.ones(2 * d)])
    if not np.isfinite(tight).all() or not np.isfinite(ends).all():
        return middle, 0.0
    bounds = [*[(None, None)] * d, (None, 1.0)]
    found = linprog(-np.eye(d + 1)[d], tight, ends, bounds=bounds, method="highs-ds")
    if found.status != 0:
        return middle, 0.0
    return middle + half * found.x[:d], max(0.0, float(found.x[d]))


@dataclass
class ExactValues:
    """Values on a part where units are on known sides, entry by entry as they are asked for.

    Attributes:
        maps: Of the graph.
        point: Flattened input, whose entries are exact where they do not move.
        moving: [d], places of those that do.
        sides: Of all units; without moving entries, the values themselves decide.
        rows: What is known so far, which holds in all that is cut from the part.
    """

    maps: Maps
    point: Tensor
    moving: Tensor
    sides: Sides
    rows: Rows = field(default_factory=dict)

    def wall(self, name: str, place: int) -> RationalRow | None:
        """Return the value whose sign decides on a unit, as a row (gradient, offset).

        Returns:
            The row; None where it needs a unit that may be on either side, or is 0 everywhere.
        """
        try:
            row = self.gap(self.maps.graph[name], place)
        except (_UndecidedError, OverflowError, ValueError):  # the last two: not finite
            return None
        return row if row.integers.any() else None  # what is 0 everywhere has no sides

    def output(self) -> list[RationalRow] | None:
        """Return the entries of the output; None where one is not known."""
        graph = self.maps.graph
        try:
            return self._values(graph.output, range(math.prod(graph[graph.output].shape)))
        except (_UndecidedError, OverflowError, ValueError):  # the last two: not finite
            return None

    def gap(self, node: Node, place: int) -> RationalRow:
        """Return the value whose sign decides on a unit."""
        if node.op != "compare":
            (row,) = self._values(node.inputs[0], [place])
            return row
        first, second = (self._entry(name, node.shape[1:], place) for name in node.inputs)
        return first.plus(second.times(-1.0))

    def _entry(self, name: str, shape: Sequence[int], place: int) -> RationalRow:
        """Return an entry of a value that is broadcast to a shape."""
        (row,) = self._values(name, [self.maps.wide(name, tuple(shape))[place]])
        return row

    def _values(self, name: str, places: Sequence[int]) -> list[RationalRow]:
        """Return entries of a node."""
        missing = [p for p in dict.fromkeys(places) if (name, p) not in self.rows]
        if missing:
            rows = self._found(self.maps.graph[name], missing)
            self.rows |= {(name, place): row for place, row in zip(missing, rows, strict=True)}
        return [self.rows[name, place] for place in places]

    def _found(self, node: Node, places: Sequence[int]) -> list[RationalRow]:
        if node.name == self.maps.entry:
            return [self._input(place) for place in places]
        if node.op == "constant":
            values = node.params["value"].double().flatten()[torch.tensor(places)].tolist()
            return [RationalRow.of([*[0.0] * len(self.moving), value]) for value in values]
        if node.kind is Kind.AFFINE:
            return self._affine(node, places)
        if node.kind is Kind.WIRING:
            return self._moved(node, places)
        if node.kind is Kind.SCALAR:
            return self._bent(node, places)
        one = {Kind.CHOICE: self._compared, Kind.SUM: self._total}
        if node.kind not in one or (node.kind is Kind.CHOICE and node.op != "compare"):
            raise _UndecidedError
        return [one[node.kind](node, place) for place in places]

    def _input(self, place: int) -> RationalRow:
        row = [*(self.moving == place).double().tolist(), 0.0]
        if not any(row):
            row[-1] = float(self.point[place])
        return RationalRow.of(row)

    def _affine(self, node: Node, places: Sequence[int]) -> list[RationalRow]:
        """Multiply whole numbers over one divisor for all entries."""
        matrix, divisors, offsets = self.maps.linear(node)
        if node.op == "shift":
            rows = self._values(node.inputs[0], places)
            return [row.plus(self._number(offsets[k])) for row, k in zip(rows, places, strict=True)]
        part = matrix[list(places)]
        used = np.flatnonzero(part.any(0))
        weights = RationalRow.of(part[:, used].flatten())
        rows = self._values(node.inputs[0], used.tolist())
        if rows:
            bottom = int(np.lcm.reduce(np.array([row.bottom for row in rows], dtype=object)))
            stacked = np.stack([row.integers * (bottom // row.bottom) for row in rows])
            product = weights.integers.reshape(part[:, used].shape) @ stacked
        else:
            bottom, product = 1, np.zeros((len(places), len(self.moving) + 1), dtype=object)
        found = []
        for line, place in zip(product, places, strict=True):
            row = RationalRow(line, bottom * weights.bottom).over(float(divisors[place]))
            found.append(row.plus(self._number(offsets[place])))
        return found

    def _number(self, value: float) -> RationalRow:
        return RationalRow.of([*[0.0] * len(self.moving), float(value)])

    def _moved(self, node: Node, places: Sequence[int]) -> list[RationalRow]:
        sources = [self.maps.wires(node)[place] for place in places]
        wanted: dict[str, list[int]] = {}
        for name, place in sources:
            wanted.setdefault(name, []).append(place)
        for name, entries in wanted.items():
            self._values(name, entries)
        return [self.rows[source] for source in sources]

    def _total(self, node: Node, place: int) -> RationalRow:
        first, *others = (self._entry(name, node.shape, place) for name in node.inputs)
        for other in others:
            first = first.plus(other)
        return first

    def _side(self, node: Node, place: int, row: RationalRow) -> float:
        if not len(self.moving):
            return float(np.sign(row.integers[-1]))
        known = self.sides.get(node.name)
        if known is None or not known[place]:
            raise _UndecidedError
        return float(known[place])

    def _bent(self, node: Node, places: Sequence[int]) -> list[RationalRow]:
        ends = self.maps.slopes(node)
        known = self.sides.get(node.name) if len(self.moving) else None
        sides = dict.fromkeys(places, 0) if known is None else {p: int(known[p]) for p in places}
        # Where the slope is 0 the value is, whatever the unit reads.
        flat = {place for place, side in sides.items() if side and not ends[side > 0][place]}
        self._values(node.inputs[0], [place for place in sides if place not in flat])
        found = []
        for place in places:
            row = self._number(0.0) if place in flat else self.rows[node.inputs[0], place]
            if row.integers.any():
                row = row.times(ends[self._side(node, place, row) > 0][place])
            found.append(row)
        return found

    def _compared(self, node: Node, place: int) -> RationalRow:
        end, place = divmod(place, math.prod(node.shape[1:]))
        row = self.gap(node, place)
        if not row.integers.any():
            return self._entry(node.inputs[0], node.shape[1:], place)
        larger = 0 if self._side(node, place, row) > 0 else 1
        return self._entry(node.inputs[larger if end else 1 - larger], node.shape[1:], place)


def exact_slope_lower(maps: Maps, first: Tensor, second: Tensor, norm: float) -> float:
    """Return a proved lower bound of the slope between two points, from exact values.

    Args:
        maps: Of the graph.
        first: One input, float64.
        second: Another one.
        norm: 1, 2 or inf, on both sides.

    Returns:
        The bound; 0 for equal points, and where a value is not known exactly.
    """
    none = torch.zeros(0, dtype=torch.int64)
    ends = [ExactValues(maps, point.flatten(), none, {}).output() for point in (first, second)]
    distance = float(distances_upper(first[None], second[None], norm)[0])
    if ends[0] is None or ends[1] is None or not 0.0 < distance < math.inf:
        return 0.0
    gaps = [a.plus(b.times(-1.0)).floats()[0] for a, b in zip(*ends, strict=True)]
    # Quotients of whole numbers are rounded once, and infinite beyond float64.
    sizes = torch.tensor(gaps, dtype=torch.float64).abs() * (1.0 - 4.0 * UNIT) - TINY
    change = lengths_down(sizes.clamp(min=0.0), norm)
    if not bool(change.isfinite()):
        return 0.0
    return max(0.0, float(next_down(change / distance)))
