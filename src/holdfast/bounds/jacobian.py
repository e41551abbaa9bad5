"""A box around every entry of the Jacobian on a region, and the Lipschitz constant that follows.

Rows of outputs are read backwards through the graph as boxes: a middle and a reach for every entry,
rounded outward. An operation multiplies them by a box around its own derivative on the intervals of
its inputs (Moore, "Interval analysis", 1966). Between two points of a convex region the output
changes by a mean of Jacobians times the change of the input, so the largest norm of a matrix in the
box bounds the Lipschitz constant; where a function has a kink, its slope lies between those on both
sides. For small regions the box closes in on the Jacobian itself.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.batches import flat_rows, groups_last
from holdfast.bounds.backward import adjoint, adjoint_terms, ungroup
from holdfast.bounds.few import relaxed_on
from holdfast.bounds.interval import Interval
from holdfast.bounds.linear import Relaxed
from holdfast.bounds.normalisation import normalisation_range, standardised_on
from holdfast.bounds.regions import Regions, middle_form
from holdfast.bounds.softmax import softmax_range
from holdfast.bounds.tangent import Ends
from holdfast.graph.ir import Graph, Node
from holdfast.norms.matrix import row_sums_upper, spectral_upper
from holdfast.ops import Kind, rules
from holdfast.rounding import SMALLEST, UNIT, add_up, gamma, rows_up
from holdfast.types import Box, Region


@dataclass(frozen=True)
class Boxed:
    """A box around K rows at a node: everything within `reach` of `middle`, entry by entry.

    Attributes:
        middle: [K, *shape of the node].
        reach: Same shape, at least 0.
    """

    middle: Tensor
    reach: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "Boxed":
        """Move entries."""
        return Boxed(function(self.middle), function(self.reach))

    def __add__(self, other: "Boxed") -> "Boxed":
        """Add two boxes."""
        middle = self.middle + other.middle
        return Boxed(middle, rows_up(self.reach + other.reach + UNIT * middle.abs(), 4))

    def __sub__(self, other: "Boxed") -> "Boxed":
        """Subtract a box."""
        return self + Boxed(-other.middle, other.reach)

    def times(self, factor: Ends) -> "Boxed":
        """Multiply by numbers between two ends, entry by entry."""
        m, r = middle_form(*factor)
        middle = self.middle * m
        reach = self.middle.abs() * r + self.reach * (m.abs() + r)
        return Boxed(middle, rows_up(reach + 2.0 * UNIT * middle.abs() + SMALLEST, 8))

    def total(self, dim: int) -> "Boxed":
        """Add up along a dimension, which stays with size 1."""
        count = self.middle.shape[dim] + 4
        size = gamma(count) * self.middle.abs().sum(dim, keepdim=True)
        reach = rows_up(self.reach.sum(dim, keepdim=True) + size, count)
        return Boxed(self.middle.sum(dim, keepdim=True), reach)


def region_constant_upper(graph: Graph, region: Region, norm: float) -> float:
    """Return a proved upper bound of the Lipschitz constant on a region.

    Args:
        graph: Captured model, or a part of one.
        region: A ball or a box.
        norm: 1, 2 or inf, on inputs and outputs.

    Returns:
        The bound; inf where nothing finite is proved.

    Raises:
        Unsupported: When an op has no rule on a region, naming every such op.
    """
    with torch.no_grad():
        relaxed = relaxed_on(graph, Regions.of(region))
        if not bool(relaxed.defined.all()):
            return math.inf
        reading = _Backward(relaxed)
        if not reading.covers():
            return math.inf
        found = reading.whole()
    if isinstance(region, Box):  # what a box holds fixed is the same in both points
        moves = (region.high > region.low).flatten()
        found = found.map(lambda part: part[:, moves])
    bound = _norm_upper(found, norm)
    return bound if bound >= 0.0 else math.inf  # NaN: numbers too large for float64


def _norm_upper(box: Boxed, norm: float) -> float:
    """Return an upper bound of the norms of all matrices in a box, [outputs, inputs]."""
    sizes = rows_up(box.middle.abs() + box.reach, 2)
    if norm != 2.0:
        return row_sums_upper(sizes.mT if norm == 1.0 else sizes)
    # A matrix is no longer than the one of larger absolute values.
    apart = add_up(spectral_upper(box.middle), spectral_upper(box.reach))
    return min(apart, spectral_upper(sizes))


class _Backward:
    """Reads boxes of rows backwards through one graph on one region.

    Args:
        relaxed: The graph on the region.
    """

    def __init__(self, relaxed: Relaxed) -> None:
        self.graph, self.intervals = relaxed.graph, relaxed.intervals
        _, self.slopes = relaxed.slopes()
        self.entry = self.graph.perturbed_input
        self._rules: Mapping[str, Callable[[Node, Boxed], Sequence[Boxed]]] = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: self._affine,
                Kind.SUM: lambda node, rows: [rows] * len(node.inputs),
                Kind.SCALAR: self._elementwise,
                Kind.STEEP: self._elementwise,
                Kind.PRODUCT: self._product,
            },
            {
                "compare": self._compare,
                "amax": self._largest,
                "sort": self._sort,
                "softmax": self._softmax,
                "log_softmax": self._softmax,
                "vector_norm": self._reduction,
                "logsumexp": self._reduction,
                **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), self._normalisation),
            },
        )

    def covers(self) -> bool:
        """Return whether every operation has a rule; a pooling of padding alone has none."""
        return all(
            n.op in self._rules or n.op == "input" or not n.perturbed for n in self.graph.nodes
        )

    def whole(self) -> Boxed:
        """Return the box around the Jacobian, [outputs, inputs]."""
        shape = self.graph[self.graph.output].shape
        count = math.prod(shape)
        widest = max(math.prod(node.shape) for node in self.graph.nodes)
        unit = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
        # Values of the widest node that are held at once: 8 MB.
        parts = [self._read(part) for part in unit.split(max(1, 2**20 // widest))]
        return Boxed(*(torch.cat(ends) for ends in zip(*parts, strict=True)))

    def _read(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        pending = {self.graph.output: Boxed(unit, torch.zeros_like(unit))}
        for node in reversed(self.graph.nodes):
            if node.name not in pending or node.name == self.entry.name or not node.perturbed:
                continue
            back = self._rules[node.op](node, pending.pop(node.name))
            for name, part in zip(node.inputs, back, strict=True):
                pending[name] = pending[name] + part if name in pending else part
        zeros = torch.zeros(len(unit), *self.entry.shape, dtype=torch.float64)
        found = pending.get(self.entry.name, Boxed(zeros, zeros))
        return flat_rows(found.middle), flat_rows(found.reach)

    def _parts(self, node: Node) -> list[Interval]:
        return [self.intervals[name] for name in node.inputs]

    def _ends(self, node: Node) -> Ends:
        (x,) = self._parts(node)
        return x.low, x.high

    def _affine(self, node: Node, rows: Boxed) -> list[Boxed]:
        shapes = [part.low.shape[1:] for part in self._parts(node)]
        op, params = node.facts.linear(node.params)
        if node.kind is Kind.AFFINE:
            op, params = node.facts.absolute(node.params)
        absolute = dataclasses.replace(node, op=op, params=params)
        count = adjoint_terms(node)
        size = rows.reach + 2.0 * gamma(count) * rows.middle.abs()
        middle, reach = (
            adjoint(how, part[None], shapes)
            for how, part in ((node, rows.middle), (absolute, size))
        )
        return [
            Boxed(m[0], rows_up(r[0] + count * SMALLEST, count))
            for m, r in zip(middle, reach, strict=True)
        ]

    def _elementwise(self, node: Node, rows: Boxed) -> list[Boxed]:
        return [rows.times(self.slopes[node.name])]

    def _product(self, node: Node, rows: Boxed) -> list[Boxed]:
        a, b = ((part.low, part.high) for part in self._parts(node))
        if node.op == "product":
            return [rows.times(b), rows.times(a)]
        left = _matmul(rows, Boxed(*middle_form(*b)).map(lambda part: part.mT))
        return [left, _matmul(Boxed(*middle_form(*a)).map(lambda part: part.mT), rows)]

    def _compare(self, node: Node, rows: Boxed) -> list[Boxed]:
        """Read [a - g, b + g] backwards, with g = relu(a - b)."""
        smaller, larger = (rows.map(lambda part, k=k: part[:, k]) for k in range(2))
        moved = (larger - smaller).times(self.slopes[node.name])
        return [smaller + moved, larger - moved]

    def _largest(self, node: Node, rows: Boxed) -> list[Boxed]:
        """Read maxima of groups backwards: each is a mean of the entries that can be largest."""
        low, high = self._ends(node)
        shape, dims = low.shape[1:], tuple(node.params["dims"])
        low, high = groups_last(low, dims), groups_last(high, dims)
        counted = node.params.get("rivals", torch.ones(()) > 0).expand_as(low)
        best = low.masked_fill(~counted, -math.inf).amax(-1, keepdim=True)
        possible = counted & (high >= best)
        alone = possible & (possible.sum(-1, keepdim=True) == 1)
        lying = rows.map(lambda part: part.reshape(len(part), *low.shape[1:-1])[..., None])
        wide = lying.times((alone.double(), possible.double()))
        return [wide.map(lambda part: ungroup(part[None], shape, dims)[0])]

    def _sort(self, node: Node, rows: Boxed) -> list[Boxed]:
        """Take the hull of the rows: every entry is the one of some place."""
        dim = node.params["dim"]
        low = (rows.middle - rows.reach).amin(dim, keepdim=True).expand_as(rows.middle)
        high = (rows.middle + rows.reach).amax(dim, keepdim=True).expand_as(rows.middle)
        middle, reach = middle_form(low, high)
        return [Boxed(middle, rows_up(reach + 4.0 * UNIT * (low.abs() + high.abs()), 4))]

    def _softmax(self, node: Node, rows: Boxed) -> list[Boxed]:
        """Multiply by diag(p) - p p^T, or by I - 1 p^T for the logarithm."""
        dim = node.params["dim"]
        shares = softmax_range(dataclasses.replace(node, op="softmax"), *self._ends(node))
        if node.op == "log_softmax":
            return [rows - rows.total(dim).times(shares)]
        return [(rows - rows.times(shares).total(dim)).times(shares)]

    def _normalisation(self, node: Node, rows: Boxed) -> list[Boxed]:
        """Multiply by the weight, and by (P - z z^T / d) / s."""
        weight, z, steep, flat = standardised_on(node, *self._ends(node))
        shape = rows.middle.shape
        lying = rows.times((weight, weight)).map(lambda part: part.reshape(len(part), *flat[1:]))
        share = torch.full((), 1.0 / flat[-1], dtype=torch.float64)
        part = share * (1.0 - 2.0 * UNIT), share * (1.0 + 2.0 * UNIT)
        rest = lying - lying.times(z).total(-1).times(part).times(z)
        if node.op != "rms_norm":
            rest = rest - lying.total(-1).times(part)
        return [rest.times(steep).map(lambda part: part.reshape(shape))]

    def _reduction(self, node: Node, rows: Boxed) -> list[Boxed]:
        """Multiply by the gradient of each group: x / ||x||, or the softmax."""
        dims = tuple(node.params["dims"])
        low, high = (groups_last(end, dims) for end in self._ends(node))
        n, last = low.shape[-1], low.dim() - 1
        if node.op == "logsumexp":
            slope = softmax_range(Node("p", "softmax", params={"dim": last}), low, high)
        else:
            settings = {"shape": (n,), "weight": None, "bias": None, "eps": 0.0}
            ends = normalisation_range(Node("z", "rms_norm", params=settings), low, high)
            room = 4.0 * UNIT
            slope = ends[0] / n**0.5 - room, ends[1] / n**0.5 + room
        shape = self._parts(node)[0].low.shape[1:]
        lying = rows.map(lambda part: part.reshape(len(part), *low.shape[1:-1])[..., None])
        wide = lying.times(slope)
        return [wide.map(lambda part: ungroup(part[None], shape, dims)[0])]


def _matmul(left: Boxed, right: Boxed) -> Boxed:
    """Multiply two boxes of matrices."""
    count = left.middle.shape[-1] + 8
    sizes = left.middle.abs(), right.middle.abs()
    reach = sizes[0] @ right.reach + left.reach @ (sizes[1] + right.reach)
    reach = reach + 2.0 * gamma(count) * (sizes[0] @ sizes[1]) + count * SMALLEST
    return Boxed(left.middle @ right.middle, rows_up(reach, 2 * count))
