"""A network of linear pieces, with every coefficient the stored number itself.

`lipsdp.lift` multiplies consecutive maps out, which rounds, and drops offsets, which cancel in
differences. Here every entry of every value is one coordinate: an input, or a unit. A linear map
makes units of slope 1, which hold its weights and offsets unrounded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import Reading, read
from holdfast.ops import OPS, Kind, rules
from holdfast.sdp.form import Array, NormalForm
from holdfast.sdp.lift import LARGEST_GROUP, Ranges, sorting_rounds

Places = NDArray[np.int64]

_NAME = "branch and bound"


@dataclass(frozen=True)
class Pieces:
    """`z = B (x, v) + offset`, `y = C (x, v)`; `v_i` is `left_i z_i` below 0, else `right_i z_i`.

    Attributes:
        B: [units, inputs + units], exact; unit i reads only units before it.
        C: [outputs, inputs + units], exact.
        offset: [units], exact.
        left: [units], slopes below 0.
        right: [units], slopes above 0.
        inputs: Number of input coordinates.
    """

    B: Array
    C: Array
    offset: Array
    left: Array
    right: Array
    inputs: int

    @property
    def kinked(self) -> Places:
        """Units that are not linear."""
        return np.flatnonzero(self.left != self.right)

    def reads(self, unit: int) -> list[int]:
        """Return the units that a unit reads."""
        return np.flatnonzero(self.B[unit, self.inputs :]).tolist()

    def form(self, low: Array, high: Array) -> NormalForm:
        """Return the normal form with other slopes."""
        return NormalForm(self.B, self.C, low, high, self.inputs)


def pieces(graph: Graph, ranges: Ranges | None = None) -> Pieces:
    """Read the linear pieces of a network.

    Args:
        graph: Captured model.
        ranges: Slopes of activations on a region, by node, as in `lipsdp.lift`; a unit with one
            slope there is linear.

    Returns:
        The pieces.

    Raises:
        Unsupported: When an operation is curved, or its coefficients are not stored numbers.
    """
    return _Pieces(graph.double(), ranges or {}).read()


@dataclass
class _Pieces:
    """Walks the graph; a value is the array of its coordinates, [1, *shape].

    Attributes:
        graph: In float64.
        ranges: Slopes by node.
    """

    graph: Graph
    ranges: Ranges
    _rows: list[dict[int, float]] = field(default_factory=list)
    _offsets: list[float] = field(default_factory=list)
    _left: list[float] = field(default_factory=list)
    _right: list[float] = field(default_factory=list)

    def read(self) -> Pieces:
        """Return the pieces of the whole graph."""
        table = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: self._move,
                Kind.SUM: self._add,
                Kind.SCALAR: self._activate,
            },
            {"sort": self._sort, "maximum": self._extreme, "minimum": self._extreme},
        )
        entry = self.graph.perturbed_input
        self._inputs = math.prod(entry.shape)
        start = np.arange(self._inputs).reshape(1, *entry.shape)
        env = read(self.graph, Reading(_NAME, table, {}), {entry.name: start})
        output = env.get(self.graph.output)
        if output is None:
            raise Unsupported(_NAME, [self.graph[self.graph.output].obstacle("does not move")])
        width = self._inputs + len(self._rows)
        C = np.zeros((output.size, width))
        C[np.arange(output.size), output.flatten()] = 1.0
        B = np.zeros((len(self._rows), width))
        for unit, row in enumerate(self._rows):
            B[unit, list(row)] = list(row.values())
        offset, left, right = map(np.array, (self._offsets, self._left, self._right))
        return Pieces(B, C, offset, left, right, self._inputs)

    def _unit(self, row: dict[int, float], offset: float, slopes: tuple[float, float]) -> int:
        """Add a unit and return its coordinate."""
        self._rows.append(row)
        self._offsets.append(offset)
        self._left.append(slopes[0])
        self._right.append(slopes[1])
        return self._inputs + len(self._rows) - 1

    def _wire(self, row: dict[int, float], offset: float = 0.0) -> int:
        return self._unit(row, offset, (1.0, 1.0))

    def _moving(self, node: Node, values: Sequence[Places | None]) -> list[Places]:
        """Return the coordinates of all inputs.

        Raises:
            Unsupported: When one of them does not move.
        """
        moving = [value for value in values if value is not None]
        if len(moving) != len(values):
            raise Unsupported(_NAME, [node.obstacle("reads a constant")])
        return moving

    def _affine(self, node: Node, values: Sequence[Places | None]) -> Places:
        (value,) = self._moving(node, values)
        if not node.facts.stored:
            raise Unsupported(_NAME, [node.obstacle("its coefficients are computed, and round")])
        shape = value.shape[1:]
        if len(np.unique(value)) != value.size:
            raise Unsupported(_NAME, [node.obstacle("reads one entry twice")])
        basis = torch.eye(value.size, dtype=torch.float64).reshape(-1, *shape)
        op, params = node.facts.linear(node.params)
        weights = OPS[op].run([basis], params).flatten(1).T.numpy()
        offsets = node.facts.run([torch.zeros_like(basis[:1])], node.params).flatten().tolist()
        places = value.flatten()
        units = []
        for row, offset in zip(weights, offsets, strict=True):
            used = np.flatnonzero(row)
            reads = dict(zip(places[used].tolist(), row[used].tolist(), strict=True))
            units.append(self._wire(reads, offset))
        return _shaped(units, node)

    def _move(self, node: Node, values: Sequence[Places | None]) -> Places:
        parts = [torch.from_numpy(v).double() for v in self._moving(node, values)]
        if node.op == "pad":
            raise Unsupported(_NAME, [node.obstacle("adds constants")])
        return node.facts.run(parts, node.params).long().numpy()

    def _activate(self, node: Node, values: Sequence[Places | None]) -> Places:
        (value,) = self._moving(node, values)
        known = node.facts.curve(node.params)
        origin = torch.zeros(1, *node.shape, dtype=torch.float64)
        if (
            known.curved
            or known.breaks != (0.0,)
            or bool(node.facts.run([origin], node.params).any())
        ):
            raise Unsupported(_NAME, [node.obstacle("is not two straight pieces in the origin")])
        left, right = (piece.slope(origin) for piece in known.pieces)
        if node.name in self.ranges:
            low, high = self.ranges[node.name]
            left, right = (torch.where(low == high, low, side) for side in (left, right))
        slopes = zip(left.flatten().tolist(), right.flatten().tolist(), strict=True)
        units = [
            self._unit({int(place): 1.0}, 0.0, pair)
            for place, pair in zip(value.flat, slopes, strict=True)
        ]
        return _shaped(units, node)

    def _add(self, node: Node, values: Sequence[Places | None]) -> Places:
        parts = [np.broadcast_to(v, (1, *node.shape)) for v in self._moving(node, values)]
        units = []
        for places in zip(*(part.flat for part in parts), strict=True):
            row: dict[int, float] = {}
            for place in map(int, places):
                row[place] = row.get(place, 0.0) + 1.0
            units.append(self._wire(row))
        return _shaped(units, node)

    def _compare(self, a: int, b: int) -> tuple[int, int]:
        """Return max(a, b) and min(a, b): (a + b) / 2 plus and minus |a - b| / 2."""
        if a == b:
            return a, b
        half = self._unit({a: 0.5, b: -0.5}, 0.0, (-1.0, 1.0))
        return self._wire({a: 0.5, b: 0.5, half: 1.0}), self._wire({a: 0.5, b: 0.5, half: -1.0})

    def _extreme(self, node: Node, values: Sequence[Places | None]) -> Places:
        a, b = (np.broadcast_to(v, (1, *node.shape)) for v in self._moving(node, values))
        side = 0 if node.op == "maximum" else 1
        units = [self._compare(int(p), int(q))[side] for p, q in zip(a.flat, b.flat, strict=True)]
        return _shaped(units, node)

    def _sort(self, node: Node, values: Sequence[Places | None]) -> Places:
        (value,) = self._moving(node, values)
        dim = node.params["dim"]
        length = value.shape[dim]
        if length > LARGEST_GROUP:
            raise Unsupported(_NAME, [node.obstacle(f"groups of {length}")])
        lanes = np.moveaxis(value, dim, -1).copy()
        for group in lanes.reshape(-1, length):
            self._sort_group(group)
        if node.params["descending"]:
            lanes = lanes[..., ::-1]
        return np.moveaxis(lanes, -1, dim)

    def _sort_group(self, group: Places) -> None:
        """Sort one group in place, smallest first, by odd-even transposition."""
        for first in sorting_rounds(len(group)):
            for k in range(first, len(group) - 1, 2):
                group[k + 1], group[k] = self._compare(int(group[k]), int(group[k + 1]))


def _shaped(units: list[int], node: Node) -> Places:
    """Return coordinates in the shape of a node's value."""
    return np.array(units, dtype=np.int64).reshape(1, *node.shape)
