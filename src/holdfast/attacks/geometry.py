"""Distances that are measured, and the directions and projections that the searches share.

Everything here takes and returns flat rows, [R, n].
"""

import math

import torch
from torch import Tensor

from holdfast.rounding import rows_up
from holdfast.types import dual


def distance_up(
    points: Tensor, centers: Tensor, norm: float, units: Tensor | None = None
) -> Tensor:
    """Return how far two rows are apart as they are stored, rounded up.

    Args:
        points: [R, n], any floating-point type.
        centers: [R, n].
        norm: 1, 2 or inf.
        units: [n], of the entries; points do not differ where a unit is 0. None for ones.

    Returns:
        [R] float64, at least the exact distance and 0 only for equal rows; inf where it overflows
        or an entry is not a number.
    """
    difference = (points.double() - centers.double()).abs()
    if units is not None:
        difference = difference / torch.where(units > 0, units, 1.0)
    largest = difference.amax(1, keepdim=True)
    shares = difference / torch.where(largest > 0, largest, 1.0)  # squares that cannot underflow
    length = largest.squeeze(1) * torch.linalg.vector_norm(shares, ord=norm, dim=1)
    length = torch.where(largest.squeeze(1) > 0, rows_up(length, difference.shape[1] + 8), length)
    return length.nan_to_num(nan=math.inf, posinf=math.inf)


def steepest(gradients: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """Return the step of length 1 in the norm that climbs most, and how much it climbs.

    Args:
        gradients: [R, n].
        norm: 1, 2 or inf.

    Returns:
        Steps [R, n], 0 where the gradient is 0, and the dual norms of the gradients [R].
    """
    largest, first = gradients.abs().max(1, keepdim=True)
    shares = gradients / torch.where(largest > 0, largest, 1.0)  # whose squares do not vanish
    lengths = torch.linalg.vector_norm(shares, ord=dual(norm), dim=1, keepdim=True)
    if norm == 2:
        steps = shares / lengths.clamp(min=1.0)
    elif math.isinf(norm):
        steps = gradients.sign()
    else:
        steps = torch.zeros_like(gradients).scatter(1, first, gradients.gather(1, first).sign())
    return steps, (largest * lengths).squeeze(1)


def spread(gradients: Tensor, norm: float) -> Tensor:
    """Return a step of length 1 that climbs; in l1 over the largest twentieth of the entries.

    The steepest l1 step moves one entry only, which takes an ascent of few steps nowhere (Croce
    and Hein, "Mind the box: l1-APGD for sparse adversarial attacks", 2021).
    """
    if norm != 1:
        return steepest(gradients, norm)[0]
    entries = max(1, gradients.shape[1] // 20)
    largest = gradients.abs().topk(entries, dim=1).indices
    signs = gradients.gather(1, largest).sign()
    return torch.zeros_like(gradients).scatter(1, largest, signs / entries)


def into_ball(steps: Tensor, radius: Tensor, norm: float) -> Tensor:
    """Return the nearest steps (in l2) that are no longer than `radius` in the norm.

    Args:
        steps: [R, n].
        radius: [R], at least 0.
        norm: 1, 2 or inf; for 1 by sorting (Duchi et al., "Efficient projections onto the l1-ball
            for learning in high dimensions", 2008).
    """
    radius = radius[:, None]
    if math.isinf(norm):
        return torch.minimum(torch.maximum(steps, -radius), radius)
    lengths = torch.linalg.vector_norm(steps, ord=norm, dim=1, keepdim=True)
    if norm == 2:
        return steps * (radius / torch.where(lengths > radius, lengths, radius)).nan_to_num(0.0)
    sizes = steps.abs().sort(dim=1, descending=True).values
    count = torch.arange(1, steps.shape[1] + 1)
    levels = (sizes.cumsum(1) - radius) / count
    kept = (sizes > levels).sum(1, keepdim=True).clamp(min=1)
    level = levels.gather(1, kept - 1)
    shrunk = steps.sign() * (steps.abs() - level).clamp(min=0.0)
    return torch.where(lengths > radius, shrunk, steps)
