"""Lower bounds of a Lipschitz constant: pairs of inputs whose slope is proved.

The Jacobian at a point says in which direction the output changes fastest (power iteration with
Jacobian-vector products); a pair of points along that direction is then evaluated with a bound of
its rounding error, and its slope is the lower bound. No derivative is trusted: a wrong direction
only gives a smaller slope.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from holdfast.bounds.running import evaluate
from holdfast.graph.ir import Graph
from holdfast.graph.walk import run
from holdfast.rounding import gamma, next_down
from holdfast.types import Box, Region

Function = Callable[[Tensor], Tensor]
Pull = Callable[[Tensor], tuple[Tensor]]

_ITERATIONS = 20
_STEPS = tuple(10.0**-k for k in range(7))
"""Lengths of the pairs tried, relative to the size of the input: long ones lose the kink of a
piecewise linear net, short ones lose digits."""

_OUTPUTS = 256
"""At most so many outputs are differentiated one by one for l1 and linf."""

_FINALISTS = 8


@dataclass(frozen=True)
class Witness:
    """Two inputs and a proved lower bound of the slope between them.

    Attributes:
        first: One input without batch dimension, float64.
        second: Another one.
        slope: At most ||f(first) - f(second)|| / ||first - second||, in exact arithmetic.
    """

    first: Tensor
    second: Tensor
    slope: float


def steepest_pairs(
    graph: Graph, points: Tensor, norm: float, region: Region | None, batch: int = 256
) -> Iterator[Witness]:
    """Yield pairs with ever larger slopes, going through the points batch by batch.

    Args:
        graph: Captured model.
        points: Where to look, [N, ...].
        norm: 1, 2 or inf, on both sides.
        region: Both points of a pair lie in it; None for no restriction.
        batch: Points taken at once.

    Yields:
        A `Witness` whenever a batch has a larger proved slope than all before.
    """
    graph = graph.double()
    best = 0.0
    for part in points.double().split(batch):
        directions, values = steepest_directions(graph, part, norm)
        finalists = values.argsort(descending=True)[:_FINALISTS]
        for witness in _pairs(graph, part[finalists], directions[finalists], norm, region):
            if witness.slope > best:
                best = witness.slope
                yield witness


def steepest_directions(graph: Graph, points: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """Return unit directions of fast change at points, and the rate of change there.

    Args:
        graph: Captured model in float64.
        points: [N, ...].
        norm: 1, 2 or inf.

    Returns:
        Directions [N, ...] of length 1 in the norm, and ||J u|| per point, [N].
    """
    function = partial(run, graph)
    if norm == 2.0:
        return _power_iteration(function, points)
    return _by_output(function, points, norm)


def _lengths(values: Tensor, norm: float) -> Tensor:
    """Return the norm of every row, all other dimensions flattened."""
    return torch.linalg.vector_norm(values.flatten(1), ord=norm, dim=1)


def _over_rows(numbers: Tensor, like: Tensor) -> Tensor:
    """Shape one number per row for broadcasting."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


def _unit(values: Tensor, norm: float) -> Tensor:
    return values / _over_rows(_lengths(values, norm), values).clamp(min=1e-300)


