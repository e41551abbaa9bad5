"""Records of affine operations, and of sums.

`roundings` counts every product and sum behind one entry of the result, with 2 to spare.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.ops.geometry import conv, conv_transpose, per_channel
from holdfast.ops.record import Evaluate, Kind, Op, Params, Ratios, Shape
from holdfast.rounding import TINY

Count = Callable[[Params, Shape], int]


def batch_norm_factor(params: Params) -> Tensor:
    """Return gamma / sqrt(variance + eps) per channel, correct to 4 roundings and `TINY`."""
    variance, weight = params["variance"], params["weight"]
    factor = (variance.double() + params["eps"]).rsqrt()
    if weight is None:
        return factor
    product = weight.double() * factor
    # What underflows stays in sight: a channel has no effect only where its weight is 0.
    return torch.where((product == 0.0) & (weight != 0.0), TINY * weight.double().sign(), product)


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


def _scale(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    factor = params["factor"]
    return x * (factor.to(x.dtype) if isinstance(factor, Tensor) else factor)


def _divide(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    divisor = params["divisor"]
    return x / (divisor.to(x.dtype) if isinstance(divisor, Tensor) else divisor)


def _avg_pool(x: Tensor, params: Params) -> Tensor:
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


def _adaptive_avg_pool(x: Tensor, params: Params) -> Tensor:
    size = params["size"]
    functions = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
    return functions[len(size) - 1](x, size)


def _add(inputs: Sequence[Tensor], params: Params) -> Tensor:
    total = inputs[0]
    for term in inputs[1:]:
        total = total + term
    return total


# --- offsets and coefficients -------------------------------------------------------------------


def _last_bias(params: Params, dimensions: int) -> Tensor | None:
    return None if params["bias"] is None else params["bias"].double().abs()


def _channel_bias(params: Params, dimensions: int) -> Tensor | None:
    bias = params["bias"]
    return None if bias is None else per_channel(bias.double().abs(), dimensions)


def _batch_norm_offset(params: Params, dimensions: int) -> Tensor | None:
    """Return |bias| + |factor mean|: the difference of x and mean is rounded before the product."""
    added = (batch_norm_factor(params) * params["mean"].double()).abs()
    if params["bias"] is not None:
        added = added + params["bias"].double().abs()
    return per_channel(added, dimensions)


def _shift_offset(params: Params, dimensions: int) -> Tensor:
    return torch.as_tensor(params["offset"], dtype=torch.float64).abs()


def _nothing(params: Params, dimensions: int) -> None:
    """Add nothing."""


def _magnitudes(params: Params, *names: str) -> Params:
    """Return the settings with absolute values of the named ones."""
    return {**params, **{name: abs(params[name]) for name in names}}


# --- exact matrices -----------------------------------------------------------------------------


def _matrix(run: Callable[[Tensor, Params], Tensor], params: Params, shape: Shape) -> Tensor:
    """Return what unit vectors of one row's shape become, [outputs, inputs]."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return flat_rows(run(basis, params)).T


def _undivided(rows: Tensor) -> Ratios:
    return rows, torch.ones(len(rows), dtype=torch.float64)


def _weighted_ratios(
    run: Callable[[Tensor, Params], Tensor], params: Params, shape: Shape
) -> Ratios | None:
    ones = {**params, "weight": torch.ones_like(params["weight"]), "bias": None}
    if bool((_matrix(run, ones, shape) > 1.0).any()):
        return None  # beside a border that reflects or repeats, a coefficient is a sum of weights
    return _undivided(_matrix(run, {**params, "bias": None}, shape))


def _counted_ratios(rows: Tensor) -> Ratios:
    """Return the ratios of averages: every coefficient is 0 or 1 / n, with one whole n per row."""
    largest = rows.amax(1)
    return (rows > 0.0).double(), torch.where(largest > 0.0, 1.0 / largest, 1.0).round()


def _divided_ratios(params: Params, shape: Shape) -> Ratios | None:
    divisor = torch.as_tensor(params["divisor"], dtype=torch.float64).expand(1, *shape).flatten()
    if not bool(divisor.isfinite().all()):
        return None
    return torch.diag(divisor.sign()), divisor.abs()


def _not_stored(params: Params, shape: Shape) -> None:
    """Have no exact matrix."""


# --- kinds of records ---------------------------------------------------------------------------


def _weighted(name: str, run: Callable[[Tensor, Params], Tensor], **facts: Any) -> Op:
    """Make the record of a layer with a weight and a bias, both stored numbers."""
    return Op(
        lambda inputs, params: run(inputs[0], params),
        Kind.AFFINE,
        linear=lambda params: (name, {**params, "bias": None}),
        absolute=lambda params: (name, _magnitudes({**params, "bias": None}, "weight")),
        ratios=lambda params, shape: _weighted_ratios(run, params, shape),
        # Padding that copies entries lets a window add several weights to one coefficient.
        stored=lambda params: name != "conv" or params["geometry"].mode == "constant",
        **facts,
    )


