"""Interval bounds: a box around every node's values, over many regions at once.

Interval arithmetic in float64, rounded outward. An affine node takes midpoints and radii: over all
x with |x - m| <= r, T x + b lies within |T| r of T m + b, and the rounding of the evaluation is
bounded as in `holdfast.graph.running`, whose rule for affine nodes is used as it is. Until the
first node that mixes entries the input is still known to be a ball and not only a box, so there
the dual norm of the rows of T takes the place of |T| r. All other nodes are monotone in each input
entry, piece by piece, and are evaluated at the ends.

What is proved: for every x of region r, exact real arithmetic on the stored weights puts each
node's value between `low[r]` and `high[r]`. What is assumed: ordinary dot products, and library
functions within the error that `holdfast.graph.running` states.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from holdfast.batches import groups_last
from holdfast.bounds.product import product_range
from holdfast.bounds.regions import Regions, middle_form
from holdfast.bounds.relaxations import range_on
from holdfast.bounds.vector import vector_range
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import Approximate, affine
from holdfast.graph.walk import Env, Reading, Rule, execute, read
from holdfast.ops import OPS, Kind, rules
from holdfast.rounding import (
    SMALLEST,
    UNIT,
    exponent_of,
    lengths_down,
    lengths_up,
    next_down,
    rows_up,
    scaled,
)
from holdfast.types import Region

_ROOM = 2.0**-500
"""Added to dual norms scaled to entries around 1: covers squares that underflow."""


@dataclass(frozen=True)
class Spread:
    """Values that are still a scaled ball: c + scale * u with ||u|| <= radius.

    Attributes:
        center: [R, ...] and a bound of its error.
        scale: [1, ...], at least 0.
        radius: [R].
        norm: 1 or 2.
    """

    center: Approximate
    scale: Tensor
    radius: Tensor
    norm: float


@dataclass(frozen=True)
class Interval:
    """Bounds of a node's values.

    Attributes:
        low: [R, ...], float64; [1, ...] for a constant.
        high: Same shape.
        ball: What more is known before the first node that mixes entries.
    """

    low: Tensor
    high: Tensor
    ball: Spread | None = None

    def size(self) -> Tensor:
        """Return the largest absolute value of each entry."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def meet(self, low: Tensor, high: Tensor) -> "Interval":
        """Return the intersection with other bounds of the same values."""
        low, high = torch.maximum(self.low, low), torch.minimum(self.high, high)
        return dataclasses.replace(self, low=low, high=high)


def interval_bounds(graph: Graph, region: Region | Regions | Sequence[Region]) -> Env[Interval]:
    """Bound every node's values over regions.

    Args:
        graph: Captured model, or a part of one.
        region: One region, or R of them.

    Returns:
        The bounds of each node by name, [R, ...].

    Raises:
        Unsupported: When an op has no rule, naming every such op.
    """
    graph = graph.double()
    with torch.no_grad():
        return read(graph, READING, lift(graph, Regions.of(region)))


def lift(graph: Graph, regions: Regions) -> Env[Interval]:
    """Give the graph's input its bounds.

    Args:
        graph: Captured model.
        regions: R regions of the input's shape.

    Returns:
        The input's bounds by its name.

    Raises:
        Unsupported: When the graph has other inputs, which no region bounds.
        InvalidInput: When the regions are not of the input's shape.
    """
    entry = graph.perturbed_input
    others = [node for node in graph.inputs if node is not entry]
    if others:
        why = "a region bounds one input only"
        raise Unsupported(READING.name, [node.obstacle(why) for node in others])
    if regions.center.shape[1:] != entry.shape:
        raise InvalidInput("region", tuple(regions.center.shape[1:]), f"shape {entry.shape}")
    ball = None
    if regions.norm != inf:
        center = Approximate(regions.center, torch.zeros_like(regions.center))
        scale = torch.ones_like(regions.center[:1]) if regions.units is None else regions.units
        ball = Spread(center, scale, regions.radius.flatten(), regions.norm)
    return {entry.name: Interval(*regions.box(), ball)}


def around(value: Tensor, error: Tensor) -> Interval:
    """Return the interval of a value and its error; NaN means nothing is known."""
    low, high = next_down(value - error), -next_down(-value - error)
    return Interval(
        low.nan_to_num(-inf, inf, -inf),
        high.nan_to_num(inf, inf, -inf),
    )


def difference(a: Interval, b: Interval) -> Interval:
    """Bound a - b."""
    low, high = next_down(a.low - b.high), -next_down(b.low - a.high)
    return Interval(low.nan_to_num(-inf, inf, -inf), high.nan_to_num(inf, inf, -inf))


# --- affine and wiring --------------------------------------------------------------------------


def _linear(node: Node, parts: Sequence[Interval]) -> Interval:
    (x,) = parts
    shape = x.low.shape[1:]
    count = node.facts.roundings(node.params, shape)
    room = SMALLEST * 2.0 * count
    got = affine(node, [Approximate(*middle_form(x.low, x.high))])
    boxed = around(got.value, got.error + room)
    if x.ball is None:
        return boxed
    if node.facts.by_entry:
        return dataclasses.replace(boxed, ball=_rescaled(node, x.ball))
    reach = dual_norms(node, x.ball)
    if reach is None:
        return boxed
    got = affine(node, [x.ball.center])
    moved = rows_up(reach * over(x.ball.radius, reach), count + 8)
    balled = around(got.value, rows_up(got.error + moved + room, 4))
    return boxed.meet(balled.low, balled.high)


