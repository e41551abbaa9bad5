"""Values and Jacobians of a graph over many small boxes at once, read forwards.

On a box with d moving entries, x = center + radius u with |u| <= 1, every value is kept as an
affine function of u and what it may be off by, and its gradient as a middle and a reach: affine
arithmetic (de Figueiredo and Stolfi, "Affine arithmetic: concepts and applications", 2004) with one
error term, beside a Jacobian of intervals. For d up to a dozen that is as much work as a few
evaluations, however wide the layers are, and where no kink is left in a box it is exact up to
rounding. A unit with a kink at 0 may also be held on one side of it: what is found is then true
where the unit is on that side.

Rounding is counted as in `holdfast.bounds.backward`: n roundings of a sum move it by at most
gamma_n times the sum of the absolute values, which is twice over added to what a value is off by.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.bounds.forms import (
    Forms,
    Line,
    add,
    alike,
    chord,
    curve,
    difference,
    ramp,
    straight,
    widened,
    wire,
)
from holdfast.bounds.halfspaces import HalfSpaces
from holdfast.bounds.regions import middle_form
from holdfast.graph.comparisons import NOT_WRITTEN
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import factor_underflow
from holdfast.graph.running import offset as added_by
from holdfast.graph.walk import Env, Reading, execute, read, uncovered
from holdfast.ops import OPS, Kind, rules
from holdfast.rounding import SMALLEST, UNIT, gamma, lengths_up, next_down, rows_up


@dataclass(frozen=True)
class Kink:
    """The units of one node with two slopes that meet in 0, over R boxes.

    Attributes:
        gap: The values whose sign decides.
        low: [R, ...], lower ends of these.
        high: [R, ...], upper ends.
        open: [R, ...], which units may be on either side.
        reach: [R, ...], half the difference of the slopes where a unit is open, with a gradient.
    """

    gap: Forms
    low: Tensor
    high: Tensor
    open: Tensor
    reach: Tensor

    def sides(self) -> Tensor:
        """Return where each unit is in a whole box, [R, units]: -1, 1 or 0 (on either side)."""
        low, high = flat_rows(self.low), flat_rows(self.high)
        left = (low < 0.0) & (high <= 0.0)
        return (low >= 0.0).to(torch.int8) - left.to(torch.int8)


Held = Mapping[str, tuple[Tensor, Tensor, Tensor]]
"""By node: boxes [m], places in the flattened node [m], and sides [m], -1.0 or 1.0."""


@dataclass
class Forward:
    """Reads one graph forwards over boxes.

    Attributes:
        graph: In float64, with all maxima as comparisons.
        norm: In which inputs move: 1, 2 or inf.
        kinks: Of the last pass, by node.
        tracked: How many units have a slope of their own in the values behind them.
    """

    graph: Graph
    norm: float
    kinks: dict[str, Kink] = field(default_factory=dict)
    _held: Held = field(default_factory=dict)

    def __post_init__(self) -> None:
        table = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: wire,
                Kind.SUM: add,
                Kind.SCALAR: self._activate,
            },
            {"compare": self._compare, "constant": self._constant},
        )
        self._reading = Reading("affine forms", table, NOT_WRITTEN, constants=True)
        self.covers = not uncovered(self.graph, self._reading)
        bent = [n for n in self.graph.nodes if n.perturbed and n.kind is Kind.SCALAR and ramp(n)]
        count = sum(math.prod(node.shape) for node in bent)
        # As many slopes as units, in every value: up to so many it is worth its time.
        self.tracked = count if count <= 512 else 0

    def read(
        self,
        low: Tensor,
        high: Tensor,
        moving: Tensor,
        held: Held,
        within: HalfSpaces | None = None,
    ) -> Forms:
        """Return the outputs over boxes; see `values`."""
        return self.values(low, high, moving, held, within)[self.graph.output]

    def values(
        self,
        low: Tensor,
        high: Tensor,
        moving: Tensor,
        held: Held,
        within: HalfSpaces | None = None,
    ) -> Env[Forms]:
        """Return every node over boxes, by name.

        Args:
            low: [R, ...], float64.
            high: Same shape; equal to `low` but for the moving entries.
            moving: [d], places of these in the flattened input.
            held: Units that are held on one side of their kink.
            within: What of the boxes is meant; all of them without.
        """
        self._held, self._within, self.kinks = held, within, {}
        self._moves = self._columns = len(moving)
        entry = self.graph.perturbed_input
        middle, radius = middle_form(low, high)
        unit = torch.zeros(len(moving), low[0].numel(), dtype=torch.float64)
        unit[torch.arange(len(moving)), moving] = 1.0
        unit = unit.reshape(1, len(moving), *entry.shape)
        zero = torch.zeros_like(middle)
        none, length = torch.zeros_like(unit), unit.sum(1)
        start = Forms(middle, unit * radius[:, None], zero, unit, none, length)
        return read(self.graph, self._reading, {entry.name: start})

    def _constant(self, node: Node, parts: Sequence[Forms]) -> Forms:
        value = node.params["value"].double()
        blank = torch.zeros(1, self._moves, *value.shape[1:], dtype=torch.float64)
        zero = torch.zeros_like(value)
        return Forms(value, blank, zero, blank, blank, zero)

    # --- linear ---------------------------------------------------------------------------------

    def _affine(self, node: Node, parts: Sequence[Forms]) -> Forms:
        (x,) = parts
        count = node.facts.roundings(node.params, x.center.shape[1:]) + 8
        offset = execute(node, [torch.zeros_like(x.center[:1])])
        added = 2.0 * gamma(count) * added_by(node, offset) + 4.0 * count * SMALLEST
        if node.op == "shift":
            center = x.center + offset
            error = rows_up(x.error + added + 2.0 * UNIT * x.center.abs(), 4)
            return Forms(center, x.slope, error, x.jacobian, x.reach, x.length)
        d = x.slope.shape[1]
        ways = node.facts.linear(node.params), node.facts.absolute(node.params)
        linear, absolute = (
            lambda rows, op=op, params=params: OPS[op].run([rows], params) for op, params in ways
        )
        moved = _folded(linear, torch.cat([x.center[:, None], x.slope], 1))
        jacobian = _folded(linear, x.jacobian)
        lost = rows_up(x.error + 2.0 * gamma(count) * x.size(), d + 4)
        blur = rows_up(x.reach + 2.0 * gamma(count) * x.jacobian.abs(), 4)
        under, turned, longer = (
            torch.as_tensor(factor_underflow(node, size), dtype=torch.float64)
            for size in (x.size(), x.jacobian.abs().sum(1), x.length)
        )
        room = (d + 4.0) * count * SMALLEST
        error = rows_up(absolute(lost) + added + under + room, count)
        reach = _folded(absolute, blur)
        reach = reach + (turned[:, None] if turned.dim() else turned)
        reach = rows_up(reach + room, count)
        length = rows_up(absolute(x.length) + longer + room, count)
        length = torch.minimum(length, self._longest(jacobian, reach))
        return Forms(moved[:, 0] + offset, moved[:, 1:], error, jacobian, reach, length)

    def _longest(self, jacobian: Tensor, reach: Tensor) -> Tensor:
        """Return how long the gradients in boxes are at most."""
        # |<g, x>| is at most a length of g in the dual norm
        dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self.norm]
        return lengths_up(rows_up(jacobian.abs() + reach, 2).movedim(1, -1), dual)

    # --- kinks ----------------------------------------------------------------------------------

    def _activate(self, node: Node, parts: Sequence[Forms]) -> Forms:
        (x,) = parts
        sides = ramp(node)
        if not node.perturbed or sides is None:
            return curve(node, x)
        slopes, line = self._kink(node, x, *sides)
        if not self.tracked:
            return straight(x, slopes, line)
        # Each unit that is open somewhere has a v of its own for how far it is off its line.
        bend = flat_rows(line.bend)
        places = bend.any(0).nonzero().flatten()
        blank = torch.zeros(len(bend), len(places), bend.shape[1], dtype=torch.float64)
        blank[:, torch.arange(len(places)), places] = bend[:, places]
        line = dataclasses.replace(line, bend=torch.zeros_like(line.bend))
        found = straight(x.in_so_many(self._columns), slopes, line)
        self._columns += len(places)
        own = blank.reshape(len(bend), -1, *node.shape)
        slope = torch.cat([found.slope.expand(len(bend), *found.slope.shape[1:]), own], 1)
        return dataclasses.replace(found, slope=slope)

    def _compare(self, node: Node, parts: Sequence[Forms]) -> Forms:
        """Return [a - g, b + g], where g = relu(a - b): means of a and b, and a bend."""
        a, b = alike(parts)
        gap = difference(a, b)
        one = torch.ones((), dtype=torch.float64)
        (t, r), line = self._kink(node, gap, 0.0 * one, one)
        rest, across = 1.0 - line.slope, line.slope[:, None]
        is_open = self.kinks[node.name].open[:, None]
        low, high = (
            end(*(sign * part.reach + part.jacobian for part in (a, b)))
            for end, sign in ((torch.minimum, -1.0), (torch.maximum, 1.0))
        )
        ends = []
        for first, second, sign in ((a, b, -1.0), (b, a, 1.0)):
            # the smaller is (1 - t) a + t b, the larger (1 - t) b + t a
            center = rest * first.center + line.slope * second.center + sign * line.middle
            slope = rest[:, None] * first.slope + across * second.slope
            size = first.size() + second.size() + line.middle.abs()
            error = rest * first.error + line.slope * second.error + line.bend
            room = SMALLEST * (slope.shape[1] + 8.0)
            error = rows_up(error + 16.0 * UNIT * size + room, 16)
            # a gradient is that of either end, or in the box around both
            share = t[:, None]
            chosen = (1.0 - share) * first.jacobian + share * second.jacobian
            passed = (1.0 - share) * first.reach + share * second.reach
            jacobian = torch.where(is_open, 0.5 * low.detach() + 0.5 * high.detach(), chosen)
            sizes = first.jacobian.abs() + second.jacobian.abs()
            reach = widened(passed, 0.5 * high - 0.5 * low, 2.0 * r[:, None])
            reach = rows_up(reach + 16.0 * UNIT * (sizes + reach) + room, 16)
            length = (1.0 - t) * first.length + t * second.length
            length = widened(length, torch.maximum(first.length, second.length), 2.0 * r)
            length = torch.minimum(rows_up(length, 8), self._longest(jacobian, reach))
            ends.append((center, slope, error, jacobian, reach, length))
        pairs = zip((1, 2, 1, 2, 2, 1), zip(*ends, strict=True), strict=True)
        return Forms(*(torch.stack(pair, dim) for dim, pair in pairs))

    def _kink(
        self, node: Node, gap: Forms, left: Tensor, right: Tensor
    ) -> tuple[tuple[Tensor, Tensor], "Line"]:
        """Return the slopes of units, as a middle and a reach, and a line beside each."""
        low, high = self._range(gap)
        right_of, left_of = low >= 0.0, (low < 0.0) & (high <= 0.0)
        least, most = (
            self._on_sides(node, left, right, end.where(~right_of, right).where(~left_of, left))
            for end in (torch.minimum(left, right), torch.maximum(left, right))
        )
        is_open = least < most
        middle, reach = middle_form(least, most)
        reach = reach.requires_grad_()
        self.kinks[node.name] = Kink(gap, low, high, is_open, reach)
        return (middle, reach), chord((left, right), (low, high), (least, most))

    def _range(self, gap: Forms) -> tuple[Tensor, Tensor]:
        """Return bounds of values, those that may have either sign by the half-spaces as well."""
        low, high = gap.range()
        if self._within is None:
            return low, high
        count, shape = len(self._within.slope), low.shape[1:]
        low, high = (flat_rows(end).expand(count, -1).clone() for end in (low, high))
        parts, places = ((low < 0.0) & (high > 0.0)).nonzero(as_tuple=True)
        with torch.no_grad():
            slope = flat_rows(gap.slope[:, : self._moves], 2)
            slope = slope.expand(count, -1, -1)[parts, :, places]
            center, error = (
                flat_rows(part).expand(count, -1)[parts, places]
                for part in (gap.center, gap.apart(self._moves))
            )
            error = torch.where(center.isfinite(), error, torch.inf)
            bottom, top = (
                next_down(
                    next_down(sign * center + self._within.least(sign * slope, parts)) - error
                )
                for sign in (1.0, -1.0)
            )
        low[parts, places] = torch.fmax(low[parts, places], bottom)
        high[parts, places] = torch.fmin(high[parts, places], -top)
        return low.reshape(count, *shape), high.reshape(count, *shape)

    def _on_sides(self, node: Node, left: Tensor, right: Tensor, slopes: Tensor) -> Tensor:
        """Put the slopes of held units in place of others."""
        if node.name not in self._held:
            return slopes
        boxes, places, sides = self._held[node.name]
        flat = slopes.reshape(len(slopes), -1).clone()
        on_left, on_right = (
            end.expand_as(slopes).reshape(flat.shape)[boxes, places] for end in (left, right)
        )
        flat[boxes, places] = torch.where(sides > 0, on_right, on_left)
        return flat.reshape(slopes.shape)


def _folded(run: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Run rows [R, d, ...] as rows of one batch."""
    return run(values.flatten(0, 1)).unflatten(0, values.shape[:2])
