"""Certified radii from linear bounds on a ball around each row.

On the ball of radius r around x, the margin of the label y over class j is at least a linear
function <a, x'> + c (`holdfast.bounds.linear`). It is positive within (<a, x> + c) / ||a||_dual of
x, so the class holds within g(r), the smallest such distance over all j, as far as the ball itself
reaches: every evaluation proves min(r, g(r)), also where the margin is not positive on the whole
ball. g falls as r grows, and the best radius is where g(r) = r. It is found by the regula falsi in
the logarithms of r and g.

Radii are tried on a fixed grid and results rounded down to another, so that the last bits of a
matrix product, which depend on the batch and on the number of threads, decide nothing.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.bounds.backward import dot
from holdfast.bounds.few import relaxed_on
from holdfast.bounds.float32 import FLUSH, LARGEST, execution_error_within
from holdfast.bounds.interval import Interval, over
from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.graph.ir import Graph
from holdfast.rounding import TINY, coarse_down, gamma, lengths_up, next_down, rows_up
from holdfast.types import Progress, Report, dual, silent

_STEPS = 1024
"""Radii tried per factor of two: the grid costs a radius at most 0.07 %."""

_REACH = 40
"""Radii tried lie within this many factors of two of the first estimate, far beyond where the
distance by the gradient says anything."""


Known = Mapping[str, tuple[Tensor, Tensor]]
"""Bounds of nodes around one row, by name."""


@dataclass(frozen=True)
class Balls:
    """Rows of a classifier, around which balls are to be certified.

    Attributes:
        graph: The classifier.
        inputs: [N, ...], finite.
        labels: [N].
        norm: Of the distance between inputs: 1, 2 or inf.
        units: Of one row's shape, as `Moves.units` gives them.
    """

    graph: Graph
    inputs: Tensor
    labels: Tensor
    norm: float
    units: Tensor | None = None

    def of(self, rows: Tensor) -> "Balls":
        """Return some of the rows, in float64."""
        inputs = self.inputs[rows].double()
        return dataclasses.replace(self, inputs=inputs, labels=self.labels[rows])

    @torch.no_grad()
    def held(
        self,
        radius: Tensor,
        executed: bool = False,
        outer: Mapping[str, Interval] | None = None,
    ) -> tuple[Tensor, list[Known | None]]:
        """Return how far each label provably holds, as far as linear bounds on a ball say.

        Args:
            radius: [N], of the ball around each row.
            executed: Whether the label must hold for the network as executed in float32.
            outer: Intervals of nodes on larger balls.

        Returns:
            [N]: valid up to the radius of the ball; not above 0 where nothing is proved. And for
            every row the intervals that hold on its ball; None where they say nothing.
        """
        x, labels = self.inputs, self.labels
        balls = balls_around(x, radius, self.norm, self.units)
        relaxed = relaxed_on(self.graph, balls, outer)
        rows = differences(labels, self.graph[self.graph.output].shape[0])
        below = relaxed.below({self.graph.output: rows})
        slope = below.slope
        center = dot(slope, x)
        count = x[0].numel() + 8
        noise = 4.0 * gamma(count) * (dot(slope.abs(), x.abs()) + 2.0**-900)
        noise = noise + 2.0**-52 * (center.abs() + below.offset.abs())
        if executed:
            found = execution_error_within(relaxed.graph, relaxed.intervals)
            # Subnormal differences may be flushed where logits are compared.
            error = found.error + FLUSH + torch.where(found.peak <= LARGEST, 0.0, math.inf)[:, None]
            noise = rows_up(noise + dot(rows.abs(), error), 8)
        height = next_down(next_down(center + below.offset) - noise)
        if self.units is not None:
            slope = rows_up(slope.abs() * self.units, 1)
        length = lengths_up(slope.flatten(2), dual(self.norm)) + TINY
        least = next_down(height / length).amin(1)
        reached = coarse_down(least.nan_to_num(-math.inf, math.inf, -math.inf))
        return reached, _by_row(relaxed)


def _by_row(relaxed: Relaxed) -> list[Known | None]:
    """Return the intervals of each row where every function is defined on its whole ball."""
    tight = relaxed.tightened()
    return [
        {name: (part.low[row], part.high[row]) for name, part in tight.items()} if known else None
        for row, known in enumerate(relaxed.defined.tolist())
    ]


def _stacked(known: Sequence[Known | None]) -> dict[str, Interval]:
    """Return the intervals of rows together, without limits where nothing is known of a row."""
    names = {name: ends for part in known if part for name, ends in part.items()}
    stacked = {}
    for name, (low, high) in names.items():
        nothing = (torch.full_like(low, -math.inf), torch.full_like(high, math.inf))
        rows = [part.get(name, nothing) if part else nothing for part in known]
        below, above = (torch.stack(side) for side in zip(*rows, strict=True))
        below = below.nan_to_num(-math.inf, math.inf, -math.inf)
        stacked[name] = Interval(below, above.nan_to_num(math.inf, math.inf, -math.inf))
    return stacked


def balls_around(x: Tensor, radius: Tensor, norm: float, units: Tensor | None) -> Regions:
    """Return one ball around each row, with radii [R]."""
    return Regions(x, over(radius, x), norm, None if units is None else units[None])


def local_radii(balls: Balls, enough: Tensor, report: Report = silent) -> tuple[Tensor, Tensor]:
    """Return a proved radius around each row within which its label's logit is the largest.

    Args:
        balls: N rows of a classifier with linear bounds.
        enough: [N]: a radius below this is of no use, and need not be found.
        report: Called with the progress.

    Returns:
        [N] float64, rounded down; 0 where nothing is proved, or nothing of use. A row's radius
        depends on the row, and on what is enough for it, alone. And [N] bool, whether the search
        was done with the row when the user stopped it: where it was not, the radius is 0.

    Raises:
        Unsupported: When an op has no linear bounds, naming every such op.
    """
    balls = dataclasses.replace(balls, graph=balls.graph.double())
    try:
        first, _ = _held(balls, torch.arange(len(balls.inputs)), torch.zeros_like(enough))
        starts = [_Crossing(held) if held > 0 else None for held in first.tolist()]
        hopeless = _hopeless(balls, first, enough)
    except KeyboardInterrupt:
        return torch.zeros_like(enough), torch.zeros_like(enough, dtype=torch.bool)
    for row in hopeless.tolist():
        starts[row] = None
    return _search(balls, starts, report)


def _hopeless(balls: Balls, first: Tensor, enough: Tensor) -> Tensor:
    """Return the numbers of the rows whose local radius is less than what is enough.

    g falls, so where g(r) < r for the r that is enough, the radius is less than r.

    Args:
        balls: N rows.
        first: [N], g(0).
        enough: [N].
    """
    useless = first < enough
    # A radius is rarely below an eighth of the distance by the gradient: there the search tells.
    near = (~useless & (first / 8.0 < enough)).nonzero().flatten()
    useless[near] = _held(balls, near, enough[near])[0] < enough[near]
    return useless.nonzero().flatten()


def executed_radii(balls: Balls, radius: Tensor, report: Report = silent) -> tuple[Tensor, Tensor]:
    """Return what remains of radii for the network as executed in float32.

    Args:
        balls: N rows of a classifier, float32.
        radius: [N], proved for the exact function.
        report: Called with the progress.

    Returns:
        [N], nowhere larger than `radius`; and [N] bool, as `local_radii`.

    Raises:
        Unsupported: When the rounding of an op is not known, naming every such op.
    """
    balls = dataclasses.replace(balls, graph=balls.graph.double())
    starts = [_Crossing.below(value) if value > 0 else None for value in radius.tolist()]
    found, done = _search(balls, starts, report, executed=True)
    return torch.minimum(found, radius), done


def batches(graph: Graph, count: int) -> Sequence[Tensor]:
    """Return the rows that are worth bounding at once, in order."""
    widest = max(math.prod(node.shape) for node in graph.nodes)
    # Values of the widest node that are held for one batch: 2 MB for every row of coefficients.
    rows = max(1, 2**18 // (widest * graph[graph.output].shape[0]))
    return torch.arange(count).split(rows) if count else ()


def differences(labels: Tensor, classes: int) -> Tensor:
    """Return the rows e_label - e_j for all j but the label, [R, classes - 1, classes]."""
    unit = torch.eye(classes, dtype=torch.float64)
    others = torch.ones(len(labels), classes, dtype=torch.bool).scatter(1, labels[:, None], False)
    pairs = unit[labels][:, None] - unit
    return pairs[others].reshape(len(labels), classes - 1, classes)


class _Crossing:
    """Where g(r) = r for one row, from few evaluations of a function that falls.

    Args:
        first: g(0), the distance by the gradient alone, above 0; infinite where it vanishes.

    Attributes:
        START: The first radius tried is so many places below that distance: about a third of it.
    """

    START = 3 * _STEPS // 2

    def __init__(self, first: float) -> None:
        first = first if first < 2.0**_REACH else 1.0
        self._origin = _place(first)
        self._low, self._high = self._origin - _REACH * _STEPS, self._origin + _REACH * _STEPS
        self._inside, self._outside = (0.0, first), (math.inf, -math.inf)
        self._last_held = False
        self._evaluations = 0
        self._tried = self._origin - self.START

    @classmethod
    def below(cls, radius: float) -> "_Crossing":
        """Return a search that starts just below a radius, where g is taken to fall fast."""
        crossing = cls(8.0 * radius)  # a first guess: g falls eight times faster than r grows
        crossing._tried = _place(radius)
        return crossing

    @property
    def radius(self) -> float:
        """The radius to evaluate next."""
        return 2.0 ** (self._tried / _STEPS)

    def note(self, held: float) -> bool:
        """Take g at `radius`; return whether another evaluation is worth its time."""
        # Far below 0, g is no measure of where it crosses: there it falls ever faster.
        held = max(held, -self.radius) if held > -math.inf else held
        radius, excess = self.radius, held - self.radius
        again = self._evaluations > 0 and self._last_held == (excess >= 0)
        self._last_held = excess >= 0
        self._evaluations += 1
        before = self._inside
        if excess >= 0:
            self._low = max(self._low, self._tried)
            self._high = min(self._high, _place(held) + 1) if excess < radius else self._high
            self._inside = (radius, excess)
            self._outside = _halved(self._outside, again)
        else:
            self._high = min(self._high, self._tried)
            self._outside = (radius, excess)
            self._inside = _halved(self._inside, again)
        if min(radius, held) > 0:
            self._low = max(self._low, _place(min(radius, held)))
        guess = self._between() if math.isfinite(self._outside[0]) else self._beyond(before)
        self._tried = min(max(_place(guess), self._low + 1), self._high - 1)
        # 5 to 10 are usual.
        return self._high - self._low > 1 and self._evaluations < 20

    def _between(self) -> float:
        """Return where the chord of g(r) - r crosses 0 (the Illinois rule)."""
        (inside, above), (outside, below) = self._inside, self._outside
        # A value of g many times the radius says nothing about where it crosses.
        if not (math.isfinite(below) and above < 64.0 * outside):
            return math.sqrt(inside) * math.sqrt(outside) if inside else outside / 8.0
        return inside + (outside - inside) * above / (above - below)

    def _beyond(self, before: tuple[float, float]) -> float:
        """Return where the line through the last two points inside crosses 0, not too far off."""
        (last, above), (older, higher) = self._inside, before
        fall = (higher - above) / (last - older) if last > older else 0.0
        return min(last + above / fall, 4.0 * last) if fall > 0 else 4.0 * last


def _halved(point: tuple[float, float], again: bool) -> tuple[float, float]:
    """Halve the value at the end that has not moved for two steps."""
    return (point[0], 0.5 * point[1]) if again else point


def _place(radius: float) -> int:
    """Return the place on the grid of radii at or below a radius."""
    return math.floor(math.log2(min(max(radius, TINY), 2.0**1023)) * _STEPS)


def _search(
    balls: Balls,
    crossings: Sequence[_Crossing | None],
    report: Report,
    executed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the largest radius found for each row that has a crossing to find; 0 for others.

    Where the user stops the search, rows that it was not done with have 0, and False beside it.
    """
    best = torch.zeros(len(crossings), dtype=torch.float64)
    done = torch.tensor([crossing is None for crossing in crossings], dtype=torch.bool)
    try:
        for rows, radius in _finished(balls, crossings, report, executed):
            best[rows], done[rows] = radius, True
    except KeyboardInterrupt:
        best[~done] = 0.0
    return best, done


