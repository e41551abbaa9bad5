"""Translations of operations that choose by size: conditions, the larger of two, bounds.

A condition that moves jumps by itself. Together with what it chooses between it is a maximum, a
minimum or a bent line where the two sides meet in the place where the condition changes.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.aten.call import (
    Builder,
    Call,
    Ref,
    Translate,
    Translation,
    alike,
    broadcast,
    spread_constant,
    unary,
    with_args,
)
from holdfast.graph.aten.indexing import masked

aten = torch.ops.aten

_ABOVE = {
    aten.gt.Tensor: True,
    aten.gt.Scalar: True,
    aten.ge.Tensor: True,
    aten.ge.Scalar: True,
    aten.lt.Tensor: False,
    aten.lt.Scalar: False,
    aten.le.Tensor: False,
    aten.le.Scalar: False,
}
"""Comparisons: whether each holds where its first operand is the larger one."""


def _larger(b: Builder, call: Call, left: object, right: object, index: int = 1) -> Translation:
    """Emit the larger of two operands, entry by entry; with index 0 the smaller one."""
    if not isinstance(left, Ref):
        left, right = right, left
    x = broadcast(b, call, left) if isinstance(left, Ref) else None
    if x is None:
        return None
    if not isinstance(right, Ref):
        return _bounded(b, call, x, right, index)
    y = broadcast(b, call, right)
    return None if y is None else _end(b, call, x, y, index)


def _bounded(b: Builder, call: Call, x: Ref, bound: Any, index: int) -> Translation:
    """Emit the larger (1) or smaller (0) of a node and a constant."""
    bounds, idle = spread_constant(bound, call), -math.inf if index == 1 else math.inf
    if bounds is None or not bool((bounds.isfinite() | (bounds == idle).all()).all()):
        return None
    first = _single(bound, bounds)
    if first is None:
        return _end(b, call, x, b.constant(bounds.contiguous(), call), index)
    if first == idle:
        return x
    if (index, first) == (1, 0.0):
        return b.emit("relu", [x], call, x.shape)
    low, high = (first, math.inf) if index == 1 else (-math.inf, first)
    return b.emit("hardtanh", [x], call, x.shape, low=low, high=high)


def _single(written: object, spread: Tensor) -> float | None:
    """Return the one number that a constant is, as it is written; None for several numbers."""
    first = spread.flatten()[0]
    if not bool((spread == first).all()):
        return None
    return float(written) if isinstance(written, int | float) else float(first)


def _end(b: Builder, call: Call, left: Ref, right: Ref, index: int) -> Ref:
    """Emit an end of the comparison of two nodes."""
    both = _compared(b, left, right) or b.emit("compare", [left, right], call, (2, *call.shape))
    return b.emit("select", [both], call, call.shape, dim=1, index=index)


def _compared(b: Builder, left: Ref, right: Ref) -> Ref | None:
    """Return the comparison of two nodes where there is one already, in either order.

    Apart, a maximum and a minimum look like two maps of constant sqrt(2); together they permute
    entries and have constant 1 (MaxMin: Anil, Lucas, Grosse, "Sorting out Lipschitz function
    approximation", 2019).
    """
    for node in b.nodes.values():
        if node.op == "compare" and sorted(node.inputs) == sorted((left.node, right.node)):
            return Ref(node.name, node.shape, node.perturbed)
    return None


def _extreme(index: int) -> Translate:
    """Translate a minimum (0) or a maximum (1) of two."""
    return lambda b, call: _larger(b, call, call.args[0], call.args[1], index)


def _clamp(b: Builder, call: Call) -> Translation:
    x, low, high = call.args
    numbers = [item for item in (low, high) if item is not None]
    if not any(isinstance(item, Ref | Tensor) for item in numbers):
        low = -math.inf if low is None else float(low)
        high = math.inf if high is None else float(high)
        return None if low > high else b.emit("hardtanh", [x], call, x.shape, low=low, high=high)
    for bound, index in ((low, 1), (high, 0)):
        if bound is not None and x is not None:
            x = _larger(b, call, x, bound, index)
    return x


# --- conditions ---------------------------------------------------------------------------------


def _where(b: Builder, call: Call) -> Translation:
    return _chosen(b, call, *call.args)


def _masked_fill(b: Builder, call: Call) -> Translation:
    x, mask, value = call.args
    return _chosen(b, call, mask, value, x)


def _chosen(b: Builder, call: Call, condition: object, yes: object, no: object) -> Translation:
    """Emit yes where a condition holds, no elsewhere."""
    if isinstance(condition, Tensor):
        return masked(b, call, condition, yes, no)
    comparison = b.outside.get(condition.node) if isinstance(condition, Ref) else None
    if comparison is None or comparison.target not in _ABOVE or call.dtype is None:
        return None
    left, right = comparison.args[:2]
    if not _ABOVE[comparison.target]:
        yes, no = no, yes
    # From here on: yes where left > right. Where they are equal, so is what is chosen between.
    if alike(b, yes, left, call) and alike(b, no, right, call):
        return _larger(b, call, left, right, 1)
    if alike(b, yes, right, call) and alike(b, no, left, call):
        return _larger(b, call, left, right, 0)
    if isinstance(right, Ref):
        left, right, yes, no = right, left, no, yes
    return _bent(b, call, (left, right), yes, no)


def _bent(
    b: Builder, call: Call, compared: tuple[object, object], yes: object, no: object
) -> Translation:
    """Emit a line that is bent in 0, or bent twice (softshrink), where the condition says so."""
    x, level = compared
    if not isinstance(x, Ref) or isinstance(level, Ref) or x.shape != call.shape:
        return None
    levels = spread_constant(level, call)
    if levels is None or (limit := _single(level, levels)) is None:
        return None
    inner = b.nodes[x.node]
    if inner.op == "abs" and 0.0 <= limit < math.inf:
        source = Ref(inner.inputs[0], x.shape)
        if _is_shrunk(b, call, yes, source, limit) and _slope(b, call, no, source) == 0.0:
            return b.emit("softshrink", [source], call, x.shape, limit=limit)
    return _leaky(b, call, x, yes, no) if limit == 0.0 else None


def _leaky(b: Builder, call: Call, x: Ref, yes: object, no: object) -> Translation:
    """Emit a line through 0 with one slope above it and another below, one of which is 1."""
    above, below = (_slope(b, call, part, x) for part in (yes, no))
    if above is None or below is None or 1.0 not in (above, below):
        return None
    if above == 1.0:
        return b.emit("leaky_relu", [x], call, x.shape, negative_slope=below)
    turned = b.emit("scale", [x], call, x.shape, factor=-1.0)
    bent = b.emit("leaky_relu", [turned], call, x.shape, negative_slope=above)
    return b.emit("scale", [bent], call, x.shape, factor=-1.0)


def _slope(b: Builder, call: Call, part: object, x: Ref) -> float | None:
    """Return the number that a value is x times, or None."""
    if alike(b, part, x, call):
        return 1.0
    if alike(b, part, 0.0, call):
        return 0.0
    node = b.nodes[part.node] if isinstance(part, Ref) else None
    if node is None or node.op != "scale" or not alike(b, Ref(node.inputs[0]), x, call):
        return None
    factor = torch.as_tensor(node.params["factor"], dtype=call.dtype)
    finite = factor.numel() == 1 and bool(factor.isfinite().all())
    return float(node.params["factor"]) if finite else None


def _is_shrunk(b: Builder, call: Call, part: object, x: Ref, limit: float) -> bool:
    """Return whether a value is x - limit * sign(x), as torch.export writes softshrink."""
    node = b.nodes[part.node] if isinstance(part, Ref) else None
    if node is None or node.op != "add" or not alike(b, Ref(node.inputs[0]), x, call):
        return False
    factor, node = 1.0, b.nodes[node.inputs[1]]
    while node.op == "scale" and not isinstance(node.params["factor"], Tensor):
        factor, node = factor * node.params["factor"], b.nodes[node.inputs[0]]
    sign = b.outside.get(node.name)
    if sign is None or sign.target != aten.sign.default:
        return False
    return alike(b, sign.args[0], x, call) and alike(b, factor, -limit, call)


def _threshold(b: Builder, call: Call) -> Translation:
    """Translate `x if x > threshold else value` where it does not jump."""
    x, threshold, value = call.args
    return _larger(b, call, x, value) if alike(b, threshold, value, call) else None


CHOICES: Mapping[object, Translate] = {
    aten.where.self: _where,
    aten.where.ScalarSelf: _where,
    aten.where.ScalarOther: _where,
    aten.masked_fill.Scalar: _masked_fill,
    aten.masked_fill.Tensor: _masked_fill,
    aten.maximum.default: _extreme(1),
    aten.max.other: _extreme(1),
    aten.fmax.default: _extreme(1),
    aten.minimum.default: _extreme(0),
    aten.min.other: _extreme(0),
    aten.fmin.default: _extreme(0),
    aten.hardtanh.default: _clamp,
    aten.relu6.default: unary("hardtanh", low=0.0, high=6.0),
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: lambda b, call: _clamp(b, with_args(call, [*call.args, None])),
    aten.clamp_min.Tensor: lambda b, call: _clamp(b, with_args(call, [*call.args, None])),
    aten.clamp_max.default: lambda b, call: _clamp(
        b, with_args(call, [call.args[0], None, call.args[1]])
    ),
    aten.clamp_max.Tensor: lambda b, call: _clamp(
        b, with_args(call, [call.args[0], None, call.args[1]])
    ),
    aten.threshold.default: _threshold,
}
"""Translations by ATen overload."""
