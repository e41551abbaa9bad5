"""Translations of ATen operations that only move entries."""

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from holdfast.graph.aten.call import (
    Builder,
    Call,
    Ref,
    Translate,
    Translation,
    as_number,
    feature_dim,
    feature_dims,
    with_args,
)

aten = torch.ops.aten


def _reshape(b: Builder, call: Call) -> Translation:
    x = call.args[0]
    if math.prod(call.shape) != math.prod(x.shape):
        return None
    if call.shape == x.shape:
        return x
    return b.emit("reshape", [x], call, call.shape, shape=call.shape)


def _permutation(b: Builder, call: Call, dims: Sequence[int]) -> Translation:
    if dims[0] != 0:
        return None
    return b.emit("permute", [call.args[0]], call, call.shape, dims=tuple(dims))


def _permute(b: Builder, call: Call) -> Translation:
    rank = len(call.args[0].shape) + 1
    return _permutation(b, call, [dim % rank for dim in call.args[1]])


def _transpose(b: Builder, call: Call) -> Translation:
    x, first, second = call.args
    dims = list(range(len(x.shape) + 1))
    dims[first], dims[second] = dims[second], dims[first]
    return _permutation(b, call, dims)


def _dropout(b: Builder, call: Call) -> Translation:
    x, rate, training = call.args
    return None if training and rate else x


def _expand(b: Builder, call: Call) -> Translation:
    x = call.args[0]
    if len(call.shape) != len(x.shape):
        return None
    return b.emit("expand", [x], call, call.shape, shape=call.shape)


def _slice(b: Builder, call: Call) -> Translation:
    x, dim, start, stop, step = call.args
    feature = feature_dim(x, dim)
    start = 0 if start is None else start
    if feature is None:
        whole = start == 0 and step == 1 and (stop is None or stop == 2**63 - 1)
        return x if whole else None
    if any(isinstance(end, Ref) for end in (start, stop, step)):
        return None
    settings = {"dim": feature, "start": start, "stop": stop, "step": step}
    return b.emit("slice", [x], call, call.shape, **settings)


def _narrow(b: Builder, call: Call) -> Translation:
    x, dim, start, length = call.args
    if not (isinstance(start, int) and isinstance(length, int)):
        return None
    if start < 0:
        start += x.shape[(dim if dim > 0 else dim + len(x.shape) + 1) - 1]
    return _slice(b, with_args(call, [x, dim, start, start + length, 1]))


def _select(b: Builder, call: Call) -> Translation:
    x, dim, index = call.args
    feature = feature_dim(x, dim)
    if feature is None or not isinstance(index, int):
        return None
    return b.emit("select", [x], call, call.shape, dim=feature, index=index)


def _split(b: Builder, call: Call) -> Translation:
    x, sizes, dim = call.args
    feature = feature_dim(x, dim)
    if feature is None:
        return None
    length = x.shape[feature - 1]
    if isinstance(sizes, list) and not all(isinstance(size, int) for size in sizes):
        return None
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    return _pieces(b, call, feature, sizes)


