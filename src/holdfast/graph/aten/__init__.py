"""From ATen operations, as `torch.export` leaves them, to the vocabulary of `ops`.

One small function per family. A function returns None when the call, although its op is known, is
used in a way that the vocabulary does not describe (it mixes rows of the batch, say); the node then
stays executable but no bound will cover it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from holdfast.graph.aten.affine import AFFINE
from holdfast.graph.aten.attention import ATTENTION
from holdfast.graph.aten.call import Builder, Call, Ref, Translate
from holdfast.graph.aten.choices import CHOICES
from holdfast.graph.aten.contract import CONTRACTIONS
from holdfast.graph.aten.extremes import EXTREMES
from holdfast.graph.aten.indexing import BY_SHAPE, INDEXING
from holdfast.graph.aten.nonlinear import NONLINEAR
from holdfast.graph.aten.products import PRODUCTS
from holdfast.graph.aten.wiring import WIRING
from holdfast.graph.walk import Slot

__all__ = ["BY_SHAPE", "TRANSLATIONS", "Builder", "Call", "Ref", "opaque"]

aten = torch.ops.aten

TRANSLATIONS: Mapping[object, Translate] = {
    **AFFINE,
    **CONTRACTIONS,
    **WIRING,
    **INDEXING,
    **NONLINEAR,
    **PRODUCTS,
    **ATTENTION,
    **CHOICES,
    **EXTREMES,
}
"""Translations by ATen overload."""


def opaque(b: Builder, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Ref:
    """Emit an operation outside the vocabulary: it can be executed, not bounded."""
    inputs: list[Ref] = []

    def slot(item: object) -> object:
        if isinstance(item, Ref):
            inputs.append(item)
            return Slot(len(inputs) - 1)
        if isinstance(item, list | tuple):
            return [slot(part) for part in item]
        return item

    settings = {
        "target": str(call.target) if hasattr(call.target, "_schema") else _name(call.target),
        # Where other operations stand for a part of the model, memory may be laid out otherwise.
        "call": aten.reshape.default if call.target is aten.view.default else call.target,
        "args": [slot(item) for item in args],
        "kwargs": {name: slot(item) for name, item in kwargs.items()},
        "dtype": call.dtype,
    }
    ref = b.emit("aten", inputs, call, call.shape, **settings)
    b.outside[ref.node] = call
    return ref


def _name(target: object) -> str:
    return getattr(target, "__name__", str(target))
