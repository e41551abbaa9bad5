"""Records of operations that choose entries by their size: comparing, sorting, pooling.

A comparison of a and b holds both ends, [min(a, b), max(a, b)], along a new first dimension.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.ops.record import Kind, Op, Params, Shape
from holdfast.rounding import sqrt_up


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


def _one(params: Params, shape: Shape, result: Shape, norm: float) -> float:
    """Sorting, also of two, and the largest entry of disjoint groups: no lp distance grows."""
    return 1.0


def _max_pool_constant(params: Params, shape: Shape, result: Shape, norm: float) -> float:
    """Each window's maximum moves at most as far as its entries; an entry in k windows counts k."""
    windows = float(math.prod(_coverage(params, shape, result)))
    return {1.0: windows, 2.0: sqrt_up(windows), math.inf: 1.0}[norm]


def _coverage(params: Params, shape: Shape, result: Shape) -> list[int]:
    """Return, per spatial axis, the largest number of windows that hold one position."""
    settings = (params[name] for name in ("kernel", "stride", "padding", "dilation"))
    counts = []
    for length, outputs, kernel, stride, padding, dilation in zip(
        shape[1:], result[1:], *settings, strict=True
    ):
        starts = range(-padding, -padding + outputs * stride, stride)
        held = [0] * length
        for position in (start + k * dilation for start in starts for k in range(kernel)):
            if 0 <= position < length:
                held[position] += 1
        counts.append(max(held))
    return counts


CHOICE: Mapping[str, Op] = {
    "compare": Op(
        lambda x, p: torch.stack([torch.minimum(*x), torch.maximum(*x)], 1),
        Kind.CHOICE,
        constant=_one,
    ),
    "amax": Op(lambda x, p: x[0].amax(p["dims"], p["keepdim"]), Kind.CHOICE, constant=_one),
    "max_pool": Op(_max_pool, Kind.CHOICE, constant=_max_pool_constant),
    "sort": Op(
        lambda x, p: x[0].sort(p["dim"], descending=p["descending"]).values,
        Kind.CHOICE,
        constant=_one,
    ),
}
"""The records by name."""
