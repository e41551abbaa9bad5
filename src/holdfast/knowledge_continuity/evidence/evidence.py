"""What is counted on the certification rows: near pairs, and those whose loss differs by much.

Rows fall in two sets that share no row. The anchors choose everything that may be chosen (edges,
near distance, scale); the certification rows are only counted. Computed distances may be wrong by
rounding: whatever counts against the model is counted with the edge moved out by more than that
error, and near rows in a denominator with the edge moved in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.bins import Bins
from holdfast.knowledge_continuity.evidence.grid import Grid, Ratio
from holdfast.knowledge_continuity.pairs.distance import Distance, block_distances, relative_error

MOST_ANCHORS = 2000
PILOT_ROWS = 512
DISTANCES, CHANGES = 12, 8
# Entries of one matrix of distances to anchors (16 MB in float64).
ENTRIES = 2**21

Levels = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, eq=False)
class Edges:
    """The grid of a certificate, fixed before the certification rows are looked at.

    Attributes:
        deltas: Distances, increasing; the last is infinity.
        etas: Loss changes, increasing; the first is 0.
        error: Relative error of computed distances that the counts allow for.
    """

    deltas: tuple[float, ...]
    etas: tuple[float, ...]
    error: float

    def change_bins(self) -> Bins:
        """Return the edges of loss changes; a change of exactly eta counts as more than eta."""
        return Bins([math.nextafter(eta, 0.0) for eta in self.etas[1:]])

    def distance_bins(self) -> Bins:
        """Return every edge of a distance moved in and moved out by the error."""
        sides = [(1 - 2 * self.error, 1 + 2 * self.error)] * (len(self.deltas) - 1)
        moved = [d * s for d, pair in zip(self.deltas, sides, strict=False) for s in pair]
        return Bins(torch.tensor(moved, dtype=torch.float64).unique())

    def cumulate(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Turn counts by bin into counts of the events of each cell.

        Args:
            counts: By distance bin and change bin, [..., distances, changes].

        Returns:
            Within delta and loss change above eta (too many rather than too few), [..., G, E];
            within delta (too few rather than too many), [..., G].
        """
        above = counts.flip(-1).cumsum(-1).flip(-1).cumsum(-2)
        edges = self.distance_bins().edges
        finite = edges.new_tensor(self.deltas[:-1])
        out = torch.searchsorted(edges, finite * (1 + 2 * self.error))
        inward = torch.searchsorted(edges, finite * (1 - 2 * self.error))
        last = torch.tensor([len(edges)])
        bad = above.index_select(-2, torch.cat([out, last]))
        return bad, above[..., 0].index_select(-1, torch.cat([inward, last]))


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of the events of every cell.

    Attributes:
        bad: Within delta and loss change above eta, [..., G, E].
        near: Within delta, [..., G].
        trials: Independent trials, or pairs of `rows`.
        rows: For pairs: the rows that they are made of.
    """

    bad: Tensor
    near: Tensor
    trials: int
    rows: int | None = None


@dataclass(frozen=True)
class Slopes:
    """What a bound of the expected slope rests on: a kernel from 0 to 1 over pairs of rows.

    Attributes:
        ratio: The kernel.
        mean: Its mean over pairs of certification rows, too large rather than too small.
        square: The mean of its square, likewise.
    """

    ratio: Ratio
    mean: float
    square: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """What certificates of one layer rest on.

    Attributes:
        edges: The grid.
        nearest: Certification rows by their nearest anchor.
        anchors: Certification rows by each anchor, [A, ...].
        pairs: Pairs of certification rows; None with fewer than 2 rows.
        slopes: Their loss changes per unit of distance; None with fewer than 2 rows.
        rows: Number of certification rows.
    """

    edges: Edges
    nearest: Tally
    anchors: Tally
    pairs: Tally | None
    slopes: Slopes | None
    rows: int


@dataclass(frozen=True, eq=False)
class Sample:
    """States [n, d] of one layer with losses [n]."""

    states: Tensor
    losses: Tensor

    def take(self, rows: Tensor) -> "Sample":
        """Return some of the rows."""
        return Sample(self.states[rows], self.losses[rows])


@dataclass(frozen=True)
class Pilot:
    """What the anchors alone say about the scale of a layer.

    Attributes:
        nearest: Median distance to the nearest other anchor.
        smallest: Smallest distance above 0.
        near: Distance within which the chosen share of pairs lies.
        median: Median distance of pairs.
        change: Largest loss change.
    """

    nearest: float
    smallest: float
    near: float
    median: float
    change: float


def split(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the anchors and the certification rows, at random: half each, at most 2000 anchors.

    Args:
        n: Number of rows, at least 2.
        seed: Of the choice.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    anchors = min(n // 2, MOST_ANCHORS)
    return order[:anchors].sort().values, order[anchors:].sort().values


def pilot(anchors: Sample, distance: Distance, near: float) -> Pilot | None:
    """Look at the distances between some anchors.

    Args:
        anchors: In any order; about 512 are looked at, spread evenly.
        distance: A name or a callable.
        near: Share of pairs that are near.

    Returns:
        The scale of the layer; None where no two anchors are apart.
    """
    states = anchors.states[:: -(-len(anchors.states) // PILOT_ROWS) or 1]
    if len(states) < 2:
        return None
    distances = block_distances(distance, states, states)
    upper = torch.triu_indices(len(states), len(states), 1, device=states.device)
    apart = distances[upper[0], upper[1]]
    if not bool(apart.any()):
        return None
    distances.fill_diagonal_(math.inf)
    losses = anchors.losses.double()
    return Pilot(
        float(distances.amin(1).median()),
        float(apart[apart > 0].min()),
        float(apart.quantile(near)),
        float(apart.median()),
        float(losses.max() - losses.min()),
    )


def check_levels(levels: Levels) -> tuple[list[float], list[float]]:
    """Return the distances and loss changes of a user's grid, each once and increasing.

    Raises:
        InvalidInput: If they are not two sequences of positive numbers.
    """
    try:
        deltas, etas = (sorted(set(map(float, side))) for side in levels)
    except (TypeError, ValueError):
        deltas, etas = [], []
    # What is next below a loss change is an edge, so that it must be above 0 too.
    smallest = [*deltas[:1], *(math.nextafter(eta, 0.0) for eta in etas[:1])]
    if len(smallest) < 2 or not all(0 < v < math.inf for v in (*smallest, *deltas, *etas)):
        wanted = "(distances, loss changes): two sequences of numbers, finite and above 0"
        raise InvalidInput("grid", levels, wanted)
    return deltas, etas


def choose_edges(known: Pilot, levels: Levels | None, error: float) -> Edges:
    """Choose the grid from what the anchors say, or take the user's.

    Args:
        known: From `pilot`.
        levels: Distances and loss changes that the user fixed beforehand.
        error: Relative error of computed distances.

    Returns:
        The grid. By default 12 distances in geometric steps, from half the median distance between
        nearest anchors to the median distance of pairs, and 8 loss changes that halve from half
        the range of the anchors' losses.

    Raises:
        InvalidInput: If the user's levels are not positive numbers.
    """
    if levels is None:
        low = max(known.nearest / 2, known.smallest)
        high = max(known.median, 2 * low)
        steps = torch.linspace(math.log(low), math.log(high), DISTANCES, dtype=torch.float64)
        deltas, widest = steps.exp().tolist(), known.change or 1.0
        etas = [widest / 2**step for step in range(CHANGES, 0, -1)]
    else:
        deltas, etas = check_levels(levels)
    return Edges((*deltas, math.inf), (0.0, *etas), error)


def count_anchors(
    anchors: Sample, tests: Sample, distance: Distance, edges: Edges
) -> tuple[Tally, Tally]:
    """Count the certification rows by their nearest anchor, and by every anchor.

    The nearest anchor of a row may be in doubt, by a tie or by rounding: of all that may be it,
    the one with the largest loss change counts.

    Args:
        anchors: The anchors.
        tests: The certification rows.
        distance: A name or a callable.
        edges: The grid.

    Returns:
        Counts by nearest anchor, and by each anchor.
    """
    by_distance, by_change = edges.distance_bins(), edges.change_bins()
    shape = (len(by_distance), len(by_change))
    cells = shape[0] * shape[1]
    nearest = torch.zeros(cells, dtype=torch.int64)
    each = torch.zeros(len(anchors.losses) * cells, dtype=torch.int64)
    places = torch.arange(len(anchors.losses)) * cells
    for start in range(0, len(tests.losses), step := max(1, ENTRIES // len(anchors.losses))):
        rows = slice(start, start + step)
        distances = block_distances(distance, tests.states[rows], anchors.states).cpu()
        changes = (tests.losses[rows, None].double() - anchors.losses.double()).abs().cpu()
        codes = by_distance(distances).mul_(shape[1]).add_(by_change(changes)).add_(places)
        each += torch.bincount(codes.view(-1), minlength=len(each))
        closest = distances.amin(1)
        tied = distances <= closest[:, None] * (1 + 3 * edges.error)
        worst = changes.masked_fill(~tied, 0.0).amax(1)
        codes = by_distance(closest).mul_(shape[1]).add_(by_change(worst))
        nearest += torch.bincount(codes, minlength=cells)
    trials = len(tests.losses)
    return (
        Tally(*edges.cumulate(nearest.view(shape)), trials),
        Tally(*edges.cumulate(each.view(-1, *shape)), trials),
    )


def pair_tally(counts: Tensor, edges: Edges, rows: int) -> Tally | None:
    """Return the tally of the pairs of certification rows.

    Args:
        counts: Of the pairs, by distance and change bin.
        edges: The grid.
        rows: Certification rows.
    """
    pairs = int(counts.sum())
    return Tally(*edges.cumulate(counts.cpu()), pairs, rows) if pairs else None


def pair_slopes(sums: Tensor, pairs: int, ratio: Ratio, edges: Edges) -> Slopes | None:
    """Return what the pairs of certification rows say of the expected slope.

    Args:
        sums: Of the kernel and of its square, [2].
        pairs: How many pairs they are over.
        ratio: The kernel.
        edges: The grid, which knows how far distances may be wrong.
    """
    if not pairs:
        return None
    # Twice the error of the distances, which leaves room for the rounding of the sums.
    mean, square = (sums / pairs).tolist()
    most = 1 + 2 * edges.error
    return Slopes(ratio, min(1.0, mean * most), min(1.0, square * most * most))


def pair_grid(edges: Edges, ratio: Ratio, roles: Tensor) -> Grid:
    """Return what the pair engine counts."""
    device = roles.device
    return Grid(edges.distance_bins().to(device), edges.change_bins().to(device), roles, ratio)


def choose_ratio(known: Pilot) -> Ratio:
    """Choose the kernel from 0 to 1 from what the anchors say: near distance, largest change."""
    return Ratio(known.near or known.smallest, known.change or 1.0)


def edges_for(
    anchors: Sample, distance: Distance, known: Pilot | None, levels: Levels | None
) -> Edges | None:
    """Return the grid of a layer; None where the anchors are all in one place."""
    if known is None:
        return None
    return choose_edges(known, levels, relative_error(distance, anchors.states.dtype))
