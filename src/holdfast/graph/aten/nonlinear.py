"""Translations of nonlinear ATen operations."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from holdfast.graph.aten.call import (
    Builder,
    Call,
    Ref,
    Translate,
    Translation,
    feature_dim,
    feature_dims,
    reduce,
    spread,
    unary,
    with_args,
)
from holdfast.graph.aten.patterns import log1p, softshrink

aten = torch.ops.aten


def _leaky_relu(b: Builder, call: Call) -> Translation:
    x, slope = call.args
    return b.emit("leaky_relu", [x], call, x.shape, negative_slope=float(slope))


def _prelu(b: Builder, call: Call) -> Translation:
    x, weight = call.args
    if not isinstance(weight, Tensor):
        return None
    return b.emit("prelu", [x], call, x.shape, weight=weight)


def _elu(b: Builder, call: Call) -> Translation:
    x, alpha, scale, input_scale = call.args
    settings = {"alpha": float(alpha), "scale": float(scale), "input_scale": float(input_scale)}
    return b.emit("elu", [x], call, x.shape, **settings)


def _celu(b: Builder, call: Call) -> Translation:
    x, alpha = call.args
    settings = {"alpha": float(alpha), "scale": 1.0, "input_scale": 1.0 / float(alpha)}
    return b.emit("elu", [x], call, x.shape, **settings)


def _gelu(b: Builder, call: Call) -> Translation:
    x, approximate = call.args
    return b.emit("gelu", [x], call, x.shape, approximate=approximate)


def _softplus(b: Builder, call: Call) -> Translation:
    """Take torch's switch to the identity for rounding where it hides in half a unit of it."""
    # Above `threshold / beta` torch returns x, less than the function by up to `jump`. A jump that
    # the type of the result shows is part of the function, and such a function has no bound.
    x, beta, threshold = call.args
    if beta <= 0 or threshold <= 0 or call.dtype is None:
        return None
    jump, where = math.log1p(math.exp(-threshold)) / beta, threshold / beta
    half_unit = torch.finfo(call.dtype).eps / 2 * 2.0 ** math.floor(math.log2(where))
    if jump > half_unit:
        return None
    return b.emit("softplus", [x], call, x.shape, beta=float(beta))


def _clamp(b: Builder, call: Call) -> Translation:
    x, low, high = call.args
    if isinstance(low, Ref | Tensor) or isinstance(high, Ref | Tensor):
        return None
    low = -math.inf if low is None else float(low)
    high = math.inf if high is None else float(high)
    return None if low > high else b.emit("hardtanh", [x], call, x.shape, low=low, high=high)


def _end(index: int) -> Translate:
    """Translate a minimum (0) or a maximum (1) of two: an end of their comparison."""

    def translate(b: Builder, call: Call) -> Translation:
        left, right = call.args
        if not (isinstance(left, Ref) and isinstance(right, Ref)) or left.shape != right.shape:
            return None
        both = _compared(b, left, right) or b.emit("compare", [left, right], call, (2, *call.shape))
        return b.emit("select", [both], call, call.shape, dim=1, index=index)

    return translate


def _compared(b: Builder, left: Ref, right: Ref) -> Ref | None:
    """Return the comparison of two nodes where there is one already, in either order.

    Apart, a maximum and a minimum look like two maps of constant sqrt(2); together they permute
    entries and have constant 1 (MaxMin: Anil, Lucas, Grosse, "Sorting out Lipschitz function
    approximation", 2019).
    """
    for node in b.nodes.values():
        if node.op == "compare" and sorted(node.inputs) == sorted((left.node, right.node)):
            return Ref(node.name, node.shape, node.perturbed)
    return None


def _max_dim(b: Builder, call: Call) -> Translation:
    x, dim, keepdim = call.args
    feature = feature_dim(x, dim)
    if feature is None:
        return None
    kept = (1,) if keepdim else ()
    shape = (*x.shape[: feature - 1], *kept, *x.shape[feature:])
    return [b.emit("amax", [x], call, shape, dims=(feature,), keepdim=keepdim)]


def _max_pool(rank: int) -> Translate:
    def translate(b: Builder, call: Call) -> Translation:
        x, kernel, stride, padding, dilation, ceil_mode = call.args
        if len(x.shape) != rank + 1:
            return None
        return b.emit(
            "max_pool",
            [x],
            call,
            call.shape,
            kernel=spread(kernel, rank),
            stride=spread(stride or kernel, rank),
            padding=spread(padding, rank),
            dilation=spread(dilation, rank),
            ceil_mode=ceil_mode,
        )

    return translate


def _sort(b: Builder, call: Call) -> Translation:
    x, dim, descending = call.args
    feature = feature_dim(x, dim)
    if feature is None:
        return None
    return [b.emit("sort", [x], call, x.shape, dim=feature, descending=descending)]


