"""What is counted on the certification rows: near pairs, and those whose loss differs by much.

Rows fall in two sets that share no row. The anchors choose everything that may be chosen (edges,
near distance, scale); the certification rows are only counted. Computed distances may be wrong by
rounding: whatever counts against the model is counted with the edge moved out by more than that
error, and near rows in a denominator with the edge moved in. Certification rows that repeat an
anchor or one another count only against the model; why is in `repeats`.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.knowledge_continuity.evidence.edges import Edges
from holdfast.knowledge_continuity.evidence.grid import Ratio
from holdfast.knowledge_continuity.pairs.distance import Distance, block_distances
from holdfast.knowledge_continuity.pairs.points import Points

# Roles of rows in pairs: the sum of two of them tells which two they are. An anchor has role 0.
REPEATED, ALONE = 1, 3


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of the events of every cell.

    Attributes:
        bad: Within delta and loss change above eta, [..., G, E], rows that repeat included.
        repeated: Those of `bad` that count in spite of being repeats, [..., G, E].
        near: Within delta, [..., G], without repeats.
        trials: Independent trials, or pairs, without repeats.
        rows: For pairs: how many independent rows they are worth.
        pairs: For pairs: all of them, repeats included.
    """

    bad: Tensor
    repeated: Tensor
    near: Tensor
    trials: int
    rows: int = 0
    pairs: int = 0

    def coherent(self, grid: tuple[int, int], most: int, before: tuple[int, ...] = ()) -> bool:
        """Return whether these can be counts.

        Args:
            grid: Number of distances and of loss changes.
            most: Trials that there can be.
            before: Leading dimensions.
        """
        shaped = self.bad.shape == self.repeated.shape == (*before, *grid)
        if not (shaped and self.near.shape == (*before, grid[0])):
            return False
        counts = (self.bad, self.repeated, self.near)
        if any(each.dtype != torch.int64 or bool((each < 0).any()) for each in counts):
            return False
        inside = bool((self.repeated <= self.bad).all() and (self.near <= self.trials).all())
        return inside and 0 <= self.trials <= most and 0 <= self.rows <= most


@dataclass(frozen=True, eq=False)
class Evidence:
    """What certificates of one layer rest on.

    Attributes:
        edges: The grid.
        nearest: Certification rows by their nearest anchor.
        anchors: Certification rows by each anchor, [A, ...].
        pairs: Pairs of certification rows; None with fewer than 2 rows.
        ratio: The kernel of their loss changes per unit of distance, from 0 to 1.
        slopes: Its mean over them and that of its square, too large rather than too small; None
            with fewer than 2 rows.
        rows: Number of certification rows, without repeats.
        repeated: Number of certification rows that repeat an anchor or one another; None where the
            user says that they are draws of their own, and are counted.
    """

    edges: Edges
    nearest: Tally
    anchors: Tally
    pairs: Tally | None
    ratio: Ratio
    slopes: tuple[float, float] | None
    rows: int
    repeated: int | None

    def coherent(self, n: int) -> bool:
        """Return whether this can be what was counted among n rows."""
        deltas, etas = self.edges.deltas, self.edges.etas
        ordered = all(tuple(sorted(set(each))) == each for each in (deltas, etas))
        if not (ordered and deltas and etas and deltas[-1] == math.inf and etas[0] == 0.0):
            return False
        grid = len(deltas), len(etas)
        anchors = self.anchors.bad.shape[:1] if self.anchors.bad.dim() == len(grid) + 1 else ()
        counted = self.nearest.coherent(grid, n) and self.anchors.coherent(grid, n, (*anchors,))
        pairs = self.pairs
        if pairs is not None:
            counted &= pairs.coherent(grid, pairs.pairs) and 0 < pairs.pairs <= n * n
            counted &= pairs.rows <= n and bool((pairs.bad <= pairs.pairs).all())
        shares = self.slopes is None or all(0 <= share <= 1 for share in self.slopes)
        scaled = all(0 < each < math.inf for each in (self.ratio.floor, self.ratio.cap))
        counted &= 0 <= self.rows <= n and (self.repeated is None or 0 <= self.repeated <= n)
        first = deltas[0] > 0 and 0 <= self.edges.error < 0.5
        return counted and bool(anchors) and shares and scaled and first