def _chunk(b: Builder, call: Call) -> Translation:
    x, chunks, dim = call.args
    feature = feature_dim(x, dim)
    if feature is None:
        return None
    length = x.shape[feature - 1]
    size = -(-length // chunks)
    return _pieces(b, call, feature, [min(size, length - s) for s in range(0, length, size)])


def _pieces(b: Builder, call: Call, dim: int, sizes: Sequence[int]) -> list[Ref]:
    ends = list(accumulate(sizes, initial=0))
    return [_piece(b, call, call.args[0], dim, ends=pair) for pair in pairwise(ends)]


def _piece(b: Builder, call: Call, x: Ref, dim: int, *, ends: tuple[int, int]) -> Ref:
    """Cut the entries between two ends out of one dimension."""
    shape = (*x.shape[: dim - 1], ends[1] - ends[0], *x.shape[dim:])
    return b.emit("slice", [x], call, shape, dim=dim, start=ends[0], stop=ends[1], step=1)


def _unbind(b: Builder, call: Call) -> Translation:
    x, dim = call.args
    feature = feature_dim(x, dim)
    if feature is None:
        return None
    shape = (*x.shape[: feature - 1], *x.shape[feature:])
    return [
        b.emit("select", [x], call, shape, dim=feature, index=index)
        for index in range(x.shape[feature - 1])
    ]


def _cat(b: Builder, call: Call) -> Translation:
    tensors, dim = call.args
    parts = _parts(b, call, tensors)
    if parts is None or (feature := feature_dim(parts[0], dim)) is None:
        return None
    return b.emit("cat", parts, call, call.shape, dim=feature)


def _stack(b: Builder, call: Call) -> Translation:
    tensors, dim = call.args
    parts = _parts(b, call, tensors)
    if parts is None:
        return None
    rank = len(parts[0].shape) + 2
    feature = dim % rank
    if feature == 0:
        return None
    shape = (*parts[0].shape[: feature - 1], 1, *parts[0].shape[feature - 1 :])
    raised = [b.emit("reshape", [part], call, shape, shape=shape) for part in parts]
    return b.emit("cat", raised, call, call.shape, dim=feature)


def _parts(b: Builder, call: Call, tensors: Sequence[object]) -> list[Ref] | None:
    """Return every part as a node; a constant part must broadcast along the batch."""
    parts = []
    for part in tensors:
        if not isinstance(part, Tensor):
            parts.append(part)
            continue
        number = as_number(part)
        if part.dim() == 0 or part.shape[0] != 1 or number is None:
            return None
        parts.append(b.constant(number, call))
    return parts


def _pad(b: Builder, call: Call) -> Translation:
    x, flat, mode, value = call.args
    if len(flat) > 2 * len(x.shape) or any(isinstance(amount, Ref) for amount in flat):
        return None
    amounts = list(zip(flat[-2::-2], flat[-1::-2], strict=True))  # the last dimension comes first
    first = len(x.shape) - len(amounts) + 1
    for dim, (low, high) in enumerate(amounts, first):
        if low < 0 or high < 0:  # cuts entries off
            ends = (max(-low, 0), x.shape[dim - 1] - max(-high, 0))
            if mode != "constant" or ends[0] > ends[1]:
                return None
            x = _piece(b, call, x, dim, ends=ends)
    pads = tuple((max(low, 0), max(high, 0)) for low, high in amounts)
    if not any(map(any, pads)):
        return x
    value = 0.0 if value is None else float(value)
    return b.emit("pad", [x], call, call.shape, pads=pads, mode=mode, value=value)


def _flip(b: Builder, call: Call) -> Translation:
    x, dims = call.args
    dims = feature_dims(x, dims)
    return None if dims is None else b.emit("flip", [x], call, x.shape, dims=dims)


def _index_select(b: Builder, call: Call) -> Translation:
    x, dim, index = call.args
    feature = feature_dim(x, dim)
    if feature is None or not isinstance(index, Tensor):
        return None
    return b.emit("index_select", [x], call, call.shape, dim=feature, index=index)


def _upsample_nearest(b: Builder, call: Call) -> Translation:
    """Repeat entries; torch takes a scale factor as it was given, not as the sizes have it."""
    x, sizes = call.args[0], call.shape[1:]
    by_call = _sources(call, x.shape[1:], call.args[1:])
    by_size = _sources(call, x.shape[1:], (sizes, None))
    if all(map(torch.equal, by_call, by_size)):
        return b.emit("upsample_nearest", [x], call, call.shape, size=sizes)
    for axis, index in enumerate(by_call, 1):
        shape = (*x.shape[:axis], len(index), *x.shape[axis + 1 :])
        x = b.emit("index_select", [x], call, shape, dim=axis + 1, index=index)
    return x


def _sources(call: Call, sizes: Sequence[int], args: Sequence[object]) -> list[Tensor]:
    """Return which entry each one of the result is, for every spatial dimension, by trying it."""
    sources = []
    for axis, size in enumerate(sizes):
        ramp = torch.arange(size, dtype=torch.float64).reshape(-1, *[1] * (len(sizes) - axis - 1))
        result = call.target(ramp.expand(1, 1, *sizes).contiguous(), *args)[0, 0].movedim(axis, 0)
        sources.append(result.flatten(1)[:, 0].long() if len(sizes) > 1 else result.long())
    return sources


def _pixel_shuffle(b: Builder, call: Call) -> Translation:
    x, factor = call.args
    return b.emit("pixel_shuffle", [x], call, call.shape, factor=factor)


def _same(b: Builder, call: Call) -> Translation:
    return call.args[0]


def _cast(b: Builder, call: Call) -> Translation:
    """Keep only casts that lose nothing: a narrower type rounds, which is not a smooth map."""
    wide = [item for item in call.args[1:] if isinstance(item, torch.dtype)]
    return call.args[0] if all(dtype in (torch.float32, torch.float64) for dtype in wide) else None


def _getitem(b: Builder, call: Call) -> Translation:
    items, index = call.args
    return items[index] if isinstance(items, list) and index < len(items) else None


WIRING: Mapping[object, Translate] = {
    aten.view.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.unflatten.int: _reshape,
    aten.squeeze.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.narrow.default: _narrow,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.chunk.default: _chunk,
    aten.unbind.int: _unbind,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.pad.default: _pad,
    aten.flip.default: _flip,
    aten.index_select.default: _index_select,
    aten.upsample_nearest1d.vec: _upsample_nearest,
    aten.upsample_nearest2d.vec: _upsample_nearest,
    aten.upsample_nearest3d.vec: _upsample_nearest,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.clone.default: _same,
    aten.contiguous.default: _same,
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.dropout.default: _dropout,
    aten.nan_to_num.default: _same,  # finite numbers stay, and no others are spoken of
    aten.to.dtype: _cast,
    aten._to_copy.default: _cast,
    operator.getitem: _getitem,
}
"""Translations by ATen overload."""
