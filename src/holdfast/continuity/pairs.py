"""The pass over all pairs of rows, tile by tile, behind k-volatility.

Memory is O(block^2 + n): no n x n tensor exists. The rows are visited by increasing loss, so that
in every tile the column's loss is the larger one: the loss change needs no absolute value, and the
row sums are at once the one-sided sums (partners whose loss is larger).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.continuity.distance import Distance, block_distances
from holdfast.errors import InvalidInput
from holdfast.names import look_up

# 2 MB a float64 matrix: measured faster than 256 (overhead) and 1024 (out of cache).
BLOCK = 512
SUMMED = ("same", "other", "distance", "collisions")
OFFSETS = {"inverse": 0.0, "one_plus": 1.0}

PairFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Kernel:
    """What a pair weighs: loss change / (offset + max(distance, clip)), and 0 instead of x / 0.

    Attributes:
        offset: 0 for the definition (`inverse`), 1 for `one_plus`.
        clip: Smallest distance; 0 leaves distances as they are.
    """

    offset: float = 0.0
    clip: float = 0.0

    def __call__(self, change: Tensor, distance: Tensor) -> Tensor:
        """Return the weight of each pair."""
        clipped = self.clipped(distance)
        if self.offset:
            return change / (clipped + self.offset)
        return (change / clipped).masked_fill_(clipped == 0, 0.0)

    def clipped(self, distance: Tensor) -> Tensor:
        """Return max(distance, clip)."""
        return distance.clamp(min=self.clip) if self.clip else distance

    def offset_slope(self, change: Tensor, distance: Tensor) -> Tensor:
        """Return c g / (m + g)^2, the derivative of m c / (m + g) in the offset m > 0.

        Args:
            change: Loss changes c.
            distance: Distances; g is the clipped distance.

        Returns:
            The derivative for each pair.
        """
        clipped = self.clipped(distance)
        return change * clipped / (clipped + self.offset).square()


def resolve_kernel(name: str, clip: float | None = None) -> Kernel:
    """Return the kernel of this name.

    Args:
        name: `inverse`, loss change / distance, or `one_plus`, loss change / (1 + distance).
        clip: Smallest distance, in the units of the distance; shorter ones count as this one.

    Returns:
        The kernel.

    Raises:
        InvalidInput: For an unknown name, or a clip that is not finite and above 0.
    """
    offset = look_up("kernel", name, OFFSETS)
    if clip is not None and not 0 < clip < math.inf:
        raise InvalidInput("clip", clip, "a finite distance above 0, or None")
    return Kernel(offset, clip or 0.0)


@dataclass(frozen=True)
class PairSums:
    """Sums over all partners j != i of each row i, each [n] float64 in the order of the rows.

    Every field is a plain sum over pairs: sums over disjoint sets of pairs merge by addition.

    Attributes:
        same: Kernel over the partners with the same label.
        other: Kernel over the partners with another label.
        rise: Kernel over the partners with a larger loss (the one-sided part of `total`).
        distance: Distances.
        collisions: Number of partners at distance 0.
        same_pairs: Number of partners with the same label.
        other_pairs: Number of partners with another label.
    """

    same: Tensor
    other: Tensor
    rise: Tensor
    distance: Tensor
    collisions: Tensor
    same_pairs: Tensor
    other_pairs: Tensor

    @property
    def total(self) -> Tensor:
        """Kernel over all partners, [n]."""
        return self.same + self.other

    @property
    def pairs(self) -> Tensor:
        """Number of partners, n - 1 in every entry, [n]."""
        return self.same_pairs + self.other_pairs


@torch.no_grad()
def pair_sums(
    states: Tensor,
    losses: Tensor,
    labels: Tensor,
    distance: Distance,
    kernel: PairFunction,
    block: int = BLOCK,
) -> PairSums:
    """Sum over all pairs of rows in one pass over symmetric tiles.

    Args:
        states: Hidden states [n, d] of one layer, finite.
        losses: Losses [n], finite.
        labels: Labels [n], compared for equality only.
        distance: A name or a callable, as in `block_distances`.
        kernel: Weight of pairs as a function of loss changes and distances, both [b, b].
        block: Rows and columns of a tile.

    Returns:
        The sums of each row, on the device of the states.

    Raises:
        InvalidInput: If the distance is unknown or not defined on these states.
    """
    losses, labels = losses.to(states.device), labels.to(states.device)
    order = losses.argsort(stable=True)
    _, groups, sizes = labels.unique(return_inverse=True, return_counts=True)
    rows = _Rows(states, losses.double(), groups, order)
    rising, falling = _zeros(order), _zeros(order)
    for here, there in _tiles(rows, block):
        for name, values in _tile(here, there, distance, kernel).items():
            rising[name][here.place] += values.sum(1)
            falling[name][there.place] += values.sum(0)
    same_pairs = sizes[groups].double() - 1
    back = order.argsort()
    return PairSums(
        **{name: (rising[name] + falling[name])[back] for name in SUMMED},
        rise=(rising["same"] + rising["other"])[back],
        same_pairs=same_pairs,
        other_pairs=len(order) - 1 - same_pairs,
    )


@dataclass(frozen=True)
class _Block:
    """Some of the rows by increasing loss: those at `place`."""

    place: slice
    states: Tensor
    losses: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _Rows:
    """All rows; a block is fetched when it is needed, so the states are not copied as a whole."""

    states: Tensor
    losses: Tensor
    labels: Tensor
    order: Tensor

    def block(self, place: slice) -> _Block:
        """Return the rows at this place in the order, states in float64."""
        picked = self.order[place]
        return _Block(place, self.states[picked].double(), self.losses[picked], self.labels[picked])


def _zeros(order: Tensor) -> dict[str, Tensor]:
    zero = torch.zeros(len(order), dtype=torch.float64, device=order.device)
    return {name: zero.clone() for name in SUMMED}


def _tiles(rows: _Rows, block: int) -> Iterator[tuple[_Block, _Block]]:
    """Yield the blocks of the tiles on and above the diagonal; the second has the larger losses."""
    places = [slice(start, start + block) for start in range(0, len(rows.order), block)]
    for index, place in enumerate(places):
        here = rows.block(place)
        yield here, here
        for later in places[index + 1 :]:
            yield here, rows.block(later)


def _tile(
    here: _Block, there: _Block, distance: Distance, kernel: PairFunction
) -> dict[str, Tensor]:
    """Take every pair of the tile once.

    Returns:
        The matrices to sum, by name; a tile without collisions has none of that name.
    """
    distances = block_distances(distance, here.states, there.states)
    weights = kernel(there.losses - here.losses[:, None], distances)
    same = weights * (here.labels[:, None] == there.labels)
    tile = {"same": same, "other": weights.sub_(same), "distance": distances}
    if distances.min() == 0:
        tile["collisions"] = (distances == 0).double()
    on_diagonal = here is there
    return {name: values.triu(1) for name, values in tile.items()} if on_diagonal else tile
