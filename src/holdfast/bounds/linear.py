"""Linear bounds by reading the graph backwards: CROWN, and optimised slopes.

Zhang, Weng, Chen, Hsieh, Daniel, "Efficient neural network robustness certification with general
activation functions" (2018); Xu et al., "Fast and complete: enabling complete verification with
massively parallel incomplete verifiers" (2021) for the optimised slopes. Every activation lies
between two lines on the interval of its input; going backwards from a linear combination of the
outputs, each node is replaced by its line, and what remains is a linear function of the input,
least over a ball where the dual norm says. The intervals in front of every nonlinear node are
found in the same way, front to back, and met with those of interval arithmetic.

What is proved. Let row c and region X be given, A and `offset` the linear function found. For all
x in X, exact real arithmetic on the stored weights gives <c, f(x)> >= <A, x> + offset, A taken as
the float64 numbers that are returned. Each step is exact but for rounding, and the steps' rounding
is at most gamma_n <|a|, magnitude> (proved in `holdfast.bounds.backward`), a sum of non-negative
terms that is carried along in float64 and subtracted twice over, which covers its own rounding.
Slopes are optimised by plain gradient steps: each slope in [0, 1] is valid below a ReLU on an
interval around 0, so every iterate is a bound, and the best of each row is kept.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.bounds.backward import RELU, BackwardStep, combined, dot, joined, pull_back
from holdfast.bounds.interval import READING, RULES, Interval, difference, lift
from holdfast.bounds.normalisation import vanishes
from holdfast.bounds.planes import Below, optimised
from holdfast.bounds.regions import Regions
from holdfast.bounds.steps import make_step
from holdfast.bounds.windows import Coefficients, Windows, dense, mirrored_rows
from holdfast.errors import InvalidInput
from holdfast.graph.comparisons import with_groups, with_pairs
from holdfast.graph.ir import Graph, Node
from holdfast.graph.slopes import slopes_on
from holdfast.graph.walk import Env, check_covered, read
from holdfast.ops import Kind
from holdfast.rounding import SMALLEST, gamma, next_down
from holdfast.types import Region, dual

_ENTRIES = 2**20
"""Largest number of coefficients held for one node at a time."""

_DUST = 2.0**-900
"""Far above anything that underflows in a sum, far below everything else."""


@dataclass(frozen=True)
class LinearBounds:
    """Bounds of K linear combinations of the outputs, per region.

    Attributes:
        low: [R, K], proved.
        high: [R, K], proved.
        below: Linear functions below, on the region.
        above: Linear functions below minus each combination.
        intervals: Bounds of every node's values, those in front of nonlinear nodes tightened.
    """

    low: Tensor
    high: Tensor
    below: Below
    above: Below
    intervals: Env[Interval]


def linear_bounds(
    graph: Graph,
    region: Region | Regions | Sequence[Region],
    spec: Tensor | None = None,
    steps: int = 0,
) -> LinearBounds:
    """Bound linear combinations of a graph's outputs over regions.

    Args:
        graph: Captured model, or a part of one.
        region: One region, or R of them.
        spec: Rows of combinations of the flattened outputs, [K, outputs] or [R, K, outputs]; the
            outputs themselves where None.
        steps: Gradient steps on the slopes below ReLU, for the given rows.

    Returns:
        The bounds, nowhere looser than those of interval arithmetic on the tightened intervals.

    Raises:
        Unsupported: When an op has no rule, naming every such op.
        InvalidInput: When `spec` does not fit the outputs.
    """
    return Relaxed(graph, Regions.of(region)).bounds(spec, steps)


class Relaxed:
    """A graph with every node replaced by linear bounds on its values over regions.

    Args:
        graph: Captured model.
        regions: R regions.
        end: Reading of `time.perf_counter` from which intervals are no longer tightened.
        outer: What `tightened` says on regions that contain these.

    Attributes:
        graph: In float64, with sorts as comparisons and poolings as maxima of groups.
        intervals: Bounds of every node's values; they say nothing where `defined` is False.
        defined: [R]: whether every function is known to be defined on the whole region.
    """

    @torch.no_grad()
    def __init__(
        self,
        graph: Graph,
        regions: Regions,
        end: float = math.inf,
        outer: Mapping[str, Interval] | None = None,
    ) -> None:
        self._end, self._outer = end, outer or {}
        self.graph, self._regions = with_groups(graph.double()), regions
        check_covered(self.graph, READING)
        self.intervals: Env[Interval] = lift(self.graph, regions)
        self._entry = self.graph.perturbed_input.name
        self.defined = torch.ones(len(regions.center), dtype=torch.bool)
        self._steps: dict[str, BackwardStep] = {}
        self._gaps: Env[Interval] = {}
        self._tight: dict[str, Tensor] = {}
        self._operations = 64 + regions.center[0].numel() + len(self.graph.nodes)
        size = flat_rows(self.intervals[self._entry].size()).sum(1, keepdim=True)
        self._dust = _DUST * (size + regions.center[0].numel())
        for node in self.graph.nodes:
            if node.name != self._entry:
                self._enter(node)

    def _enter(self, node: Node) -> None:
        """Bound one node, after tightening what it reads, and prepare its step."""
        gap = self._tighten(node) if node.perturbed else None
        parts = [self.intervals[name] for name in node.inputs]
        if node.kind is Kind.STEEP:
            undefined = node.facts.curve(node.params).undefined(parts[0].low, parts[0].high)
            self.defined = self.defined & ~flat_rows(undefined).any(1)
        elif node.params.get("eps") is not None and node.kind is Kind.VECTOR:
            self.defined = self.defined & ~vanishes(node, parts[0].low, parts[0].high)
        result = RULES[node.op](node, parts)
        if node.name in self._outer:
            result = result.meet(self._outer[node.name].low, self._outer[node.name].high)
        self.intervals[node.name] = result
        step = make_step(node, parts, result, gap)
        self._steps[node.name] = step
        self._operations = max(self._operations, step.operations + len(self.graph.nodes) + 64)
        size = flat_rows(step.magnitude).sum(1) + flat_rows(result.size()).sum(1)
        self._dust = self._dust + _DUST * (size[:, None] + result.low[0].numel())

    def tightened(self) -> Env[Interval]:
        """Return the intervals that were tightened: they hold on every part of the regions."""
        return {name: self.intervals[name] for name in self._tight}

    # --- intervals ------------------------------------------------------------------------------

    def _tighten(self, node: Node) -> Interval | None:
        """Tighten the intervals that a nonlinear node's rule depends on; return a - b's if any."""
        if node.kind in (Kind.AFFINE, Kind.WIRING, Kind.SUM):
            return None
        if node.op == "compare":
            return self._gap(node)
        if node.kind in (Kind.SCALAR, Kind.STEEP):
            (name,) = node.inputs
            x = self.intervals[name]
            least, most = slopes_on(node, x.low, x.high)
            self._improve(name, (least < most) & (x.low < x.high))
            return None
        for name in node.inputs:
            self._improve_source(name)
        return None

    def _gap(self, node: Node) -> Interval:
        """Bound the difference of the two inputs of a comparison."""
        first, second = node.inputs
        gap = difference(self.intervals[first], self.intervals[second])
        unsure = (gap.low < 0) & (gap.high > 0)
        self._gaps[node.name] = self._bounded({first: 1.0, second: -1.0}, gap, unsure)
        return self._gaps[node.name]

    def _improve(self, name: str, wanted: Tensor) -> None:
        """Tighten a node's interval where wanted, once."""
        if name not in self._steps or self._is_exact(self.graph[name]):
            return
        done = self._tight.get(name, torch.zeros_like(wanted))
        self._tight[name] = done | wanted
        self.intervals[name] = self._bounded({name: 1.0}, self.intervals[name], wanted & ~done)

    def _is_exact(self, node: Node) -> bool:
        """Return whether interval arithmetic gives a node's range: it is read off the region."""
        if node.kind is Kind.WIRING and len(node.inputs) == 1:
            return self._is_exact(self.graph[node.inputs[0]])
        geometry = node.params.get("geometry")
        plain = geometry is None or (geometry.mode == "constant" and self._regions.norm != 1.0)
        if node.op not in ("linear", "conv") or not plain:
            return False
        source = self.graph[node.inputs[0]]
        while source.kind is not None and source.facts.by_entry:
            source = self.graph[source.inputs[0]]
        return source.name == self._entry

    def _improve_source(self, name: str, wanted: Tensor | None = None) -> None:
        """Tighten what a node moves or is a function of, entry by entry, and apply it again.

        A function's range on an interval is as tight as what its lines say of it.

        Args:
            name: The node.
            wanted: Entries to tighten; None for all that are not known.
        """
        node, x = self.graph[name], self.intervals[name]
        wanted = x.low < x.high if wanted is None else wanted & (x.low < x.high)
        moves = node.kind is Kind.WIRING and len(node.inputs) == 1
        if moves or node.kind in (Kind.SCALAR, Kind.STEEP):
            self._improve_source(node.inputs[0], None if moves else wanted)
            again = RULES[node.op](node, [self.intervals[node.inputs[0]]])
            self.intervals[name] = x.meet(again.low, again.high)
        elif node.perturbed:
            self._improve(name, wanted)

    def _bounded(self, signs: Mapping[str, float], known: Interval, wanted: Tensor) -> Interval:
        """Bound a signed sum of nodes, for every region in the entries that it wants."""
        places = _places(flat_rows(wanted))
        if not places.numel():
            return known
        shape = known.low.shape[1:]
        low, high = flat_rows(known.low).clone(), flat_rows(known.high).clone()
        for part in places.split(self._rows_at_once(), dim=1):
            if time.perf_counter() > self._end:
                break
            start = self._entries(signs, part, shape)
            reached = self.below(start, mirrored=True).low
            below, above = reached.split(part.shape[1], dim=1)
            low.scatter_(1, part, below.expand(part.shape))
            high.scatter_(1, part, -above.expand(part.shape))
        met = known.meet(low.reshape(known.low.shape), high.reshape(known.low.shape))
        low = torch.where(wanted, met.low, known.low)
        return dataclasses.replace(known, low=low, high=torch.where(wanted, met.high, known.high))

    def _entries(
        self, signs: Mapping[str, float], places: Tensor, shape: Sequence[int]
    ) -> Env[Coefficients]:
        """Return the rows that read single entries of a signed sum of nodes."""
        if all(self.graph[name].op == "conv" and self._steps[name].windowed for name in signs):
            windows = Windows.of_entries(places, tuple(shape))
            return {name: windows.replaced(sign * windows.rows) for name, sign in signs.items()}
        rows = torch.zeros(*places.shape, math.prod(shape), dtype=torch.float64)
        rows = rows.scatter(2, places[:, :, None], 1.0).reshape(*places.shape, *shape)
        return {name: sign * rows for name, sign in signs.items()}

    def _rows_at_once(self) -> int:
        widest = max(interval.low[0].numel() for interval in self.intervals.values())
        return max(1, _ENTRIES // (len(self._regions.center) * widest))

    # --- backwards ------------------------------------------------------------------------------

    def below(
        self,
        start: Mapping[str, Coefficients],
        slopes: Mapping[str, Tensor] | None = None,
        mirrored: bool = False,
    ) -> Below:
        """Bound sums of rows times nodes from below.

        Args:
            start: Rows [R or 1, K, *shape] by node.
            slopes: Slopes in [0, 1] to use below ramps, [R, K, *shape] by node.
            mirrored: Whether to append the bounds of minus every row; up to the first step that
                is not linear both are read as one.

        Returns:
            The bound of each row over each region.
        """
        pending = dict(start)
        count = next(iter(start.values())).shape[1]
        total = size = torch.zeros(1, count, dtype=torch.float64)
        for node in reversed(self.graph.nodes):
            if node.name not in pending or node.name == self._entry:
                continue
            step = self._steps[node.name]
            if mirrored and not step.linear:
                mirrored = False
                pending = {name: mirrored_rows(rows) for name, rows in pending.items()}
                total, size = torch.cat([total, -total], 1), torch.cat([size, size], 1)
            pulled = pull_back(
                step, pending.pop(node.name), slopes.get(node.name) if slopes else None
            )
            total = total if pulled.added is None else total + pulled.added
            size = size if pulled.size is None else size + pulled.size
            for name, part in zip(step.inputs, pulled.rows, strict=True):
                pending[name] = joined(pending[name], part) if name in pending else part
        rows = pending.get(self._entry)
        if rows is None:
            rows = torch.zeros(1, total.shape[1], *self._regions.center.shape[1:]).double()
        if mirrored:
            rows = mirrored_rows(rows)
            total, size = torch.cat([total, -total], 1), torch.cat([size, size], 1)
        return self._concrete(rows, total, size)

    def _concrete(self, rows: Coefficients, total: Tensor, size: Tensor) -> Below:
        """Take the least value of linear functions over each region, rounding included."""
        center = self._regions.center
        reach, lean = self._reach(rows)
        size = size + lean.detach() + reach.detach()
        twice = 2.0 * gamma(self._operations)
        offset = total - (twice * size + self._dust + 4.0 * SMALLEST)
        offset = next_down(offset.detach()) + (offset - offset.detach())
        offset = torch.where(self.defined[:, None], offset, -torch.inf)
        least = offset + dot(rows, center) - reach
        low = least - (twice * (size + offset.detach().abs()) + self._dust)
        low = low.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        return Below(low, rows, offset.nan_to_num(-torch.inf, torch.inf, -torch.inf))

    def _reach(self, rows: Coefficients) -> tuple[Tensor, Tensor]:
        """Return how far the rows reach within each region, and a bound of <|row|, |center|>."""
        center, radius, norm = self._regions.center, self._regions.radius, self._regions.norm
        units = self._regions.units
        if radius.shape == center.shape and center[0].numel() > 1:
            absolute = rows.abs()
            return dot(absolute, radius), dot(absolute, center.abs())
        # Hoelder, for both. Each entry of the rows is reached in its unit.
        lengths = _lengths(rows.flatten(2), dual(norm)) + 2.0**-500
        far = torch.linalg.vector_norm(center.flatten(1), ord=norm, dim=1, keepdim=True)
        lean = lengths * far
        if units is not None:
            lengths = _lengths((dense(rows) * units).flatten(2), dual(norm)) + 2.0**-500
        return lengths * radius.reshape(-1, 1), lean

    def slopes(self) -> tuple[Graph, dict[str, tuple[Tensor, Tensor]]]:
        """Return slopes on the first region, with the graph whose nodes they belong to.

        Returns:
            The graph with all maxima as comparisons of two, and by node the smallest and largest
            slope of an activation, or of relu(a - b) in a comparison.
        """
        graph = with_pairs(self.graph)
        intervals = read(graph, READING, self.intervals)
        slopes = {}
        for node in graph.nodes:
            parts = [intervals[name] for name in node.inputs]
            if node.perturbed and node.kind in (Kind.SCALAR, Kind.STEEP):
                slopes[node.name] = slopes_on(node, parts[0].low[:1], parts[0].high[:1])
            elif node.perturbed and node.op == "compare":
                gap = self._gaps.get(node.name) or difference(*parts)
                slopes[node.name] = slopes_on(RELU, gap.low[:1], gap.high[:1])
        return graph, slopes

    # --- outputs --------------------------------------------------------------------------------

    @torch.no_grad()
    def bounds(self, spec: Tensor | None = None, steps: int = 0) -> LinearBounds:
        """Bound linear combinations of the outputs; see `linear_bounds`."""
        output = self.intervals[self.graph.output]
        if spec is None:
            rows = torch.eye(output.low[0].numel(), dtype=torch.float64)[None]
            known = Interval(flat_rows(output.low), flat_rows(output.high))
        else:
            rows = self._check(spec, output)
            known = combined(rows, output)
        below = self._best(rows, steps)
        above = self._best(-rows, steps)
        count = len(self._regions.center)
        known = known.meet(below.low, -above.low)
        defined = self.defined[:, None]
        low, high = known.low.where(defined, -torch.inf), known.high.where(defined, torch.inf)
        return LinearBounds(
            low.expand(count, -1),
            high.expand(count, -1),
            below,
            above,
            self.intervals,
        )

    def _check(self, spec: Tensor, output: Interval) -> Tensor:
        """Return the rows as float64 [R or 1, K, outputs].

        Raises:
            InvalidInput: When they do not fit.
        """
        rows = spec.detach().double()
        rows = rows[None] if rows.dim() == 2 else rows
        regions, outputs = len(self._regions.center), output.low[0].numel()
        if rows.dim() != 3 or rows.shape[2] != outputs or len(rows) not in (1, regions):
            wanted = f"[K, {outputs}] or [{regions}, K, {outputs}]"
            raise InvalidInput("spec", tuple(spec.shape), wanted)
        return rows

    def _best(self, rows: Tensor, steps: int) -> Below:
        """Bound combinations of the outputs from below, some rows at a time."""
        shape = self.intervals[self.graph.output].low.shape[1:]
        found = []
        for part in rows.split(self._rows_at_once(), dim=1):
            start = {self.graph.output: part.reshape(*part.shape[:2], *shape)}
            found.append(
                optimised(self.below, start, self._steps, steps) if steps else self.below(start)
            )
        count = len(self._regions.center)
        join = [(b.low, b.slope, b.offset) for b in found]
        low, slope, offset = (
            torch.cat([part.expand(count, *part.shape[1:]) for part in parts], 1)
            for parts in zip(*join, strict=True)
        )
        return Below(low, slope, offset)


def _lengths(rows: Tensor, norm: float) -> Tensor:
    """Return vector norms along the last dimension; PyTorch's own is slow in l1 and linf."""
    if norm == 2.0:
        return torch.linalg.vector_norm(rows, dim=-1)
    return rows.abs().sum(-1) if norm == 1.0 else rows.abs().amax(-1)


def _places(wanted: Tensor) -> Tensor:
    """Return which entries each region wants, [R, most]; a region with fewer gets others too."""
    most = int(wanted.sum(1).amax())
    return wanted.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
