"""Best-first branch and bound on boxes of few moving inputs, and on the kinks left in a box.

A region of a few dimensions is cut into boxes. On each one `holdfast.bounds.forward` encloses the
Jacobian, and the constant on a convex region is at most the largest norm over the boxes that cover
it. Few kinks cross a small box; where only a handful matters, the box is split by the sides of a
unit instead, until the Jacobian of every part is known. A part that is only a part by rounding,
with no interior, is left out where `holdfast.brackets.branching.walls` refutes it exactly.
"""

import dataclasses
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.bounds.forward import Forward
from holdfast.bounds.halfspaces import HalfSpaces
from holdfast.bounds.regions import Regions, middle_form
from holdfast.brackets.branching.cells import Limits, Room, look_between
from holdfast.brackets.branching.jacobian import norm_uppers, steepest
from holdfast.brackets.branching.rationals import RationalRow
from holdfast.brackets.branching.splits import Choices, Side, Unit, held_units
from holdfast.brackets.branching.tree import Goal
from holdfast.brackets.branching.walls import (
    ExactValues,
    Maps,
    Rows,
    Sides,
    deepest_point,
    exact_slope_lower,
)
from holdfast.brackets.lower.pairs import SteepPair, best_pair, contains, project
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.ir import Graph
from holdfast.rounding import TINY, UNIT, coarse_up, gamma, lengths_down, lengths_up, next_down
from holdfast.sdp.form import Array
from holdfast.types import Ball, Region


@dataclass(frozen=True, eq=False)
class _Part:
    """A box, or what of it lies on some sides of units.

    Attributes:
        low: Flattened, [inputs].
        high: Same shape.
        bound: Of the constant on it.
        held: Units that are held.
        walls: Rows that are positive in it, by their smallest whole multiples.
        inside: A point that seems to be inside, [d]; None where none is known.
        rows: Exact values that are known on it.
    """

    low: Tensor
    high: Tensor
    bound: float
    held: tuple[Side, ...] = ()
    walls: Mapping[tuple[int, ...], RationalRow] = field(default_factory=dict)
    inside: Array | None = None
    rows: Rows = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Open:
    """A part that has been read, and how to go on with it.

    Attributes:
        part: The part.
        sides: Of all units.
        jacobian: Its middle, [outputs, d].
        axis: Which moving entry to halve next; None to split by `unit`.
        unit: The unit to split by, with its value (center, slopes, error); None for neither: the
            Jacobian is known.
    """

    part: _Part
    sides: Sides
    jacobian: Tensor
    axis: int | None
    unit: Unit | None


def branch_boxes(graph: Graph, goal: Goal) -> Iterator[float | SteepPair]:
    """Yield proved upper bounds and pairs with large slopes until both meet.

    Args:
        graph: Captured model.
        goal: What to reach; its region is bounded.

    Yields:
        Upper bounds that never grow, after every batch so that the caller can turn to something
        else, and witnesses above `goal.lower()`; nothing where an operation has no affine form, or
        too many entries move.
    """
    if goal.region is None or not few_move(goal.region):
        return
    low, high = (flat_rows(end)[0] for end in Regions.of(goal.region).box())
    moving = (low < high).nonzero().flatten()
    forward = Forward(with_pairs(graph.double()), goal.norm)
    if forward.covers:
        yield from _Boxes(forward, goal, moving).run(low, high)


def few_move(region: Region) -> bool:
    """Return whether so few entries move in a region that boxes can cover it."""
    low, high = Regions.of(region).box()
    # Halving each of 12 sides once makes 4,096 boxes.
    return 1 <= int((low < high).sum()) <= 12 and bool(low.isfinite().all() & high.isfinite().all())


