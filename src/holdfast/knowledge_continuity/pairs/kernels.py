"""What a pair of rows weighs: its loss change per unit of distance."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from holdfast.arguments import check_number, look_up

PairFunction = Callable[[Tensor, Tensor], Tensor]
"""Weight of pairs from loss changes, which it may overwrite, and distances; 0 at distance inf."""


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
        """Return the weight of each pair, in the place of its change."""
        clipped = self.clipped(distance)
        if self.offset:
            return change.div_(clipped + self.offset)
        weights = change.div_(clipped)
        if clipped.amin() == 0:
            weights.masked_fill_(clipped == 0, 0.0)
        return weights

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
        return change / ((clipped + self.offset) * (1 + self.offset / clipped))


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
    offset = look_up("kernel", name, {"inverse": 0.0, "one_plus": 1.0})
    if clip is None:
        return Kernel(offset, 0.0)
    wanted = "a finite distance above 0, or None"
    return Kernel(offset, check_number("clip", clip, lambda c: 0 < c < math.inf, wanted))
