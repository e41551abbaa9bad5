"""Softmax and its logarithm on boxes: the range of every entry, and the tangent.

Along a direction d, with m and V the mean and the variance of its entries under p = softmax(x),

    p_i'' = p_i ((d_i - m)^2 - V),    (log p_i)'' = -V.

On a box of radii r around c that bounds what the tangent in c leaves, by half of it (Taylor's
theorem, |d| <= r): V <= max r^2 and V <= sum p r^2, and d_i - m is a mean of differences d_i - d_j
with weights of 1 - p_i together.
"""

from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from holdfast.bounds.regions import middle_form
from holdfast.bounds.tangent import Ends, Tangent
from holdfast.graph.ir import Node
from holdfast.graph.running import Approximate, softmax
from holdfast.rounding import SMALLEST, UNIT, gamma, rows_up


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


def softmax_range(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Return e_i / (e_i + sum of the others), which grows in x_i and falls in the others."""
    size = torch.maximum(low.abs(), high.abs()).amax(node.params["dim"], keepdim=True)
    low, high = (_masked(node, end, -inf) for end in (low, high))
    low, high, fewest, most, _ = _shares(low, high, node.params["dim"])
    least = (low / (low + most)) * (1.0 - 8.0 * UNIT) - SMALLEST
    largest = (high / (high + fewest)) * (1.0 + 8.0 * UNIT)
    if "mask" in node.params:  # large entries may outweigh what masks them
        least = torch.where(size < 2.0**90, least, 0.0)
        largest = torch.where(size < 2.0**90, largest, 1.0)
    return least.nan_to_num(0.0).clamp(min=0.0), largest.nan_to_num(1.0).clamp(max=1.0)


def _masked(node: Node, values: Tensor, filled: float) -> Tensor:
    """Replace the entries that take no part."""
    return values.masked_fill(~node.params["mask"], filled) if "mask" in node.params else values


def log_softmax_range(node: Node, low: Tensor, high: Tensor) -> Ends:
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


def softmax_tangent(node: Node, low: Tensor, high: Tensor) -> Tangent:
    """Return the tangent of a softmax, or of its logarithm, in the middle of boxes.

    Args:
        node: `softmax` or `log_softmax`, in float64.
        low: [R, ...], float64.
        high: Same shape, nowhere below `low`.
    """
    dim = node.params["dim"]
    least, most = softmax_range(replace(node, op="softmax"), low, high)
    # Entries that are left out have no share, unless they are too large for that.
    largest = torch.maximum(low.abs(), high.abs()).amax(dim, keepdim=True)
    known = (largest < 2.0**90) if "mask" in node.params else largest.isfinite()
    low, high = (_masked(node, end, 0.0) for end in (low, high))
    c, r = middle_form(low, high)
    point = [Approximate(c, torch.zeros_like(c))]
    at, shares = softmax(node, point), softmax(replace(node, op="softmax"), point)
    p, n = shares.value, c.shape[dim]
    size = torch.maximum(low.abs(), high.abs())

    def total(values: Tensor, dim: int = dim) -> Tensor:
        return values.sum(dim, keepdim=True)

    def pull(lower: Tensor, upper: Tensor) -> list[Tensor]:
        wide, rows = p[:, None], lower + upper
        if node.op == "log_softmax":
            return [rows - wide * total(rows, dim + 1)]
        return [wide * (rows - total(wide * rows, dim + 1))]

    widest = r.amax(dim, keepdim=True)
    variance = torch.minimum(widest.square(), total(most * r.square()))
    moved, reach = c - total(p * c), size + total(p * size)
    if node.op == "log_softmax":
        below, above = 0.5 * variance.expand_as(c), torch.zeros_like(c)
    else:
        moved, reach = p * moved, p * reach
        below = 0.5 * most * variance
        above = 0.5 * most * ((1.0 - least + 2.0 * UNIT) * (r + widest)).square()
    # What the rounding of p makes of J (x - c), and what the sums round.
    turned = shares.error * (2.0 * widest + total(r))
    rounding = 4.0 * gamma(n + 16) * (reach + at.value.abs()) + n * SMALLEST
    below, above = (rows_up(part + at.error + turned + rounding, n + 16) for part in (below, above))
    below, above = (torch.where(known, part, inf) for part in (below, above))
    shift = at.value - moved
    return Tangent(pull, at.value, (shift, shift), below, above, rows_up(reach, n + 16))
