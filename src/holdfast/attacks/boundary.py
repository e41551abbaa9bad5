"""Walks along the decision boundary towards the row.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack"
(2020), in its targeted form and without a box around the inputs: the projection onto the linearised
boundary then has a closed form in every norm.
"""

import torch
from torch import Tensor

from holdfast.attacks.geometry import steepest
from holdfast.attacks.rows import Rows


def nearest_rivals(rows: Rows, most: int) -> Tensor:
    """Return the classes whose boundary is nearest to each row, as its linearisation has it.

    Args:
        rows: The rows.
        most: How many classes; there are fewer where the model has fewer.

    Returns:
        [R, at most `most`], the nearest first, out of the ten largest other logits.
    """
    logits = rows.ask(rows.center)
    others = logits.scatter(1, rows.labels[:, None], -torch.inf)
    # Every candidate costs a gradient; the nearest ones are mostly among the largest logits.
    candidates = others.topk(min(10, others.shape[1] - 1), dim=1).indices
    distances = []
    for rivals in candidates.T:
        lead, gradient = rows.climb(rows.center, rivals)
        distances.append(lead.neg() / steepest(gradient, rows.norm)[1])
    known = torch.stack(distances, dim=1).nan_to_num(torch.inf, torch.inf)
    order = known.argsort(dim=1, stable=True)
    return candidates.gather(1, order[:, :most])


def walk(rows: Rows, start: Tensor, rivals: Tensor) -> None:
    """Walk from `start` to the boundary with a rival class, and along it towards the row.

    Args:
        rows: The rows; what is found stays in them.
        start: [R, n].
        rivals: [R], classes.
    """
    center, point = rows.center, start
    overshoot, most_pull, keep = 1.05, 0.1, 0.9  # eta, alpha_max and beta of the paper
    for _ in range(40):  # the paper takes 100: here the time goes into restarts
        lead, gradient = rows.climb(point, rivals)
        direction, slope = steepest(gradient, rows.norm)
        here = -lead / slope
        there = -(lead + ((center - point) * gradient).sum(1)) / slope
        pull = (here.abs() / (here.abs() + there.abs())).clamp(max=most_pull)[:, None]
        moved = point + overshoot * here[:, None] * direction
        anew = center + overshoot * there[:, None] * direction
        point = (1.0 - pull) * moved + pull * anew
        # A row whose gradient vanished begins again at its centre.
        point = torch.where(torch.isfinite(point).all(1, keepdim=True), point, center)
        back = center + keep * (point - center)
        point = torch.where(rows.fooled(rows.ask(point))[:, None], back, point)
