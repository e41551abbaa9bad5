"""Which rows make a layer volatile, and against which others."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.knowledge_continuity.pairs.distance import Distance, block_distances
from holdfast.knowledge_continuity.pairs.intervals import LEVEL, QUANTILE
from holdfast.knowledge_continuity.pairs.pairs import PairSums, Question
from holdfast.knowledge_continuity.pairs.points import Points
from holdfast.types import Estimate


@dataclass(frozen=True, eq=False)
class Brittle:
    """A row with a large volatility, and the row that it is held against.

    Attributes:
        row: Row index.
        value: Pointwise volatility.
        label: Its label.
        neighbour: The partner with the largest loss change per distance.
        slope: That quotient.
        distance: Distance to the partner.
        change: Loss of the partner minus loss of the row.
        neighbour_label: Label of the partner.
    """

    row: int
    value: float
    label: int | float
    neighbour: int
    slope: float
    distance: float
    change: float
    neighbour_label: int | float


def brittle_rows(points: Points, pointwise: Tensor, distance: Distance) -> tuple[Brittle, ...]:
    """Return the rows with the largest pointwise volatility, each with its worst partner.

    Args:
        points: The rows.
        pointwise: Volatility of each row, [n].
        distance: A name or a callable.

    Returns:
        At most 10 rows, largest first; a row all of whose partners are at distance 0 is left out.
    """
    values, order = pointwise.sort(descending=True, stable=True)
    rows = order[:10].to(points.states.device)
    losses = points.losses
    blocks = points.states.split(2048)
    distances = torch.cat(
        [block_distances(distance, points.states[rows], block) for block in blocks], 1
    )
    changes = losses - losses[rows, None]
    slopes = (changes.abs() / distances).masked_fill_(distances == 0, 0.0)
    top, partners = slopes.max(1)
    names = points.labels.tolist()
    found = zip(rows.tolist(), values.tolist(), partners.tolist(), top.tolist(), strict=False)
    return tuple(
        Brittle(
            row,
            value,
            names[row],
            other,
            slope,
            float(distances[place, other]),
            float(changes[place, other]),
            names[other],
        )
        for place, (row, value, other, slope) in enumerate(found)
        if slope > 0
    )


def by_class(
    points: Points, sums: PairSums, question: Question, seed: int, most: int = 256
) -> dict[int | float, Estimate]:
    """Return the mean pointwise volatility of the rows of each label, with its interval.

    The interval is the leave-one-row-out one of `intervals`: a row of the label takes its own
    volatility with it and its weight as a partner, any other row only its weight as a partner. Of
    these others some are looked at, drawn at random, and stand for all.

    Args:
        points: The rows.
        sums: Over the pairs of each row.
        question: What they answer.
        seed: Of the choice of partners.
        most: How many other rows are looked at.
    """
    n, device = len(points), points.states.device
    names, places, sizes = points.labels.unique(return_inverse=True, return_counts=True)

    def of_class(values: Tensor) -> Tensor:
        return values.new_zeros(len(names)).index_add_(0, places, values)

    total, pairs = of_class(sums.total), of_class(sums.pairs)
    own = (total[places] - sums.total - sums.same) / (pairs[places] - sums.pairs - sums.same_pairs)
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].to(device)
    shares = sums.pairs[chosen, None] * sizes / (n - 1)
    weights = _weights_by_class(points, chosen, question, places, len(names)) / sizes * shares
    other = (total - weights) / (pairs - shares)
    outside = places[chosen, None] != torch.arange(len(names), device=device)
    stands_for = outside * (n - sizes) / outside.sum(0).clamp(min=1)
    center = (of_class(own) + (stands_for * other).sum(0)) / n
    spread = of_class((own - center[places]).square())
    spread += (stands_for * (other - center).square()).sum(0)
    spread[~outside.any(0) & (sizes < n)] = math.inf
    errors = (spread * (n - 1) / n).sqrt().nan_to_num(math.inf, math.inf)
    found = zip(names.tolist(), (total / pairs).tolist(), errors.tolist(), strict=True)
    return {
        name: Estimate(mean, max(0.0, mean - QUANTILE * error), mean + QUANTILE * error, LEVEL)
        for name, mean, error in found
    }


def _weights_by_class(
    points: Points, chosen: Tensor, question: Question, places: Tensor, classes: int
) -> Tensor:
    """Return the sum of the chosen rows' weights as partners, by class, [chosen, classes]."""
    losses, found = points.losses, []
    for rows in chosen.split(64):
        distances = block_distances(question.distance, points.states[rows], points.states)
        weights = question.kernel((losses - losses[rows, None]).abs(), distances)
        found.append(weights.new_zeros(len(rows), classes).index_add_(1, places, weights))
    return torch.cat(found)
