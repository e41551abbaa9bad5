"""The sharpest direction of a loss, followed along a run with one Hessian product at a time."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Sharpest:
    """The sharpest direction that was found so far.

    Attributes:
        value: Its curvature in the metric, when it was last looked at; None before.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._direction: Tensor | None = None

    def direction(self, like: Tensor) -> Tensor:
        """Return the direction [n] to multiply with the Hessian next; a random one to begin with.

        Args:
            like: A vector of the size, type and device that is wanted.
        """
        if self._direction is None or self._direction.shape != like.shape:
            generator = torch.Generator().manual_seed(0)
            self._direction = torch.randn(len(like), generator=generator).to(like)
        return self._direction

    def follow(self, product: Tensor, move: Tensor, turn: Tensor, scale: Tensor | None) -> None:
        """Take the Hessian's product with `direction`, and with a move, whose product comes free.

        Args:
            product: The Hessian times the direction.
            move: A change of the parameters; 0 counts for nothing.
            turn: The change of the gradient that came with it.
            scale: Diagonal of the metric; None for ones.
        """
        directions = self.direction(move), move
        value, ahead = rayleigh_ritz(directions, (product, turn), scale)
        length = float(ahead.norm())
        self._direction = ahead / length if 0 < length < math.inf else None
        self.value = value if math.isfinite(value) else None


def rayleigh_ritz(
    directions: Sequence[Tensor], images: Sequence[Tensor], scale: Tensor | None
) -> tuple[float, Tensor]:
    """Return the best estimate of the top eigenpair of P^-1 H from one or two directions.

    The largest Rayleigh quotient over the span of the directions (Parlett, "The Symmetric
    Eigenvalue Problem", 1998, chapter 11): never above the largest eigenvalue.

    Args:
        directions: Vectors x [n] other than 0; of two, the second may be parallel to the first.
        images: H x for each.
        scale: The diagonal of P, positive, [n]; None for the identity.

    Returns:
        The quotient, and P^-1 H times its direction: one step of power iteration further.
    """
    xs, ys = torch.stack(list(directions)), torch.stack(list(images))
    weighted = xs if scale is None else xs * scale
    gram = (weighted @ xs.T).double().tolist()
    product = (xs @ ys.T).double().tolist()
    value, mix = _top(gram, product)
    image = torch.as_tensor(mix, dtype=ys.dtype, device=ys.device) @ ys
    return value, image if scale is None else image / scale


def _top(gram: list[list[float]], product: list[list[float]]) -> tuple[float, list[float]]:
    """Return the largest eigenvalue of a pencil of size one or two, and its vector."""
    one = 1 / math.sqrt(gram[0][0])
    first = product[0][0] * one * one
    if len(gram) == 1:
        return first, [one]
    along = gram[0][1] * one
    left = gram[1][1] - along * along
    # Of the second, a ten-thousandth must stand upright on the first, or both are one.
    if not left > 1e-4**2 * gram[1][1]:
        return first, [one, 0.0]
    # the second direction, made upright on the first and of length one: shift * x1 + two * x2
    two = 1 / math.sqrt(left)
    shift = -along * one * two
    cross = (product[0][1] + product[1][0]) / 2
    mixed = one * (shift * product[0][0] + two * cross)
    second = shift**2 * product[0][0] + 2 * shift * two * cross + two**2 * product[1][1]
    half, middle = (first - second) / 2, (first + second) / 2
    value = middle + math.hypot(half, mixed)
    angle = math.atan2(mixed, half) / 2
    cosine, sine = math.cos(angle), math.sin(angle)
    return value, [cosine * one + sine * shift, sine * two]
