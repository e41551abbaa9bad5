"""Convolutions and paddings: where their taps fall, and how they are executed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


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


def pad(x: Tensor, pads: Sequence[tuple[int, int]], mode: str, value: float) -> Tensor:
    """Pad the last dimensions; `pads` holds (before, after), first padded dimension first."""
    if not any(low or high for low, high in pads):
        return x
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, mode, value) if mode == "constant" else F.pad(x, flat, mode)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry) -> Tensor:
    """Convolve in 1, 2 or 3 dimensions, padding included."""
    x = pad(x, geometry.pads, geometry.mode, 0.0)
    rank = weight.dim() - 2
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return function(x, weight, bias, geometry.stride, 0, geometry.dilation, geometry.groups)


def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry
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


def per_channel(values: Tensor, dimensions: int) -> Tensor:
    """Shape one value per channel for broadcasting against [N, C, ...]."""
    return values.reshape(1, -1, *[1] * (dimensions - 2))
