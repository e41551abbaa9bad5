"""ONNX operators that only move entries."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.sources.onnx.layers import Static, flat_pads
from holdfast.sources.onnx.rows import (
    Operand,
    RowValue,
    along,
    counted,
    renewed,
    reshaped,
    settle,
    shape_of,
    stored_shape,
)


def reshape(x: RowValue, shape: Static, *, allowzero: int = 0) -> RowValue:
    """Return x in another shape; 0 keeps an axis, -1 takes what is left."""
    wanted = [int(size) for size in _list(shape)]
    sizes = [
        x.shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(wanted)
    ]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(x.shape) // max(known, 1)
    return reshaped(x, sizes)


def _list(value: Static) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def flatten(x: RowValue, *, axis: int = 1) -> RowValue:
    """Return x as a matrix."""
    axis = axis + len(x.shape) if axis < 0 else axis
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def squeeze(x: RowValue, axes: Static = None) -> RowValue:
    """Return x without axes of size one."""
    rank = len(x.shape)
    named = None if axes is None else counted(_list(axes), rank)
    dropped = {axis for axis, size in enumerate(x.shape) if size == 1} if named is None else named
    return reshaped(x, [size for axis, size in enumerate(x.shape) if axis not in dropped])


def unsqueeze(x: RowValue, axes: Static) -> RowValue:
    """Return x with more axes of size one."""
    rank = len(x.shape) + len(_list(axes))
    new = counted(_list(axes), rank)
    sizes = iter(x.shape)
    return reshaped(x, [1 if axis in new else next(sizes) for axis in range(rank)])


def transpose(x: RowValue, *, perm: list[int] | None = None) -> RowValue:
    """Return x with its axes in another order.

    Raises:
        ValueError: When `perm` does not name every axis once.
    """
    rank = len(x.shape)
    order = list(reversed(range(rank))) if perm is None else perm
    if sorted(order) != list(range(rank)):
        raise ValueError(f"perm {order} of a value of shape {list(x.shape)}")
    if x.batched and order[0] == 0:
        return RowValue(x.tensor.permute(order), True)
    return settle(x.free().permute(0, *(axis + 1 for axis in order)))


def concat(*parts: Operand, axis: int) -> RowValue:
    """Return values joined along an axis."""
    rows = next(part.tensor for part in parts if isinstance(part, RowValue))

    def full(part: Operand) -> RowValue:
        if isinstance(part, RowValue):
            return part
        batched, shape = stored_shape(shape_of(part))
        return RowValue(part.reshape(1, *shape).expand(rows.shape[0], *shape), batched)

    moved = [along(full(part), [axis]) for part in parts]
    joined = torch.cat([part.tensor for part, _ in moved], moved[0][1][0])
    return renewed(moved[0][0], joined)


def slice_(
    x: RowValue, starts: Static, ends: Static, axes: Static = None, steps: Static = None
) -> RowValue:
    """Return a part of every named axis.

    Raises:
        ValueError: For a step that is not positive.
    """
    first, last = _list(starts), _list(ends)
    named = list(range(len(first))) if axes is None else _list(axes)
    strides = [1] * len(first) if steps is None else _list(steps)
    if min(strides, default=1) < 1:
        raise ValueError(f"steps {strides}")
    moved, dims = along(x, named)
    index = [slice(None)] * moved.tensor.dim()
    for dim, start, end, step in zip(dims, first, last, strides, strict=True):
        size = moved.tensor.shape[dim]
        index[dim] = slice(_place(start, size), _place(end, size), step)
    return renewed(moved, moved.tensor[tuple(index)])


def _place(place: int, size: int) -> int:
    return min(max(place + size if place < 0 else place, 0), size)


def split(
    x: RowValue, split: Static = None, *, axis: int = 0, num_outputs: int = 0, outputs: int
) -> list[RowValue]:
    """Return consecutive parts of an axis.

    Raises:
        ValueError: When their number is not that of the node's outputs.
    """
    moved, (dim,) = along(x, [axis])
    size = moved.tensor.shape[dim]
    if {num_outputs or outputs, len(_list(split)) or outputs} != {outputs}:
        raise ValueError(f"another number of parts than the {outputs} outputs")
    each = -(-size // outputs)
    sizes = _list(split) or [min(each, size - start) for start in range(0, size, each)]
    return [renewed(moved, part) for part in moved.tensor.split(sizes, dim)]


def gather(x: RowValue, indices: Static, *, axis: int = 0) -> RowValue:
    """Return entries of one axis; a single index takes the axis away.

    Raises:
        ValueError: When an index is out of range.
    """
    moved, (dim,) = along(x, [axis])
    size = moved.tensor.shape[dim]
    index = np.asarray(indices, dtype=np.int64)
    if not ((index >= -size) & (index < size)).all():
        raise ValueError(f"an index beyond an axis of {size}")
    if index.ndim == 0:
        return renewed(moved, moved.tensor.select(dim, int(index) % size))
    places = torch.tensor((index.reshape(-1) % size).tolist(), device=moved.tensor.device)
    taken = moved.tensor.index_select(dim, places)
    return renewed(moved, taken.unflatten(dim, index.shape) if index.ndim > 1 else taken)


def expand(x: RowValue, shape: Static) -> RowValue:
    """Return x repeated along axes of size one."""
    wide = torch.broadcast_shapes(x.shape, tuple(_list(shape)))
    batched, row = stored_shape(wide)
    longer = reshaped(x, (1,) * (len(wide) - len(x.shape)) + x.shape)
    tensor = longer.tensor if longer.batched == batched else longer.free()
    return RowValue(tensor.expand(tensor.shape[0], *row), batched)


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
    amounts, rank = _list(pads), len(x.shape)
    named = list(range(rank)) if axes is None else counted(_list(axes), rank)
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
    wanted = [int(size) for size in _list(sizes)] or [
        math.floor(size * factor) for size, factor in zip(x.shape, _list(scales), strict=True)
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


def constant_of_shape(shape: Static, *, value: Tensor | None = None) -> RowValue:
    """Return a constant of a shape."""
    fill, sizes = torch.zeros(1) if value is None else value.reshape(1), _list(shape)
    return settle(fill.reshape(1, *[1] * len(sizes)).expand(1, *sizes))


WIRING: Mapping[str, Callable[..., RowValue | list[RowValue]]] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Slice": slice_,
    "Split": split,
    "Gather": gather,
    "Expand": expand,
    "Pad": pad,
    "Resize": resize,
    "Upsample": upsample,
    "DepthToSpace": depth_to_space,
    "ConstantOfShape": constant_of_shape,
}
"""Functions by operator."""
