"""Translations of operations that order the entries of a group: extremes, sorting, max pooling."""

import math
from collections.abc import Mapping

import torch

from holdfast.graph.aten.call import (
    Builder,
    Call,
    Ref,
    Translate,
    Translation,
    feature_dim,
    feature_dims,
    spread,
    with_args,
)

aten = torch.ops.aten


def _reduced(b: Builder, call: Call, x: Ref, dims: tuple[int, ...], keepdim: bool) -> Ref:
    """Emit the largest entries along dimensions of a row."""
    shape = tuple(
        1 if dim in dims else size
        for dim, size in enumerate(x.shape, 1)
        if keepdim or dim not in dims
    )
    return b.emit("amax", [x], call, shape, dims=dims, keepdim=keepdim)


def _least(b: Builder, call: Call, x: Ref, dims: tuple[int, ...], keepdim: bool) -> Ref:
    """Emit the smallest entries along dimensions of a row: the negative of the largest of -x."""
    turned = b.emit("scale", [x], call, x.shape, factor=-1.0)
    largest = _reduced(b, call, turned, dims, keepdim)
    return b.emit("scale", [largest], call, largest.shape, factor=-1.0)


def _amax(b: Builder, call: Call) -> Ref | None:
    x, dims, keepdim = call.args
    found = feature_dims(x, dims)
    return None if found is None else _reduced(b, call, x, found, keepdim)


def _amin(b: Builder, call: Call) -> Ref | None:
    x, dims, keepdim = call.args
    found = feature_dims(x, dims)
    return None if found is None else _least(b, call, x, found, keepdim)


def _max_dim(b: Builder, call: Call) -> Translation:
    return None if (found := _amax(b, call)) is None else [found]


def _min_dim(b: Builder, call: Call) -> Translation:
    return None if (found := _amin(b, call)) is None else [found]


def _aminmax(b: Builder, call: Call) -> Translation:
    x, dim, keepdim = call.args
    if dim is None or (feature := feature_dim(x, dim)) is None:
        return None
    return [make(b, call, x, (feature,), keepdim) for make in (_least, _reduced)]


def _sorted(b: Builder, call: Call, x: Ref, dim: int, descending: bool) -> Ref | None:
    feature = feature_dim(x, dim)
    if feature is None:
        return None
    return b.emit("sort", [x], call, x.shape, dim=feature, descending=descending)


def _sort(b: Builder, call: Call) -> Translation:
    x, *_, dim, descending = call.args
    found = _sorted(b, call, x, dim, descending)
    return None if found is None else [found]


def _topk(b: Builder, call: Call) -> Translation:
    x, k, dim, largest, in_order = call.args
    if not isinstance(k, int) or not (in_order or k == 1) or k < 1:
        return None
    feature = feature_dim(x, dim)
    if feature is None:
        return None
    if k == 1:
        return [(_reduced if largest else _least)(b, call, x, (feature,), True)]
    ordered = b.emit("sort", [x], call, x.shape, dim=feature, descending=largest)
    shape = (*x.shape[: feature - 1], k, *x.shape[feature:])
    return [b.emit("slice", [ordered], call, shape, dim=feature, start=0, stop=k, step=1)]


def _ranked(b: Builder, call: Call, dim: int, keepdim: bool, rank: int) -> Translation:
    """Emit the entry of some rank, counted from the smallest, along one dimension."""
    x = call.args[0]
    ordered = _sorted(b, call, x, dim, descending=False)
    if ordered is None:
        return None
    feature = feature_dim(x, dim) or 0
    shape = (*x.shape[: feature - 1], *x.shape[feature:])
    found = b.emit("select", [ordered], call, shape, dim=feature, index=rank)
    if keepdim:
        shape = (*x.shape[: feature - 1], 1, *x.shape[feature:])
        found = b.emit("reshape", [found], call, shape, shape=shape)
    return [found]


def _kthvalue(b: Builder, call: Call) -> Translation:
    _, k, dim, keepdim = call.args
    return _ranked(b, call, dim, keepdim, k - 1) if isinstance(k, int) else None


