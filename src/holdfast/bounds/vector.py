"""Vector operations on boxes: the range of every entry of the result, and planes around it.

A function for ranges takes a node and the ends of its input's entries, [R, ...], and returns those
of its result's. What `holdfast.bounds.relaxations` is to functions of one number, this is to
operations that mix entries in a curved way.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from holdfast.batches import groups_last
from holdfast.bounds.normalisation import normalisation_range
from holdfast.bounds.regions import middle_form
from holdfast.bounds.relaxations import Lines
from holdfast.bounds.softmax import log_softmax_range, softmax_range
from holdfast.bounds.tangent import Ends
from holdfast.graph.ir import Node
from holdfast.graph.running import Approximate, log_sum_exp, vector_norm
from holdfast.rounding import UNIT, gamma, lengths_down, lengths_up, next_down, rows_up


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
        ends = normalisation_range(Node("z", "rms_norm", params=settings), low, high)
        bottom, top = (end / n**0.5 for end in ends)
        room = 4.0 * gamma(n + 8) * (at.value + size * n**0.5)
        floor = torch.zeros_like(at.value)
    else:
        at = log_sum_exp(alone, [point])
        slope = middle.softmax(-1)
        bottom, top = softmax_range(Node("z", "softmax", params={"dim": last}), low, high)
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
    "softmax": softmax_range,
    "log_softmax": log_softmax_range,
    "layer_norm": normalisation_range,
    "group_norm": normalisation_range,
    "rms_norm": normalisation_range,
    "vector_norm": _vector_norm,
    "logsumexp": _log_sum_exp,
}
"""By operation; what is not here has no rule."""
