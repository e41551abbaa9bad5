"""ONNX operators that enlarge, pad and rearrange images."""

import math
from collections.abc import Callable, Mapping

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
    """Return x with a margin.

    Raises:
        ValueError: For a negative margin, or a mode that is not known.
    """
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    amounts, rank = listed(pads), len(x.shape)
    named = list(range(rank)) if axes is None else counted(listed(axes), rank)
    if len(amounts) != 2 * len(named) or min(amounts, default=0) < 0 or mode not in modes:
        raise ValueError(f"pads {amounts} of axes {named}, mode {mode!r}")
    pairs = dict(
        zip(named, zip(amounts[: len(named)], amounts[len(named) :], strict=True), strict=True)
    )
    padded = [axis for axis in named if any(pairs[axis])]
    if not padded:
        return x
    moved, _ = along(x, padded)
    every = [pairs.get(axis, (0, 0)) for axis in range(min(padded), rank)]
    flat = flat_pads(every)
    if mode == "constant":
        return renewed(moved, F.pad(moved.tensor, flat, value=float(value or 0.0)))
    return renewed(moved, F.pad(moved.tensor, flat, modes[mode]))


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
    """Return images enlarged by a whole factor, each pixel repeated.

    Raises:
        ValueError: For another way or another factor.
    """
    wanted = [int(size) for size in listed(sizes)] or [
        math.floor(size * factor) for size, factor in zip(x.shape, listed(scales), strict=True)
    ]
    # For a whole factor, each of the usual roundings repeats every pixel that many times.
    known = {("half_pixel", "round_prefer_floor"), ("asymmetric", "floor")}
    whole = all(new % old == 0 for new, old in zip(wanted, x.shape, strict=True))
    how = (coordinate_transformation_mode, nearest_mode)
    if mode != "nearest" or not whole or wanted[:2] != list(x.shape[:2]) or how not in known:
        raise ValueError(f"mode {mode!r}, {how} from {list(x.shape)} to {wanted}")
    return RowValue(F.interpolate(x.tensor, wanted[2:]), True) if x.batched else _no_batch(x)


def upsample(x: RowValue, scales: Static, *, mode: str = "nearest") -> RowValue:
    """Return images enlarged by a whole factor: `Resize` before opset 10."""
    return resize(x, None, scales, mode=mode)


def _no_batch(x: RowValue) -> RowValue:
    raise ValueError(f"images of shape {list(x.shape)}, wanted one a row")


def depth_to_space(x: RowValue, *, blocksize: int, mode: str = "DCR") -> RowValue:
    """Return images with channels moved into pixels.

    Raises:
        ValueError: For another order of channels than that of `pixel_shuffle`.
    """
    if mode != "CRD" or not x.batched:
        raise ValueError(f"mode {mode!r} of a value of shape {list(x.shape)}")
    return RowValue(F.pixel_shuffle(x.tensor, blocksize), True)


IMAGES: Mapping[str, Callable[..., RowValue]] = {
    "Pad": pad,
    "Resize": resize,
    "Upsample": upsample,
    "DepthToSpace": depth_to_space,
}
"""Functions by operator."""