def count_anchors(
    anchors: Points, tests: Points, distance: Distance, edges: Edges, repeated: Tensor
) -> tuple[Tally, Tally]:
    """Count the certification rows by their nearest anchor, and by every anchor.

    The nearest anchor of a row may be in doubt, by a tie or by rounding: of all that may be it,
    the one with the largest loss change counts.

    Args:
        anchors: The anchors.
        tests: The certification rows.
        distance: A name or a callable.
        edges: The grid.
        repeated: Which certification rows repeat an anchor or one another, [n].

    Returns:
        Counts by nearest anchor, and by each anchor.
    """
    by_distance, by_change = edges.distance_bins(), edges.change_bins()
    shape = (len(by_distance), len(by_change))
    cells = shape[0] * shape[1]
    nearest = torch.zeros(2 * cells, dtype=torch.int64)
    each = torch.zeros(2 * len(anchors) * cells, dtype=torch.int64)
    places = torch.arange(len(anchors)) * cells
    sides = repeated.cpu().long()
    step = max(1, 2**21 // len(anchors))  # a matrix of distances of 16 MB in float64
    for start in range(0, len(tests), step):
        rows = slice(start, start + step)
        distances = block_distances(distance, tests.states[rows], anchors.states).cpu()
        changes = (tests.losses[rows, None] - anchors.losses).abs().cpu()
        codes = by_distance(distances).mul_(shape[1]).add_(by_change(changes)).add_(places)
        codes += sides[rows, None] * (len(each) // 2)
        each += torch.bincount(codes.view(-1), minlength=len(each))
        closest = distances.amin(1)
        tied = distances <= closest[:, None] * (1 + 3 * edges.error)
        worst = changes.masked_fill(~tied, 0.0).amax(1)
        codes = by_distance(closest).mul_(shape[1]).add_(by_change(worst))
        nearest += torch.bincount(codes + sides[rows] * cells, minlength=len(nearest))
    trials = int((sides == 0).sum())
    return (
        _tally(nearest.view(2, *shape), edges, trials),
        _tally(each.view(2, -1, *shape), edges, trials),
    )


def _tally(counts: Tensor, edges: Edges, trials: int) -> Tally:
    """Return the tally of counts by bin, [2, ...]: first of the trials, then of repeats."""
    bad, near = edges.cumulate(counts[0])
    repeated, _ = edges.cumulate(counts[1])
    return Tally(bad + repeated, repeated, near, trials)


def pair_tally(counts: Tensor, edges: Edges, rows: int) -> Tally | None:
    """Return the tally of the pairs of certification rows.

    Args:
        counts: Of the pairs, by distance bin, change bin and sum of two roles.
        edges: The grid.
        rows: How many independent rows the pairs are worth.
    """
    counts = functional.pad(counts.cpu(), (0, 2 * ALONE + 1 - counts.shape[-1]))
    alone = counts[..., 2 * ALONE]
    others = counts[..., 2 * REPEATED] + counts[..., REPEATED + ALONE]
    pairs = int((alone + others).sum())
    if not pairs:
        return None
    tally = _tally(torch.stack([alone, others]), edges, int(alone.sum()))
    return replace(tally, rows=rows, pairs=pairs)


def pair_slopes(sums: Tensor, tally: Tally, edges: Edges) -> tuple[float, float]:
    """Return the means of `Ratio` and of its square over pairs of certification rows, or more.

    Args:
        sums: Of the kernel and of its square over all pairs, [2].
        tally: Of the same pairs.
        edges: The grid, which knows how far distances may be wrong.
    """
    # Twice the error of the distances, which leaves room for the rounding of the sums.
    mean, square = (sums / max(tally.trials, 1)).tolist()
    most = 1 + 2 * edges.error
    return min(1.0, mean * most), min(1.0, square * most * most)