def _by_entry(
    name: str,
    run: Evaluate,
    setting: str,
    ratios: Callable[[Params, Shape], Ratios | None],
    stored: bool = False,
) -> Op:
    """Make the record of a product or quotient with one number per entry."""
    # Of 8 roundings one is the operation's own, and at most 4 are those of the number itself.
    return Op(
        run,
        Kind.AFFINE,
        roundings=lambda params, shape: 8,
        linear=lambda params: (name, params),
        absolute=lambda params: (name, _magnitudes(params, setting)),
        offset=_nothing,
        ratios=ratios,
        by_entry=True,
        stored=lambda params: stored,
    )


def _positive(
    name: str, run: Callable[[Tensor, Params], Tensor], roundings: Count, counted: bool
) -> Op:
    """Make the record of sums or averages (`counted`): nothing is negative, nothing is added."""
    return Op(
        lambda inputs, params: run(inputs[0], params),
        Kind.AFFINE,
        roundings=roundings,
        linear=lambda params: (name, params),
        absolute=lambda params: (name, params),
        offset=_nothing,
        ratios=lambda params, shape: (_counted_ratios if counted else _undivided)(
            _matrix(run, params, shape)
        ),
        stored=lambda params: not counted,  # the coefficients of sums are ones
    )


def _over_dims(params: Params, shape: Shape) -> int:
    return math.prod(shape[dim - 1] for dim in params["dims"]) + 2


def _batch_norm_linear(params: Params) -> tuple[str, Params]:
    return "scale_channels", {"factor": batch_norm_factor(params)}


def _batch_norm_absolute(params: Params) -> tuple[str, Params]:
    return "scale_channels", {"factor": batch_norm_factor(params).abs()}


def _without_offset(params: Params) -> tuple[str, Params]:
    return "scale", {"factor": 1.0}


AFFINE: Mapping[str, Op] = {
    "linear": _weighted(
        "linear",
        lambda x, p: F.linear(x, p["weight"], p["bias"]),
        roundings=lambda p, shape: p["weight"].shape[1] + 2,
        offset=_last_bias,
    ),
    "conv": _weighted(
        "conv",
        lambda x, p: conv(x, p["weight"], p["bias"], p["geometry"]),
        roundings=lambda p, shape: p["weight"][0].numel() + 2,
        offset=_channel_bias,
    ),
    "conv_transpose": _weighted(
        "conv_transpose",
        lambda x, p: conv_transpose(x, p["weight"], p["bias"], p["geometry"]),
        roundings=lambda p, shape: p["weight"][:, 0].numel() + 2,
        offset=_channel_bias,
    ),
    "batch_norm": Op(
        _batch_norm,
        Kind.AFFINE,
        roundings=lambda params, shape: 8,
        linear=_batch_norm_linear,
        absolute=_batch_norm_absolute,
        offset=_batch_norm_offset,
        ratios=_not_stored,
        by_entry=True,
    ),
    "scale_channels": _by_entry("scale_channels", _scale_channels, "factor", _not_stored),
    "scale": _by_entry(
        "scale",
        _scale,
        "factor",
        lambda params, shape: _undivided(_matrix(lambda x, p: _scale([x], p), params, shape)),
        stored=True,
    ),
    "divide": _by_entry("divide", _divide, "divisor", _divided_ratios),
    "shift": Op(
        lambda inputs, params: inputs[0] + params["offset"],
        Kind.AFFINE,
        roundings=lambda params, shape: 8,
        linear=_without_offset,
        absolute=_without_offset,
        offset=_shift_offset,
        ratios=lambda params, shape: _undivided(torch.eye(math.prod(shape), dtype=torch.float64)),
        by_entry=True,
        stored=lambda params: True,
    ),
    "avg_pool": _positive(
        "avg_pool", _avg_pool, lambda p, shape: math.prod(p["kernel"]) + 2, counted=True
    ),
    "adaptive_avg_pool": _positive(
        "adaptive_avg_pool",
        _adaptive_avg_pool,
        lambda p, shape: math.prod(shape[1:]) + 2,
        counted=True,
    ),
    "mean": _positive(
        "mean", lambda x, p: x.mean(p["dims"], p["keepdim"]), _over_dims, counted=True
    ),
    "cumsum": _positive(
        "cumsum",
        lambda x, p: x.cumsum(p["dim"]),
        lambda p, shape: shape[p["dim"] - 1] + 2,
        counted=False,
    ),
    "sum": _positive("sum", lambda x, p: x.sum(p["dims"], p["keepdim"]), _over_dims, counted=False),
}
"""The records by name."""

SUM: Mapping[str, Op] = {"add": Op(_add, Kind.SUM)}
"""The records by name."""
