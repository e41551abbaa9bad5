"""Radii of rows with one-hot groups: every corner that could be near is certified by itself.

A moved row x' is in one corner c: its categories differ from the row's by d_c, and what else is
free moves by some t, so that its distance is ||(|d_c|, t)||, the norm of the two lengths. Let rho_c
be a radius within which the row with the categories of c keeps the label while categories stay, 0
where that is not proved. If x' has another class, then t > rho_c, or rho_c = 0 <= t: its distance
is at least ||(|d_c|, rho_c)||. So every radius that is less than this for every other corner, and
at most rho of the row's own, holds.

The corners come nearest first, and ||(|d_c|, rho_c)|| is at least |d_c|: once |d_c| is as large as
the radius that is left, no further corner lowers it. Where that does not happen among the first
`MOST_CORNERS`, the radius ends before the first corner that was not looked at, which is sound for
the same reason. Where nothing but categories is free, rho_c is infinite or 0, and the radius ends
just before the nearest corner with another class: it is exact, but for logits within rounding.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from holdfast.corners import Corner, placed
from holdfast.rounding import lengths_down

MOST_CORNERS = 4096
"""Corners of a row that are certified at most: on a net of a table they take a tenth of a second a
row where categories alone move, and some ten seconds where each corner needs a search."""

Certify = Callable[[Tensor, Tensor], tuple[Tensor, tuple[str, ...]]]
"""From rows [M, ...] and labels [M] to radii [M], 0 where nothing is proved, and their methods."""


def over_corners(
    fields: dict[str, Any],
    rows: tuple[Tensor, Tensor],
    walk: Callable[[Tensor], Iterator[Corner]],
    norm: float,
    certify: Certify,
) -> dict[str, Any]:
    """Return radii, and their methods, of rows whose categories may change.

    Args:
        fields: Radii and methods, among others, where categories stay.
        rows: Inputs [N, ...], finite, one 1 among 0s in every group, and labels [N].
        walk: From a flat row to its other corners, as `nearest_first` yields them.
        norm: 1, 2 or inf.
        certify: Certifies rows whose categories stay.

    Returns:
        The fields with smaller radii; the method is `enumeration` where the nearest corner with
        another class, or the first that was not looked at, limits them. Where the user stops this,
        rows not all of whose corners were looked at have radius 0, and `stopped` as their reason.
    """
    radius, reason = fields["radius"].clone(), list(fields["reason"])
    method, waiting = list(fields["method"]), {*(radius > 0).nonzero().flatten().tolist()}
    # Where the user has stopped the rows themselves, no corner is looked at.
    parts = () if "stopped" in reason else _lowered((radius, method), rows, walk, norm, certify)
    with contextlib.suppress(KeyboardInterrupt):
        for part in parts:
            waiting -= {*part}
    for row in waiting:
        radius[row], reason[row] = 0.0, "stopped"
    return fields | {"radius": radius, "method": tuple(method), "reason": tuple(reason)}


def _lowered(
    found: tuple[Tensor, list[str]],
    rows: tuple[Tensor, Tensor],
    walk: Callable[[Tensor], Iterator[Corner]],
    norm: float,
    certify: Certify,
) -> Iterator[list[int]]:
    """Lower radii, and write their methods, in place; yield the numbers of rows once done."""
    (inputs, labels), (radius, method) = rows, found
    # So many rows at once: their queues of corners take some 10 MB.
    for part in (radius > 0).nonzero().flatten().split(64):
        walks = {row: walk(inputs[row].flatten()) for row in part.tolist()}
        looked, block = 0, 8
        while walks:
            taken = _next(walks, radius, method, min(block, MOST_CORNERS - looked))
            if taken:
                numbers = torch.tensor([row for row, _ in taken])
                corners = [corner for _, corner in taken]
                kept, how = certify(placed(inputs[numbers], corners), labels[numbers])
                below = torch.tensor([corner.below for corner in corners], dtype=torch.float64)
                reached = _combined(below, kept, norm)
                each = zip(numbers.tolist(), reached.tolist(), kept.tolist(), how, strict=True)
                for row, reach, own, name in each:
                    if reach < radius[row]:
                        radius[row], method[row] = reach, name if own > 0 else "enumeration"
            looked, block = looked + block, min(2 * block, 64)
        yield part.tolist()


def _next(
    walks: dict[int, Iterator[Corner]], radius: Tensor, method: list[str], block: int
) -> list[tuple[int, Corner]]:
    """Drop the rows that are done with, and return so many corners of each other row.

    Where none may be taken any more, the radius ends before the next corner.

    Returns:
        Rows and their corners.
    """
    found = []
    for row, walk in list(walks.items()):
        for _ in range(max(block, 1)):
            corner = next(walk, None)
            if corner is None or corner.below >= radius[row]:
                del walks[row]
                break
            if block <= 0:
                radius[row], method[row] = corner.below, "enumeration"
                del walks[row]
                break
            found.append((row, corner))
    return found


def _combined(below: Tensor, kept: Tensor, norm: float) -> Tensor:
    """Return numbers less than ||(a, kept)|| for every a > below, and at least `below`."""
    pairs = torch.stack([below, kept.clamp(max=1e300)], 1)  # sums that do not overflow
    least = torch.maximum(below, lengths_down(pairs, norm))
    return torch.where(torch.isinf(kept), math.inf, least)
