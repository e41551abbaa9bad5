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
import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from holdfast.bounds.regions import Regions, middle_form
from holdfast.bounds.relaxations import range_on
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import Approximate, affine
from holdfast.graph.walk import Env, Reading, Rule, execute, read
from holdfast.ops import OPS, Kind, rules
from holdfast.ops.geometry import per_channel
from holdfast.rounding import SMALLEST, UNIT, exponent_of, gamma, next_down, rows_up, scaled
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
        scale = torch.ones_like(regions.center[:1])
        ball = Spread(center, scale, regions.radius.flatten(), regions.norm)
    return {entry.name: Interval(*regions.box(), ball)}


def around(value: Tensor, error: Tensor) -> Interval:
    """Return the interval of a value and its error; NaN means nothing is known."""
    low, high = next_down(value - error), -next_down(-value - error)
    return Interval(
        low.nan_to_num(-inf, inf, -inf),
        high.nan_to_num(inf, inf, -inf),
    )


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


def _shares(node: Node, x: Interval) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return exponentials of x less their largest possible value, and sums of the others' ones.

    With m the largest upper end, an exponential is at most 1 and within 64 units of roundoff:
    t e^t <= 1 for t <= 0 bounds what the rounding of x - m does. A sum of n of them is then within
    gamma_(n + 128) n, and so is what is left when one of them is taken off.
    """
    dim = node.params["dim"]
    largest = x.high.amax(dim, keepdim=True)
    low, high = torch.exp(x.low - largest), torch.exp(x.high - largest)
    n = x.low.shape[dim]
    room = 2.0 * gamma(n + 128) * n
    fewest = (low.sum(dim, keepdim=True) - low - room).clamp(min=0.0)
    most = (high.sum(dim, keepdim=True) - high).clamp(min=0.0) + room
    return (low - 64.0 * UNIT).clamp(min=0.0), high + 64.0 * UNIT, fewest, most, largest


def _softmax(node: Node, parts: Sequence[Interval]) -> Interval:
    """Return e_i / (e_i + sum of the others), which grows in x_i and falls in the others."""
    (x,) = parts
    low, high, fewest, most, _ = _shares(node, x)
    least = (low / (low + most)) * (1.0 - 8.0 * UNIT) - SMALLEST
    largest = (high / (high + fewest)) * (1.0 + 8.0 * UNIT)
    return Interval(least.nan_to_num(0.0).clamp(min=0.0), largest.nan_to_num(1.0).clamp(max=1.0))


def _log_softmax(node: Node, parts: Sequence[Interval]) -> Interval:
    """Return x_i - log(e^x_i + sum of the others), which grows in x_i and falls in the others."""
    (x,) = parts
    _, high, fewest, most, largest = _shares(node, x)
    size = x.size() + largest.abs() + 1024.0
    room = 256.0 * UNIT * size
    top = torch.exp(x.low - largest) + 64.0 * UNIT
    least = x.low - largest - torch.log(top + most) - room
    bottom = (high - 128.0 * UNIT).clamp(min=0.0)
    most_likely = x.high - largest - torch.log((bottom + fewest) * (1.0 - 8.0 * UNIT)) + room
    return Interval(
        least.nan_to_num(-inf, inf, -inf),
        most_likely.nan_to_num(0.0, 0.0).clamp(max=0.0),
    )


def _normalisation(node: Node, parts: Sequence[Interval]) -> Interval:
    (x,) = parts
    lead = _lead(node, x.low)
    middle, reach = middle_form(x.low.reshape(*lead, -1), x.high.reshape(*lead, -1))
    low, high = _standardised(middle, reach, float(node.params["eps"]))
    return _rescale_channels(node, low.reshape(x.low.shape), high.reshape(x.low.shape))


def _lead(node: Node, x: Tensor) -> tuple[int, ...]:
    """Return the shape in front of the entries that are normalised together."""
    if node.op == "group_norm":
        return (len(x), node.params["groups"])
    return tuple(x.shape[: x.dim() - len(node.params["shape"])])


def _standardised(middle: Tensor, reach: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Bound z = (x - mean) / s along the last dimension, s^2 = variance + eps.

    With y = x - mean: y_i moves by at most r_i (1 - 2/d) + sum(r) / d, and sqrt(variance), which is
    ||y|| / sqrt(d), by at most ||r|| / sqrt(d), since centring is a projection. The rounding of y
    is at most e = gamma_(d+4) 2 max|x|. Whatever the input, |z_i| <= sqrt(d - 1). A float32 model
    may round eps to float32: both values are allowed for.

    Returns:
        Bounds below and above, of the shape of `middle`.
    """
    d = middle.shape[-1]
    relative = 4.0 * gamma(d + 16)
    y = middle - middle.mean(-1, keepdim=True)
    error = relative * middle.abs().amax(-1, keepdim=True) + d * SMALLEST
    total = reach.sum(-1, keepdim=True)
    moved = reach * (1.0 - 2.0 / d) + total / d + relative * (reach + total) + error
    spread = y.square().mean(-1, keepdim=True).sqrt()
    turned = reach.square().mean(-1, keepdim=True).sqrt() + error + _ROOM
    turned = turned * (1.0 + relative) + relative * spread
    narrow = torch.tensor(eps, dtype=torch.float32).item()
    smallest = ((spread - turned).clamp(min=0.0).square() + min(eps, narrow)).sqrt()
    largest = ((spread + turned).square() + max(eps, narrow)).sqrt()
    smallest, largest = smallest * (1.0 - 8.0 * UNIT), largest * (1.0 + 8.0 * UNIT)
    cap = math.sqrt(d - 1) * (1.0 + 4.0 * UNIT)

    def top(ends: Tensor) -> Tensor:
        ends = -next_down(-ends)
        quotient = torch.where(ends >= 0, ends / smallest, ends / largest)
        return (-next_down(-quotient)).nan_to_num(cap, cap, -cap).clamp(-cap, cap)

    return -top(moved - y), top(y + moved)


def _rescale_channels(node: Node, low: Tensor, high: Tensor) -> Interval:
    """Multiply by the weight and add the bias, both per channel."""
    weight, bias = node.params["weight"], node.params["bias"]
    grouped = node.op == "group_norm"
    if weight is not None:
        weight = per_channel(weight, low.dim()) if grouped else weight
        ends = low * weight, high * weight
        low = next_down(torch.minimum(*ends))
        high = -next_down(-torch.maximum(*ends))
    if bias is not None:
        bias = per_channel(bias, low.dim()) if grouped else bias
        low, high = next_down(low + bias), -next_down(-high - bias)
    return Interval(low, high)


RULES: dict[str, Rule] = rules(
    {
        Kind.AFFINE: _linear,
        Kind.WIRING: _wire,
        Kind.SUM: _add,
        Kind.SCALAR: _elementwise,
        Kind.CHOICE: _monotone,
    },
    {
        "constant": _constant,
        "softmax": _softmax,
        "log_softmax": _log_softmax,
        "layer_norm": _normalisation,
        "group_norm": _normalisation,
    },
)
"""How bounds of its inputs become bounds of a node."""

READING: Reading[Interval] = Reading("interval bounds", RULES, {}, constants=True)
