"""Scalar activations on intervals: their range, their slopes, and lines above and below them.

One table says of every activation where its derivative turns (from rising to falling or back) and
where the function itself turns. Everything else is the same proof for all of them:

* `range_on`: between turns a function is monotone, so its range is the hull of its values at the
  ends and at the turns inside.
* `holdfast.graph.slopes.slopes_on`: the same for the derivative; by the mean value theorem no
  secant leaves its hull.
* `lines`: any slope k is valid with an intercept c <= min (phi(z) - k z). The interval is cut into
  cells; on a cell of width h whose slopes minus k lie in [p, q], g = phi - k z satisfies
  g(t) >= max(g(0) + p t, g(h) - q (h - t)) >= w (g(0) + p t) + (1 - w) (g(h) - q (h - t)) for any
  w in [0, 1], and the right side is linear in t, so least at t = 0 or t = h. How k is chosen needs
  no proof: it is the edge of the convex hull of sampled points above the middle of the interval,
  which for ReLU is the chord above and CROWN's adaptive line below (Zhang et al., "Efficient neural
  network robustness certification with general activation functions", 2018).

Values of the functions are trusted as far as `holdfast.graph.running` states.
"""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from holdfast.graph.ir import Node
from holdfast.graph.running import Approximate, elementwise
from holdfast.graph.slopes import holds, slopes_on, widen
from holdfast.rounding import TINY, UNIT, next_down


@dataclass(frozen=True)
class Lines:
    """Two lines per entry: lower_slope z + lower_offset <= phi(z) <= upper_slope z + upper_offset.

    Attributes:
        lower_slope: [R, ...], as the interval they are valid on.
        lower_offset: Same shape; minus infinity where nothing is known.
        upper_slope: Same shape.
        upper_offset: Same shape; infinity where nothing is known.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


# --- ranges -------------------------------------------------------------------------------------


def _values(node: Node, z: Tensor) -> Approximate:
    """Evaluate an elementwise node at exact points."""
    return elementwise(node, [Approximate(z, torch.zeros_like(z))])


def range_on(node: Node, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return bounds of an elementwise node's values on intervals.

    Args:
        node: A function of one number.
        low: [R, ...], float64; minus infinity is allowed.
        high: Same shape, nowhere below `low`.

    Returns:
        Bounds below and above, as `low`; infinite where the function is not defined everywhere.
    """
    known = node.facts.curve(node.params)
    left, right = _values(node, low), _values(node, high)
    least = next_down(torch.minimum(left.value - left.error, right.value - right.error))
    most = -next_down(torch.minimum(-left.value - left.error, -right.value - right.error))
    for turn in known.turns:
        least, most = widen(least, most, turn, holds(turn, low, high))
    least, most = (
        least.nan_to_num(-inf, inf, -inf),
        most.nan_to_num(inf, inf, -inf),
    )
    least, most = least.clamp(*known.limits), most.clamp(*known.limits)
    if not known.gaps:
        return least, most
    undefined = known.undefined(low, high)
    return torch.where(undefined, -inf, least), torch.where(undefined, inf, most)


# --- lines --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cells:
    """A function sampled on a grid, and its slopes between the points of the grid.

    Attributes:
        z: [P, R, ...], not decreasing along the first dimension.
        value: Same shape.
        error: Of `value`.
        least: Smallest slope on each cell, [P - 1, R, ...].
        most: Largest slope.
    """

    z: Tensor
    value: Tensor
    error: Tensor
    least: Tensor
    most: Tensor

    def flipped(self) -> "_Cells":
        """Return the cells of minus the function."""
        return _Cells(self.z, -self.value, self.error, -self.most, -self.least)


def _cells(node: Node, low: Tensor, high: Tensor) -> _Cells:
    known = node.facts.curve(node.params)
    points = [low, high, *(torch.clamp(low.new_tensor(b), low, high) for b in known.breaks)]
    if known.curved:
        width = high - low
        # 15 cells: their number is odd, so that the middle of the interval is not an end of one.
        inner = [low + width * (k / 15) for k in range(1, 15)]
        points += [torch.minimum(torch.maximum(z, low), high) for z in inner]
    z = torch.stack(points).sort(0).values
    at = _values(node, z.flatten(0, 1))
    least, most = slopes_on(node, z[:-1].flatten(0, 1), z[1:].flatten(0, 1))
    cells = (len(z) - 1, *low.shape)
    return _Cells(
        z,
        at.value.reshape(z.shape),
        at.error.reshape(z.shape),
        least.reshape(cells),
        most.reshape(cells),
    )


