"""Lipschitz constants of nonlinear operations that are not elementwise."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from holdfast.graph.ir import Node
from holdfast.rounding import down, mul_up, sqrt_up, up

Constant = Callable[[Node, Sequence[int], float], float]


def _one(node: Node, shape: Sequence[int], norm: float) -> float:
    """Sorting, and the largest entry of disjoint groups: no lp distance grows."""
    return 1.0


def _softmax(node: Node, shape: Sequence[int], norm: float) -> float:
    """Return 1/2, the constant in every lp norm.

    The Jacobian diag(p) - p p^T is symmetric with absolute row sums 2 p_i (1 - p_i) <= 1/2, which
    bounds the l1 and linf norms, and by interpolation all between (also: Nair, "Softmax is
    1/2-Lipschitz", 2025, arXiv 2510.23012).
    """
    return 0.5


def _log_softmax(node: Node, shape: Sequence[int], norm: float) -> float:
    """The Jacobian I - 1 p^T: its norms are convex in p, so largest at a corner p = e_k."""
    n = shape[node.params["dim"] - 1]
    if norm == 1.0:
        return float(max(1, n - 1))
    return sqrt_up(float(n)) if norm == 2.0 else 2.0


def _max_pool(node: Node, shape: Sequence[int], norm: float) -> float:
    """Each window's maximum moves at most as far as its entries; an entry in k windows counts k."""
    windows = float(math.prod(_coverage(node, shape)))
    return {1.0: windows, 2.0: sqrt_up(windows), math.inf: 1.0}[norm]


def _coverage(node: Node, shape: Sequence[int]) -> list[int]:
    """Return, per spatial axis, the largest number of windows that hold one position."""
    settings = (node.params[name] for name in ("kernel", "stride", "padding", "dilation"))
    counts = []
    for length, outputs, kernel, stride, padding, dilation in zip(
        shape[1:], node.shape[1:], *settings, strict=True
    ):
        starts = range(-padding, -padding + outputs * stride, stride)
        held = [0] * length
        for position in (start + k * dilation for start in starts for k in range(kernel)):
            if 0 <= position < length:
                held[position] += 1
        counts.append(max(held))
    return counts


def _normalisation(node: Node, entries: int, norm: float) -> float:
    """Return max|gamma| / sqrt(eps), the slope at a constant vector, where the variance is 0.

    With z = (x - mean) / s the Jacobian is diag(gamma) P (I - z z^T / d) / s with projections
    P and I - z z^T / d, and s >= sqrt(eps). For l1 and linf the factor sqrt(d) between norms.
    """
    weight, eps = node.params["weight"], node.params["eps"]
    # A float32 model rounds eps to float32: the smaller of the two is the safe one.
    eps = min(eps, float(torch.tensor(eps, dtype=torch.float32)))
    if eps <= 0.0:
        return math.inf
    steepest = 1.0 if weight is None else float(weight.abs().max())
    gain = up(steepest / down(math.sqrt(eps)))
    return gain if norm == 2.0 else mul_up(gain, sqrt_up(float(entries)))


def _layer_norm(node: Node, shape: Sequence[int], norm: float) -> float:
    return _normalisation(node, math.prod(node.params["shape"]), norm)


def _group_norm(node: Node, shape: Sequence[int], norm: float) -> float:
    return _normalisation(node, math.prod(shape) // node.params["groups"], norm)


CONSTANTS: Mapping[str, Constant] = {
    "sort": _one,
    "amax": _one,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "max_pool": _max_pool,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
}
"""Upper bound of the Lipschitz constant, from the node, a row's input shape and the norm."""