@dataclass
class _Boxes:
    """One search.

    Attributes:
        forward: Reads boxes.
        goal: What to reach.
        moving: [d], places of the entries that move.
    """

    forward: Forward
    goal: Goal
    moving: Tensor
    maps: Maps = field(init=False)
    _heap: list[tuple[float, int, _Open]] = field(default_factory=list)
    _count: Iterator[int] = field(default_factory=itertools.count)
    _done: float = 0.0

    def __post_init__(self) -> None:
        self.maps = Maps(self.forward.graph)
        if isinstance(self.goal.region, Ball):
            self.center = flat_rows(self.goal.region.center.double()[None])[0]

    def run(self, low: Tensor, high: Tensor) -> Iterator[float | SteepPair]:
        """Split the parts with the largest bounds, a batch at a time."""
        graph, d = self.forward.graph, len(self.moving)
        widest = max(math.prod(node.shape) for node in graph.nodes)
        most = min(max(1, 2**22 // (widest * (2 + 3 * d + self.forward.tracked))), 256)
        self._enter([_Part(low, high, math.inf)])
        last = math.inf
        while self._heap:
            last = min(last, max(-self._heap[0][0], self._done))
            yield last
            if self.goal.reached(-self._heap[0][0]):
                return
            parts: list[_Part] = []
            while self._heap and len(parts) < most and not self.goal.reached(-self._heap[0][0]):
                found = heapq.heappop(self._heap)[2]
                if found.axis is None and found.unit is None:
                    yield from self._settle(found)
                else:
                    parts += self._halves(found)
            if parts:
                self._enter(parts)
        yield min(last, self._done)

    # --- bounds ---------------------------------------------------------------------------------

    def _enter(self, parts: Sequence[_Part]) -> None:
        """Bound parts, and keep those that matter."""
        known = torch.tensor([part.bound for part in parts], dtype=torch.float64)
        shape = (len(parts), *self.forward.graph.perturbed_input.shape)
        low = torch.stack([part.low for part in parts]).reshape(shape)
        high = torch.stack([part.high for part in parts]).reshape(shape)
        held = held_units([part.held for part in parts])
        within = self._half_spaces(parts)
        with torch.enable_grad():
            out = self.forward.read(low, high, self.moving, held, within)
        jacobian, reach = (flat_rows(part, 2).mT for part in (out.jacobian, out.reach))
        jacobian, reach = (part.expand(len(parts), *part.shape[1:]) for part in (jacobian, reach))
        with torch.no_grad():
            found = norm_uppers(jacobian, reach, self.goal.norm)
            exact = norm_uppers(jacobian, torch.zeros_like(reach), self.goal.norm)
            # A matrix is at most as long as the lengths of its rows together.
            longest = lengths_up(flat_rows(out.length), self.goal.norm)
            bounds = torch.fmin(torch.fmin(known, found), longest).tolist()
        wanted = [k for k, bound in enumerate(bounds) if not self.goal.reached(bound)]
        others = [bound for bound in bounds if self.goal.reached(bound)]
        self._done = max(self._done, *others, 0.0)
        if not wanted:
            return
        settled = found <= exact * (1.0 + 0.01 * self.goal.tolerance)
        choices = Choices(self.forward, out, len(parts))
        for k in wanted:
            axis, unit = (None, None) if bool(settled[k]) else choices.of(k)
            part = dataclasses.replace(parts[k], bound=bounds[k])
            sides = choices.sides_of(k, part.held)
            opened = _Open(part, sides, jacobian[k].detach(), axis, unit)
            self._push(bounds[k], opened)

    def _half_spaces(self, parts: Sequence[_Part]) -> HalfSpaces | None:
        """Return what the walls leave of the boxes of parts."""
        most, d = max(len(part.walls) for part in parts), len(self.moving)
        if not most:
            return None
        rows = torch.zeros(len(parts), most, d + 1, dtype=torch.float64)
        for k, part in enumerate(parts):
            for i, row in enumerate(part.walls.values()):
                rows[k, i] = row.nearest
        ends = ([end[self.moving] for end in (part.low, part.high)] for part in parts)
        low, high = (torch.stack(end) for end in zip(*ends, strict=True))
        return HalfSpaces.of(rows, *middle_form(low, high))

    def _push(self, bound: float, opened: _Open) -> None:
        """Keep a part; of equal bounds, up to rounding, the latest goes first, to get to an end."""
        heapq.heappush(self._heap, (-coarse_up(bound, 30), -next(self._count), opened))

    # --- parts ----------------------------------------------------------------------------------

    def _halves(self, found: _Open) -> Iterator[_Part]:
        """Yield the two halves of a part, less what is surely empty or outside of the region."""
        part = found.part
        if found.axis is not None:
            place = int(self.moving[found.axis])
            middle = 0.5 * part.low[place] + 0.5 * part.high[place]
            if not part.low[place] < middle < part.high[place]:
                self._done = max(self._done, part.bound)
                return
            for ends in ((part.low[place], middle), (middle, part.high[place])):
                low, high = part.low.clone(), part.high.clone()
                low[place], high[place] = ends
                if not self._outside(low, high):
                    yield from self._with_point(dataclasses.replace(part, low=low, high=high))
        elif found.unit is not None:
            name, place, value = found.unit
            exact = ExactValues(self.maps, part.low, self.moving, found.sides, dict(part.rows))
            row = exact.wall(name, place)
            for side in (-1.0, 1.0):
                cut = self._cut(part, value, side)
                walls = _with_wall(part.walls, row, side)
                if cut is None or walls is None or self._outside(*cut):
                    continue
                held = (*part.held, (name, place, side))
                yield from self._with_point(
                    _Part(*cut, part.bound, held, walls, part.inside, exact.rows)
                )

    def _with_point(self, part: _Part) -> Iterator[_Part]:
        """Yield a part with a point that seems to be inside; nothing where it is surely empty."""
        low, high = self._limits(part)
        start = 0.5 * low + 0.5 * high if part.inside is None else part.inside
        walls = np.array([row.nearest.numpy() for row in part.walls.values()])
        point = _stepped(walls.reshape(-1, len(low) + 1), start, low, high)
        if point is not None:
            yield dataclasses.replace(part, inside=point)
            return
        room = self._room(part)
        if not room.empty:
            yield dataclasses.replace(part, inside=room.point)

    def _room(self, part: _Part) -> Room:
        """Look for a point inside."""
        rows, d = tuple(part.walls.values()), len(self.moving)
        room = look_between(rows, d, self._limits(part))
        if room.empty or room.point is not None:
            return room
        # The box was cut by the walls themselves: they alone may say more clearly what is empty.
        return Room(look_between(rows, d, None).empty, None)

    def _limits(self, part: _Part) -> Limits:
        return part.low[self.moving].numpy(), part.high[self.moving].numpy()

    def _cut(
        self, part: _Part, value: tuple[float, Tensor, float], side: float
    ) -> tuple[Tensor, Tensor] | None:
        """Return the box around where a unit is on one side; None where it never is.

        From side (c + <g, u>) + e >= 0 follows g_j u_j >= -(c + e + sum of the other |g_k|).
        """
        center, slope, error = value
        slope, sizes = side * slope, slope.abs()
        total = float(sizes.sum())
        most = side * center + error
        most += 4.0 * gamma(len(slope) + 8) * (abs(center) + error + total)
        if most + total < 0.0:
            return None
        low, high = part.low.clone(), part.high.clone()
        for j, place in enumerate(self.moving.tolist()):
            g = float(slope[j])
            if g == 0.0:
                continue
            # a share of the way from the middle to an end, in [-1, 1] where it cuts
            share = -(most + (total - abs(g))) / abs(g)
            share -= 16.0 * UNIT * (abs(share) + (abs(most) + total) / abs(g))
            if not share > -1.0:
                continue
            a, b = float(part.low[place]), float(part.high[place])
            middle, radius = 0.5 * a + 0.5 * b, 0.5 * b - 0.5 * a
            room = 16.0 * UNIT * (abs(a) + abs(b)) + 4.0 * TINY
            if g > 0.0:
                low[place] = min(max(a, middle + share * radius - room), b)
            else:
                high[place] = max(min(b, middle - share * radius + room), a)
        return low, high

    def _outside(self, low: Tensor, high: Tensor) -> bool:
        """Return whether no point of a box lies in a ball."""
        ball = self.goal.region
        if not isinstance(ball, Ball) or math.isinf(ball.norm):
            return False
        apart = next_down(torch.maximum(low - self.center, self.center - high)).clamp(min=0.0)
        return bool(lengths_down(apart, ball.norm) > ball.radius)

    def _settle(self, found: _Open) -> Iterator[SteepPair]:
        """Look for a pair as steep as a known Jacobian."""
        part, scale = found.part, 1.0
        point = 0.5 * part.low + 0.5 * part.high
        if part.walls:
            limits = self._limits(part)
            place, scale = deepest_point([*part.walls.values()], *limits)
            point[self.moving] = torch.from_numpy(place)
            if scale < 1e-6 and self._room(part).empty:
                return
        yield from self._pair(found, point, scale)
        if not self.goal.reached(part.bound) and self._at_border(part):
            sizes = (part.high - part.low)[self.moving]
            halved = dataclasses.replace(found, axis=int(sizes.argmax()))
            self._push(part.bound, halved)
        else:
            self._done = max(self._done, part.bound)

    def _at_border(self, part: _Part) -> bool:
        """Return whether a part may lie outside of a ball, and its box is not small yet."""
        ball = self.goal.region
        if not isinstance(ball, Ball) or math.isinf(ball.norm):
            return False
        far = torch.maximum((part.high - self.center).abs(), (part.low - self.center).abs())
        small = float((part.high - part.low).amax()) < 1e-3 * ball.radius
        return not small and bool(lengths_up(far, ball.norm) > ball.radius)

    def _pair(self, found: _Open, point: Tensor, scale: float) -> Iterator[SteepPair]:
        """Yield the steepest pair around a point where it is the best so far."""
        shape = self.forward.graph.perturbed_input.shape
        if not bool(found.jacobian.isfinite().all()):
            return
        direction = torch.zeros_like(point)
        direction[self.moving] = steepest(found.jacobian, self.goal.norm)
        room = 0.5 * (found.part.high - found.part.low)[self.moving]
        # as far as the faces of the copy of the box
        room = scale * float((room / direction[self.moving].abs()).amin())
        firsts, seconds = [], []
        for share in (0.99, 0.5, 0.1, 0.01):
            ends = (point + sign * share * room * direction for sign in (1.0, -1.0))
            first, second = (project(self.goal.region, end.reshape(1, *shape)) for end in ends)
            firsts.append(first)
            seconds.append(second)
        first, second = torch.cat(firsts), torch.cat(seconds)
        inside = contains(self.goal.region, first) & contains(self.goal.region, second)
        if not bool(inside.any()):
            return
        first, second = first[inside], second[inside]
        witness = best_pair(self.forward.graph, first, second, self.goal.norm)
        if witness.slope <= self.goal.lower() or not self.goal.reached(found.part.bound):
            exact = exact_slope_lower(self.maps, first[0], second[0], self.goal.norm)
            if exact > witness.slope:
                witness = SteepPair(first[0], second[0], exact)
        if witness.slope > self.goal.lower():
            yield witness


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _stepped(walls: Array, point: Array, low: Array, high: Array) -> Array | None:
    """Step over the wall that is farthest, again and again, until a point is inside, or give up.

    The relaxation method of Agmon, Motzkin and Schoenberg (1954): far cheaper than a linear program
    where there is room.

    Returns:
        The point; None where none was found.
    """
    d = len(point)
    walls = walls / np.linalg.norm(walls[:, :d], axis=1, keepdims=True)
    point = np.clip(point, low, high)
    for _ in range(12):
        values = walls[:, :d] @ point + walls[:, d]
        if not len(values) or (values > 0.0).all():
            return point
        worst = int(values.argmin())
        point = np.clip(point - 1.5 * values[worst] * walls[worst, :d], low, high)
    return None


def _with_wall(
    walls: Mapping[tuple[int, ...], RationalRow], row: RationalRow | None, side: float
) -> Mapping[tuple[int, ...], RationalRow] | None:
    """Return walls with one more; None where it is the back of one of them."""
    if row is None:
        return walls
    row = row.times(side)
    factor = math.gcd(*row.integers)
    key = tuple(number // factor for number in row.integers)
    if tuple(-number for number in key) in walls:
        return None
    return walls if key in walls else {**walls, key: row}
