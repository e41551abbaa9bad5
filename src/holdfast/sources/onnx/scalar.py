"""ONNX operators that work entry by entry, and reductions."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.sources.onnx.rows import Operand, RowValue, Static, along, combined, renewed


def plain(function: Callable[[Tensor], Tensor]) -> Callable[..., RowValue]:
    """Return an operator of one input and no attributes."""
    return lambda x: x.map(function)


def leaky_relu(x: RowValue, *, alpha: float = 0.01) -> RowValue:
    """Return x, times alpha where it is negative."""
    return x.map(lambda t: F.leaky_relu(t, alpha))


def prelu(x: RowValue, slope: Tensor) -> RowValue:
    """Return x, times a slope where it is negative.

    Raises:
        ValueError: When there is more than one slope a channel.
    """
    aligned = (1,) * (len(x.shape) - slope.dim()) + tuple(slope.shape)
    per_channel = x.batched and aligned[1] == slope.numel() == x.shape[1]
    if slope.numel() != 1 and not per_channel:
        raise ValueError(f"slopes of shape {list(slope.shape)} for {list(x.shape)}")
    return x.map(lambda t: F.prelu(t, slope.reshape(-1)))


def elu(x: RowValue, *, alpha: float = 1.0) -> RowValue:
    """Return x, or alpha (exp(x) - 1) where it is negative."""
    return x.map(lambda t: F.elu(t, alpha))


def celu(x: RowValue, *, alpha: float = 1.0) -> RowValue:
    """Return x, or alpha (exp(x / alpha) - 1) where it is negative."""
    return x.map(lambda t: F.celu(t, alpha))


def selu(x: RowValue, *, alpha: float = 1.6732632, gamma: float = 1.0507010) -> RowValue:
    """Return the scaled elu.

    Raises:
        ValueError: For other constants than the usual ones.
    """
    if abs(alpha - 1.6732632) > 1e-6 or abs(gamma - 1.0507010) > 1e-6:
        raise ValueError(f"alpha {alpha} and gamma {gamma}")
    return x.map(F.selu)


def gelu(x: RowValue, *, approximate: str = "none") -> RowValue:
    """Return x times the normal distribution function at x."""
    return x.map(lambda t: F.gelu(t, approximate=approximate))


def hard_sigmoid(x: RowValue, *, alpha: float = 0.2, beta: float = 0.5) -> RowValue:
    """Return alpha x + beta, cut to [0, 1]."""
    return x.map(lambda t: (t * alpha + beta).clamp(0.0, 1.0))


def clip(x: RowValue, min: Static = None, max: Static = None) -> RowValue:
    """Return x cut to an interval."""
    if min is None and max is None:
        return x
    return x.map(lambda t: t.clamp(min, max))


def dropout(
    x: RowValue, ratio: Static = 0.5, training_mode: Static = 0, *, seed: int = 0
) -> RowValue:
    """Return x: nothing is dropped outside training.

    Raises:
        ValueError: In training mode.
    """
    if training_mode:
        raise ValueError("training mode")
    return x


def cast(x: RowValue, *, to: int, saturate: int = 1) -> RowValue:
    """Return x in another type.

    Raises:
        ValueError: For a type that loses what the input says.
    """
    types = {1: torch.float32, 11: torch.float64, 6: torch.int32, 7: torch.int64, 9: torch.bool}
    if to not in types or (x.tensor.is_floating_point() and to not in (1, 11)):
        raise ValueError(f"a cast of {x.tensor.dtype} to ONNX type {to}")
    return x if x.tensor.dtype == types[to] else x.map(lambda t: t.to(types[to]))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., RowValue]:
    """Return an operator of two inputs that broadcast."""
    return lambda a, b: combined(function, a, b)


def folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., RowValue]:
    """Return an operator of any number of inputs that broadcast."""

    def apply(*parts: Operand) -> RowValue:
        total: Any = reduce(lambda a, b: combined(function, a, b), parts)
        return total

    return apply


def where(condition: Operand, a: Operand, b: Operand) -> RowValue:
    """Return a where the condition holds and b elsewhere."""
    return combined(torch.where, condition, a, b)


def power(x: RowValue, exponent: Static) -> RowValue:
    """Return x to a power; a single number stays a number, which powers have rules for."""
    numbers = np.asarray(exponent)
    if numbers.size == 1 and numbers.ndim <= len(x.shape):
        number = numbers.item()
        return x.map(lambda t: t.pow(number))
    kind = torch.int64 if numbers.dtype.kind == "i" else x.tensor.dtype
    each = torch.tensor(exponent, dtype=kind, device=x.tensor.device)
    return combined(torch.pow, x, each)


def mean(*parts: Operand) -> RowValue:
    """Return the mean of any number of inputs that broadcast."""
    return folded(torch.add)(*parts).map(lambda t: t / len(parts))


def _norm(order: int) -> Callable[..., Tensor]:
    return lambda t, dims, keepdim: torch.linalg.vector_norm(t, order, dims, keepdim)


def reduction(function: Callable[..., Tensor]) -> Callable[..., RowValue]:
    """Return a reduction over some axes, or over all of them."""

    def apply(
        x: RowValue, axes: Static = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> RowValue:
        if not axes and noop_with_empty_axes:
            return x
        over = axes if isinstance(axes, list) and axes else range(len(x.shape))
        moved, dims = along(x, over)
        return renewed(moved, function(moved.tensor, dims, keepdim=bool(keepdims)))

    return apply


SCALAR: Mapping[str, Callable[..., RowValue]] = {
    "Relu": plain(F.relu),
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "Sigmoid": plain(torch.sigmoid),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": plain(F.hardswish),
    "Tanh": plain(torch.tanh),
    "Softplus": plain(F.softplus),
    "Softsign": plain(F.softsign),
    "Mish": plain(F.mish),
    "Gelu": gelu,
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Log": plain(torch.log),
    "Sqrt": plain(torch.sqrt),
    "Reciprocal": plain(torch.reciprocal),
    "Sin": plain(torch.sin),
    "Cos": plain(torch.cos),
    "Tan": plain(torch.tan),
    "Atan": plain(torch.atan),
    "Abs": plain(torch.abs),
    "Neg": plain(torch.neg),
    "Floor": plain(torch.floor),
    "Ceil": plain(torch.ceil),
    "Not": plain(torch.logical_not),
    "Identity": plain(lambda t: t),
    "Dropout": dropout,
    "Clip": clip,
    "Cast": cast,
    "Add": binary(torch.add),
    "Sub": binary(torch.sub),
    "Mul": binary(torch.mul),
    "Div": binary(_divide),
    "Pow": power,
    "Max": folded(torch.maximum),
    "Min": folded(torch.minimum),
    "Sum": folded(torch.add),
    "Mean": mean,
    "Equal": binary(torch.eq),
    "Less": binary(torch.lt),
    "LessOrEqual": binary(torch.le),
    "Greater": binary(torch.gt),
    "GreaterOrEqual": binary(torch.ge),
    "And": binary(torch.logical_and),
    "Or": binary(torch.logical_or),
    "Where": where,
    "ReduceMean": reduction(torch.mean),
    "ReduceSum": reduction(torch.sum),
    "ReduceMax": reduction(torch.amax),
    "ReduceMin": reduction(torch.amin),
    "ReduceL1": reduction(_norm(1)),
    "ReduceL2": reduction(_norm(2)),
    "ReduceSumSquare": reduction(lambda t, dims, keepdim: t.square().sum(dims, keepdim=keepdim)),
    "ReduceLogSumExp": reduction(torch.logsumexp),
}
"""Functions by operator."""
