"""The smallest and the largest slope of a function of one number on intervals.

Between the turns of the derivative it is monotone, so that its range on an interval is the hull of
its values at the ends and at the turns inside; by the mean value theorem no secant leaves it.
"""

from math import inf

import torch
from torch import Tensor

from holdfast.graph.ir import Node
from holdfast.ops.curves import Piece, Turn
from holdfast.rounding import UNIT


def widen(least: Tensor, most: Tensor, turn: Turn, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Take the value at a turn into a hull, where the turn may be inside."""
    least = torch.where(inside, least.clamp(max=turn.value[0]), least)
    return least, torch.where(inside, most.clamp(min=turn.value[1]), most)


def holds(turn: Turn, low: Tensor, high: Tensor) -> Tensor:
    """Return whether a turn may lie in intervals.

    One that repeats does where low <= w + k p <= high for a whole number k; the quotients by p are
    correct to 4 roundings, and 8 are allowed for.
    """
    if not turn.period:
        return (low <= turn.where[1]) & (high >= turn.where[0])
    first, last = (low - turn.where[1]) / turn.period, (high - turn.where[0]) / turn.period
    room = 8.0 * UNIT * (1.0 + torch.maximum(first.abs(), last.abs()))
    return (last + room).floor() >= (first - room).ceil()


def slopes_on(node: Node, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest slope of secants of an elementwise node on intervals.

    An interval of a single point has no secant; the slopes of the pieces that meet there are
    returned.

    Args:
        node: A function of one number.
        low: [R, ...], float64; minus infinity is allowed.
        high: Same shape, nowhere below `low`.

    Returns:
        (a, b) as `low`, rounded outward: a (z - z') <= phi(z) - phi(z') <= b (z - z') for all
        z > z' in [low, high]; infinite where the function is not defined everywhere. Where an end
        is NaN, those of the whole line.
    """
    known = node.facts.curve(node.params)
    least, most = torch.full_like(low, inf), torch.full_like(low, -inf)
    for piece in known.pieces:
        left, right = low.clamp(min=piece.low), high.clamp(max=piece.high)
        inside = (left < right) | ((low == high) & (left == right))
        bottom, top = _piece_slopes(piece, left, right)
        least = torch.where(inside, torch.minimum(least, bottom), least)
        most = torch.where(inside, torch.maximum(most, top), most)
    lowest, highest = node.facts.slopes(node.params)
    unknown = low.isnan() | high.isnan()
    least = torch.where(unknown | least.isnan(), lowest, least).clamp(lowest, highest)
    most = torch.where(unknown | most.isnan(), highest, most).clamp(lowest, highest)
    if not known.gaps:
        return least, most
    undefined = known.undefined(low, high)
    return torch.where(undefined, -inf, least), torch.where(undefined, inf, most)


def _piece_slopes(piece: Piece, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hull of the derivative on a part of one piece."""
    ends = piece.slope(left), piece.slope(right)
    bottom, top = torch.minimum(*ends), torch.maximum(*ends)
    if piece.error:
        bottom = bottom - piece.error * (1.0 + bottom.abs())
        top = top + piece.error * (1.0 + top.abs())
    for turn in piece.turns:
        bottom, top = widen(bottom, top, turn, holds(turn, left, right))
    return bottom, top
