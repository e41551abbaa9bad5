"""Rows with one-hot groups: those that differ from a row in categories alone, nearest first.

A row whose groups each hold one 1 among 0s is in a corner. Changing the category of one group from
a to b moves two entries by 1, so the p-th powers of lengths add up over the groups: corners come in
order as the smallest sums of one number from each of several sorted lists.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from holdfast.rounding import add_down, down


class Corner(NamedTuple):
    """Another corner than that of a row.

    Attributes:
        below: A number less than the distance from the row.
        changes: For every group that differs: the row's entry, and the corner's.
    """

    below: float
    changes: tuple[tuple[int, int], ...]


def nearest_first(
    row: Tensor, groups: Sequence[Sequence[int]], units: Tensor, norm: float
) -> Iterator[Corner]:
    """Yield every other corner of a row, once.

    Args:
        row: Flat, one 1 among 0s in every group.
        groups: Numbers of entries, of which no group shares any with another.
        units: Flat, above 0 in the groups.
        norm: 1, 2 or inf.

    Yields:
        Corners with `below` never falling, in an order that depends on the row alone.
    """
    own = [next(entry for entry in group if row[entry] == 1.0) for group in groups]
    scale = units.tolist()
    steps = [
        sorted((_cost(scale[a], scale[b], norm), (a, b)) for b in group if b != a)
        for a, group in zip(own, groups, strict=True)
    ]
    steps.sort()
    add = max if math.isinf(norm) else add_down
    # Of a set of changes: its cost, a number that makes the order strict, the cost without its last
    # change, the group and the place in its list of that last change, and the changes before it.
    count = 0
    heap: list[tuple] = [(steps[0][0][0], count, 0.0, 0, 0, ())]
    while heap:
        cost, _, before, group, place, earlier = heapq.heappop(heap)
        changes = (*earlier, steps[group][place][1])
        yield Corner(down(math.sqrt(cost) if norm == 2.0 else cost), changes)
        # Each set has one parent, which costs at most as much: its last change one place earlier;
        # the cheapest change of the group before; or, where that group differs too, nothing.
        following = []
        if place + 1 < len(steps[group]):
            following.append((before, group, place + 1, earlier))
        if group + 1 < len(steps):
            following.append((cost, group + 1, 0, changes))
            if place == 0:
                following.append((before, group + 1, 0, earlier))
        for base, where, at, kept in following:
            count += 1
            heapq.heappush(heap, (add(base, steps[where][at][0]), count, base, where, at, kept))


def _cost(first: float, second: float, norm: float) -> float:
    """Return a lower bound of the p-th power of a change's length; of the length itself in linf."""
    ends = [1 / Fraction(first), 1 / Fraction(second)]
    exact = max(ends) if math.isinf(norm) else sum(end ** int(norm) for end in ends)
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else down(nearest)


def placed(inputs: Tensor, corners: Sequence[Corner]) -> Tensor:
    """Return rows, [N, ...], each moved to its corner."""
    moved = inputs.flatten(1).clone()
    changes = [(k, *change) for k, corner in enumerate(corners) for change in corner.changes]
    row, old, new = torch.tensor(changes).reshape(-1, 3).T
    moved[row, old] = 0.0
    moved[row, new] = 1.0
    return moved.reshape(inputs.shape)
