"""A network of linear pieces, with every coefficient a stored number or the quotient of two.

`sdp.lift` multiplies consecutive maps out, which rounds, and drops offsets, which cancel in
differences. Here every entry of every value is one coordinate: an input, or a unit. A linear map
makes units of slope 1, which hold its weights and offsets unrounded. Where it divides (by a
constant, or by the count of an average), the unit holds both numbers, as their quotient rounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.errors import Unsupported
from holdfast.graph.comparisons import NOT_WRITTEN, with_pairs
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import Reading, read
from holdfast.norms.node import worth_writing_out
from holdfast.ops import Kind, rules
from holdfast.sdp.form import Array, NormalForm, norm_rows
from holdfast.sdp.lift import Ranges

Places = NDArray[np.int64]

_NAME = "branch and bound"


@dataclass(frozen=True)
class PiecewiseNet:
    """`z = B (x, v) + offset`, `y = C (x, v)`, `v_i = slope_i z_i / divisor_i`.

    The slope is `left_i` where `z_i` is below 0, else `right_i`.

    Attributes:
        B: [units, inputs + units], exact; unit i reads only units before it.
        C: [outputs, inputs + units], exact.
        offset: [units], exact.
        left: [units], slopes below 0.
        right: [units], slopes above 0.
        divisor: [units], above 0, exact.
        inputs: Number of input coordinates.
    """

    B: Array
    C: Array
    offset: Array
    left: Array
    right: Array
    divisor: Array
    inputs: int

    @property
    def kinked(self) -> Places:
        """Units that are not linear."""
        return np.flatnonzero(self.left != self.right)

    def reads(self, unit: int) -> list[int]:
        """Return the units that a unit reads."""
        return np.flatnonzero(self.B[unit, self.inputs :]).tolist()

    def form(self, low: Array, high: Array) -> NormalForm:
        """Return the normal form with other slopes; quotients carry their rounding."""
        divided = (self.B != 0.0) & (self.divisor != 1.0)[:, None]
        if not divided.any():
            return NormalForm(self.B, self.C, low, high, self.inputs)
        with np.errstate(over="ignore", invalid="ignore"):  # `NormalForm` refuses what overflowed
            B = self.B / self.divisor[:, None]
            lost = np.where(divided, np.spacing(np.abs(B)), 0.0)
        return NormalForm(B, self.C, low, high, self.inputs, norm_rows(lost, self.inputs))


def pieces(graph: Graph, ranges: Ranges | None = None, most_units: int = 1000) -> PiecewiseNet:
    """Read the linear pieces of a network.

    Args:
        graph: Captured model.
        ranges: Slopes of activations on a region, by node, as in `lipsdp.lift`; a unit with one
            slope there is linear.
        most_units: Give up beyond so many units: the matrices grow with their square.

    Returns:
        The pieces.

    Raises:
        Unsupported: When an operation is curved, its coefficients are no quotients of stored
            numbers, or there are too many units.
    """
    return _Reader(with_pairs(graph.double()), ranges or {}, most_units).read()


@dataclass
class _Reader:
    """Walks the graph; a value is the array of its coordinates, [1, *shape].

    Attributes:
        graph: In float64, with maxima as comparisons.
        ranges: Slopes by node.
        most_units: Give up beyond so many.
    """

    graph: Graph
    ranges: Ranges
    most_units: int
    _rows: list[dict[int, float]] = field(default_factory=list)
    _offsets: list[float] = field(default_factory=list)
    _left: list[float] = field(default_factory=list)
    _right: list[float] = field(default_factory=list)
    _divisors: list[float] = field(default_factory=list)

    def read(self) -> PiecewiseNet:
        """Return the pieces of the whole graph."""
        table = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: self._move,
                Kind.SUM: self._add,
                Kind.SCALAR: self._activate,
            },
            {"compare": self._compare},
        )
        entry = self.graph.perturbed_input
        self._inputs = math.prod(entry.shape)
        start = np.arange(self._inputs).reshape(1, *entry.shape)
        env = read(self.graph, Reading(_NAME, table, NOT_WRITTEN), {entry.name: start})
        output = env.get(self.graph.output)
        if output is None:
            raise Unsupported(_NAME, [self.graph[self.graph.output].obstacle("does not move")])
        width = self._inputs + len(self._rows)
        C = np.zeros((output.size, width))
        C[np.arange(output.size), output.flatten()] = 1.0
        B = np.zeros((len(self._rows), width))
        for unit, row in enumerate(self._rows):
            B[unit, list(row)] = list(row.values())
        columns = (self._offsets, self._left, self._right, self._divisors)
        offset, left, right, divisor = map(np.array, columns)
        return PiecewiseNet(B, C, offset, left, right, divisor, self._inputs)

    def _bend(self, row: dict[int, float], slopes: tuple[float, float]) -> int:
        """Add a unit without offset and return its coordinate."""
        place = self._wire(row)
        self._left[-1], self._right[-1] = slopes
        return place

    def _wire(self, row: dict[int, float], offset: float = 0.0, divisor: float = 1.0) -> int:
        """Add a linear unit, unless there are too many, and return its coordinate."""
        if len(self._rows) >= self.most_units:
            raise Unsupported(f"{_NAME} of more than {self.most_units} units", [])
        self._rows.append(row)
        self._offsets.append(offset)
        self._left.append(1.0)
        self._right.append(1.0)
        self._divisors.append(divisor)
        return self._inputs + len(self._rows) - 1

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
        shape = value.shape[1:]
        if not worth_writing_out(value.size, math.prod(node.shape)):
            raise Unsupported(_NAME, [node.obstacle("too large to be written out as a matrix")])
        ratios = node.facts.ratios(node.params, shape)
        if ratios is None:
            why = "its coefficients are no quotients of stored numbers"
            raise Unsupported(_NAME, [node.obstacle(why)])
        rows, divisors = (part.numpy() for part in ratios)
        zero = torch.zeros(1, *shape, dtype=torch.float64)
        offsets = node.facts.run([zero], node.params).flatten().tolist()
        places = self._distinct(value)
        units = []
        for row, offset, divisor in zip(rows, offsets, divisors.tolist(), strict=True):
            used = np.flatnonzero(row)
            reads = dict(zip(places[used].tolist(), row[used].tolist(), strict=True))
            units.append(self._wire(reads, offset, divisor))
        return _shaped(units, node)

    def _distinct(self, value: Places) -> Places:
        """Return coordinates for the entries of a value, copies where one is there again."""
        places: dict[int, None] = {}
        for place in value.flatten().tolist():
            places[self._wire({place: 1.0}) if place in places else place] = None
        return np.array([*places], dtype=np.int64)

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
        rows = [{place: 1.0} for place in value.flatten().tolist()]
        return _shaped(self._bent(node, rows, left, right), node)

    def _bent(
        self, node: Node, rows: Sequence[dict[int, float]], left: Tensor, right: Tensor
    ) -> list[int]:
        """Add units with slopes below and above 0, or with the one slope on the region."""
        if node.name in self.ranges:
            low, high = self.ranges[node.name]
            left, right = (torch.where(low == high, low, side) for side in (left, right))
        slopes = zip(left.flatten().tolist(), right.flatten().tolist(), strict=True)
        return [self._bend(row, pair) for row, pair in zip(rows, slopes, strict=True)]

    def _add(self, node: Node, values: Sequence[Places | None]) -> Places:
        parts = [np.broadcast_to(v, (1, *node.shape)) for v in self._moving(node, values)]
        units = []
        for places in zip(*(part.flat for part in parts), strict=True):
            row: dict[int, float] = {}
            for place in map(int, places):
                row[place] = row.get(place, 0.0) + 1.0
            units.append(self._wire(row))
        return _shaped(units, node)

    def _compare(self, node: Node, values: Sequence[Places | None]) -> Places:
        """Return a - relu(a - b) and b + relu(a - b)."""
        moving = self._moving(node, values)
        a, b = (np.broadcast_to(v, (1, *node.shape[1:])).flatten().tolist() for v in moving)
        rows = [{p: 1.0, q: -1.0} if p != q else {} for p, q in zip(a, b, strict=True)]
        # The gap of a coordinate to itself is 0, which has no kink.
        left = torch.tensor([float(not row) for row in rows], dtype=torch.float64)
        left = left.reshape(1, *node.shape[1:])
        gaps = self._bent(node, rows, left, torch.ones_like(left))
        low, high = [
            [self._wire({end: 1.0, gap: sign}) for end, gap in zip(side, gaps, strict=True)]
            for side, sign in ((a, -1.0), (b, 1.0))
        ]
        return _shaped(low + high, node)


def _shaped(units: list[int], node: Node) -> Places:
    """Return coordinates in the shape of a node's value."""
    return np.array(units, dtype=np.int64).reshape(1, *node.shape)
