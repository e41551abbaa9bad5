"""The grid of a certificate and the scale of a layer: what the anchors alone choose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.arguments import shown
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.bins import Bins
from holdfast.knowledge_continuity.evidence.grid import Ratio
from holdfast.knowledge_continuity.pairs.distance import Distance, block_distances
from holdfast.knowledge_continuity.pairs.points import Points

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

    @property
    def ratio(self) -> Ratio:
        """The kernel from 0 to 1 of this scale: near distance, largest change."""
        return Ratio(self.near or self.smallest, self.change or 1.0)


def split(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the anchors and the certification rows, at random: half each, at most 2000 anchors.

    Args:
        n: Number of rows, at least 2.
        seed: Of the choice.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    anchors = min(n // 2, 2000)  # every row is held against every anchor
    return order[:anchors].sort().values, order[anchors:].sort().values


def pilot(anchors: Points, distance: Distance, near: float) -> Pilot | None:
    """Look at the distances between some anchors.

    Args:
        anchors: In any order; about 512 are looked at, spread evenly.
        distance: A name or a callable.
        near: Share of pairs that are near.

    Returns:
        The scale of the layer; None where no two anchors are apart.
    """
    states = anchors.states[:: -(-len(anchors) // 512)]
    if len(states) < 2:
        return None
    distances = block_distances(distance, states, states)
    upper = torch.triu_indices(len(states), len(states), 1, device=states.device)
    apart = distances[upper[0], upper[1]]
    if not bool(apart.any()):
        return None
    distances.fill_diagonal_(math.inf)
    losses = anchors.losses
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
        raise InvalidInput("grid", shown(levels), wanted)
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
        steps = torch.linspace(math.log(low), math.log(high), 12, dtype=torch.float64)
        deltas, widest = steps.exp().tolist(), known.change or 1.0
        etas = [widest / 2**step for step in range(8, 0, -1)]
    else:
        deltas, etas = check_levels(levels)
    return Edges((*deltas, math.inf), (0.0, *etas), error)
