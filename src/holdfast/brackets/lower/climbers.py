"""Climbers: points that look for a large Jacobian, each with the direction it pushes along.

The direction that maximises ||J u|| over unit u is found by the power method for mixed norms
(Boyd, "The power method for l^p norms", 1974): u <- the unit vector that J^T v aligns with, where
v is aligned with J u. Both derivatives of log ||J_s(x) u|| come from one backward pass: the one
for u is the next power step, the one for x the ascent step (by Danskin's theorem the best u may
be held fixed).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.brackets.budget import products
from holdfast.brackets.lower.pairs import contains, lengths, over_rows, project, unit
from holdfast.brackets.lower.tangent import push
from holdfast.graph.ir import Graph
from holdfast.types import Box, Region


@dataclass(frozen=True)
class Hunt:
    """What is looked for, where, and for how long.

    Attributes:
        graph: Captured model in float64, with maxima as comparisons.
        norm: 1, 2 or inf, on both sides.
        region: Where points may go; None for everywhere.
        spent: Says when to stop; asked between steps.
        generator: Source of all random choices.
    """

    graph: Graph
    norm: float
    region: Region | None
    spent: Callable[[], bool]
    generator: torch.Generator

    def late(self) -> bool:
        """Return whether to stop between steps that a smaller net would just finish."""
        return products(self.graph) > 2**24 and self.spent()

    def normal(self, like: Tensor) -> Tensor:
        """Draw normal numbers, of the shape of `like`."""
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, count: int) -> Tensor:
        """Draw numbers between 0 and 1, [count]."""
        return torch.rand((count,), generator=self.generator, dtype=torch.float64)

    def choose(self, below: int, count: int) -> Tensor:
        """Draw whole numbers from 0 to below - 1, [count]."""
        return torch.randint(below, (count,), generator=self.generator)

    def free(self, directions: Tensor) -> Tensor:
        """Set the entries to 0 that a box holds fixed."""
        if isinstance(self.region, Box):
            return directions * (self.region.high > self.region.low)
        return directions


@dataclass(frozen=True)
class Climbers:
    """Points, directions and rates of change.

    Attributes:
        points: [N, ...], float64.
        directions: Same shape, of length 1 in the norm of the hunt.
        values: ||J u||, [N].
        scales: Typical size of a large move of an entry, [N, ...] or broadcastable.
    """

    points: Tensor
    directions: Tensor
    values: Tensor
    scales: Tensor

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: Tensor | slice) -> "Climbers":
        parts = (self.points, self.directions, self.values, self.scales)
        return Climbers(*(part[rows] for part in parts))

    def joined(self, other: "Climbers") -> "Climbers":
        """Return the climbers of both."""
        return Climbers(
            torch.cat([self.points, other.points]),
            torch.cat([self.directions, other.directions]),
            torch.cat([self.values, other.values]),
            torch.cat([self.scales, other.scales]),
        )

    def best(self, count: int) -> "Climbers":
        """Return the best of different values: equal ones stand in the same linear piece."""
        order = self.values.argsort(descending=True, stable=True)
        values = self.values[order]
        before = torch.cat([values.new_full((1,), math.inf), values[:-1]])
        return self[order[values < before * (1.0 - 1e-9)][:count]]


def recruit(hunt: Hunt, points: Tensor) -> Climbers:
    """Put climbers at points, with random directions.

    Args:
        hunt: What is looked for.
        points: [N, ...], N at least 1; moved into the region.

    Returns:
        The climbers, measured after a few power steps.
    """
    points = project(hunt.region, points)
    directions = aligned(hunt.free(hunt.normal(points)), points, hunt.norm)
    if hunt.norm == 1.0:
        directions = _coordinates(hunt, points)
    climbers = Climbers(
        points, directions, torch.zeros(len(points)).double(), _scales(hunt, points)
    )
    return refine(hunt, climbers, 3)


def _coordinates(hunt: Hunt, points: Tensor) -> Tensor:
    flat = torch.zeros_like(points).flatten(1)
    places = hunt.choose(flat.shape[1], len(flat))
    return hunt.free(flat.scatter_(1, places[:, None], 1.0).reshape(points.shape))


def _scales(hunt: Hunt, points: Tensor) -> Tensor:
    """Return the half-width of the region, or the size of each point."""
    region = hunt.region
    if isinstance(region, Box):
        return ((region.high - region.low).double() / 2.0).expand_as(points)
    entries = points[0].numel()
    if region is not None:
        share = 0.0 if math.isinf(region.norm) else 1.0 / region.norm
        return torch.full_like(points, region.radius / entries**share)
    size = lengths(points, 2.0) / entries**0.5
    return over_rows(size.clamp(min=1e-3), points).expand_as(points)


def aligned(gradients: Tensor, directions: Tensor, norm: float) -> Tensor:
    """Return the unit vectors with the largest product with the gradients.

    Args:
        gradients: [N, ...].
        directions: Kept where a gradient is zero or not finite.
        norm: In which the result has length 1.
    """
    flat = gradients.flatten(1)
    if norm == 2.0:
        best = unit(flat, 2.0)
    elif math.isinf(norm):
        best = torch.where(flat < 0, -1.0, 1.0).to(flat)
    else:
        best = torch.zeros_like(flat).scatter_(1, flat.abs().argmax(1, keepdim=True), 1.0)
    moving = (flat.abs().amax(1) > 0) & torch.isfinite(flat).all(1)
    return torch.where(over_rows(moving, directions), best.reshape(directions.shape), directions)


def refine(hunt: Hunt, climbers: Climbers, steps: int) -> Climbers:
    """Turn the directions to where the true Jacobian is larger, and measure it.

    Args:
        hunt: What is looked for.
        climbers: Where, and the directions to start from.
        steps: Of the power method.

    Returns:
        The same points; values are 0 outside the region or where the net is not finite.
    """
    points, directions = climbers.points, climbers.directions
    for _ in range(steps):
        if hunt.late():
            break
        directions = directions.detach().requires_grad_()
        change = push(hunt.graph, points, directions, None)
        gradient = _gradients(lengths(change, hunt.norm).sum(), directions)[0]
        directions = aligned(hunt.free(gradient), directions.detach(), hunt.norm)
    with torch.no_grad():
        values = lengths(push(hunt.graph, points, directions, None), hunt.norm)
    good = torch.isfinite(values) & contains(hunt.region, points)
    values = torch.where(good, values, torch.zeros_like(values))
    return Climbers(points, directions, values, climbers.scales)


def slopes_uphill(
    hunt: Hunt, points: Tensor, directions: Tensor, sharpness: float
) -> tuple[Tensor, Tensor]:
    """Return the directions in which log ||J_s(x) u|| grows, of mean square 1, and the next u.

    Args:
        hunt: What is looked for.
        points: [N, ...].
        directions: Same shape.
        sharpness: Of the smoothed kinks.
    """
    points = points.detach().requires_grad_()
    directions = directions.detach().requires_grad_()
    change = push(hunt.graph, points, directions, sharpness)
    score = lengths(change, hunt.norm).clamp(min=1e-300).log().sum()
    uphill, turn = _gradients(score, points, directions)
    uphill = hunt.free(torch.nan_to_num(uphill, 0.0, 0.0, 0.0))
    next_directions = aligned(hunt.free(turn), directions.detach(), hunt.norm)
    return unit(uphill, 2.0) * points[0].numel() ** 0.5, next_directions


def _gradients(score: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    """Return gradients; zeros where nothing depends on a tensor (a constant or linear net)."""
    if not score.requires_grad:
        return tuple(torch.zeros_like(part) for part in of)
    return torch.autograd.grad(score, of, materialize_grads=True)


def ascend(
    hunt: Hunt, climbers: Climbers, steps: int, sharpness: tuple[float, float], stride: float
) -> Climbers:
    """Climb on the smoothed net by normalised gradients with momentum, sharpening it on the way.

    Args:
        hunt: What is looked for.
        climbers: From where.
        steps: Number of steps, fewer when the time is spent.
        sharpness: At the first and at the last step, geometrically between.
        stride: Length of the first steps, in units of `climbers.scales`.

    Returns:
        Climbers at the last points, measured with the true Jacobian.
    """
    points, directions = climbers.points, climbers.directions
    speed = torch.zeros_like(points)
    low, high = sharpness
    for step in range(steps):
        if hunt.spent():
            break
        share = step / max(1, steps - 1)
        uphill, directions = slopes_uphill(hunt, points, directions, low * (high / low) ** share)
        speed = 0.9 * speed + 0.1 * uphill
        points = points + (stride * (1.0 - 0.9 * share)) * climbers.scales * speed
        points = project(hunt.region, points)
    return refine(hunt, Climbers(points, directions, climbers.values, climbers.scales), 8)
