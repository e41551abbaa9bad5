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

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.bounds.backward import dot
from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.graph.ir import Graph
from holdfast.rounding import coarse_down, gamma, next_down
from holdfast.types import dual

_STEPS = 256
"""Radii tried per factor of two."""

_START = 3 * _STEPS
"""The first radius tried is so far below the distance by the gradient: an eighth of it."""

_MOST = 20
"""Evaluations of one row, at most."""

_REACH = 40
"""Radii tried lie within this many factors of two of the first estimate."""

_STEEP = 64.0
"""Beyond this many radii a value of g says nothing about where it crosses."""

_ENTRIES = 2**19
"""Values of the widest node held for one batch of rows."""


def local_radii(graph: Graph, inputs: Tensor, labels: Tensor, norm: float) -> Tensor:
    """Return a proved radius around each row within which its label's logit is the largest.

    Args:
        graph: A classifier with linear bounds.
        inputs: [N, ...], finite; rows whose label is not the predicted class get 0.
        labels: [N].
        norm: 1, 2 or inf.

    Returns:
        [N] float64, rounded down; 0 where nothing is proved. A row's radius depends on the row
        alone.

    Raises:
        Unsupported: When an op has no linear bounds, naming every such op.
    """
    graph, inputs = graph.double(), inputs.double()
    parts = [
        _search(_Margins(graph, inputs[rows], labels[rows], norm))
        for rows in batches(graph, len(inputs))
    ]
    return torch.cat([inputs.new_zeros(0), *parts])


def batches(graph: Graph, count: int) -> Sequence[Tensor]:
    """Return the rows that are worth bounding at once, in order."""
    widest = max(math.prod(node.shape) for node in graph.nodes)
    rows = max(1, _ENTRIES // (widest * graph[graph.output].shape[0]))
    return torch.arange(count).split(rows) if count else ()


@dataclass(frozen=True)
class _Margins:
    """The margins of some rows.

    Attributes:
        graph: Classifier in float64.
        inputs: [R, ...], float64.
        labels: [R].
        norm: Of the distance between inputs.
    """

    graph: Graph
    inputs: Tensor
    labels: Tensor
    norm: float

    @torch.no_grad()
    def held(self, rows: Tensor, radius: Tensor) -> Tensor:
        """Return how far each label provably holds, as far as linear bounds on a ball say.

        Args:
            rows: [K], which rows.
            radius: [K], of the ball around each.

        Returns:
            [K]: valid up to the radius of the ball; not above 0 where nothing is proved.
        """
        x = self.inputs[rows]
        relaxed = Relaxed(self.graph, Regions(x, _over(radius, x), self.norm))
        classes = self.graph[self.graph.output].shape[0]
        plane = relaxed.below({self.graph.output: differences(self.labels[rows], classes)}).plane
        center = dot(plane.slope, x)
        noise = 4.0 * gamma(x[0].numel() + 8) * (dot(plane.slope.abs(), x.abs()) + 2.0**-900)
        height = next_down(next_down(center + plane.offset) - (noise + 2.0**-52 * center.abs()))
        length = torch.linalg.vector_norm(plane.slope.flatten(2), ord=dual(self.norm), dim=2)
        length = length * (1.0 + 4.0 * gamma(x[0].numel() + 8)) + 2.0**-500
        return coarse_down(next_down(height / length).amin(1).nan_to_num(-1.0, math.inf, -1.0))


def _over(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


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
    """

    def __init__(self, first: float) -> None:
        first = first if first < 2.0**_REACH else 1.0
        self._origin = _place(first)
        self._low, self._high = self._origin - _REACH * _STEPS, self._origin + _REACH * _STEPS
        self._inside, self._outside = (0.0, first), (math.inf, -math.inf)
        self._last_held = False
        self._evaluations = 0
        self._tried = self._origin - _START

    @property
    def radius(self) -> float:
        """The radius to evaluate next."""
        return 2.0 ** (self._tried / _STEPS)

    def note(self, held: float) -> bool:
        """Take g at `radius`; return whether another evaluation is worth its time."""
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
        return self._high - self._low > 1 and self._evaluations < _MOST

    def _between(self) -> float:
        """Return where the chord of g(r) - r crosses 0 (the Illinois rule)."""
        (inside, above), (outside, below) = self._inside, self._outside
        if not (math.isfinite(below) and above < _STEEP * outside):
            return math.sqrt(inside * outside) if inside else outside / 8.0
        return inside + (outside - inside) * above / (above - below)

    def _beyond(self, before: tuple[float, float]) -> float:
        """Return where the line through the last two points inside crosses 0, not too far off."""
        (last, above), (older, higher) = self._inside, before
        fall = (higher - above) / (last - older)
        return min(last + above / fall, 4.0 * last) if fall > 0 else 4.0 * last


def _halved(point: tuple[float, float], again: bool) -> tuple[float, float]:
    """Halve the value at the end that has not moved for two steps."""
    return (point[0], 0.5 * point[1]) if again else point


def _place(radius: float) -> int:
    """Return the place on the grid of radii at or below a radius."""
    return math.floor(math.log2(radius) * _STEPS)


def _search(margins: _Margins) -> Tensor:
    """Return the largest radius found for each row."""
    count = len(margins.inputs)
    rows = torch.arange(count)
    best = torch.zeros(count, dtype=torch.float64)
    first = margins.held(rows, best)
    rows = rows[first > 0]
    crossings = {row: _Crossing(first[row].item()) for row in rows.tolist()}
    while len(rows):
        radius = torch.tensor([crossings[row].radius for row in rows.tolist()], dtype=torch.float64)
        held = margins.held(rows, radius)
        best[rows] = torch.maximum(best[rows], torch.minimum(held, radius))
        pairs = zip(rows.tolist(), held.tolist(), strict=True)
        rows = rows[[crossings[row].note(value) for row, value in pairs]]
    return best