def over(numbers: Tensor, like: Tensor) -> Tensor:
    """Shape one number per region for broadcasting."""
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


def _rescaled(node: Node, ball: Spread) -> Spread:
    """Multiply every entry by a number of its own."""
    op, params = node.facts.absolute(node.params)
    center = affine(node, [ball.center])
    error = center.error + 16.0 * SMALLEST
    scale = rows_up(OPS[op].run([ball.scale], params), 16) + 16.0 * SMALLEST * (1.0 + ball.scale)
    return dataclasses.replace(ball, center=Approximate(center.value, error), scale=scale)


def dual_norms(node: Node, ball: Spread) -> Tensor | None:
    """Return sup |T (scale u)| over ||u|| <= 1 for every entry, up to rounding; None if unknown.

    For l2 the sum of squared coefficients is the node with squared weights applied to the squared
    scale, where no entry is read twice by the same output: paddings that repeat entries are left.
    """
    geometry = node.params.get("geometry")
    if node.op not in ("linear", "conv", "conv_transpose") or (
        geometry is not None and geometry.mode != "constant"
    ):
        return None
    op, params = node.facts.absolute(node.params)
    powers = exponent_of(params["weight"]), exponent_of(ball.scale)
    weight, scale = scaled(params["weight"], -powers[0]), scaled(ball.scale, -powers[1])
    if ball.norm == 2.0:
        squares = OPS[op].run([scale.square()], {**params, "weight": weight.square()})
        lengths = squares.sqrt() * (1.0 + 8.0 * UNIT)
    elif node.op == "linear":
        lengths = (weight * scale[..., None, :]).amax(-1)
    else:
        lengths = (weight.amax() * scale.amax()).expand(1, *node.shape)
    return scaled(lengths + _ROOM, sum(powers))


def _wire(node: Node, parts: Sequence[Interval]) -> Interval:
    """Move both ends. Where no entry is repeated, a ball stays one, or loses coordinates."""
    low = execute(node, [part.low for part in parts])
    high = execute(node, [part.high for part in parts])
    ball = parts[0].ball
    if ball is None or len(parts) > 1 or node.facts.repeats(node.params):
        return Interval(low, high)
    center = Approximate(execute(node, [ball.center.value]), _blank(node, ball.center.error))
    moved = dataclasses.replace(ball, center=center, scale=_blank(node, ball.scale))
    return Interval(low, high, moved)


def _blank(node: Node, values: Tensor) -> Tensor:
    """Wire deviations: what a padding adds has none."""
    op, params = node.facts.linear(node.params)
    return OPS[op].run([values], params)


def _constant(node: Node, parts: Sequence[Interval]) -> Interval:
    value = node.params["value"].double()
    return Interval(value, value)


# --- nonlinear ----------------------------------------------------------------------------------


def _elementwise(node: Node, parts: Sequence[Interval]) -> Interval:
    (x,) = parts
    return Interval(*range_on(node, x.low, x.high))


def _add(node: Node, parts: Sequence[Interval]) -> Interval:
    low, high = parts[0].low, parts[0].high
    for part in parts[1:]:
        low, high = next_down(low + part.low), -next_down(-high - part.high)
    return Interval(
        low.nan_to_num(-inf, inf, -inf),
        high.nan_to_num(inf, inf, -inf),
    )


def _monotone(node: Node, parts: Sequence[Interval]) -> Interval:
    """Maxima, minima and order statistics grow with every entry and round nothing."""
    return Interval(
        execute(node, [part.low for part in parts]), execute(node, [part.high for part in parts])
    )


def _vector(node: Node, parts: Sequence[Interval]) -> Interval:
    (x,) = parts
    found = Interval(*vector_range(node, x.low, x.high))
    return found if node.op != "vector_norm" or x.ball is None else _length_in(node, x.ball, found)


def _length_in(node: Node, ball: Spread, known: Interval) -> Interval:
    """Bound lengths of groups of entries of c + s u once more, by those of c."""
    # They differ by at most ||s u||_2 <= max(s) ||u||_2, and ||u||_2 <= ||u||_1.
    dims, shape = node.params["dims"], (-1, *node.shape)
    scale = groups_last(ball.scale, dims).amax(-1).reshape(shape)
    error = lengths_up(groups_last(ball.center.error, dims)).reshape(shape)
    apart = rows_up(error + scale * over(ball.radius, scale), 2)
    center = groups_last(ball.center.value, dims)
    low = next_down(lengths_down(center).reshape(shape) - apart)
    high = -next_down(-lengths_up(center).reshape(shape) - apart)
    return known.meet(low.nan_to_num(0.0), high.nan_to_num(inf, inf))


def _product(node: Node, parts: Sequence[Interval]) -> Interval:
    return Interval(*product_range(node, [(part.low, part.high) for part in parts]))


RULES: dict[str, Rule] = rules(
    {
        Kind.AFFINE: _linear,
        Kind.WIRING: _wire,
        Kind.SUM: _add,
        Kind.SCALAR: _elementwise,
        Kind.STEEP: _elementwise,
        Kind.PRODUCT: _product,
        Kind.CHOICE: _monotone,
        Kind.VECTOR: _vector,
    },
    {"constant": _constant},
)
"""How bounds of its inputs become bounds of a node."""

READING: Reading[Interval] = Reading("interval bounds", RULES, {}, constants=True)
