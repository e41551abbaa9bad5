"""Every operation of the vocabulary with settings that use all its facts: inputs and records."""

import torch
from torch import Tensor

from holdfast.ops.geometry import ConvGeometry
from holdfast.ops.record import Params

Use = tuple[Params, tuple[tuple[int, ...], ...]]
"""Settings, and the shape of one row of every input."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def one(row: tuple[int, ...], /, **params: object) -> Use:
    return params, (row,)


def _conv(shape: tuple[int, ...], weight: Tensor, transposed: bool = False, **geometry) -> Use:
    rank = len(shape) - 1
    settings = {
        "stride": (2,) * rank,
        "pads": ((1, 0),) * rank,
        "dilation": (1,) * rank,
        **geometry,
    }
    bias = draw(weight.shape[1] if transposed else weight.shape[0], seed=3)
    return one(shape, weight=weight, bias=bias, geometry=ConvGeometry(**settings))


_STATISTICS = {"mean": draw(3), "variance": draw(3, seed=1).square() + 1e-3, "eps": 1e-5}
_POOL = {"kernel": (2,), "stride": (1,), "padding": (1,), "ceil_mode": False}

CATALOGUE: dict[str, list[Use]] = {
    "linear": [
        one((4,), weight=draw(3, 4), bias=draw(3)),
        one((2, 4), weight=draw(3, 4) * 1e8, bias=None),
    ],
    "conv": [
        _conv((2, 5), draw(3, 2, 2)),
        _conv((4, 4, 3), draw(2, 2, 2, 2), groups=2, mode="circular"),
        _conv((1, 5), draw(2, 1, 3), mode="reflect", stride=(1,), dilation=(2,)),
    ],
    "conv_transpose": [
        _conv((2, 3), draw(2, 3, 2), transposed=True, pads=((0, 0),), output_padding=(1,))
    ],
    "batch_norm": [
        one((3, 2), **_STATISTICS, weight=draw(3, seed=5), bias=draw(3, seed=6)),
        one((3,), **_STATISTICS, weight=None, bias=None),
    ],
    "scale_channels": [one((3, 2), factor=draw(3))],
    "scale": [one((3, 2), factor=draw(1, 3, 2)), one((4,), factor=-0.1)],
    "divide": [one((3, 2), divisor=draw(1, 3, 2)), one((4,), divisor=-3.0)],
    "shift": [one((3, 2), offset=draw(1, 3, 2)), one((4,), offset=-0.3)],
    "avg_pool": [
        one((2, 5), **_POOL, count_include_pad=True, divisor=None),
        one((2, 5), **_POOL, count_include_pad=False, divisor=None),
    ],
    "adaptive_avg_pool": [one((2, 5), size=(3,))],
    "mean": [one((3, 5), dims=(2,), keepdim=False), one((3, 5), dims=(1, 2), keepdim=True)],
    "sum": [one((3, 5), dims=(1,), keepdim=True)],
    "cumsum": [one((3, 5), dim=2), one((9,), dim=1)],
    "reshape": [one((2, 3), shape=(6,))],
    "permute": [one((2, 3), dims=(0, 2, 1))],
    "expand": [one((1, 3), shape=(2, 3))],
    "slice": [one((5, 2), dim=1, start=1, stop=5, step=2)],
    "select": [one((5, 2), dim=2, index=1)],
    "index_select": [
        one((5,), dim=1, index=torch.tensor([4, 0])),
        one((5,), dim=1, index=torch.tensor([4, 0, 4])),
    ],
    "flip": [one((2, 3), dims=(1, 2))],
    "pad": [
        one((2, 3), pads=((1, 2),), mode="constant", value=0.7),
        one((2, 3), pads=((1, 2),), mode="reflect", value=0.0),
    ],
    "upsample_nearest": [one((2, 3), size=(5,))],
    "pixel_shuffle": [one((4, 1, 2), factor=2)],
    "cat": [({"dim": 1}, ((2, 3), (1, 3)))],
    "add": [({}, ((2, 3), (2, 3), (2, 3)))],
    "relu": [one((8,))],
    "leaky_relu": [one((8,), negative_slope=0.2), one((8,), negative_slope=-3.0)],
    "prelu": [one((3, 2), weight=draw(3)), one((8,), weight=draw(1))],
    "elu": [one((8,), alpha=-0.7, scale=1.3, input_scale=2.0)],
    "gelu": [one((8,), approximate="none"), one((8,), approximate="tanh")],
    "silu": [one((8,))],
    "mish": [one((8,))],
    "hardswish": [one((8,))],
    "hardsigmoid": [one((8,))],
    "hardtanh": [one((8,), low=-0.5, high=0.25)],
    "tanh": [one((8,))],
    "sigmoid": [one((8,))],
    "atan": [one((8,))],
    "sin": [one((8,))],
    "cos": [one((8,))],
    "erf": [one((8,))],
    "softsign": [one((8,))],
    "softshrink": [one((8,), limit=limit) for limit in (0.3, 1.5, 0.0)],
    "tanhshrink": [one((8,))],
    "log1p_relu": [one((8,))],
    "logsigmoid": [one((8,))],
    "softplus": [one((8,), beta=3.0), one((8,), beta=1e-3)],
    "abs": [one((8,))],
    "power": [one((8,), exponent=2), one((8,), exponent=3)],
    "root": [one((8,), exponent=p) for p in (1.7, 0.3, -0.4)],
    "tan": [one((8,))],
    "exp": [one((8,))],
    "log": [one((8,))],
    "sqrt": [one((8,))],
    "rsqrt": [one((8,))],
    "reciprocal": [one((8,))],
    "product": [({}, ((3, 2), (3, 2)))],
    "matmul": [({}, ((2, 3, 4), (2, 4, 2)))],
    "compare": [({}, ((3,), (3,)))],
    "amax": [one((3, 4), dims=(2,), keepdim=False)],
    "max_pool": [one((2, 6), **_POOL, dilation=(2,))],
    "sort": [one((3, 4), dim=2, descending=True)],
    "softmax": [one((3, 4), dim=2)],
    "log_softmax": [one((3, 4), dim=1)],
    "layer_norm": [one((3, 4), shape=(4,), weight=draw(4), bias=draw(4, seed=2), eps=1e-5)],
    "rms_norm": [one((3, 4), shape=(4,), weight=draw(4), bias=None, eps=1e-5)],
    "vector_norm": [
        one((3, 4), dims=(2,), keepdim=False),
        one((3, 4), dims=(1, 2), keepdim=True),
    ],
    "logsumexp": [one((3, 4), dims=(1,), keepdim=True)],
    "group_norm": [one((4, 3), groups=2, weight=draw(4), bias=None, eps=1e-3)],
}

USES = [(name, params, shapes) for name, uses in CATALOGUE.items() for params, shapes in uses]
