"""What certificates need of pairs: counts by distance and loss change, and a kernel from 0 to 1."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.knowledge_continuity.evidence.bins import Bins


@dataclass(frozen=True, eq=False)
class Grid:
    """Edges at which pairs are counted, by distance and by loss change.

    Attributes:
        distances: Edges of the distance; bin b holds what is above edge b - 1 and up to edge b.
        changes: Edges of the loss change, in the same way.
        roles: Role of each row, an integer, at least 0, [n]; pairs are counted apart by the sum of
            their roles.
        ratio: The kernel from 0 to 1 that is summed over pairs of rows whose roles are not 0; None
            for none.
    """

    distances: Bins
    changes: Bins
    roles: Tensor
    ratio: "Ratio | None" = None

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """Distance bins, change bins and sums of two roles."""
        return (len(self.distances), len(self.changes), 2 * int(self.roles.max()) + 1)

    def count(self, distances: Tensor, changes: Tensor, roles: Tensor) -> Tensor:
        """Return how many pairs lie in each bin, of `shape`.

        Args:
            distances: Of the pairs; infinite where there is no pair, which is not counted.
            changes: Their loss changes, float64.
            roles: Sums of their roles.
        """
        _, by_change, by_role = self.shape
        codes = self.distances(distances).mul_(by_change).add_(self.changes(changes))
        codes.mul_(by_role).add_(roles).add_(1)
        if distances.ndim > 1 and bool(distances[-1, 0].isinf()):
            codes.triu_(1)  # a tile on the diagonal
        size = torch.Size(self.shape).numel()
        return torch.bincount(codes.view(-1), minlength=size + 1)[1:].view(self.shape)


@dataclass(frozen=True)
class Ratio:
    """A kernel from 0 to 1: min(change, cap) / cap x floor / max(distance, floor).

    Attributes:
        floor: Distances below count as this one.
        cap: Loss changes above count as this one.
    """

    floor: float
    cap: float

    def sums(self, distances: Tensor, changes: Tensor, taken: tuple[Tensor, Tensor]) -> Tensor:
        """Return the sum over some pairs, and the sum of squares, [2] float64.

        Args:
            distances: Of the pairs; infinite where there is no pair.
            changes: Their loss changes.
            taken: 0 for rows whose pairs are not taken; they broadcast to the pairs.
        """
        # From 0 to 1 and from 1 on: neither overflows, whatever the units.
        shares = (changes / self.cap).clamp_(max=1.0).to(distances.dtype)
        shares.div_(distances.clamp(min=self.floor).div_(self.floor))
        for side in taken:
            shares.mul_(side > 0)
        # Row by row first: sums of few terms lose little to rounding.
        once = shares.sum(-1).double().sum()
        twice = shares.square_().sum(-1).double().sum()
        return torch.stack([once, twice])