def _median(b: Builder, call: Call) -> Translation:
    x, dim, keepdim = call.args
    feature = feature_dim(x, dim)
    if feature is None:
        return None
    return _ranked(b, call, dim, keepdim, (x.shape[feature - 1] - 1) // 2)  # the lower of two


def _vector_norm(b: Builder, call: Call) -> Translation:
    """Translate lengths in l2; in l1 and linf they are sums and extremes of absolute values."""
    x, order, dims, keepdim, _ = call.args
    found = feature_dims(x, dims)
    if found is None or order not in (1, 2, math.inf, -math.inf):
        return None
    if order == 2:
        return b.emit("vector_norm", [x], call, call.shape, dims=found, keepdim=keepdim)
    size = b.emit("abs", [x], call, x.shape)
    if order == 1:
        return b.emit("sum", [size], call, call.shape, dims=found, keepdim=keepdim)
    return (_reduced if order > 0 else _least)(b, call, size, found, keepdim)


def _norm(b: Builder, call: Call) -> Translation:
    """Translate `torch.linalg.norm` where it is that of vectors: of one dimension, or in l2."""
    x, order, dims, keepdim, dtype = call.args
    if order is not None and (dims is None or len(dims) != 1):
        return None
    order = 2 if order is None else order
    return _vector_norm(b, with_args(call, [x, order, dims, keepdim, dtype]))


# --- pooling ------------------------------------------------------------------------------------


def _max_pool(rank: int, several: bool = False) -> Translate:
    """Translate a pooling; with `several`, one that returns the places as well."""

    def translate(b: Builder, call: Call) -> Translation:
        x, kernel, stride, padding, dilation, ceil_mode = call.args
        if len(x.shape) != rank + 1:
            return None
        settings = {
            "kernel": spread(kernel, rank),
            "stride": spread(stride or kernel, rank),
            "padding": spread(padding, rank),
            "dilation": spread(dilation, rank),
            "ceil_mode": ceil_mode,
        }
        if not several:
            return b.emit("max_pool", [x], call, call.shape, **settings)
        result = call.target(torch.zeros(1, *x.shape), *call.args[1:])[0]
        return [b.emit("max_pool", [x], call, tuple(result.shape[1:]), **settings)]

    return translate


def _adaptive_max_pool(rank: int) -> Translate:
    """Translate an adaptive pooling whose windows are all alike."""

    def translate(b: Builder, call: Call) -> Translation:
        x, sizes = call.args
        if len(x.shape) != rank + 1:
            return None
        sizes = spread(sizes, rank)
        if any(length % size for length, size in zip(x.shape[1:], sizes, strict=True)):
            return None
        kernel = tuple(n // size for n, size in zip(x.shape[1:], sizes, strict=True))
        settings = {"kernel": kernel, "stride": kernel, "padding": (0,) * rank}
        settings |= {"dilation": (1,) * rank, "ceil_mode": False}
        return [b.emit("max_pool", [x], call, (x.shape[0], *sizes), **settings)]

    return translate


EXTREMES: Mapping[object, Translate] = {
    aten.amax.default: _amax,
    aten.amin.default: _amin,
    aten.max.dim: _max_dim,
    aten.min.dim: _min_dim,
    aten.aminmax.default: _aminmax,
    aten.sort.default: _sort,
    aten.sort.stable: _sort,
    aten.topk.default: _topk,
    aten.kthvalue.default: _kthvalue,
    aten.median.dim: _median,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.linalg_norm.default: _norm,
    aten.max_pool1d.default: _max_pool(1),
    aten.max_pool2d.default: _max_pool(2),
    aten.max_pool3d.default: _max_pool(3),
    aten.max_pool1d_with_indices.default: _max_pool(1, several=True),
    aten.max_pool2d_with_indices.default: _max_pool(2, several=True),
    aten.max_pool3d_with_indices.default: _max_pool(3, several=True),
    aten.adaptive_max_pool1d.default: _adaptive_max_pool(1),
    aten.adaptive_max_pool2d.default: _adaptive_max_pool(2),
    aten.adaptive_max_pool3d.default: _adaptive_max_pool(3),
}
"""Translations by ATen overload."""
