"""Attacks that change categories: the corners near a row are asked, and searched from.

A row with one-hot groups moves from corner to corner (`holdfast.corners`), and within one by what
else is free. The corners nearer than what is known are asked, nearest first, up to so many of a
row; from those where a linear step to the boundary ends nearest the row, the usual search goes on
with their categories kept.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, takewhile

import torch
from torch import Tensor

from holdfast.attacks.geometry import distance_up, steepest
from holdfast.attacks.rows import Rows
from holdfast.attacks.search import search
from holdfast.corners import Corner, placed
from holdfast.types import Report

_STARTS = 4
"""Corners of a row that are searched from: each costs as much as an attack without groups."""

Walk = Callable[[Tensor], Iterator[Corner]]


def search_corners(
    found: Rows,
    right: Tensor,
    walk: Walk,
    units: Tensor,
    spent: Callable[[], bool],
    report: Report,
) -> tuple[Rows, bool]:
    """Return rows with what is found in other corners, where that is nearer.

    Args:
        found: Rows whose categories stay, as `search` leaves them.
        right: [R] bool: rows that are given their label, which alone are attacked.
        walk: From a flat row to its other corners, nearest first.
        units: [n], of all entries that move, those of groups among them.
        spent: Says when to stop.
        report: Called with the progress.

    Returns:
        Rows whose points are inputs, with distances in the units of all entries; and whether the
        user interrupted it.
    """
    best = replace(found, units=None, distance=found.distance.clone())
    best.adversarial = found.placed(found.adversarial).flatten(1)
    if math.isfinite(found.epsilon):  # any adversarial will do
        right = right & torch.isinf(found.distance)
    moving = found.units is not None and bool(found.units.any())
    whole = None  # what is found of some rows, until all of it is kept
    try:
        # So many rows at once: their queues of corners take some 10 MB.
        for part in right.nonzero().flatten().split(64):
            if spent():
                break
            some = best.take(part)
            starts = _ask(some, walk, units, found.units if moving else None)
            if found.units is not None and starts:
                _search_from(some, starts, found, units, spent, report)
            whole = part, some
            best.put(*whole)
    except KeyboardInterrupt:
        if whole is not None:
            best.put(*whole)
        return best, True
    return best, False


def _search_from(
    some: Rows,
    starts: list[tuple[int, Corner]],
    found: Rows,
    units: Tensor,
    spent: Callable[[], bool],
    report: Report,
) -> None:
    """Search from corners of rows with their categories kept; see `search_corners`.

    Raises:
        KeyboardInterrupt: When the user interrupts.
    """
    numbers = torch.tensor([row for row, _ in starts])
    there = placed(some.inputs[numbers], [corner for _, corner in starts])
    rows = (there, some.labels[numbers])
    near = Rows.begin(found.model, rows, found.norm, units=found.units)
    *_, stopped = search(near, spent, report)
    if stopped:
        raise KeyboardInterrupt
    points, known = near.placed(near.adversarial), torch.isfinite(near.distance)
    _keep(some, numbers, (points, known, near.predicted), units)


def _ask(rows: Rows, walk: Walk, units: Tensor, numeric: Tensor | None) -> list[tuple[int, Corner]]:
    """Ask the corners of rows that are nearer than what is known; return where to search from.

    Args:
        rows: The rows, whose points are inputs.
        walk: From a flat row to its other corners, nearest first.
        units: [n], of all entries that move.
        numeric: [n], of those outside of groups; None where none of them moves.

    Returns:
        Rows and corners.
    """
    walks = {row: walk(rows.inputs[row].flatten()) for row in range(len(rows.inputs))}
    starts: dict[int, list[tuple[float, int, Corner]]] = {row: [] for row in walks}
    for count in range(256):  # 16 corners at a time, in all as many as are certified
        some = []
        for row, corners in list(walks.items()):
            near = [*takewhile(partial(_nearer, rows, row), islice(corners, 16))]
            some += [(row, corner) for corner in near]
            if len(near) < 16:
                del walks[row]
        if not some:
            break
        numbers = torch.tensor([row for row, _ in some])
        there = placed(rows.inputs[numbers], [corner for _, corner in some])
        _offer(rows, numbers, there, units)
        if numeric is None:
            continue
        near = Rows.begin(rows.model, (there, rows.labels[numbers]), rows.norm, units=numeric)
        for (row, corner), length in zip(some, _lengths(near), strict=True):
            guess = torch.tensor([corner.below, length])
            far = float(torch.linalg.vector_norm(guess, rows.norm))
            starts[row] = heapq.nsmallest(_STARTS, [*starts[row], (far, count, corner)])
    each = [(row, corner) for row, those in starts.items() for _, _, corner in those]
    return [(row, corner) for row, corner in each if _nearer(rows, row, corner)]


def _nearer(rows: Rows, row: int, corner: Corner) -> bool:
    return corner.below < min(float(rows.distance[row]), rows.epsilon)


def _offer(rows: Rows, numbers: Tensor, there: Tensor, units: Tensor) -> None:
    """Keep the corners of rows that are nearer adversarials."""
    with torch.no_grad():
        logits = rows.model(there)
    fooled = replace(rows, labels=rows.labels[numbers]).fooled(logits)
    _keep(rows, numbers, (there, fooled, logits.argmax(1)), units)


def _lengths(rows: Rows) -> list[float]:
    """Return how far the boundary is from each row, by the gradient."""
    lead, gradient = rows.climb(rows.center)
    rate = steepest(gradient, rows.norm)[1]
    return (
        torch.where(rate > 0, -lead / rate, math.inf)
        .clamp(min=0.0)
        .nan_to_num(math.inf, math.inf)
        .tolist()
    )


def _keep(rows: Rows, numbers: Tensor, found: tuple[Tensor, Tensor, Tensor], units: Tensor) -> None:
    """Keep inputs that are nearer adversarials than what is known.

    Args:
        rows: The rows, whose points are inputs.
        numbers: [M], of the row that each input belongs to.
        found: Inputs [M, ...], whether they are adversarials, and the model's answers, [M] each.
        units: [n], of all entries that move.
    """
    points, fooled, predicted = found
    flat = points.flatten(1)
    distance = distance_up(flat, rows.inputs.flatten(1)[numbers], rows.norm, units)
    for k in (fooled & (distance <= rows.epsilon)).nonzero().flatten().tolist():
        row = int(numbers[k])
        if distance[k] < rows.distance[row]:
            rows.distance[row], rows.predicted[row] = distance[k], predicted[k]
            rows.adversarial[row] = flat[k]
