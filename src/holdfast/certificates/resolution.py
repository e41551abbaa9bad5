"""The finest and the widest distances that data can speak about."""

import torch
from torch import Tensor

MOST_ROWS = 2000
"""Distances between rows grow with the square of their number: the first so many are compared."""


def neighbour_distance(
    inputs: Tensor, labels: Tensor, norm: float, units: Tensor | None = None
) -> float | None:
    """Return half the distance from a row to its nearest row with another label, as a median.

    Around half the rows, a ball of any larger radius meets the ball of that radius around a row
    with another label. No classifier that is right about both rows can be certified at such a
    radius at both: it is the scale that the median certified radius can be held against. The
    median, and not the smallest of these distances, because one mislabelled pair of twins would
    make that 0. It is about the data alone.

    Args:
        inputs: [N, ...], finite.
        labels: [N], or targets [N, ...].
        norm: 1, 2 or inf.
        units: Of one row's shape, as `Moves.units` gives them: rows that differ where a unit is 0
            are no neighbours.

    Returns:
        The lower median over the first `MOST_ROWS` rows, each compared with all of them; None
        where all have one label.
    """
    first = inputs[:MOST_ROWS]
    flat = in_their_units(first, units).double()
    fixed = torch.zeros_like(flat) if units is None else first.flatten(1) * (units == 0).flatten()
    _, kept = fixed.unique(dim=0, return_inverse=True)
    labels = labels[:MOST_ROWS].reshape(len(flat), -1)
    nearest = []
    # 128 rows against 2000: 2 MB of distances at a time.
    for rows, own, same in zip(flat.split(128), labels.split(128), kept.split(128), strict=True):
        distances = torch.cdist(rows, flat, norm, "donot_use_mm_for_euclid_dist")
        distances[(own[:, None] == labels).all(2) | (same[:, None] != kept)] = torch.inf
        nearest.append(distances.amin(1))
    median = float(torch.cat(nearest).median()) / 2
    return median if median < float("inf") else None


def in_their_units(inputs: Tensor, units: Tensor | None) -> Tensor:
    """Return flat rows of the entries that may move, divided by their units, [N, n]."""
    flat = inputs.flatten(1)
    if units is None:
        return flat
    free = (units > 0).flatten()
    return flat[:, free] / units.flatten()[free].to(flat.dtype)


def quantisation_step(inputs: Tensor) -> float | None:
    """Return the distance between neighbouring values of one entry, where values lie on a grid.

    It is the smallest distance, in any norm, between two different inputs of such data: within
    less, a row is alone.

    Args:
        inputs: [N, ...], finite.

    Returns:
        The step of the grid that all values lie on; None where there is none of at most 4096
        levels, as for measured values or channels that were normalised each on its own.

    >>> quantisation_step(torch.tensor([0.0, 3.0, 5.0, 10.0]) / 10) is None
    True
    >>> f"{quantisation_step(torch.tensor([0.0, 3.0, 5.0, 7.0, 6.0]) / 10):.3f}"
    '0.100'
    """
    most = 2**12  # levels: those of 12-bit images; finer grids are those of floating point itself
    values = inputs.flatten().unique().double()
    if not 2 <= len(values) <= most:
        return None
    gaps = values.diff()
    span = float(values[-1] - values[0])
    count = round(span / float(gaps.min()))
    if count > most:
        return None
    step = span / count
    levels = (values - values[0]) / step
    # Values in float32 are off a grid of 4096 levels by far less than a thousandth of its step.
    return step if bool(((levels - levels.round()).abs() < 1e-3).all()) else None
