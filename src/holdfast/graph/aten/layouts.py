"""Values whose rows are not the first dimension: [tokens, rows, ...], or rows and tokens in one.

Attention of torch and language models move the batch to another dimension, or join it with the
tokens, apply a linear layer, and move it back. A `Moved` value remembers which sizes every
dimension is made of, so that the same arithmetic is written for rows alone.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.aten.attention import masked_softmax
from holdfast.graph.aten.call import Builder, Call, Moved, Ref, opaque, with_args
from holdfast.graph.aten.contract import matmul

aten = torch.ops.aten

_VIEWS = frozenset(
    (
        *(aten.view.default, aten._unsafe_view.default, aten.reshape.default),
        *(aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default),
        *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
    )
)


def follow(b: Builder, call: Call, value: object) -> Ref | None:
    """Return the result of a call on moved rows; None where it is not followed.

    Args:
        b: The builder.
        call: The call.
        value: The result, as `torch.export` knows it.

    Returns:
        A plain value where its rows are the first dimension; else one with `moved`, and no node
        of its own.
    """
    given = [item for item in call.args if isinstance(item, Ref)]
    if call.target not in (*_VIEWS, *_RULES, *_BESIDE) or not given:
        return None
    if not isinstance(value, Tensor) or call.dtype not in (torch.float32, torch.float64):
        return None
    moved = [None if ref.at_one is not None else _moved(b, call, ref) for ref in given]
    parts = [part for part in moved if part is not None]
    if len(parts) < len(given):
        return None
    if call.target in _VIEWS:
        found = _viewed(b, call, parts[0], [row_size(b, size) for size in value.shape])
    elif call.target in _RULES and len(parts) == 1:
        found = _RULES[call.target](b, call, parts[0])
    else:
        found = _joined(b, call, parts)
    if found is None:
        return None
    if found.dims[:1] == ((0,),):
        sizes = tuple(math.prod(dim) for dim in found.dims[1:])
        return _reshaped(b, call, found.ref, sizes)
    return dataclasses.replace(found.ref, moved=found)


def _moved(b: Builder, call: Call, ref: Ref) -> Moved | None:
    """Return a value as one whose rows may be anywhere; sizes of 1 are left out."""
    if ref.moved is not None or not ref.in_rows:
        return ref.moved
    dims = ((0,), *((size,) if size != 1 else () for size in ref.shape))
    flat = _reshaped(b, call, ref, tuple(size for size in ref.shape if size != 1))
    return Moved(flat, dims)


def rows_first(b: Builder, call: Call, ref: Ref) -> tuple[Ref, int] | None:
    """Return a value with its rows first, and which dimension they are; None where they are joined.

    Args:
        b: The builder.
        call: The call that reads it.
        ref: The value; its other dimensions keep their sizes and their order.
    """
    if ref.in_rows:
        return ref, 0
    if ref.moved is None or (0,) not in ref.moved.dims:
        return None
    sizes = tuple(math.prod(dim) for dim in ref.moved.dims if dim != (0,))
    return _reshaped(b, call, ref.moved.ref, sizes), ref.moved.dims.index((0,))


def rows_at(b: Builder, call: Call, first: Ref, place: int) -> Ref:
    """Return a value whose rows come first as one where they are another dimension."""
    if place == 0:
        return first
    dims = [(size,) if size != 1 else () for size in first.shape]
    flat = _reshaped(b, call, first, tuple(size for size in first.shape if size != 1))
    moved = Moved(flat, (*dims[:place], (0,), *dims[place:]))
    order = [*range(1, place + 1), 0, *range(place + 1, len(first.shape) + 1)]
    turn = dataclasses.replace(
        call, target=aten.permute.default, args=[first, order], shape=first.shape
    )
    whole = opaque(b, turn, turn.args, {})  # for what reads it and is not followed
    return dataclasses.replace(whole, in_rows=False, moved=moved)


def _reshaped(b: Builder, call: Call, ref: Ref, shape: tuple[int, ...]) -> Ref:
    return ref if ref.shape == shape else b.emit("reshape", [ref], call, shape, shape=shape)


def row_size(b: Builder, size: Any) -> tuple[int, bool] | None:
    """Return a size as a number and whether the number of rows is multiplied with it."""
    if not isinstance(size, torch.SymInt):
        return int(size), False
    known = size.node.maybe_as_int()
    if known is not None:
        return known, False
    for batch in b.batch:
        share = size.node.expr / batch
        if share.is_Integer:
            return int(share), True
    return None


def _viewed(
    b: Builder, call: Call, x: Moved, sizes: Sequence[tuple[int, bool] | None]
) -> Moved | None:
    """Cut the same sequence of entries into other dimensions; a size may be split, not the rows."""
    left = [size for dim in x.dims for size in dim]
    dims: list[tuple[int, ...]] = []
    for size in sizes:
        if size is None:
            return None
        count, rows = size
        dim: list[int] = []
        while count > 1 or rows:
            if not left:
                return None
            first = left.pop(0)
            if first == 0:
                if not rows:
                    return None
                rows = False
            elif count % first == 0:
                count //= first
            elif first % count == 0 and count > 1:
                left.insert(0, first // count)
                first, count = count, 1
            else:
                return None
            dim.append(first)
        dims.append(tuple(dim))
    if left:
        return None
    shape = tuple(size for dim in dims for size in dim if size)
    return Moved(_reshaped(b, call, x.ref, shape), tuple(dims))


def _permuted(b: Builder, call: Call, x: Moved, order: Sequence[int]) -> Moved:
    """Bring the dimensions into another order, and so the sizes that they are made of."""
    places, first = [], 1
    for dim in x.dims:
        own = [size for size in dim if size]
        places.append(range(first, first + len(own)))
        first += len(own)
    moved = (0, *(place for dim in order for place in places[dim]))
    dims = tuple(x.dims[dim] for dim in order)
    if list(moved) == sorted(moved):
        return Moved(x.ref, dims)
    shape = tuple(size for dim in dims for size in dim if size)
    return Moved(b.emit("permute", [x.ref], call, shape, dims=moved), dims)


def _permute(b: Builder, call: Call, x: Moved) -> Moved:
    return _permuted(b, call, x, [dim % len(x.dims) for dim in call.args[1]])


def _transpose(b: Builder, call: Call, x: Moved) -> Moved:
    order = list(range(len(x.dims)))
    first, second = call.args[1:3]
    order[first], order[second] = order[second], order[first]
    return _permuted(b, call, x, order)


def _select(b: Builder, call: Call, x: Moved) -> Moved | None:
    """Take one entry along a dimension that holds one size and no rows."""
    dim, index = call.args[1] % len(x.dims), call.args[2]
    if 0 in x.dims[dim] or len(x.dims[dim]) != 1 or not isinstance(index, int):
        return None
    place = sum(size != 0 for part in x.dims[:dim] for size in part) + 1
    shape = (*x.ref.shape[: place - 1], *x.ref.shape[place:])
    ref = b.emit("select", [x.ref], call, shape, dim=place, index=index)
    return Moved(ref, (*x.dims[:dim], *x.dims[dim + 1 :]))


def _linear(b: Builder, call: Call, x: Moved) -> Moved | None:
    """Apply a constant matrix along the last dimension, of which the rows are no part."""
    weight, bias = _weights(call)
    if weight is None or not x.dims or 0 in x.dims[-1]:
        return None
    last = math.prod(x.dims[-1])
    if weight.dim() != 2 or weight.shape[1] != last:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    front = tuple(size for dim in x.dims[:-1] for size in dim if size)
    ref = _reshaped(b, call, x.ref, (*front, last))
    shape = (*front, len(weight))
    ref = b.emit("linear", [ref], call, shape, weight=weight, bias=bias)
    dims = (*x.dims[:-1], (len(weight),) if len(weight) != 1 else ())
    return Moved(_reshaped(b, call, ref, shape if len(weight) != 1 else front), dims)


def _joined(b: Builder, call: Call, parts: Sequence[Moved]) -> Moved | None:
    """Apply an operation along the last dimensions of [rows and heads in one, ...]."""
    first, *_ = (part.dims[0] if part.dims else () for part in parts)
    if first[:1] != (0,) or any(part.dims[0] != first or len(part.dims) != 3 for part in parts):
        return None
    sizes = [tuple(math.prod(dim) for dim in part.dims[1:]) for part in parts]
    refs = [
        _reshaped(b, call, part.ref, (*first[1:], *size))
        for part, size in zip(parts, sizes, strict=True)
    ]
    found = _BESIDE[call.target](b, call, refs) if call.target in _BESIDE else None
    if not isinstance(found, Ref):
        return None
    last = tuple((size,) if size != 1 else () for size in found.shape[len(first) - 1 :])
    kept = tuple(size for size in found.shape if size != 1)
    return Moved(_reshaped(b, call, found, kept), (first, *last))


def _shares(b: Builder, call: Call, refs: Sequence[Ref]) -> Ref | None:
    (x,) = refs
    return masked_softmax(b, call, x, len(x.shape)) if call.args[1] in (-1, 2) else None


def _scaled(b: Builder, call: Call, refs: Sequence[Ref]) -> Ref | None:
    factor = call.args[1]
    if len(refs) != 1 or not isinstance(factor, int | float):
        return None
    return b.emit("scale", [*refs], call, refs[0].shape, factor=float(factor))


_Beside = Callable[[Builder, Call, Sequence[Ref]], object]
_BESIDE: Mapping[object, _Beside] = {
    aten.bmm.default: lambda b, call, refs: matmul(b, with_args(call, refs)),
    aten.softmax.int: _shares,
    aten.mul.Tensor: _scaled,
}


def _weights(call: Call) -> tuple[Tensor | None, Tensor | None]:
    """Return the matrix [outputs, inputs] and the offset of a call that applies one."""
    if call.target is aten.linear.default:
        _, weight, bias = call.args
    elif call.target is aten.addmm.default:
        bias, _, weight, beta, alpha = call.args
        weight = weight.mT if (beta, alpha) == (1, 1) and isinstance(weight, Tensor) else None
    else:
        _, weight = call.args
        weight, bias = weight.mT if isinstance(weight, Tensor) and weight.dim() == 2 else None, None
    fixed = isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    return (weight, bias) if fixed else (None, None)


_Rule = Callable[[Builder, Call, Moved], Moved | None]
_RULES: Mapping[object, _Rule] = {
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.select.int: _select,
    **dict.fromkeys(
        (aten.linear.default, aten.addmm.default, aten.mm.default, aten.matmul.default), _linear
    ),
    **dict.fromkeys(
        (aten.clone.default, aten.contiguous.default, aten.alias.default, aten.dropout.default),
        lambda b, call, x: x,
    ),
}
