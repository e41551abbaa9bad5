"""Affine forms of values with boxes around their gradients, and what operations make of them.

A form is affine in the entries u of a box and, after them, in numbers v, |v| <= 1, each of which
says how far one unit is off its line: what several values have of it in common may cancel.

See `holdfast.bounds.forward`, which carries them through a graph.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.bounds.regions import middle_form
from holdfast.bounds.relaxations import lines
from holdfast.graph.ir import Node
from holdfast.graph.slopes import slopes_on
from holdfast.graph.walk import execute
from holdfast.ops import OPS
from holdfast.rounding import TINY, UNIT, next_down, rows_up


@dataclass(frozen=True)
class Forms:
    """Values of a node over R boxes: within `error` of center + <slope, u>, gradients in a box.

    Attributes:
        center: [R or 1, ...].
        slope: [R or 1, d + e, ...], by entries u, and v as far as known when the value was read.
        error: [R or 1, ...], at least 0.
        jacobian: [R or 1, d, ...], by entries of the input.
        reach: [R or 1, d, ...]: every gradient in the box is within it of `jacobian`.
        length: [R or 1, ...]: no gradient in the box is longer, in the norm that is asked for.
            Either end of a pair has the gradient of one of the two: no longer than the longer
            one, though the box around both has longer ones in its corners.
    """

    center: Tensor
    slope: Tensor
    error: Tensor
    jacobian: Tensor
    reach: Tensor
    length: Tensor

    @property
    def swing(self) -> Tensor:
        """How far the affine part moves within the box, rounded up."""
        return rows_up(self.slope.abs().sum(1), self.slope.shape[1])

    def apart(self, d: int) -> Tensor:
        """Return how far a value is at most from what d entries u make of it, rounded up."""
        rest = self.slope[:, d:]
        return rows_up(self.error + rest.abs().sum(1), rest.shape[1] + 1)

    def in_so_many(self, count: int) -> "Forms":
        """Return the form in so many u and v."""
        more = count - self.slope.shape[1]
        if not more:
            return self
        blank = torch.zeros(len(self.slope), more, *self.slope.shape[2:], dtype=torch.float64)
        return dataclasses.replace(self, slope=torch.cat([self.slope, blank], 1))

    def size(self) -> Tensor:
        """Return a bound of all absolute values that enter a value."""
        return self.center.abs() + self.swing

    def range(self) -> tuple[Tensor, Tensor]:
        """Return bounds of the values; infinite where a sum overflowed, which says nothing."""
        apart = rows_up(self.swing + self.error, 2)
        apart = torch.where(self.center.isfinite() & apart.isfinite(), apart, torch.inf)
        center = self.center.nan_to_num(0.0, 0.0, 0.0)
        return next_down(center - apart), -next_down(-center - apart)


@dataclass(frozen=True)
class Line:
    """A unit's value z -> phi(z) is within `bend` of slope z + middle."""

    slope: Tensor
    middle: Tensor
    bend: Tensor


def chord(
    sides: tuple[Tensor, Tensor], ends: tuple[Tensor, Tensor], slopes: tuple[Tensor, Tensor]
) -> Line:
    """Return a line beside units that meet in 0: any slope is right with the bend that it leaves.

    Args:
        sides: Slopes left and right of 0.
        ends: Of the values.
        slopes: The least and the largest slope that there may be.
    """
    (left, right), (low, high), (least, most) = sides, ends, slopes
    is_open, zero = least < most, torch.zeros_like(low)
    chord = ((right * high - left * low) / (high - low)).nan_to_num(0.0)
    slope = torch.where(is_open, torch.minimum(torch.maximum(chord, least), most), least)
    # phi(z) - slope z is 0 in 0 and straight on both sides.
    over = (left - slope) * low, (right - slope) * high
    bottom, top = torch.minimum(*over).clamp(max=0.0), torch.maximum(*over).clamp(min=0.0)
    middle, bend = middle_form(bottom, top)
    size = (left.abs() + right.abs() + slope.abs()) * (low.abs() + high.abs())
    bend = rows_up(bend + 16.0 * UNIT * size + 16.0 * TINY, 8)
    return Line(slope, torch.where(is_open, middle, zero), torch.where(is_open, bend, zero))


