"""Linear functions below rows on regions, and how slopes that are free are chosen.

Xu et al., "Fast and complete: enabling complete verification with massively parallel incomplete
verifiers" (2021): every slope in [0, 1] is valid below a ReLU on an interval around 0, so every
iterate of a gradient method is a bound.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.bounds.backward import BackwardStep
from holdfast.bounds.windows import Coefficients, dense


@dataclass(frozen=True)
class Below:
    """A bound below K rows: at the least point of each region, and as functions <rows, x> + offset.

    Attributes:
        low: [R, K].
        rows: [R, K, *shape of the input].
        offset: [R, K].
    """

    low: Tensor
    rows: Coefficients
    offset: Tensor

    @property
    def slope(self) -> Tensor:
        """The rows, written out."""
        return dense(self.rows)


def better(first: Below, second: Below) -> Below:
    """Keep the better bound of each row."""
    low, offset = second.low.detach(), second.offset.detach()
    old, new = dense(first.rows), dense(second.rows).detach()
    wins = low > first.low
    rows = torch.where(wins.reshape(*wins.shape, *[1] * (new.dim() - 2)), new, old)
    return Below(torch.where(wins, low, first.low), rows, torch.where(wins, offset, first.offset))


def optimised(
    below: Callable[..., Below],
    start: Mapping[str, Tensor],
    ramps: Mapping[str, BackwardStep],
    steps: int,
) -> Below:
    """Improve the slopes below ramps by gradient steps; every row keeps its best.

    Args:
        below: Bounds rows from below, with the slopes that are given to it or its own.
        start: Rows [R or 1, K, *shape] by node.
        ramps: Steps by node; those with free slopes are improved.
        steps: Gradient steps.

    Returns:
        The best bound found for each row.
    """
    best = below(start)
    count = next(iter(start.values())).shape[1]
    slopes = {
        name: step.lines.lower_slope[:, None].repeat(1, count, *[1] * (step.free.dim() - 1))
        for name, step in ramps.items()
        if step.lines is not None and step.free is not None and bool(step.free.any())
    }
    if not slopes:
        return best
    leaves = [slope.requires_grad_() for slope in slopes.values()]
    # Slopes lie in [0, 1]: four steps of Adam cross that, and later steps are shorter.
    optimizer = torch.optim.Adam(leaves, lr=0.25)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    for _ in range(steps):
        with torch.enable_grad():
            reached = below(start, slopes)
            loss = -reached.low.sum()
        best = better(best, reached)
        if not loss.requires_grad:
            return best
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        optimizer.step()
        schedule.step()
        for leaf in leaves:
            leaf.clamp_(0.0, 1.0)
    return better(best, below(start, slopes))
