"""Projected gradient ascent of the margin inside a ball around each row.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks" (2020), section 3: momentum, and a step that is halved where the margin
stopped rising, from the best point so far.
"""

import torch
from torch import Tensor

from holdfast.attacks.geometry import into_ball, spread
from holdfast.attacks.rows import Rows


def ascend(rows: Rows, radius: Tensor, start: Tensor) -> None:
    """Climb the lead of the largest other logit within `radius` of each row.

    Args:
        rows: The rows; what is found stays in them.
        radius: [R], in the model's type.
        start: [R, n] steps from the rows, within the radius.
    """
    last = step = start
    size = 2.0 * radius
    top = torch.full_like(radius, -torch.inf)
    before, rises = top, torch.zeros_like(radius)
    top_step, top_gradient = step, torch.zeros_like(step)
    every, momentum = 8, 0.75  # steps between two looks at the step's size; as in the paper
    for count in range(1, 41):  # the size may be halved five times, to a 16th of the radius
        lead, gradient = rows.climb(rows.center + step)
        better = (lead > top)[:, None]
        top = torch.where(better.squeeze(1), lead, top)
        top_step = torch.where(better, step, top_step)
        top_gradient = torch.where(better, gradient, top_gradient)
        rises, before = rises + (lead > before), lead
        if count % every == 0:
            slow = rises < 0.75 * every  # the share of rising steps that the paper asks for
            size = torch.where(slow, size / 2, size)
            step, last, gradient = (
                torch.where(slow[:, None], best, now)
                for best, now in ((top_step, step), (top_step, last), (top_gradient, gradient))
            )
            rises = torch.zeros_like(rises)
        ahead = into_ball(step + size[:, None] * spread(gradient, rows.norm), radius, rows.norm)
        ahead = step + momentum * (ahead - step) + (1.0 - momentum) * (step - last)
        last, step = step, into_ball(ahead, radius, rows.norm)