def straight(x: Forms, slopes: tuple[Tensor, Tensor], line: Line) -> Forms:
    """Pass values along lines, gradients through slopes."""
    d = x.slope.shape[1]
    size = line.slope.abs() * x.size() + line.middle.abs()
    error = line.slope.abs() * x.error + line.bend + 8.0 * UNIT * size + (d + 4.0) * TINY
    middle, spread = (part[:, None] for part in slopes)
    # all products of a slope and a gradient
    known = middle.abs() * x.jacobian.abs(), middle.abs() * x.reach
    far = spread.detach() * (x.jacobian.abs() + x.reach) + known[1]
    corners = [
        (middle + a * spread.detach()) * (x.jacobian + b * x.reach)
        for a in (-1.0, 1.0)
        for b in (-1.0, 1.0)
    ]
    low = torch.minimum(torch.minimum(*corners[:2]), torch.minimum(*corners[2:]))
    high = torch.maximum(torch.maximum(*corners[:2]), torch.maximum(*corners[2:]))
    moves = spread.detach() > 0.0
    jacobian = torch.where(moves, 0.5 * low.detach() + 0.5 * high.detach(), middle * x.jacobian)
    share = torch.where(moves, spread / spread.detach().clamp(min=TINY), 0.0)
    reach = widened(known[1], 0.5 * high - 0.5 * low, share)
    least = middle[:, 0].abs()
    longest = widened(least * x.length, (least + spread.detach()[:, 0]) * x.length, share[:, 0])
    return Forms(
        line.slope * x.center + line.middle,
        line.slope[:, None] * x.slope,
        rows_up(error, 8),
        jacobian,
        rows_up(reach + 16.0 * UNIT * (known[0] + far) + 16.0 * TINY, 16),
        rows_up(longest, 8),
    )


def widened(passed: Tensor, whole: Tensor, share: Tensor) -> Tensor:
    """Return `whole` where the share is 1, as what is passed on and what a kink adds to it."""
    return passed + share * (whole - passed).clamp(min=0.0)


def curve(node: Node, x: Forms) -> Forms:
    """Pass values between the lines of an activation of any shape."""
    low, high = x.range()
    known = lines(node, low, high)
    slope = 0.5 * known.lower_slope + 0.5 * known.upper_slope
    below, above = known.lower_slope - slope, known.upper_slope - slope
    bottom = torch.minimum(below * low, below * high) + known.lower_offset
    top = torch.maximum(above * low, above * high) + known.upper_offset
    middle, bend = middle_form(bottom, top)
    slopes = known.lower_slope.abs() + known.upper_slope.abs()
    size = slopes * (low.abs() + high.abs()) + known.lower_offset.abs() + known.upper_offset.abs()
    line = Line(slope, middle, rows_up(bend + 16.0 * UNIT * size + 16.0 * TINY, 8))
    return straight(x, middle_form(*slopes_on(node, low, high)), line)


def ramp(node: Node) -> tuple[Tensor, Tensor] | None:
    """Return the slopes left and right of 0 of an activation that is straight on both sides.

    Args:
        node: A scalar function.

    Returns:
        Two tensors that broadcast against values; None for every other activation.
    """
    known = node.facts.curve(node.params)
    origin = torch.zeros(1, *node.shape, dtype=torch.float64)
    two = len(known.pieces) == 2 and known.breaks == (0.0,) and not known.curved
    if not two or bool(node.facts.run([origin], node.params).any()):
        return None
    left, right = (piece.slope(origin) for piece in known.pieces)
    return left, right


# --- rows -----------------------------------------------------------------------------------------


def wire(node: Node, parts: Sequence[Forms]) -> Forms:
    """Move entries; constants that are added do not move."""
    op, params = node.facts.linear(node.params)
    count = max(len(part.center) for part in parts)
    wide = [[_expanded(field, count) for field in _fields(part)] for part in alike(parts)]
    center, slope, error, jacobian, reach, length = zip(*wide, strict=True)

    def moved(values: Sequence[Tensor]) -> Tensor:
        rows = [value.flatten(0, 1) for value in values]
        return OPS[op].run(rows, params).unflatten(0, values[0].shape[:2])

    off, longest = (OPS[op].run([*part], params) for part in (error, length))
    value = execute(node, [*center])
    return Forms(value, moved(slope), off, moved(jacobian), moved(reach), longest)


def _fields(form: Forms) -> tuple[Tensor, ...]:
    return form.center, form.slope, form.error, form.jacobian, form.reach, form.length


def _expanded(values: Tensor, count: int) -> Tensor:
    return values.expand(count, *values.shape[1:])


def add(node: Node, parts: Sequence[Forms]) -> Forms:
    """Add values of one node's inputs."""
    first, *others = parts
    for part in others:
        first = _sum_of_two(first, part, 1.0)
    return first


def difference(a: Forms, b: Forms) -> Forms:
    """Return a - b."""
    return _sum_of_two(a, b, -1.0)


def alike(parts: Sequence[Forms]) -> list[Forms]:
    """Return forms in as many v each: what a value was read before, it does not depend on."""
    most = max(part.slope.shape[1] for part in parts)
    return [part.in_so_many(most) for part in parts]


def _sum_of_two(a: Forms, b: Forms, sign: float) -> Forms:
    a, b = alike((a, b))
    error = a.error + b.error + 2.0 * UNIT * (a.size() + b.size())
    reach = a.reach + b.reach + 2.0 * UNIT * (a.jacobian.abs() + b.jacobian.abs())
    return Forms(
        a.center + sign * b.center,
        a.slope + sign * b.slope,
        rows_up(error, 4),
        a.jacobian + sign * b.jacobian,
        rows_up(reach, 4),
        rows_up(a.length + b.length, 1),
    )
