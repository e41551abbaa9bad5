"""Translations of softmax with its masks, and of attention as the products that it is made of."""

import dataclasses
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
    feature_dim,
    per_row,
    spread_constant,
    with_args,
)
from holdfast.graph.aten.contract import matmul

aten = torch.ops.aten


def _softmax(b: Builder, call: Call) -> Translation:
    x, dim = call.args[:2]
    feature = feature_dim(x, dim)
    return None if feature is None else masked_softmax(b, call, x, feature)


def _log_softmax(b: Builder, call: Call) -> Translation:
    x, dim = call.args[:2]
    feature = feature_dim(x, dim)
    return None if feature is None else b.emit("log_softmax", [x], call, x.shape, dim=feature)


def masked_softmax(
    b: Builder, call: Call, x: Ref, dim: int, kept: Tensor | None = None
) -> Ref | None:
    """Emit a softmax of the entries that no mask leaves out.

    Args:
        b: The builder.
        call: The call.
        x: The logits; a mask that is added to them, or filled into them, is found.
        dim: Along which the shares add up to 1, the batch being 0.
        kept: [1, *shape] bool: the entries that take part, as far as is known already.

    Returns:
        The shares; None where some row has no entry that takes part, or nothing bounds it.
    """
    x, found = _unmasked(b, call, x)
    mask = torch.ones(1, *x.shape, dtype=torch.bool)
    for part in (kept, found):
        mask = mask if part is None else mask & part
    if bool(mask.all()):
        return b.emit("softmax", [x], call, x.shape, dim=dim)
    if not bool(mask.any(dim).all()):
        return None
    return b.emit("softmax", [x], call, x.shape, dim=dim, mask=mask)


def _unmasked(b: Builder, call: Call, x: Ref) -> tuple[Ref, Tensor | None]:
    """Return logits without their mask, and which entries it keeps; None for all of them.

    Minus infinity, and numbers below -2^100 next to logits that are not as large, leave an entry
    out of a softmax.
    """
    node, filled = b.nodes[x.node], b.outside.get(x.node)
    if node.op == "shift" and isinstance(node.params["offset"], Tensor):
        offset = spread_constant(node.params["offset"], dataclasses.replace(call, shape=x.shape))
        if offset is None or bool((offset > -(2.0**100)).all()):
            return x, None
        kept = offset > -(2.0**100)
        source, rest = Ref(node.inputs[0], x.shape, node.perturbed), torch.where(kept, offset, 0.0)
        if bool(rest.any()):
            source = b.emit("shift", [source], call, x.shape, offset=rest)
        return source, kept
    if filled is None or filled.target not in _FILLS:
        return x, None
    source, mask = _FILLS[filled.target](*filled.args)
    if not isinstance(source, Ref) or not isinstance(mask, Tensor) or source.shape != x.shape:
        return x, None
    rows = spread_constant(mask.to(call.dtype), dataclasses.replace(call, shape=x.shape))
    return (x, None) if rows is None else (source, rows > 0)


def _fill_value(x: Any, mask: Any, value: Any) -> tuple[Any, Any]:
    """Read `masked_fill(x, mask, -inf)`: what is filled, and where it is left."""
    lost = isinstance(mask, Tensor) and _is_lost(value)
    return (x, ~mask.bool()) if lost else (None, None)


def _where(condition: Any, yes: Any, no: Any) -> tuple[Any, Any]:
    """Read `where` with minus infinity on one side."""
    if not isinstance(condition, Tensor):
        return None, None
    if _is_lost(no):
        return yes, condition
    return (no, ~condition) if _is_lost(yes) else (None, None)


def _is_lost(value: Any) -> bool:
    if isinstance(value, Ref):
        return False
    return bool((torch.as_tensor(value) == -math.inf).all())


_FILLS = {
    aten.masked_fill.Scalar: _fill_value,
    aten.masked_fill.Tensor: _fill_value,
    aten.where.self: _where,
    aten.where.ScalarOther: _where,
    aten.where.ScalarSelf: _where,
}
"""How minus infinity gets in."""


def _attention(b: Builder, call: Call) -> Translation:
    """Translate softmax(q k^T s + mask) v; s is what torch computes in float64."""
    q, k, v, mask, dropout, causal, scale, grouped = call.args
    if dropout or not all(isinstance(part, Ref) for part in (q, k, v)) or len(q.shape) < 2:
        return None
    if grouped:
        k, v = (_repeated(b, call, part, q.shape[0]) for part in (k, v))
    k = b.emit("permute", [k], call, _turned(k.shape), dims=_turned(range(len(k.shape) + 1)))
    scores = _product(b, call, q, k)
    if scores is None:
        return None
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    scores = b.emit("scale", [scores], call, scores.shape, factor=factor)
    kept = torch.ones(1, *scores.shape, dtype=torch.bool)
    kept = kept.tril() if causal else kept
    if isinstance(mask, Ref):
        if mask.shape != scores.shape:
            return None
        scores = b.emit("add", [scores, mask], call, scores.shape)
    elif mask is not None:
        rows = per_row(mask, scores)
        if not isinstance(rows, Tensor):
            return None
        if mask.dtype == torch.bool:
            kept = kept & (rows > 0)
        else:
            scores = b.emit("shift", [scores], call, scores.shape, offset=rows)
    shares = masked_softmax(b, call, scores, len(scores.shape), kept)
    return None if shares is None else _product(b, call, shares, v)


def _turned(dims: Sequence[int]) -> tuple[int, ...]:
    """Swap the last two."""
    return (*dims[:-2], dims[-1], dims[-2])


def _product(b: Builder, call: Call, left: Ref, right: Ref) -> Ref | None:
    found = matmul(b, with_args(call, [left, right]))
    return found if isinstance(found, Ref) else None


def _repeated(b: Builder, call: Call, part: Ref, heads: int) -> Ref:
    """Repeat each head of keys or values for the queries that share it."""
    index = torch.arange(part.shape[0]).repeat_interleave(heads // part.shape[0])
    shape = (len(index), *part.shape[1:])
    return b.emit("index_select", [part], call, shape, dim=1, index=index)


ATTENTION: Mapping[object, Translate] = {
    aten.softmax.int: _softmax,
    aten._softmax.default: _softmax,
    aten.log_softmax.int: _log_softmax,
    aten.scaled_dot_product_attention.default: _attention,
}
"""Translations by ATen overload."""
