"""Scalar functions by their shape: where each turns, and where its derivative turns.

A function is monotone between its turns, and so is its derivative between the turns of the
derivative; `holdfast.bounds.relaxations` derives ranges, slopes and lines from that alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from holdfast.ops.geometry import per_channel

DERIVATIVE_ERROR = 2.0**-42
"""Rounding of a derivative, relative to 1 + |derivative|: 2048 units of roundoff, for formulas
of a dozen operations each within 32."""

Function = Callable[[Tensor], Tensor]
Slopes = tuple[float, float]


@dataclass(frozen=True)
class Turn:
    """A point where a function turns.

    Attributes:
        where: Two numbers with the point between them.
        value: Two numbers with the function's value between them.
        period: The function turns there again after every multiple of it, correct to one rounding;
            0 for a function that does not repeat.
    """

    where: tuple[float, float]
    value: tuple[float, float]
    period: float = 0.0


@dataclass(frozen=True)
class Piece:
    """A stretch of the real line on which the derivative is continuous.

    Attributes:
        slope: The derivative there, also defined at the two ends.
        low: Lower end.
        high: Upper end.
        turns: Where the derivative turns; between turns it is monotone.
        error: Rounding of `slope`, relative to 1 + |slope|.
    """

    slope: Function
    low: float = -inf
    high: float = inf
    turns: tuple[Turn, ...] = ()
    error: float = DERIVATIVE_ERROR


@dataclass(frozen=True)
class Curve:
    """What is known about one activation.

    Attributes:
        pieces: They cover the real line but for the gaps; the function is continuous across them.
        turns: Where the function turns; between turns it is monotone.
        limits: No value lies outside.
        gaps: Closed intervals on which it is not defined.
    """

    pieces: tuple[Piece, ...]
    turns: tuple[Turn, ...] = ()
    limits: tuple[float, float] = (-inf, inf)
    gaps: tuple[tuple[float, float], ...] = ()

    @property
    def breaks(self) -> tuple[float, ...]:
        """The finite ends of pieces."""
        ends = {end for piece in self.pieces for end in (piece.low, piece.high)}
        return tuple(sorted(end for end in ends if math.isfinite(end)))

    def undefined(self, low: Tensor, high: Tensor) -> Tensor:
        """Return which intervals hold a point where the function is not defined; NaN is one."""
        held = low.isnan() | high.isnan()
        for start, end in self.gaps:
            held = held | ((low <= end) & (high >= start))
        return held

    @property
    def curved(self) -> bool:
        """Whether a piece is not a straight line."""
        return any(piece.error >= DERIVATIVE_ERROR for piece in self.pieces)


def near(where: float, value: float) -> Turn:
    """Enclose a turn given to at least 15 digits."""
    room = 2.0**-40
    return Turn((where - room, where + room), (value - room, value + room))


def wave(top: float) -> tuple[Turn, Turn]:
    """Return all turns of a sine that is 1 at a point given to 15 digits, at most pi away from 0.

    >>> [turn.value for turn in wave(0.0)]
    [(1.0, 1.0), (-1.0, -1.0)]
    """
    places = [near(where, value) for where, value in ((top, 1.0), (top + math.pi, -1.0))]
    first, second = (
        Turn(place.where, (value, value), 2.0 * math.pi)
        for place, value in zip(places, (1.0, -1.0), strict=True)
    )
    return first, second


def at(where: float, value: float) -> Turn:
    """Name a turn that is known exactly."""
    return Turn((where, where), (value, value))


def flat(value: float | Tensor, low: float = -inf, high: float = inf) -> Piece:
    """Make a straight piece of an exactly known slope."""

    def slope(z: Tensor) -> Tensor:
        if isinstance(value, Tensor):
            weight = per_channel(value, z.dim()) if value.numel() > 1 else value
            return weight.to(z.dtype).expand_as(z)
        return torch.full_like(z, value)

    return Piece(slope, low, high, error=0.0)


def bent(slope: Function, turns: tuple[Turn, Turn], bottom: Turn) -> Curve:
    """One smooth piece that falls to its bottom, then rises."""
    return Curve((Piece(slope, turns=turns),), (bottom,), (bottom.value[0], inf))


def kinked(left: float | Tensor, right: float = 1.0) -> Curve:
    """Two straight pieces that meet in the origin."""
    pieces = (flat(left, high=0.0), flat(right, low=0.0))
    return Curve(pieces, (at(0.0, 0.0),))
