"""From ATen operations, as `torch.export` leaves them, to the vocabulary of `ops`.

One small function per family. A function returns None when the call, although its op is known, is
used in a way that the vocabulary does not describe (it mixes rows of the batch, say); the node then
stays executable but no bound will cover it.
"""

from collections.abc import Mapping

from holdfast.graph.aten.affine import AFFINE
from holdfast.graph.aten.attention import ATTENTION
from holdfast.graph.aten.call import Builder, Call, Ref, Translate, opaque
from holdfast.graph.aten.choices import CHOICES
from holdfast.graph.aten.contract import CONTRACTIONS
from holdfast.graph.aten.extremes import EXTREMES
from holdfast.graph.aten.indexing import BY_SHAPE, INDEXING
from holdfast.graph.aten.nonlinear import NONLINEAR
from holdfast.graph.aten.products import PRODUCTS
from holdfast.graph.aten.recurrent import RECURRENT
from holdfast.graph.aten.wiring import WIRING

__all__ = ["BY_SHAPE", "TRANSLATIONS", "Builder", "Call", "Ref", "opaque"]

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
    **RECURRENT,
}
"""Translations by ATen overload."""