def _finished(
    balls: Balls, crossings: Sequence[_Crossing | None], report: Report, executed: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the numbers of rows whose crossing is found, and their radii, as they are done with."""
    best = torch.zeros(len(crossings), dtype=torch.float64)
    waiting = [(row, crossing) for row, crossing in enumerate(crossings) if crossing is not None]
    going: dict[int, _Crossing] = {}
    around: dict[int, tuple[float, Known]] = {}
    # Rows are finished a batch at a time; where one is done with, the next takes its place.
    most = max(map(len, batches(balls.graph, len(waiting))), default=0)
    while going or waiting:
        entering = most - len(going)
        going |= dict(waiting[:entering])
        waiting = waiting[entering:]
        report(Progress("certificates", len(crossings) - len(going) - len(waiting), len(crossings)))
        rows = torch.tensor(list(going))
        tried = [crossing.radius for crossing in going.values()]
        radius = torch.tensor(tried, dtype=torch.float64)
        outer = [None if known is None else known[1] for known in map(around.get, rows.tolist())]
        held, found = _held(balls, rows, radius, executed, outer)
        best[rows] = torch.maximum(best[rows], torch.minimum(held, radius))
        results = list(zip(going.items(), held.tolist(), tried, found, strict=True))
        going = {row: crossing for (row, crossing), value, *_ in results if crossing.note(value)}
        ended = torch.tensor([row for row in rows.tolist() if row not in going], dtype=torch.int64)
        yield ended, best[ended]
        # What holds on a ball holds on all smaller ones: kinks outside it stay out of them.
        around |= {
            row: (radius, known)
            for (row, crossing), _, radius, known in results
            if row in going and crossing.radius < radius and known is not None
        }
        around = {row: known for row, known in around.items() if row in going}


def _held(
    balls: Balls,
    rows: Tensor,
    radius: Tensor,
    executed: bool = False,
    outer: Sequence[Known | None] = (),
) -> tuple[Tensor, list[Known | None]]:
    """Return `Balls.held` for many rows, some at a time.

    Args:
        balls: The rows.
        rows: Their numbers, [N].
        radius: [N].
        executed: As in `Balls.held`.
        outer: For every row the intervals on a larger ball, where they are known.
    """
    held, found = [radius[:0]], []
    for part in batches(balls.graph, len(rows)):
        known = _stacked([outer[k] for k in part.tolist()]) if outer else None
        values, intervals = balls.of(rows[part]).held(radius[part], executed, known)
        held.append(values)
        found += intervals
    return torch.cat(held), found
