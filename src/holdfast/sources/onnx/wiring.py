"""ONNX operators that only move entries."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from holdfast.sources.onnx.rows import (
    Operand,
    RowValue,
    Static,
    along,
    counted,
    listed,
    renewed,
    reshaped,
    settle,
    shape_of,
    stored_shape,
)


def reshape(x: RowValue, shape: Static, *, allowzero: int = 0) -> RowValue:
    """Return x in another shape; 0 keeps an axis, -1 takes what is left."""
    wanted = [int(size) for size in listed(shape)]
    sizes = [
        x.shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(wanted)
    ]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(x.shape) // max(known, 1)
    return reshaped(x, sizes)


def flatten(x: RowValue, *, axis: int = 1) -> RowValue:
    """Return x as a matrix."""
    axis = axis + len(x.shape) if axis < 0 else axis
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def squeeze(x: RowValue, axes: Static = None) -> RowValue:
    """Return x without axes of size one."""
    rank = len(x.shape)
    named = None if axes is None else counted(listed(axes), rank)
    dropped = {axis for axis, size in enumerate(x.shape) if size == 1} if named is None else named
    return reshaped(x, [size for axis, size in enumerate(x.shape) if axis not in dropped])


def unsqueeze(x: RowValue, axes: Static) -> RowValue:
    """Return x with more axes of size one."""
    rank = len(x.shape) + len(listed(axes))
    new = counted(listed(axes), rank)
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
    """Return a part of every named axis; with a negative step from its end to its start.

    Raises:
        ValueError: For a step of zero.
    """
    first, last = listed(starts), listed(ends)
    named = list(range(len(first))) if axes is None else listed(axes)
    strides = [1] * len(first) if steps is None else listed(steps)
    if 0 in strides:
        raise ValueError(f"steps {strides}")
    moved, dims = along(x, named)
    index = [slice(None)] * moved.tensor.dim()
    for dim, start, end, step in zip(dims, first, last, strides, strict=True):
        size = moved.tensor.shape[dim]
        ends = [place + size if place < 0 else place for place in (start, end)]
        if step < 0:  # the same places, counted from the other end
            ends = [min(size - 1 - ends[0], size - 1), size - 1 - ends[1]]
        low, high = (min(max(place, 0), size) for place in ends)
        index[dim] = slice(low, high, abs(step))
    turned = [dim for dim, step in zip(dims, strides, strict=True) if step < 0]
    tensor = moved.tensor.flip(turned) if turned else moved.tensor
    return renewed(moved, tensor[tuple(index)])


def tile(x: RowValue, repeats: Static) -> RowValue:
    """Return x repeated along every axis.

    Raises:
        ValueError: When there is not one number for every axis.
    """
    times = listed(repeats)
    if len(times) != len(x.shape):
        raise ValueError(f"repeats {times} of a value of shape {list(x.shape)}")
    axes = [axis for axis, count in enumerate(times) if count != 1]
    if not axes:
        return x
    moved, dims = along(x, axes)
    counts = [1] * moved.tensor.dim()
    for axis, dim in zip(axes, dims, strict=True):
        counts[dim] = times[axis]
    return renewed(moved, moved.tensor.repeat(counts))


def top_k(
    x: RowValue, k: Static, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> list[RowValue]:
    """Return the largest or smallest entries along an axis, in order, and their places.

    Raises:
        ValueError: When they come in no stated order.
    """
    count = int(listed(k)[0])
    if not sorted and count > 1:
        raise ValueError(f"the {count} largest entries in no stated order (sorted=0)")
    moved, (dim,) = along(x, [axis])
    found = torch.topk(moved.tensor, count, dim, bool(largest))
    return [renewed(moved, part) for part in found]


def cumsum(x: RowValue, axis: Static, *, exclusive: int = 0, reverse: int = 0) -> RowValue:
    """Return the sums of all entries up to each one along an axis.

    Raises:
        ValueError: For sums that leave out the entry itself, or run backwards.
    """
    if exclusive or reverse:
        raise ValueError(f"exclusive {exclusive}, reverse {reverse}")
    moved, (dim,) = along(x, [int(listed(axis)[0])])
    return renewed(moved, moved.tensor.cumsum(dim))


def split(
    x: RowValue, split: Static = None, *, axis: int = 0, num_outputs: int = 0, outputs: int
) -> list[RowValue]:
    """Return consecutive parts of an axis.

    Raises:
        ValueError: When their number is not that of the node's outputs.
    """
    moved, (dim,) = along(x, [axis])
    size = moved.tensor.shape[dim]
    if {num_outputs or outputs, len(listed(split)) or outputs} != {outputs}:
        raise ValueError(f"another number of parts than the {outputs} outputs")
    each = -(-size // outputs)
    sizes = listed(split) or [min(each, size - start) for start in range(0, size, each)]
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
    wide = torch.broadcast_shapes(x.shape, tuple(listed(shape)))
    batched, row = stored_shape(wide)
    longer = reshaped(x, (1,) * (len(wide) - len(x.shape)) + x.shape)
    tensor = longer.tensor if longer.batched == batched else longer.free()
    return RowValue(tensor.expand(tensor.shape[0], *row), batched)


def constant_of_shape(shape: Static, *, value: Tensor | None = None) -> RowValue:
    """Return a constant of a shape."""
    fill, sizes = torch.zeros(1) if value is None else value.reshape(1), listed(shape)
    return settle(fill.reshape(1, *[1] * len(sizes)).expand(1, *sizes))


WIRING: Mapping[str, Callable[..., RowValue | list[RowValue]]] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Slice": slice_,
    "Tile": tile,
    "TopK": top_k,
    "CumSum": cumsum,
    "Split": split,
    "Gather": gather,
    "Expand": expand,
    "ConstantOfShape": constant_of_shape,
}
"""Functions by operator."""
