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
    reduce,
    unary,
)

aten = torch.ops.aten


def _leaky_relu(b: Builder, call: Call) -> Translation:
    x, slope = call.args
    return b.emit("leaky_relu", [x], call, x.shape, negative_slope=float(slope))


def _rrelu(b: Builder, call: Call) -> Translation:
    """Take the mean of the two slopes, as torch does outside training."""
    x, low, high, training, _ = call.args
    slope = (float(low) + float(high)) / 2
    return None if training else b.emit("leaky_relu", [x], call, x.shape, negative_slope=slope)


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


def _group_norm(b: Builder, call: Call) -> Translation:
    x, groups, weight, bias, eps, _ = call.args  # the last one is about cuDNN
    if isinstance(weight, Ref) or isinstance(bias, Ref) or eps < 0:
        return None
    settings = {"groups": groups, "weight": weight, "bias": bias, "eps": eps}
    return b.emit("group_norm", [x], call, x.shape, **settings)


def _instance_norm(b: Builder, call: Call) -> Translation:
    """Normalise every channel by itself, or with stored statistics, which is a batch norm."""
    x, weight, bias, mean, variance, by_input, _, eps, _ = call.args  # momentum, cuDNN
    fixed = not any(isinstance(item, Ref) for item in (weight, bias, mean, variance))
    if not fixed or len(x.shape) < 2 or eps < 0:
        return None
    settings = {"weight": weight, "bias": bias, "eps": eps}
    if by_input:
        return b.emit("group_norm", [x], call, x.shape, groups=x.shape[0], **settings)
    statistics = {"mean": mean, "variance": variance, **settings}
    return b.emit("batch_norm", [x], call, x.shape, **statistics)


NONLINEAR: Mapping[object, Translate] = {
    aten.relu.default: unary("relu"),
    aten.leaky_relu.default: _leaky_relu,
    aten.rrelu.default: _rrelu,
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
    aten.tanh.default: unary("tanh"),
    aten.sigmoid.default: unary("sigmoid"),
    aten.atan.default: unary("atan"),
    aten.sin.default: unary("sin"),
    aten.cos.default: unary("cos"),
    aten.erf.default: unary("erf"),
    aten.log_sigmoid.default: unary("logsigmoid"),
    aten.softplus.default: _softplus,
    aten.abs.default: unary("abs"),
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    aten.rms_norm.default: _rms_norm,
    aten.logsumexp.default: reduce("logsumexp"),
}
"""Translations by ATen overload."""
