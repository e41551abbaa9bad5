"""Which rows make a layer volatile, and against which others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.continuity.distance import Distance, block_distances
from holdfast.continuity.evidence import Sample

SHOWN = 10


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


def brittle_rows(
    sample: Sample, labels: Tensor, pointwise: Tensor, distance: Distance
) -> tuple[Brittle, ...]:
    """Return the rows with the largest pointwise volatility, each with its worst partner.

    Args:
        sample: States [n, d] and losses [n].
        labels: [n].
        pointwise: Volatility of each row, [n].
        distance: A name or a callable.

    Returns:
        At most 10 rows, largest first; a row all of whose partners are at distance 0 is left out.
    """
    values, order = pointwise.sort(descending=True, stable=True)
    rows = order[:SHOWN].to(sample.states.device)
    losses = sample.losses.double()
    blocks = sample.states.split(2048)
    distances = torch.cat(
        [block_distances(distance, sample.states[rows], block) for block in blocks], 1
    )
    changes = losses - losses[rows, None]
    slopes = (changes.abs() / distances).masked_fill_(distances == 0, 0.0)
    top, partners = slopes.max(1)
    names = labels.tolist()
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


def by_class(pointwise: Tensor, labels: Tensor) -> dict[int | float, float]:
    """Return the mean pointwise volatility of the rows of each label."""
    return {label: float(pointwise[labels == label].mean()) for label in labels.unique().tolist()}
