"""Layer, group and RMS normalisation on boxes: the range of every entry, and the tangent.

Of d entries x let y be x less its mean, or x itself, and z = y / s with s^2 = ||y||^2 / d + eps.
Along a direction of which u is what y takes, with q = <z, u> / d,

    z' = (u - q z) / s,    z'' = (-2 q u + 3 q^2 z - (||u||^2 / d) z) / s^2.

As ||z||^2 <= d, q^2 <= ||u||^2 / d = U^2, so that |z''| <= 2 (U |u| + U^2 |z|) / s^2: half of it
bounds what the tangent leaves (Taylor's theorem).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.bounds.regions import middle_form
from holdfast.bounds.tangent import Ends, Tangent
from holdfast.graph.ir import Node
from holdfast.ops.geometry import per_channel
from holdfast.rounding import SMALLEST, UNIT, gamma, next_down, rows_up


@dataclass(frozen=True)
class Standardised:
    """Bounds of z and of what it is made of, with the d entries along the last dimension.

    Attributes:
        low: Of z; NaN where nothing is known.
        high: Of z.
        moved: How far each entry of y can be from its middle.
        turned: How far ||y|| / sqrt(d) can be from that of the middle.
        smallest: Of s.
        largest: Of s.
    """

    low: Tensor
    high: Tensor
    moved: Tensor
    turned: Tensor
    smallest: Tensor
    largest: Tensor


def normalisation_range(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Return bounds of (x - mean) / s, or x / s, times the weight and with the bias.

    Whatever the input, no entry of (x - mean) / s is larger than sqrt(d - 1), and of x / s than
    sqrt(d).
    """
    middle, reach = _flat_middle(node, low, high)
    known, d = _standardised(node, middle, reach), middle.shape[-1]
    cap = math.sqrt(d if node.op == "rms_norm" else d - 1) * (1.0 + 4.0 * UNIT)
    least, most = known.low.nan_to_num(-cap), known.high.nan_to_num(cap)
    least, most = (end.clamp(-cap, cap).reshape(low.shape) for end in (least, most))
    weight, bias = _channels(node, low.dim())
    ends = least * weight, most * weight
    least, most = next_down(torch.minimum(*ends)), -next_down(-torch.maximum(*ends))
    return next_down(least + bias), -next_down(-most - bias)


def normalisation_tangent(node: Node, low: Tensor, high: Tensor) -> Tangent:
    """Return the tangent of a normalisation in the middle of boxes.

    Args:
        node: `layer_norm`, `group_norm` or `rms_norm`, in float64.
        low: [R, ...], float64.
        high: Same shape, nowhere below `low`.
    """
    c, r = _flat_middle(node, low, high)
    flat, d = c.shape, c.shape[-1]
    size = torch.maximum(low.abs(), high.abs()).reshape(flat)
    point, box = _standardised(node, c, torch.zeros_like(c)), _standardised(node, c, r)
    z, z_error = middle_form(point.low, point.high)
    steep, steep_error = middle_form(
        (1.0 - 4.0 * UNIT) / point.largest, (1.0 + 4.0 * UNIT) / point.smallest
    )
    weight, bias = _channels(node, low.dim())

    def mean(values: Tensor) -> Tensor:
        return values.mean(-1, keepdim=True)

    def times(values: Tensor, z: Tensor, steep: Tensor) -> Tensor:
        """Multiply by the derivative of z, which is symmetric."""
        rest = values if node.op == "rms_norm" else values - mean(values)
        return steep * (rest - z * mean(z * values))

    def pull(lower: Tensor, upper: Tensor) -> list[Tensor]:
        rows = lower + upper
        lying = (rows * weight).reshape(*rows.shape[:2], *flat[1:])
        return [times(lying, z[:, None], steep[:, None]).reshape(rows.shape)]

    largest = torch.maximum(box.low.abs(), box.high.abs())
    turned = box.turned * (box.moved + box.turned * largest)
    rest = turned / box.smallest.square()
    # What the rounding of z and of 1 / s makes of J (x - c), and what the sums round.
    off = steep_error * (box.moved + largest * box.turned)
    off = off + steep * (z_error * mean(z.abs() * r) + largest * mean(z_error * r))
    reach = steep * (size + mean(size) + z.abs() * mean(z.abs() * size))
    rounding = 4.0 * gamma(d + 32) * (reach + z.abs()) + d * SMALLEST
    rest = rows_up(rest + off + z_error + rounding, d + 32)
    at, shift, rest, reach = (
        part.reshape(low.shape) for part in (z, z - times(c, z, steep), rest, reach)
    )
    size = weight.abs() * (reach + at.abs())
    rest = rows_up(weight.abs() * rest + 16.0 * UNIT * (size + bias.abs()) + SMALLEST, 8)
    shift = shift * weight + bias
    return Tangent(pull, at * weight + bias, (shift, shift), rest, rest, rows_up(size, 8))


