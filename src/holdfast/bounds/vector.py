"""Vector operations on boxes: the range of every entry of the result, and planes around it.

A function for ranges takes a node and the ends of its input's entries, [R, ...], and returns those
of its result's. What `holdfast.bounds.relaxations` is to functions of one number, this is to
operations that mix entries in a curved way.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from holdfast.batches import groups_last
from holdfast.bounds.regions import middle_form
from holdfast.bounds.relaxations import Lines
from holdfast.graph.ir import Node
from holdfast.graph.running import Approximate, log_sum_exp, vector_norm
from holdfast.ops.geometry import per_channel
from holdfast.rounding import SMALLEST, UNIT, gamma, lengths_down, lengths_up, next_down, rows_up

Ends = tuple[Tensor, Tensor]


def vector_range(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Return bounds of a vector operation's values on boxes.

    Args:
        node: In float64.
        low: [R, ...], float64; minus infinity is allowed.
        high: Same shape, nowhere below `low`.

    Returns:
        Bounds below and above, [R, ...].
    """
    return _RANGES[node.op](node, low, high)


def _shares(low: Tensor, high: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return exponentials of x less their largest possible value, and sums of the others' ones.

    With m the largest upper end, an exponential is at most 1 and within 64 units of roundoff:
    t e^t <= 1 for t <= 0 bounds what the rounding of x - m does. A sum of n of them is then within
    gamma_(n + 128) n, and so is what is left when one of them is taken off.
    """
    largest = high.amax(dim, keepdim=True)
    low, high = torch.exp(low - largest), torch.exp(high - largest)
    n = low.shape[dim]
    room = 2.0 * gamma(n + 128) * n
    fewest = (low.sum(dim, keepdim=True) - low - room).clamp(min=0.0)
    most = (high.sum(dim, keepdim=True) - high).clamp(min=0.0) + room
    return (low - 64.0 * UNIT).clamp(min=0.0), high + 64.0 * UNIT, fewest, most, largest


def _softmax(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Return e_i / (e_i + sum of the others), which grows in x_i and falls in the others."""
    low, high, fewest, most, _ = _shares(low, high, node.params["dim"])
    least = (low / (low + most)) * (1.0 - 8.0 * UNIT) - SMALLEST
    largest = (high / (high + fewest)) * (1.0 + 8.0 * UNIT)
    return least.nan_to_num(0.0).clamp(min=0.0), largest.nan_to_num(1.0).clamp(max=1.0)


def _log_softmax(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Return x_i - log(e^x_i + sum of the others), which grows in x_i and falls in the others."""
    _, share, fewest, most, largest = _shares(low, high, node.params["dim"])
    size = torch.maximum(low.abs(), high.abs()) + largest.abs() + 1024.0
    room = 256.0 * UNIT * size
    top = torch.exp(low - largest) + 64.0 * UNIT
    least = low - largest - torch.log(top + most) - room
    bottom = (share - 128.0 * UNIT).clamp(min=0.0)
    most_likely = high - largest - torch.log((bottom + fewest) * (1.0 - 8.0 * UNIT)) + room
    return (
        least.nan_to_num(-inf, inf, -inf),
        most_likely.nan_to_num(0.0, 0.0).clamp(max=0.0),
    )


def _log_sum_exp(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Grows with every entry, and is at least the largest one."""
    below, above = (
        log_sum_exp(node, [Approximate(end, torch.zeros_like(end))]) for end in (low, high)
    )
    least = next_down(below.value - below.error).nan_to_num(-inf, inf, -inf)
    most = -next_down(-above.value - above.error)
    largest = low.amax(node.params["dims"], node.params["keepdim"])
    return torch.maximum(least, largest), most.nan_to_num(inf, inf)


def _vector_norm(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Return the lengths of the smallest and of the largest absolute values."""
    dims, shape = node.params["dims"], (-1, *node.shape)
    smallest = torch.maximum(low, -high).clamp(min=0.0)
    largest = torch.maximum(low.abs(), high.abs())
    return (
        lengths_down(groups_last(smallest, dims)).nan_to_num(0.0).reshape(shape),
        lengths_up(groups_last(largest, dims)).reshape(shape),
    )


def _normalisation(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Return (x - mean) / s, or x / s, times the weight and with the bias.

    Whatever the input, no entry of (x - mean) / s is larger than sqrt(d - 1), and of x / s than
    sqrt(d).
    """
    lead = _lead(node, low)
    middle, reach = middle_form(low.reshape(*lead, -1), high.reshape(*lead, -1))
    eps, d, centred = float(node.params["eps"]), middle.shape[-1], node.op != "rms_norm"
    moved, error = reach, torch.zeros_like(middle[..., :1])
    if centred:
        middle, moved, error = _centred(middle, reach)
    turned = reach.square().mean(-1, keepdim=True).sqrt() + error
    least, most = _standardised(middle, moved, turned, eps)
    cap = math.sqrt(d - 1 if centred else d) * (1.0 + 4.0 * UNIT)
    least, most = least.nan_to_num(-cap).clamp(-cap, cap), most.nan_to_num(cap).clamp(-cap, cap)
    return _rescale_channels(node, least.reshape(low.shape), most.reshape(low.shape))


def _lead(node: Node, x: Tensor) -> tuple[int, ...]:
    """Return the shape in front of the entries that are normalised together."""
    if node.op == "group_norm":
        return (len(x), node.params["groups"])
    return tuple(x.shape[: x.dim() - len(node.params["shape"])])


def _centred(middle: Tensor, reach: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take the mean off along the last dimension.

    y_i = x_i - mean moves by at most r_i (1 - 2/d) + sum(r) / d; its rounding is at most
    e = gamma_(d+4) 2 max|x|.

    Returns:
        The middle of y, how far y moves, rounding included, and e.
    """
    d = middle.shape[-1]
    relative = 4.0 * gamma(d + 16)
    y = middle - middle.mean(-1, keepdim=True)
    error = relative * middle.abs().amax(-1, keepdim=True) + d * SMALLEST
    total = reach.sum(-1, keepdim=True)
    moved = reach * (1.0 - 2.0 / d) + total / d + relative * (reach + total) + error
    return y, moved, error


def _standardised(y: Tensor, moved: Tensor, turned: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Bound z = y / s along the last dimension, s^2 = ||y||^2 / d + eps.

    Where y is x less its mean, ||y|| / sqrt(d) moves by at most ||r|| / sqrt(d), since centring is
    a projection. A float32 model may round eps to float32: both values are allowed for.

    Args:
        y: The middle of the values.
        moved: How far each of them can be from there.
        turned: ||r|| / sqrt(d), and the rounding of y.
        eps: As the model has it.

    Returns:
        Bounds below and above, of the shape of `y`; NaN where nothing is known.
    """
    relative = 4.0 * gamma(y.shape[-1] + 16)
    # 2^-500 covers squares that underflow.
    spread = y.square().mean(-1, keepdim=True).sqrt()
    turned = (turned + 2.0**-500) * (1.0 + relative) + relative * spread
    narrow = torch.tensor(eps, dtype=torch.float32).item()
    smallest = ((spread - turned).clamp(min=0.0).square() + min(eps, narrow)).sqrt()
    largest = ((spread + turned).square() + max(eps, narrow)).sqrt()
    smallest, largest = smallest * (1.0 - 8.0 * UNIT), largest * (1.0 + 8.0 * UNIT)

    def top(ends: Tensor) -> Tensor:
        ends = -next_down(-ends)
        return -next_down(-torch.where(ends >= 0, ends / smallest, ends / largest))

    return -top(moved - y), top(y + moved)


def _rescale_channels(node: Node, low: Tensor, high: Tensor) -> Ends:
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
    return low, high


def convex_lines(node: Node, low: Tensor, high: Tensor, values: Ends) -> Lines:
    """Return a plane below and a plane above a length, or a logarithm of a sum of exponentials.

    Both functions are convex. Below lies the tangent in the middle c of a box, with the gradient a
    as computed: of a length <a, z> <= ||z|| for any a no longer than 1, of the logarithm as far as
    a is the softmax at c. Above, the mean value theorem gives

        f(z) <= f(c) + <a, z - c> + sum_i sup|gradient_i - a_i| r_i,

    of second order in the radii r of the box; or else the upper end of the range, where that is
    lower in the middle.

    Args:
        node: `vector_norm` or `logsumexp`.
        low: [R, ...], float64.
        high: Same shape, nowhere below `low`.
        values: The range of the result, [R, ...].

    Returns:
        The planes; slopes are [R, ..., n], with the entries of each group last.
    """
    dims = node.params["dims"]
    low, high = groups_last(low, dims), groups_last(high, dims)
    middle, reach = middle_form(low, high)
    n, last = middle.shape[-1], middle.dim() - 1
    size = torch.maximum(low.abs(), high.abs()).amax(-1)
    alone = replace(node, params={"dims": (last,), "keepdim": False})
    point = Approximate(middle, torch.zeros_like(middle))
    if node.op == "vector_norm":
        at = vector_norm(alone, [point])
        # Shorter than 1, whatever the quotients round.
        slope = (middle / lengths_up(middle)[..., None]).nan_to_num(0.0) * (1.0 - 8.0 * UNIT)
        settings = {"shape": (n,), "weight": None, "bias": None, "eps": 0.0}
        ends = _normalisation(Node("z", "rms_norm", params=settings), low, high)
        bottom, top = (end / n**0.5 for end in ends)
        room = 4.0 * gamma(n + 8) * (at.value + size * n**0.5)
        floor = torch.zeros_like(at.value)
    else:
        at = log_sum_exp(alone, [point])
        slope = middle.softmax(-1)
        bottom, top = _softmax(Node("z", "softmax", params={"dim": last}), low, high)
        # Errors of the softmax add up to less than 2 n gamma_(n + 256), as in `_shares`.
        room = 16.0 * (n + 1) * gamma(n + 256) * size.clamp(min=1.0)
        floor = at.value - (slope * middle).sum(-1) - at.error - room
    apart = torch.maximum(top - slope, slope - bottom).clamp(min=0.0) + 16.0 * UNIT
    rest = rows_up((apart * reach).sum(-1), n + 8) + at.error + room
    ceiling = at.value - (slope * middle).sum(-1) + rest
    least, most = (end.reshape(at.value.shape) for end in values)
    known = size.isfinite() & floor.isfinite()
    lower = known & ~(floor + (slope * middle).sum(-1) < least)
    upper = known & (at.value + rest < most)
    shape = (-1, *node.shape)
    return Lines(
        torch.where(lower[..., None], slope, 0.0),
        torch.where(lower, floor, least).reshape(shape),
        torch.where(upper[..., None], slope, 0.0),
        torch.where(upper, ceiling, most).reshape(shape),
    )


_RANGES: Mapping[str, Callable[[Node, Tensor, Tensor], Ends]] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "layer_norm": _normalisation,
    "group_norm": _normalisation,
    "rms_norm": _normalisation,
    "vector_norm": _vector_norm,
    "logsumexp": _log_sum_exp,
}
"""By operation; what is not here has no rule."""
