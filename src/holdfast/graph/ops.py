"""The vocabulary: every operation that Holdfast knows, and how to execute it.

An operation is a function `(inputs, params) -> Tensor` on tensors with a leading batch dimension.
Dimensions in params never name the batch. Readings decide by the sets below what an op means:

* `LINEAR`: affine in its one input. `homogeneous` drops its offset, `absolute` also replaces its
  coefficients by their absolute values, so that bounds on rounding and norms come from the same
  execution.
* `WIRING`: every entry of the result is an entry of an input or a constant.
* `ELEMENTWISE`: one scalar function (see `holdfast.bounds.activations` for its slopes).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Params = Mapping[str, Any]
Evaluate = Callable[..., Tensor]


# --- affine -----------------------------------------------------------------------------------


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: "ConvGeometry") -> Tensor:
    """Convolve in 1, 2 or 3 dimensions, padding included."""
    x = pad(x, geometry.pads, geometry.mode, 0.0)
    rank = weight.dim() - 2
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return function(x, weight, bias, geometry.stride, 0, geometry.dilation, geometry.groups)


def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: "ConvGeometry"
) -> Tensor:
    """Convolve transposed: the adjoint of `conv`, with `output_padding`."""
    rank = weight.dim() - 2
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    before = tuple(low for low, _ in geometry.pads)
    return function(
        x,
        weight,
        bias,
        geometry.stride,
        before,
        geometry.output_padding or 0,
        geometry.groups,
        geometry.dilation,
    )


@dataclass(frozen=True)
class ConvGeometry:
    """Where the taps of a convolution fall.

    Attributes:
        stride: Per spatial dimension.
        pads: (before, after) per spatial dimension.
        dilation: Per spatial dimension.
        groups: Number of groups of channels.
        mode: "constant" (zeros), "circular", "reflect" or "replicate".
        output_padding: Of a transposed convolution, per spatial dimension.
    """

    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    mode: str = "constant"
    output_padding: tuple[int, ...] = ()


def batch_norm_factor(params: Params) -> Tensor:
    """Return gamma / sqrt(variance + eps) per channel, float64, correct to 4 roundings."""
    variance, weight = params["variance"], params["weight"]
    factor = (variance.double() + params["eps"]).rsqrt()
    return factor if weight is None else weight.double() * factor


def _batch_norm(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    return F.batch_norm(
        x,
        params["mean"],
        params["variance"],
        params["weight"],
        params["bias"],
        training=False,
        eps=params["eps"],
    )


def _scale_channels(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    return x * per_channel(params["factor"].to(x.dtype), x.dim())


def per_channel(values: Tensor, dimensions: int) -> Tensor:
    """Shape one value per channel for broadcasting against [N, C, ...]."""
    return values.reshape(1, -1, *[1] * (dimensions - 2))


def _scale(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    factor = params["factor"]
    # A quotient is kept in float64, more exact than the type that the model computes in.
    return x * (factor.to(x.dtype) if isinstance(factor, Tensor) else factor)


def _avg_pool(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    rank = len(params["kernel"])
    if rank == 1:
        return F.avg_pool1d(
            x,
            params["kernel"],
            params["stride"],
            params["padding"],
            params["ceil_mode"],
            params["count_include_pad"],
        )
    function = F.avg_pool2d if rank == 2 else F.avg_pool3d
    return function(
        x,
        params["kernel"],
        params["stride"],
        params["padding"],
        params["ceil_mode"],
        params["count_include_pad"],
        params["divisor"],
    )


def _adaptive_avg_pool(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    size = params["size"]
    functions = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    return functions[len(size) - 1](x, size)


# --- wiring -----------------------------------------------------------------------------------


def pad(x: Tensor, pads: Sequence[tuple[int, int]], mode: str, value: float) -> Tensor:
    """Pad the last dimensions; `pads` holds (before, after), first padded dimension first."""
    if not any(low or high for low, high in pads):
        return x
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, mode, value) if mode == "constant" else F.pad(x, flat, mode)


def _cat(inputs: Sequence[Tensor], params: Params) -> Tensor:
    batch = max(part.shape[0] for part in inputs)
    parts = [part.expand(batch, *part.shape[1:]) for part in inputs]
    return torch.cat(parts, dim=params["dim"])


def _slice(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    index = [slice(None)] * x.dim()
    index[params["dim"]] = slice(params["start"], params["stop"], params["step"])
    return x[tuple(index)]


def _upsample_nearest(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    return F.interpolate(x, size=params["size"], mode="nearest")


# --- nonlinear --------------------------------------------------------------------------------


def _elu(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    negative = torch.expm1(x.clamp(max=0) * params["input_scale"]) * params["alpha"]
    return torch.where(x > 0, x, negative) * params["scale"]


def _softplus(inputs: Sequence[Tensor], params: Params) -> Tensor:
    # The function itself, without torch's switch to the identity (a jump) for large arguments.
    (x,) = inputs
    return torch.logaddexp(x * params["beta"], x.new_zeros(())) / params["beta"]


def _hardtanh(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    return x.clamp(params["low"], params["high"])


def _max_pool(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    functions = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
    return functions[len(params["kernel"]) - 1](
        x,
        params["kernel"],
        params["stride"],
        params["padding"],
        params["dilation"],
        params["ceil_mode"],
    )


def _add(inputs: Sequence[Tensor], params: Params) -> Tensor:
    total = inputs[0]
    for term in inputs[1:]:
        total = total + term
    return total


def _one(function: Callable[[Tensor, Params], Tensor]) -> Evaluate:
    """Adapt a function of one input."""
    return lambda inputs, params: function(inputs[0], params)


LINEAR: Mapping[str, Evaluate] = {
    "linear": _one(lambda x, p: F.linear(x, p["weight"], p["bias"])),
    "conv": _one(lambda x, p: conv(x, p["weight"], p["bias"], p["geometry"])),
    "conv_transpose": _one(lambda x, p: conv_transpose(x, p["weight"], p["bias"], p["geometry"])),
    "batch_norm": _batch_norm,
    "scale_channels": _scale_channels,
    "scale": _scale,
    "shift": _one(lambda x, p: x + p["offset"]),
    "avg_pool": _avg_pool,
    "adaptive_avg_pool": _adaptive_avg_pool,
    "mean": _one(lambda x, p: x.mean(p["dims"], p["keepdim"])),
    "sum": _one(lambda x, p: x.sum(p["dims"], p["keepdim"])),
}

WIRING: Mapping[str, Evaluate] = {
    "reshape": _one(lambda x, p: x.reshape(x.shape[0], *p["shape"])),
    "permute": _one(lambda x, p: x.permute(p["dims"])),
    "expand": _one(lambda x, p: x.expand(x.shape[0], *p["shape"])),
    "slice": _slice,
    "select": _one(lambda x, p: x.select(p["dim"], p["index"])),
    "index_select": _one(lambda x, p: x.index_select(p["dim"], p["index"])),
    "flip": _one(lambda x, p: x.flip(p["dims"])),
    "pad": _one(lambda x, p: pad(x, p["pads"], p["mode"], p["value"])),
    "upsample_nearest": _upsample_nearest,
    "pixel_shuffle": _one(lambda x, p: F.pixel_shuffle(x, p["factor"])),
    "cat": _cat,
}

ELEMENTWISE: Mapping[str, Evaluate] = {
    "relu": _one(lambda x, p: F.relu(x)),
    "leaky_relu": _one(lambda x, p: F.leaky_relu(x, p["negative_slope"])),
    "prelu": _one(lambda x, p: F.prelu(x, p["weight"])),
    "elu": _elu,
    "gelu": _one(lambda x, p: F.gelu(x, approximate=p["approximate"])),
    "silu": _one(lambda x, p: F.silu(x)),
    "mish": _one(lambda x, p: F.mish(x)),
    "hardswish": _one(lambda x, p: F.hardswish(x)),
    "hardsigmoid": _one(lambda x, p: F.hardsigmoid(x)),
    "hardtanh": _hardtanh,
    "tanh": _one(lambda x, p: torch.tanh(x)),
    "sigmoid": _one(lambda x, p: torch.sigmoid(x)),
    "logsigmoid": _one(lambda x, p: F.logsigmoid(x)),
    "softplus": _softplus,
    "abs": _one(lambda x, p: x.abs()),
}

OTHER: Mapping[str, Evaluate] = {
    "add": _add,
    "maximum": lambda inputs, params: torch.maximum(*inputs),
    "minimum": lambda inputs, params: torch.minimum(*inputs),
    "amax": _one(lambda x, p: x.amax(p["dims"], p["keepdim"])),
    "max_pool": _max_pool,
    "sort": _one(lambda x, p: x.sort(p["dim"], descending=p["descending"]).values),
    "softmax": _one(lambda x, p: x.softmax(p["dim"])),
    "log_softmax": _one(lambda x, p: x.log_softmax(p["dim"])),
    "layer_norm": _one(lambda x, p: F.layer_norm(x, p["shape"], p["weight"], p["bias"], p["eps"])),
    "group_norm": _one(lambda x, p: F.group_norm(x, p["groups"], p["weight"], p["bias"], p["eps"])),
}

OPS: Mapping[str, Evaluate] = {**LINEAR, **WIRING, **ELEMENTWISE, **OTHER}


def homogeneous(op: str, params: Params) -> tuple[str, Params]:
    """Return the linear part of an affine operation: the same op without its offset."""
    if op == "batch_norm":
        return "scale_channels", {"factor": batch_norm_factor(params)}
    if op == "shift":
        return "scale", {"factor": 1.0}
    return op, {**params, "bias": None} if "bias" in params else params


def absolute(op: str, params: Params) -> tuple[str, Params]:
    """Return the linear part with every coefficient replaced by its absolute value."""
    op, params = homogeneous(op, params)
    magnitudes = {
        name: params[name].abs() if isinstance(params[name], Tensor) else abs(params[name])
        for name in ("weight", "factor")
        if name in params and params[name] is not None
    }
    return op, {**params, **magnitudes}


def terms(op: str, params: Params, shape: Sequence[int]) -> int:
    """Return how many rounded operations one entry of an affine op's result takes, at most.

    Args:
        op: One of `LINEAR`.
        params: Its settings.
        shape: Shape of one row of its input.
    """
    if op == "linear":
        return params["weight"].shape[1] + 2
    if op == "conv":
        return params["weight"][0].numel() + 2
    if op == "conv_transpose":
        return params["weight"][:, 0].numel() + 2
    if op == "avg_pool":
        return math.prod(params["kernel"]) + 2
    if op in ("mean", "sum", "adaptive_avg_pool"):
        sizes = [shape[dim - 1] for dim in params["dims"]] if "dims" in params else shape[1:]
        return math.prod(sizes) + 2
    return 8