def vanishes(node: Node, low: Tensor, high: Tensor) -> Tensor:
    """Return which boxes may hold a point where s is 0, and z is not defined, [R]."""
    known = _standardised(node, *_flat_middle(node, low, high))
    return ~(known.smallest > 0.0).reshape(len(low), -1).all(1)


def standardised_on(
    node: Node, low: Tensor, high: Tensor
) -> tuple[Tensor, Ends, Ends, tuple[int, ...]]:
    """Return what the derivative of a normalisation is made of, on boxes.

    Returns:
        The weight, and the ends of z and of 1 / s with the entries that are normalised together
        last, in the shape that comes fourth.
    """
    middle, reach = _flat_middle(node, low, high)
    known, (weight, _) = _standardised(node, middle, reach), _channels(node, low.dim())
    cap = math.sqrt(middle.shape[-1]) * (1.0 + 4.0 * UNIT)
    z = known.low.nan_to_num(-cap).clamp(-cap, cap), known.high.nan_to_num(cap).clamp(-cap, cap)
    steep = (1.0 - 4.0 * UNIT) / known.largest, (1.0 + 4.0 * UNIT) / known.smallest
    return weight, z, steep, tuple(middle.shape)


def _flat_middle(node: Node, low: Tensor, high: Tensor) -> Ends:
    """Return middles and radii with the entries that are normalised together last."""
    if node.op == "group_norm":
        front = (len(low), node.params["groups"])
    else:
        front = tuple(low.shape[: low.dim() - len(node.params["shape"])])
    return middle_form(low.reshape(*front, -1), high.reshape(*front, -1))


def _channels(node: Node, dims: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias, shaped to broadcast against [R, ...] with so many dimensions."""
    default = {"weight": torch.ones(()).double(), "bias": torch.zeros(()).double()}
    found = [default[name] if node.params[name] is None else node.params[name] for name in default]
    weight, bias = (
        per_channel(value, dims) if node.op == "group_norm" and value.dim() else value
        for value in found
    )
    return weight, bias


def _standardised(node: Node, middle: Tensor, reach: Tensor) -> Standardised:
    """Bound z on boxes.

    ||y|| / sqrt(d) moves by at most ||r|| / sqrt(d), since centring is a projection. A float32
    model may round eps to float32: both values are allowed for.

    Args:
        node: The normalisation.
        middle: [..., d], of x.
        reach: Same shape, radii.

    Returns:
        The bounds of z, and those of y and s.
    """
    eps, relative = float(node.params["eps"]), 4.0 * gamma(middle.shape[-1] + 16)
    y, moved, error = middle, reach, torch.zeros_like(middle[..., :1])
    if node.op != "rms_norm":
        y, moved, error = _centred(middle, reach)
    turned = reach.square().mean(-1, keepdim=True).sqrt() + error
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

    return Standardised(-top(moved - y), top(y + moved), moved, turned, smallest, largest)


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
