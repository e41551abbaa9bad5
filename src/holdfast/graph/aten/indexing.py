"""Translations that read or write entries at constant places: indices, masks, repeats, rolls."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.aten.call import (
    Builder,
    Call,
    Ref,
    Translate,
    Translation,
    broadcast,
    feature_dim,
    spread_constant,
)

aten = torch.ops.aten

BY_SHAPE = frozenset(
    {
        aten.zeros_like.default,
        aten.ones_like.default,
        aten.full_like.default,
        aten.new_zeros.default,
        aten.new_ones.default,
        aten.new_full.default,
        aten.fill.Scalar,
        aten.fill.Tensor,
        aten.copy.default,
    }
)
"""Calls that read the shape and the type of their first argument, none of its entries."""


def _execute(call: Call, args: Sequence[Any]) -> Tensor:
    """Make a call with other arguments, given in the order of the schema."""
    schema = call.target._schema.arguments
    named = {s.name: item for s, item in zip(schema, args, strict=True) if s.kwarg_only}
    return call.target(*args[: len(args) - len(named)], **named)


def _moves(*sources: int) -> Translate:
    """Translate a call that copies entries of the arguments at some places of its schema."""
    # The call itself says which: it is made on two rows of numbered entries.

    def translate(b: Builder, call: Call) -> Translation:
        parts = [_part(b, call, call.args[k]) for k in sources]
        args = [None if k in sources else item for k, item in enumerate(call.args)]
        if any(part is None for part in parts) or any(isinstance(i, Ref) for i in _flat(args)):
            return None
        refs = [part for part in parts if part is not None]
        lengths = [math.prod(ref.shape) for ref in refs]
        rows = torch.arange(2 * sum(lengths), dtype=torch.float64).reshape(2, -1)
        for k, ref, numbers in zip(sources, refs, rows.split(lengths, 1), strict=True):
            args[k] = numbers.reshape(2, *ref.shape)
        args = [_two_rows(item) for item in args]
        places = _execute(call, args).long().reshape(2, -1)
        if not torch.equal(places[1], places[0] + sum(lengths)):
            return None  # it moves entries from row to row
        return _gather(b, call, refs, places[0])

    return translate


def _part(b: Builder, call: Call, part: object) -> Ref | None:
    """Return an operand as a node; a constant must be one row for all."""
    if isinstance(part, Ref):
        return part
    if not isinstance(part, Tensor) or part.dim() == 0 or part.shape[0] != 1:
        return None
    return b.constant(part.to(call.dtype), call)


def _two_rows(item: object) -> object:
    """Return an index that was made for one row as one for two of them."""
    if isinstance(item, Tensor) and item.dim() > 1 and item.shape[0] == 1:
        return item.expand(2, *item.shape[1:])
    return item


def _flat(items: Sequence[Any]) -> list[object]:
    return [part for item in items for part in (item if isinstance(item, list) else [item])]


def _gather(b: Builder, call: Call, refs: Sequence[Ref], places: Tensor) -> Ref:
    """Read the entries at some places of the flattened rows of one or more nodes."""
    used, start, new = [], 0, 0
    for ref in refs:
        length = math.prod(ref.shape)
        inside = (places >= start) & (places < start + length)
        if bool(inside.any()):
            places = torch.where(inside, places - start + new, places)
            used.append(ref)
            new += length
        start += length
    refs = used or refs[:1]
    alone = len(refs) == 1 and refs[0].shape == call.shape
    if alone and torch.equal(places, torch.arange(len(places))):
        return refs[0]
    flat = [_flattened(b, call, ref) for ref in refs]
    total = (sum(ref.shape[0] for ref in flat),)
    whole = flat[0] if len(flat) == 1 else b.emit("cat", flat, call, total, dim=1)
    found = b.emit("index_select", [whole], call, (len(places),), dim=1, index=places)
    if call.shape == found.shape:
        return found
    return b.emit("reshape", [found], call, call.shape, shape=call.shape)


def _flattened(b: Builder, call: Call, ref: Ref) -> Ref:
    if len(ref.shape) == 1:
        return ref
    shape = (math.prod(ref.shape),)
    return b.emit("reshape", [ref], call, shape, shape=shape)


def _index(b: Builder, call: Call) -> Translation:
    """Take a list of places along one dimension as such; else number the entries."""
    x, indices = call.args
    given = [(dim, item) for dim, item in enumerate(indices) if item is not None]
    if any(not isinstance(item, Tensor) for _, item in given):
        return None
    dim, index = given[0]
    if len(given) == 1 and dim > 0 and index.dim() == 1:
        if index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        index = index.long() % x.shape[dim - 1]
        return b.emit("index_select", [x], call, call.shape, dim=dim, index=index)
    return _moves(0)(b, call) if given[0][0] > 0 else None


def _copy(b: Builder, call: Call) -> Translation:
    source = call.args[1]
    return broadcast(b, call, source) if isinstance(source, Ref) else None


def _index_put(b: Builder, call: Call) -> Translation:
    x, indices, values, accumulate = call.args
    if accumulate or indices[0] is not None:
        return None
    if isinstance(values, Tensor) and values.dim() == 0:
        mask = torch.zeros(1, *x.shape, dtype=torch.bool)
        mask = aten.index_put(mask, indices, torch.tensor(True))
        return masked(b, call, mask, values, x)
    return _moves(0, 2)(b, call)


def _filled(b: Builder, call: Call) -> Translation:
    """Translate the writing of one number at constant places."""
    x, dim, index, value = call.args[:4]
    if not isinstance(x, Ref) or not isinstance(index, Tensor) or isinstance(value, Ref):
        return None
    if feature_dim(x, dim) is None:
        return None
    mask = _execute(call, [torch.zeros(1, *x.shape), dim, index, 1.0, *call.args[4:]])
    return masked(b, call, mask > 0, value, x)


def _triangle(b: Builder, call: Call) -> Translation:
    x = call.args[0]
    if len(x.shape) < 2:
        return None
    mask = _execute(call, [torch.ones(1, *x.shape), *call.args[1:]])
    return masked(b, call, mask > 0, x, 0.0)


def masked(b: Builder, call: Call, mask: Tensor, yes: object, no: object) -> Translation:
    """Emit yes where a constant mask holds and no elsewhere; at least one of the two moves."""
    rows = spread_constant(mask.to(call.dtype), call)
    if rows is None:
        return None
    holds = rows > 0
    if not isinstance(yes, Ref):
        yes, no, holds = no, yes, ~holds
    x = broadcast(b, call, yes) if isinstance(yes, Ref) else None
    if x is None:
        return None
    if not isinstance(no, Ref):
        return _filled_up(b, call, x, holds, no)
    if (other := broadcast(b, call, no)) is None:
        return None
    places = torch.arange(math.prod(call.shape))
    places = torch.where(holds.reshape(-1), places, places + len(places))
    return _gather(b, call, [x, other], places)


def _filled_up(b: Builder, call: Call, x: Ref, kept: Tensor, value: Any) -> Translation:
    """Emit x with another, finite value where a mask does not hold."""
    constant = spread_constant(value, call)
    if constant is None:
        return None
    filled = torch.where(kept, 0.0, constant)
    if not bool(filled.isfinite().all()):
        return None
    if not bool(kept.all()):
        x = b.emit("scale", [x], call, call.shape, factor=kept.to(call.dtype))
    return b.emit("shift", [x], call, call.shape, offset=filled) if bool(filled.any()) else x


def _pool_of_patches(b: Builder, call: Call) -> Translation:
    """Translate `unfold` of images where it pads nothing: a padding is a number of no entry."""
    return None if any(call.args[3]) else _moves(0)(b, call)


INDEXING: Mapping[object, Translate] = {
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten.copy.default: _copy,
    aten.index_fill.int_Scalar: _filled,
    aten.scatter.value: _filled,
    aten.scatter.src: _moves(0, 3),
    aten.index_copy.default: _moves(0, 3),
    aten.select_scatter.default: _moves(0, 1),
    aten.slice_scatter.default: _moves(0, 1),
    aten.gather.default: _moves(0),
    aten.take_along_dim.default: _moves(0),
    aten.repeat.default: _moves(0),
    aten.repeat_interleave.self_int: _moves(0),
    aten.tile.default: _moves(0),
    aten.roll.default: _moves(0),
    aten.rot90.default: _moves(0),
    aten.diagonal.default: _moves(0),
    aten.unfold.default: _moves(0),
    aten.im2col.default: _pool_of_patches,
    aten.pixel_unshuffle.default: _moves(0),
    aten.channel_shuffle.default: _moves(0),
    aten.tril.default: _triangle,
    aten.triu.default: _triangle,
}
"""Translations by ATen overload."""
