"""Calls on sequences whose rows are not the first dimension, [steps, rows, ...].

They are translated with the rows first, as any other call; the dimensions that they name move
along. What reshapes and reorders dimensions is in `layouts`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.aten.affine import AFFINE
from holdfast.graph.aten.call import Builder, Call, Ref, Translate
from holdfast.graph.aten.layouts import row_size, rows_at, rows_first
from holdfast.graph.aten.nonlinear import NONLINEAR
from holdfast.graph.aten.wiring import WIRING

aten = torch.ops.aten

Turn = Callable[[Sequence[Any], int], "Sequence[Any] | None"]
"""From the arguments of a call, of which rows come first now, and where they were, to new ones."""


def turned(b: Builder, call: Call, value: object) -> Ref | None:
    """Return the result of a call that reads or gives a tensor whose rows are not first.

    Args:
        b: The builder.
        call: The call.
        value: The result, as `torch.export` knows it.

    Returns:
        The result; None where the call mixes the rows with other dimensions, or is not known.
    """
    if not isinstance(value, Tensor) or call.target not in _TURNS:
        return None
    sizes = [row_size(b, size) for size in value.shape]
    if sizes.count((1, True)) != 1 or None in sizes:
        return None
    shape = tuple(size[0] for size in sizes if size is not None and not size[1])
    parts = {ref: rows_first(b, call, ref) for ref in _refs(call.args)}
    found = [part for part in parts.values() if part is not None]
    places = {place for _, place in found}
    if len(shape) != len(sizes) - 1 or len(found) < len(parts) or len(places) != 1:
        return None
    (place,) = places
    args = _TURNS[call.target](_replaced(call.args, parts), place)
    if args is None:
        return None
    rows = _RULES[call.target](b, dataclasses.replace(call, args=args, shape=shape))
    return rows_at(b, call, rows, sizes.index((1, True))) if isinstance(rows, Ref) else None


def _refs(args: Sequence[Any]) -> list[Ref]:
    listed = [part for item in args for part in (item if isinstance(item, list) else [item])]
    return [part for part in listed if isinstance(part, Ref)]


def _replaced(items: Sequence[Any], parts: Mapping[Ref, tuple[Ref, int] | None]) -> list[Any]:
    """Put values with their rows first in the place of others."""
    result = []
    for item in items:
        if isinstance(item, list):
            result.append(_replaced(item, parts))
        else:
            known = parts.get(item) if isinstance(item, Ref) else None
            result.append(item if known is None else known[0])
    return result


def _moved(dim: int, place: int, rank: int) -> int:
    """Return where a dimension is once the rows come first."""
    dim %= rank
    return 0 if dim == place else dim + 1 if dim < place else dim


def _along(args: Sequence[Any], place: int) -> Sequence[Any]:
    """Turn a call whose second argument is a dimension, or several."""
    x, dims, *rest = args
    rank = len(x.shape) + 1
    if isinstance(dims, list | tuple):
        return [x, [_moved(dim, place, rank) for dim in dims], *rest]
    return [x, _moved(dims, place, rank), *rest]


def _joined(args: Sequence[Any], place: int) -> Sequence[Any] | None:
    """Turn a concatenation."""
    parts, dim = args
    if not all(isinstance(part, Ref) for part in parts):
        return None
    return [parts, _moved(dim, place, len(parts[0].shape) + 1)]


def _stacked(args: Sequence[Any], place: int) -> Sequence[Any] | None:
    """Turn a stack: the new dimension comes before the rows or behind them."""
    parts, dim = args
    if not all(isinstance(part, Ref) for part in parts):
        return None
    dim %= len(parts[0].shape) + 2
    return [parts, dim + 1 if dim <= place else dim]


def _by_entry(args: Sequence[Any], place: int) -> Sequence[Any] | None:
    """Turn a call that reads each entry by itself; constants must be numbers."""
    refs = _refs(args)
    same = all(ref.shape == refs[0].shape for ref in refs)
    return args if same and not any(isinstance(item, Tensor) for item in args) else None


_RULES: Mapping[object, Translate] = {**AFFINE, **NONLINEAR, **WIRING}
_TURNS: Mapping[object, Turn] = {
    aten.select.int: _along,
    aten.slice.Tensor: _along,
    aten.index_select.default: _along,
    aten.flip.default: _along,
    aten.mean.dim: _along,
    aten.sum.dim_IntList: _along,
    aten.cat.default: _joined,
    aten.stack.default: _stacked,
    **dict.fromkeys(
        (
            *(aten.relu.default, aten.tanh.default, aten.sigmoid.default, aten.gelu.default),
            *(aten.silu.default, aten.neg.default, aten.detach.default),
            *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor),
        ),
        _by_entry,
    ),
}