def _softmax(op: str) -> Translate:
    def translate(b: Builder, call: Call) -> Translation:
        x, dim = call.args[:2]
        feature = feature_dim(x, dim)
        return None if feature is None else b.emit(op, [x], call, x.shape, dim=feature)

    return translate


def _layer_norm(b: Builder, call: Call) -> Translation:
    x, shape, weight, bias, eps, _ = call.args  # the last one is about cuDNN
    if len(shape) > len(x.shape) or isinstance(weight, Ref) or isinstance(bias, Ref) or eps < 0:
        return None
    settings = {"shape": tuple(shape), "weight": weight, "bias": bias, "eps": eps}
    return b.emit("layer_norm", [x], call, x.shape, **settings)


def _rms_norm(b: Builder, call: Call) -> Translation:
    x, shape, weight, eps = call.args
    if len(shape) > len(x.shape) or isinstance(weight, Ref) or call.dtype is None:
        return None
    eps = torch.finfo(call.dtype).eps if eps is None else eps  # what torch takes
    if eps < 0:
        return None
    settings = {"shape": tuple(shape), "weight": weight, "bias": None, "eps": eps}
    return b.emit("rms_norm", [x], call, x.shape, **settings)


def _vector_norm(b: Builder, call: Call) -> Translation:
    """Translate lengths in l2; in l1 and linf they are sums and maxima of absolute values."""
    x, order, dims, keepdim, _ = call.args
    dims = feature_dims(x, dims)
    if dims is None or order not in (1, 2, math.inf):
        return None
    settings = {"dims": dims, "keepdim": keepdim}
    if order == 2:
        return b.emit("vector_norm", [x], call, call.shape, **settings)
    sizes = b.emit("abs", [x], call, x.shape)
    return b.emit("sum" if order == 1 else "amax", [sizes], call, call.shape, **settings)


def _norm(b: Builder, call: Call) -> Translation:
    """Translate `torch.linalg.norm` where it is that of vectors: of one dimension, or in l2."""
    x, order, dims, keepdim, dtype = call.args
    if order is not None and (dims is None or len(dims) != 1):
        return None
    order = 2 if order is None else order
    return _vector_norm(b, with_args(call, [x, order, dims, keepdim, dtype]))


def _group_norm(b: Builder, call: Call) -> Translation:
    x, groups, weight, bias, eps, _ = call.args  # the last one is about cuDNN
    if isinstance(weight, Ref) or isinstance(bias, Ref) or eps < 0:
        return None
    settings = {"groups": groups, "weight": weight, "bias": bias, "eps": eps}
    return b.emit("group_norm", [x], call, x.shape, **settings)


NONLINEAR: Mapping[object, Translate] = {
    aten.max.dim: _max_dim,
    aten.relu.default: unary("relu"),
    aten.leaky_relu.default: _leaky_relu,
    aten.prelu.default: _prelu,
    aten.elu.default: _elu,
    aten.celu.default: _celu,
    aten.selu.default: unary(
        "elu", alpha=1.6732632423543772, scale=1.0507009873554805, input_scale=1.0
    ),
    aten.gelu.default: _gelu,
    aten.silu.default: unary("silu"),
    aten.mish.default: unary("mish"),
    aten.hardswish.default: unary("hardswish"),
    aten.hardsigmoid.default: unary("hardsigmoid"),
    aten.hardtanh.default: _clamp,
    aten.relu6.default: unary("hardtanh", low=0.0, high=6.0),
    aten.clamp.default: _clamp,
    aten.clamp_min.default: lambda b, call: _clamp(b, with_args(call, [*call.args, None])),
    aten.clamp_max.default: lambda b, call: _clamp(
        b, with_args(call, [call.args[0], None, call.args[1]])
    ),
    aten.tanh.default: unary("tanh"),
    aten.sigmoid.default: unary("sigmoid"),
    aten.atan.default: unary("atan"),
    aten.sin.default: unary("sin"),
    aten.cos.default: unary("cos"),
    aten.erf.default: unary("erf"),
    aten.log1p.default: log1p,
    aten.where.self: softshrink,
    aten.log_sigmoid.default: unary("logsigmoid"),
    aten.softplus.default: _softplus,
    aten.abs.default: unary("abs"),
    aten.maximum.default: _end(1),
    aten.max.other: _end(1),
    aten.minimum.default: _end(0),
    aten.min.other: _end(0),
    aten.max_pool1d.default: _max_pool(1),
    aten.max_pool2d.default: _max_pool(2),
    aten.max_pool3d.default: _max_pool(3),
    aten.sort.default: _sort,
    aten.softmax.int: _softmax("softmax"),
    aten.log_softmax.int: _softmax("log_softmax"),
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.rms_norm.default: _rms_norm,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.linalg_norm.default: _norm,
    aten.logsumexp.default: reduce("logsumexp"),
}
"""Translations by ATen overload."""
