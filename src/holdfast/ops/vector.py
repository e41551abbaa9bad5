"""Records of operations that mix entries in a curved way: softmax, normalisations, lengths."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.ops.record import Kind, Op, Params, Shape
from holdfast.rounding import down, mul_up, sqrt_up, up


def _softmax(params: Params, shape: Shape, result: Shape, norm: float) -> float:
    """Return 1/2, the constant in every lp norm.

    The Jacobian diag(p) - p p^T is symmetric with absolute row sums 2 p_i (1 - p_i) <= 1/2, which
    bounds the l1 and linf norms, and by interpolation all between (also: Nair, "Softmax is
    1/2-Lipschitz", 2025, arXiv 2510.23012).
    """
    return 0.5


def _shares(inputs: Sequence[Tensor], params: Params) -> Tensor:
    """Apply a softmax to the entries that its setting `mask` keeps, to all where there is none."""
    # An entry that is left out stands for minus infinity, or for a number below -2^100: next to
    # numbers up to 2^90 its share is less than any float64.
    (x,) = inputs
    kept = params.get("mask")
    x = x if kept is None else x.masked_fill(~kept, -math.inf)
    return x.softmax(params["dim"])


def _log_softmax(params: Params, shape: Shape, result: Shape, norm: float) -> float:
    """The Jacobian I - 1 p^T: its norms are convex in p, so largest at a corner p = e_k."""
    n = shape[params["dim"] - 1]
    if norm == 1.0:
        return float(max(1, n - 1))
    return sqrt_up(float(n)) if norm == 2.0 else 2.0


def _vector_norm(params: Params, shape: Shape, result: Shape, norm: float) -> float:
    """Return 1 in l1 and l2, sqrt(n) in linf for lengths of n entries each.

    | ||x_g|| - ||y_g|| | <= ||d_g|| for every group g of entries, with d = x - y. Squared and added
    up that is ||d||^2; in l1 the sum of the ||d_g||_2 <= ||d_g||_1 is ||d||_1; in linf
    ||d_g||_2 <= sqrt(n) max|d_g|, reached where all entries change alike.
    """
    return sqrt_up(float(group_size(params, shape))) if norm == math.inf else 1.0


def _log_sum_exp(params: Params, shape: Shape, result: Shape, norm: float) -> float:
    """Return 1: the gradient p of each result is a softmax, at least 0 with sum 1.

    So |p . d_g| is at most max|d_g|, and that is at most ||d_g|| in l2 and l1; groups share no
    entry.
    """
    return 1.0


def group_size(params: Params, shape: Shape) -> int:
    """Return how many entries of a row are reduced to one.

    Args:
        params: With the reduced dimensions, `dims`, the batch being dimension 0.
        shape: Of one row.
    """
    return math.prod(shape[dim - 1] for dim in params["dims"])


def _normalisation(params: Params, entries: int, norm: float) -> float:
    """Return max|gamma| / sqrt(eps), the slope at a constant vector, where the variance is 0.

    With z = (x - mean) / s the Jacobian is diag(gamma) P (I - z z^T / d) / s with projections
    P and I - z z^T / d, and s >= sqrt(eps). For l1 and linf the factor sqrt(d) between norms.
    Without the mean it is diag(gamma) (I - z z^T / d) / s, and |z|^2 <= d: the slope at 0.
    """
    weight, eps = params["weight"], params["eps"]
    # A float32 model rounds eps to float32: the smaller of the two is the safe one.
    eps = min(eps, float(torch.tensor(eps, dtype=torch.float32)))
    if eps <= 0.0:
        return math.inf
    steepest = 1.0 if weight is None else float(weight.abs().max())
    gain = up(steepest / down(math.sqrt(eps)))
    return gain if norm == 2.0 else mul_up(gain, sqrt_up(float(entries)))


def _layer_norm(params: Params, shape: Shape, result: Shape, norm: float) -> float:
    return _normalisation(params, math.prod(params["shape"]), norm)


def _rms_norm(inputs: Sequence[Tensor], params: Params) -> Tensor:
    return F.rms_norm(inputs[0], params["shape"], params["weight"], params["eps"])


def _group_norm(params: Params, shape: Shape, result: Shape, norm: float) -> float:
    return _normalisation(params, math.prod(shape) // params["groups"], norm)


VECTOR: Mapping[str, Op] = {
    "softmax": Op(_shares, Kind.VECTOR, constant=_softmax),
    "log_softmax": Op(lambda x, p: x[0].log_softmax(p["dim"]), Kind.VECTOR, constant=_log_softmax),
    "layer_norm": Op(
        lambda x, p: F.layer_norm(x[0], p["shape"], p["weight"], p["bias"], p["eps"]),
        Kind.VECTOR,
        constant=_layer_norm,
    ),
    "group_norm": Op(
        lambda x, p: F.group_norm(x[0], p["groups"], p["weight"], p["bias"], p["eps"]),
        Kind.VECTOR,
        constant=_group_norm,
    ),
    "rms_norm": Op(_rms_norm, Kind.VECTOR, constant=_layer_norm),
    "vector_norm": Op(
        lambda x, p: torch.linalg.vector_norm(x[0], 2, p["dims"], p["keepdim"]),
        Kind.VECTOR,
        constant=_vector_norm,
    ),
    "logsumexp": Op(
        lambda x, p: x[0].logsumexp(p["dims"], p["keepdim"]), Kind.VECTOR, constant=_log_sum_exp
    ),
}
"""The records by name."""
