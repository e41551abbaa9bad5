"""Witnesses of a lower bound: steep pairs of inputs in a region, and the slope that they prove.

Nothing here trusts a derivative: a pair is evaluated with a bound of its rounding error, and a
wrong direction only gives a smaller slope.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.graph.ir import Graph
from holdfast.graph.running import evaluate
from holdfast.rounding import gamma, lengths_down, lengths_up, next_down
from holdfast.types import Box, Region


@dataclass(frozen=True)
class SteepPair:
    """Two inputs and a proved lower bound of the slope between them.

    Attributes:
        first: One input without batch dimension, float64.
        second: Another one.
        slope: At most ||f(first) - f(second)|| / ||first - second||, in exact arithmetic.
    """

    first: Tensor
    second: Tensor
    slope: float


# --- rows of numbers --------------------------------------------------------------------------


def lengths(values: Tensor, norm: float) -> Tensor:
    """Return the norm of every row, all other dimensions flattened."""
    return torch.linalg.vector_norm(flat_rows(values), ord=norm, dim=1)


def over_rows(numbers: Tensor, like: Tensor) -> Tensor:
    """Shape one number per row for broadcasting."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


def unit(values: Tensor, norm: float) -> Tensor:
    """Scale every row to length 1; a row of zeros stays one."""
    return values / over_rows(lengths(values, norm), values).clamp(min=1e-300)


# --- slopes -----------------------------------------------------------------------------------


def best_pair(graph: Graph, first: Tensor, second: Tensor, norm: float) -> SteepPair:
    """Return the pair with the largest proved slope.

    Args:
        graph: Captured model.
        first: [N, ...], float64, taken as exact; N at least 1.
        second: Same shape.
        norm: 1, 2 or inf, on both sides.
    """
    slopes = slopes_lower(graph, first, second, norm)
    best = int(slopes.argmax())
    return SteepPair(first[best], second[best], float(slopes[best]))


def pairs_along(
    points: Tensor, directions: Tensor, region: Region | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of points along directions, both ways, for every length tried.

    Args:
        points: [N, ...], float64.
        directions: Same shape.
        region: Both points of a pair lie in it; None for no restriction.

    Yields:
        First and second points, [M, ...] each, M between 1 and N.
    """
    size = over_rows(flat_rows(points).abs().amax(1).clamp(min=1e-3), points)
    # Relative to the size of the input: long pairs lose the kink of a piecewise linear net, short
    # ones lose digits.
    for step in (sign * 10.0**-k for k in range(7) for sign in (1.0, -1.0)):
        move = directions * (size * step)
        first = project(region, project(region, points + move) - move)
        second = project(region, first + move)
        inside = contains(region, first) & contains(region, second)
        if bool(inside.any()):
            yield first[inside], second[inside]


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
    gap = (y - z).abs() * (1.0 - 2.0 * gamma(4)) - (ey + ez) * (1.0 + 2.0 * gamma(4))
    change = lengths_down(flat_rows(gap.clamp(min=0.0)), norm)
    distance = distances_upper(first, second, norm)
    slopes = next_down(change / distance)
    proved = (distance > 0.0) & distance.isfinite() & change.isfinite()
    return torch.where(proved, slopes.clamp(min=0.0), torch.zeros_like(slopes))


def distances_upper(first: Tensor, second: Tensor, norm: float) -> Tensor:
    """Return upper bounds of the distances between float64 points, row by row, [N]."""
    return lengths_up(flat_rows(first - second), norm) * (1.0 + 2.0 * gamma(4))


# --- regions ----------------------------------------------------------------------------------


def contains(region: Region | None, points: Tensor) -> Tensor:
    """Return per row whether a point surely lies in the region."""
    if region is None:
        return torch.ones(len(points), dtype=torch.bool)
    if isinstance(region, Box):
        low, high = region.low.double(), region.high.double()
        return flat_rows((points >= low) & (points <= high)).all(1)
    return distances_upper(points, region.center.double()[None], region.norm) <= region.radius


def project(region: Region | None, points: Tensor) -> Tensor:
    """Move points into a region: entry by entry (a box), or towards the center (a ball)."""
    if region is None:
        return points
    if isinstance(region, Box):
        return points.clamp(region.low.double(), region.high.double())
    center = region.center.double()
    move = points - center
    digits = 2.0**-50 * float(center.abs().sum()) + 1e-12 * region.radius
    inside = max(region.radius - digits, 0.0)  # so that `contains` is sure
    if math.isinf(region.norm):
        return center + move.clamp(-inside, inside)
    share = inside / lengths(move, region.norm).clamp(min=1e-300)
    return center + move * over_rows(share.clamp(max=1.0), move)


def sample(region: Region, count: int, generator: torch.Generator) -> Tensor:
    """Draw points of a region: uniform in a box, random directions and radii in a ball."""
    if isinstance(region, Box):
        low, high = region.low.double(), region.high.double()
        shares = torch.rand((count, *low.shape), generator=generator, dtype=torch.float64)
        return torch.clamp(low + shares * (high - low), low, high)
    center = region.center.double()
    noise = torch.randn((count, *center.shape), generator=generator, dtype=torch.float64)
    shares = torch.rand((count,), generator=generator, dtype=torch.float64) * 0.999
    return center + unit(noise, region.norm) * over_rows(shares, noise) * region.radius