def _power_iteration(function: Callable[[Tensor], Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
    """Iterate u <- J^T J u, all points at once: rows do not influence each other."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(points.shape, generator=generator, dtype=points.dtype)
    direction = _unit(noise, 2.0)
    _, pull = _vjp(function, points)
    for _ in range(_ITERATIONS):
        (back,) = pull(_push(function, points, direction))
        moving = _over_rows(_lengths(back, 2.0) > 0, back)
        direction = torch.where(moving, _unit(back, 2.0), direction)
    change = _push(function, points, direction)
    return direction.detach(), _lengths(change, 2.0).detach()


def _vjp(function: Function, points: Tensor) -> tuple[Tensor, Pull]:
    """Return the values at points, and the map from output to input directions there."""
    values, pull, *_ = torch.func.vjp(function, points)
    return values, pull


def _push(function: Function, points: Tensor, directions: Tensor) -> Tensor:
    """Return the change of the output along directions, [N, ...]."""
    _, change, *_ = torch.func.jvp(function, (points,), (directions,))
    return change


def _by_output(function: Function, points: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """Write the Jacobian out, output by output; its best row (linf) or column (l1) says where."""
    output, pull = _vjp(function, points)
    flat = output.flatten(1)
    count = min(flat.shape[1], _OUTPUTS)
    if norm == math.inf:
        return _best_row(pull, output, count)
    sums = torch.zeros_like(points).flatten(1)
    for k in range(count):
        sums += _gradient(pull, output, k).flatten(1).abs()
    value, place = sums.max(1)
    direction = torch.zeros_like(sums).scatter_(1, place[:, None], 1.0)
    return direction.reshape(points.shape), value


def _gradient(pull: Pull, output: Tensor, k: int) -> Tensor:
    """Return the gradient of the k-th output entry, for every row."""
    chosen = torch.zeros_like(output).flatten(1)
    chosen[:, k] = 1.0
    (gradient,) = pull(chosen.reshape(output.shape))
    return gradient.detach()


def _best_row(pull: Pull, output: Tensor, count: int) -> tuple[Tensor, Tensor]:
    direction = torch.ones_like(_gradient(pull, output, 0))
    best = torch.zeros(output.shape[0], dtype=output.dtype)
    for k in range(count):
        gradient = _gradient(pull, output, k)
        value = _lengths(gradient, 1.0)
        better = value > best
        signs = torch.where(gradient < 0, -1.0, 1.0).to(direction)
        direction = torch.where(_over_rows(better, direction), signs, direction)
        best = torch.maximum(best, value)
    return direction, best


def _pairs(
    graph: Graph, points: Tensor, directions: Tensor, norm: float, region: Region | None
) -> Iterator[Witness]:
    """Yield the best pair of all lengths tried, for each length."""
    size = _over_rows(points.flatten(1).abs().amax(1).clamp(min=1e-3), points)
    for step in _STEPS:
        first, second = points, _into(region, points + directions * size * step)
        inside = contains(region, first) & contains(region, second)
        if not bool(inside.any()):
            continue
        first, second = first[inside], second[inside]
        slopes = slopes_lower(graph, first, second, norm)
        best = int(slopes.argmax())
        yield Witness(first[best], second[best], float(slopes[best]))


def _into(region: Region | None, points: Tensor) -> Tensor:
    """Move points into a box; a ball is left to `contains`."""
    if not isinstance(region, Box):
        return points
    return points.clamp(region.low.double(), region.high.double())


def slopes_lower(graph: Graph, first: Tensor, second: Tensor, norm: float) -> Tensor:
    """Return proved lower bounds of the slopes between pairs of points.

    Args:
        graph: Captured model.
        first: [N, ...], float64, taken as exact.
        second: Same shape.
        norm: 1, 2 or inf, on both sides.

    Returns:
        [N], float64: at most ||f(first) - f(second)|| / ||first - second||; 0 for equal points.
    """
    values = evaluate(graph, torch.cat([first, second]))
    (y, z), (ey, ez) = values.value.chunk(2), values.error.chunk(2)
    outputs = y[0].numel()
    gap = (y - z).abs() * (1.0 - 2.0 * gamma(4)) - (ey + ez) * (1.0 + 2.0 * gamma(4))
    change = _lengths(gap.clamp(min=0.0), norm) * (1.0 - 2.0 * gamma(outputs + 8))
    distance = distances_upper(first, second, norm)
    slopes = next_down(change / distance.clamp(min=1e-300))
    return torch.where(distance > 0, slopes.clamp(min=0.0), torch.zeros_like(slopes))


def distances_upper(first: Tensor, second: Tensor, norm: float) -> Tensor:
    """Return upper bounds of the distances between float64 points, row by row, [N]."""
    entries = first[0].numel()
    return _lengths(first - second, norm) * (1.0 + 2.0 * gamma(entries + 8))


def contains(region: Region | None, points: Tensor) -> Tensor:
    """Return per row whether a point surely lies in the region."""
    if region is None:
        return torch.ones(len(points), dtype=torch.bool)
    if isinstance(region, Box):
        low, high = region.low.double(), region.high.double()
        return ((points >= low) & (points <= high)).flatten(1).all(1)
    return distances_upper(points, region.center.double()[None], region.norm) <= region.radius


def sample(region: Region, count: int, generator: torch.Generator) -> Tensor:
    """Draw points of a region: uniform in a box, random directions and radii in a ball."""
    if isinstance(region, Box):
        low, high = region.low.double(), region.high.double()
        shares = torch.rand((count, *low.shape), generator=generator, dtype=torch.float64)
        return torch.clamp(low + shares * (high - low), low, high)
    center = region.center.double()
    noise = torch.randn((count, *center.shape), generator=generator, dtype=torch.float64)
    shares = torch.rand((count,), generator=generator, dtype=torch.float64) * 0.999
    return center + _unit(noise, region.norm) * _over_rows(shares, noise) * region.radius
