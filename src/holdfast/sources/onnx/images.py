"""ONNX operators that enlarge, pad and rearrange images."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor

from holdfast.sources.onnx.rows import RowValue, Static, along, counted, listed, renewed
from holdfast.sources.onnx.windows import flat_pads


def pad(
    x: RowValue,
    pads: Static,
    value: Static = None,
    axes: Static = None,
    *,
    mode: str = "constant",
) -> RowValue:
    """Return x with a margin; a negative one cuts off.

    Raises:
        ValueError: For a mode that is not known, or a cut that leaves nothing.
    """
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    amounts, rank = listed(pads), len(x.shape)
    named = list(range(rank)) if axes is None else counted(listed(axes), rank)
    if len(amounts) != 2 * len(named) or mode not in modes:
        raise ValueError(f"pads {amounts} of axes {named}, mode {mode!r}")
    pairs = dict(
        zip(named, zip(amounts[: len(named)], amounts[len(named) :], strict=True), strict=True)
    )
    padded = [axis for axis in named if any(pairs[axis])]
    if not padded:
        return x
    moved, dims = along(x, padded)
    tensor = moved.tensor
    for axis, dim in zip(padded, dims, strict=True):
        before, after = (max(-amount, 0) for amount in pairs[axis])
        tensor = tensor.narrow(dim, before, tensor.shape[dim] - before - after)
        pairs[axis] = (max(pairs[axis][0], 0), max(pairs[axis][1], 0))
    # The modes that copy entries take all axes of pixels, or none.
    first = min(padded) if mode == "constant" else min(*padded, rank - moved.tensor.dim() + 2)
    every = [pairs.get(axis, (0, 0)) for axis in range(first, rank)]
    flat = flat_pads(every)
    if not any(flat):
        return renewed(moved, tensor)
    if mode == "constant":
        return renewed(moved, F.pad(tensor, flat, value=float(value or 0.0)))
    return renewed(moved, F.pad(tensor, flat, modes[mode]))


def resize(  # noqa: PLR0913 - the attributes of the operator
    x: RowValue,
    roi: Tensor | None = None,
    scales: Static = None,
    sizes: Static = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
) -> RowValue:
    """Return images of another size, by the nearest pixel or on the line between two.

    Raises:
        ValueError: For another way, or along other axes than those of pixels.
    """
    old = x.shape[2:]
    new = [int(size) for size in listed(sizes)] or [
        math.floor(size * factor) for size, factor in zip(x.shape, listed(scales), strict=True)
    ]
    if not x.batched or new[:2] != list(x.shape[:2]) or len(new) != len(x.shape):
        raise ValueError(f"from {list(x.shape)} to {new}, wanted images of another size")
    ratios = [Fraction(a, b) for a, b in zip(new[2:], old, strict=True)]
    given = [Fraction(factor) for factor in listed(scales)[2:]]
    how = coordinate_transformation_mode
    if mode == "linear":
        if (given and given != ratios) or how not in ("half_pixel", "align_corners"):
            raise ValueError(f"mode 'linear' with {how!r}, from {list(x.shape)} to {new}")
        way = ("linear", "bilinear", "trilinear")[len(old) - 1]
        corners = how == "align_corners"
        return RowValue(F.interpolate(x.tensor, new[2:], mode=way, align_corners=corners), True)
    # For a whole factor, each of these roundings repeats every pixel that many times.
    whole = all(ratio.denominator == 1 for ratio in ratios) and given in ([], ratios)
    repeats = {("half_pixel", "round_prefer_floor"), ("asymmetric", "floor")}
    if mode != "nearest" or (how, nearest_mode) not in repeats or not whole:
        raise ValueError(f"mode {mode!r}, {how!r}, {nearest_mode!r} from {list(x.shape)} to {new}")
    return RowValue(F.interpolate(x.tensor, new[2:]), True)


def upsample(x: RowValue, scales: Static, *, mode: str = "nearest") -> RowValue:
    """Return images enlarged by a whole factor: `Resize` before opset 10."""
    return resize(x, None, scales, mode=mode)


def depth_to_space(x: RowValue, *, blocksize: int, mode: str = "DCR") -> RowValue:
    """Return images with channels moved into pixels.

    Raises:
        ValueError: For an order of channels that is not known, or a value that is no image.
    """
    if mode not in ("CRD", "DCR") or not x.batched:
        raise ValueError(f"mode {mode!r} of a value of shape {list(x.shape)}")
    if mode == "CRD":
        return RowValue(F.pixel_shuffle(x.tensor, blocksize), True)
    blocks = x.tensor.unflatten(1, (blocksize, blocksize, -1))
    turned = blocks.permute(0, 3, 4, 1, 5, 2)
    return RowValue(turned.flatten(4, 5).flatten(2, 3), True)


def space_to_depth(x: RowValue, *, blocksize: int) -> RowValue:
    """Return images with blocks of pixels moved into channels, the block's place first.

    Raises:
        ValueError: For a value that is no image of whole blocks.
    """
    if not x.batched or len(x.shape) != 4 or any(size % blocksize for size in x.shape[2:]):
        raise ValueError(f"blocks of {blocksize} of a value of shape {list(x.shape)}")
    blocks = x.tensor.unflatten(3, (-1, blocksize)).unflatten(2, (-1, blocksize))
    turned = blocks.permute(0, 3, 5, 1, 2, 4)
    return RowValue(turned.flatten(1, 3), True)


IMAGES: Mapping[str, Callable[..., RowValue]] = {
    "Pad": pad,
    "Resize": resize,
    "Upsample": upsample,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
"""Functions by operator."""
