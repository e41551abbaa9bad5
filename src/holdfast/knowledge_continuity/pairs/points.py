"""Rows in the order in which the pass over pairs visits them, and the blocks it fetches."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.knowledge_continuity.pairs.distance import Distance, StateBlock, ready

# Rows of a block: 1 MB a float32 matrix; 256 and 1024 are slower.
BLOCK = 512

Tile = tuple[slice, slice]


class Points:
    """The rows of one layer with their losses and labels, in the order in which they are given.

    The pass over pairs visits them by increasing loss. Blocks are fetched when they are needed, so
    the states are not copied as a whole.

    Args:
        states: Hidden states [n, d] of one layer, finite.
        losses: Losses [n], finite.
        labels: Labels [n], compared for equality only.
    """

    def __init__(self, states: Tensor, losses: Tensor, labels: Tensor) -> None:
        self.states = states
        self.losses, self.labels = losses.to(states.device).double(), labels.to(states.device)

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, rows: Tensor) -> "Points":
        """Return some of the rows."""
        return Points(self.states[rows], self.losses[rows], self.labels[rows])

    @functools.cached_property
    def order(self) -> Tensor:
        """The rows by increasing loss, [n]."""
        return self.losses.argsort(stable=True)

    @functools.cached_property
    def groups(self) -> Tensor:
        """The labels as numbers from 0, [n] float64."""
        return self.labels.unique(return_inverse=True)[1].double()

    def side(self, most: int = 8) -> int:
        """Return how many blocks a side the squares of tiles have, whose blocks are all kept.

        Args:
            most: From so many on, fetching a block costs nothing beside its tiles.
        """
        width = max(1, self.states.numel() // len(self))
        # Entries of the blocks that are kept: 64 MB in float32, and as much again centred.
        return max(1, min(most, 2**24 // (2 * BLOCK * width)))

    def block(self, place: slice, distance: Distance) -> "PointBlock":
        """Return the rows at this place in the order, ready for a distance."""
        rows = self.order[place]
        return PointBlock(
            place,
            rows,
            ready(distance, self._fetch(rows), self._center),
            self.losses[rows],
            self.groups[rows],
        )

    @functools.cached_property
    def _center(self) -> Tensor:
        """The mean of 32 rows or fewer, [d] float64: one center for all blocks."""
        some = self.order[:: max(1, len(self) // 32)][:32]
        return self._fetch(some).double().mean(0)

    def _fetch(self, rows: Tensor) -> Tensor:
        return self.states.index_select(0, rows.to(self.states.device))

    def tiles(self, block: int | None = None) -> Iterator[Tile]:
        """Yield the places of the tiles on and above the diagonal; the second is never before."""
        # Four blocks a side or more: of a tile on the diagonal, half is thrown away.
        block = block or min(BLOCK, max(256, len(self) // 4))
        places = [slice(start, start + block) for start in range(0, len(self), block)]
        side = self.side()
        squares = [places[i : i + side] for i in range(0, len(places), side)]
        for first, second in itertools.combinations_with_replacement(squares, 2):
            if first is second:
                yield from itertools.combinations_with_replacement(first, 2)
            else:
                yield from itertools.product(first, second)


@dataclass(frozen=True, eq=False)
class PointBlock:
    """Some of the rows by increasing loss: those at `place`."""

    place: slice
    rows: Tensor
    states: StateBlock
    losses: Tensor
    groups: Tensor


def loss_changes(here: PointBlock, there: PointBlock, kind: torch.dtype) -> Tensor:
    """Return the loss changes of a tile, right to a few roundings of their type."""
    if here is there or kind == torch.float64:
        return (there.losses - here.losses[:, None]).to(kind)
    # No loss of `here` is above the smallest of `there`, so that nothing cancels.
    middle = there.losses[0]
    return (there.losses - middle).to(kind) - (here.losses - middle).to(kind)[:, None]
