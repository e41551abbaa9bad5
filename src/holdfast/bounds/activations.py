"""The slopes of scalar activations, rounded outward.

`slopes(node)` returns numbers [low, high] such that for any two points of the real line
low * (z - z') <= phi(z) - phi(z') <= high * (z - z') for z > z'. The constants are the extreme
values of the derivatives, rounded outward in the last digit given; the tests recompute them with
50 digits.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.graph.ir import Node
from holdfast.rounding import mul_up, up

Slopes = tuple[float, float]


def _prelu(params: Mapping[str, Any]) -> Slopes:
    weight = params["weight"]
    return min(0.0, float(weight.min()), 1.0), max(1.0, float(weight.max()))


def _leaky_relu(params: Mapping[str, Any]) -> Slopes:
    slope = params["negative_slope"]
    return min(slope, 1.0), max(slope, 1.0)


def _elu(params: Mapping[str, Any]) -> Slopes:
    """Slopes of scale * x above 0 and scale * alpha * (exp(input_scale x) - 1) below."""
    alpha, scale, input_scale = (params[name] for name in ("alpha", "scale", "input_scale"))
    if scale < 0 or input_scale < 0:
        return -math.inf, math.inf
    steepest = mul_up(abs(alpha), scale, input_scale)
    # Below 0 the slope lies between 0 and alpha * scale * input_scale.
    below = (-steepest, 0.0) if alpha < 0 else (0.0, steepest)
    return below[0], max(below[1], scale)


def _gelu(params: Mapping[str, Any]) -> Slopes:
    exact = params["approximate"] == "none"
    return (-0.128904146, 1.128904146) if exact else (-0.128993070, 1.128993070)


def _hardtanh(params: Mapping[str, Any]) -> Slopes:
    return (0.0, 0.0) if params["low"] == params["high"] else (0.0, 1.0)


_SLOPES: Mapping[str, Slopes | Callable[[Mapping[str, Any]], Slopes]] = {
    "relu": (0.0, 1.0),
    "leaky_relu": _leaky_relu,
    "prelu": _prelu,
    "elu": _elu,
    "gelu": _gelu,
    "silu": (-0.0998393202, 1.0998393202),
    "mish": (-0.112526123, 1.088498162),
    "hardswish": (-0.5, 1.5),
    "hardsigmoid": (0.0, up(1 / 6)),
    "hardtanh": _hardtanh,
    "tanh": (0.0, 1.0),
    "sigmoid": (0.0, 0.25),
    "logsigmoid": (0.0, 1.0),
    "softplus": (0.0, 1.0),
    "abs": (-1.0, 1.0),
}


def slopes(node: Node) -> Slopes:
    """Return the smallest and the largest slope of an elementwise node, over the real line.

    Args:
        node: One whose op is in `holdfast.graph.ops.ELEMENTWISE`.

    Returns:
        (low, high), rounded outward.
    """
    entry = _SLOPES[node.op]
    return entry(node.params) if callable(entry) else entry


def slope_bound(node: Node) -> float:
    """Return the Lipschitz constant of an elementwise node: the larger |slope|."""
    low, high = slopes(node)
    return max(abs(low), abs(high))