def _offset_below(cells: _Cells, slope: Tensor) -> Tensor:
    """Return c with slope z + c <= phi(z) on all cells, as the docstring of this file proves.

    The rounding of each product and sum is at most one unit of the magnitudes that enter, or `TINY`
    where it underflows; four times what a count of the operations gives is taken off.
    """
    shift = slope * cells.z
    size = cells.value.abs() + shift.abs()
    g = (cells.value - shift) - (cells.error + 8.0 * UNIT * size + 4.0 * TINY)
    p, q = next_down(cells.least - slope), -next_down(slope - cells.most)
    width = -next_down(cells.z[:-1] - cells.z[1:])
    left, right = g[:-1], g[1:]
    weight = (q / (q - p)).clamp(0.0, 1.0).nan_to_num(0.5)
    rest = 1.0 - weight
    at_left = weight * left + rest * (right - q * width)
    at_right = weight * (left + p * width) + rest * right
    magnitude = left.abs() + right.abs() + (p.abs() + q.abs()) * width
    least = torch.minimum(at_left, at_right) - (32.0 * UNIT * magnitude + 16.0 * TINY)
    return least.amin(0)


def _hull_slope(cells: _Cells) -> Tensor:
    """Return the slope of the lower hull's edge over the middle: any result is valid."""
    z, value = cells.z, cells.value
    middle = 0.5 * z[0] + 0.5 * z[-1]
    left, left_value, right, right_value = z[0], value[0], z[-1], value[-1]
    # Each step drops the points on one side of a touching one: six are enough for 16 of them.
    for _ in range(min(6, len(z) + 1)):
        chord = ((right_value - left_value) / (right - left)).nan_to_num(0.0)
        place = (value - chord * z).argmin(0, keepdim=True)
        touch, touch_value = z.gather(0, place)[0], value.gather(0, place)[0]
        before = touch <= middle
        left = torch.where(before, touch, left)
        left_value = torch.where(before, touch_value, left_value)
        right = torch.where(before, right, touch)
        right_value = torch.where(before, right_value, touch_value)
    chord = ((right_value - left_value) / (right - left)).nan_to_num(0.0)
    # A chord of two equal points says nothing, one of two close points little: slopes of the
    # function itself are the limit.
    return torch.minimum(torch.maximum(chord, cells.least.amin(0)), cells.most.amax(0))


def lines(node: Node, low: Tensor, high: Tensor) -> Lines:
    """Return a line below and a line above an elementwise node on intervals.

    Args:
        node: A scalar function.
        low: [R, ...], float64.
        high: Same shape, nowhere below `low`.

    Returns:
        The lines with the smallest area between line and function among those tried; constants
        where an interval is not bounded.
    """
    finite = low.isfinite() & high.isfinite()
    zero = torch.zeros_like(low)
    cells = _cells(node, torch.where(finite, low, zero), torch.where(finite, high, zero))
    flipped = cells.flipped()
    below, above = _hull_slope(cells), -_hull_slope(flipped)
    finite = finite & below.isfinite() & above.isfinite()
    below, above = torch.where(finite, below, zero), torch.where(finite, above, zero)
    floor, ceiling = _offset_below(cells, below), -_offset_below(flipped, -above)
    least, most = range_on(node, low, high)
    lower, upper = finite, finite
    if node.facts.curve(node.params).curved:  # straight pieces are never better off with constants
        middle = 0.5 * low + 0.5 * high
        lower = finite & ~(below * middle + floor < least)
        upper = finite & ~(above * middle + ceiling > most)
    return Lines(
        torch.where(lower, below, zero),
        torch.where(lower, floor, least).nan_to_num(-inf, inf, -inf),
        torch.where(upper, above, zero),
        torch.where(upper, ceiling, most).nan_to_num(inf, inf, -inf),
    )
