"""Rows that repeat an anchor or one another, and why they count only against the model.

A bound from counts needs trials that are independent of the anchors and of each other. A row that
is an anchor as well, or a copy of one, is neither: it lies at distance 0 with the same loss, so it
can never be a bad trial, and every such row makes the bound smaller without proving anything. Nor
are rows that were copied (oversampled, or read twice) trials of their own. Numbers alone do not
tell a copy from a separate draw that happens to be equal, so the bounds are made to hold for both:

    every bad trial counts, whoever it is; a good trial counts only if its row repeats nothing.

*Why this holds.* Let R be those rows that truly are independent draws, each once: all rows that
repeat nothing, and some of the others, nobody knows which. The bounds of `binomial` rise with the
number of bad trials and fall with the number of good ones. All bad trials of R are counted, and no
good one that is not of R, so that the bound that is returned is at least the one from R alone,
sample by sample, and fails no more often. What is certified stays the same event: no row is left
out for its distance or its loss, and a fresh example that falls exactly on an anchor is part of
the event as any other. Rows of different labels at distance 0 count as what they are, bad trials.

For pairs of rows the same is done pair by pair. With b bad pairs among all rows, of which x have a
row that repeats, and t pairs of rows that repeat nothing, the share of bad pairs in R is at most
b / (t + x). And it rests on at least m = floor(a / 2) disjoint pairs if a rows repeat nothing (for
rounds of pairs: in each round on at least floor(n / 2) - (n - a)). A mean of m independent values
is more concentrated, in convex order, the larger m is, so that `pairs_upper` (over all hinges; over
some of them it is larger still) and `mean_upper` fall with m.

Rows are told apart by their inputs (`states.identity`), not by their states, since a layer may map
different inputs to one point (a ReLU that is off): such rows are separate draws and are counted.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def repeats(anchors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return which rows are an anchor, and which a row before them, as far as rounding lets tell.

    Two are one if their distance is at most 2^-20 of their size, which is 16 roundings of float32:
    the batch in which a row is run changed its states by 4 at most in networks of 8 to 12 layers
    (in float64 by 9 of its own). What is float64 may have been stored in float32.

    Args:
        anchors: Their identity, [A, k]; see `states.identity`.
        rows: Their identity, [n, k].

    Returns:
        Two masks, [n] each; no row is in both.
    """
    together = torch.cat([anchors.to(rows.device), rows])
    room = 2.0**-20 * float(rows.norm(dim=1).median())
    # Of what came before, the one that a row repeats; itself where there is none.
    everyone = torch.arange(len(together), device=rows.device)
    original = everyone.clone()
    first_row = len(anchors)

    def note(first: Tensor, second: Tensor) -> bool:
        """Note the later one of each pair that is one row twice; say whether there is any."""
        first, second = torch.minimum(first, second), torch.maximum(first, second)
        same = (together[first] - together[second]).norm(dim=1) <= room
        same &= (second >= first_row) & (original[first] == first) & (original[second] == second)
        original[second[same]] = first[same]
        return bool(same.any())

    # What is close lies close along any direction; neighbours first, again and again, so that of
    # many equal rows soon only one is left.
    direction = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0)).to(rows)
    along = together @ (direction / direction.norm())
    left = along.argsort(stable=True)
    while note(left[:-1], left[1:]):
        left = left[original[left] == left]
    for first, second in _close(along[left], room):
        note(left[first], left[second])
    while not torch.equal(original, original[original]):
        original = original[original]
    found = original[first_row:]
    return found < first_row, (found >= first_row) & (found < everyone[first_row:])


def _close(places: Tensor, room: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pairs of increasing numbers [n] that are close, about a million at a time."""
    here = torch.arange(len(places), device=places.device)
    counts = torch.searchsorted(places, places + room, right=True) - here - 1
    for some in here.split(max(1, 2**20 // int(counts.amax() + 1))):
        first = some.repeat_interleave(counts[some])
        before = counts[some].cumsum(0) - counts[some]
        steps = torch.arange(len(first), device=places.device)
        yield first, first + 1 + steps - before.repeat_interleave(counts[some])
