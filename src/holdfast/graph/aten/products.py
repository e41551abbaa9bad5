"""Translations of products and quotients of values that move, powers, roots and exponentials.

What is written here has bounds on a region, and no constant on all inputs.
"""

from collections.abc import Mapping

import torch

from holdfast.graph.aten.call import (
    Builder,
    Call,
    Ref,
    Translate,
    Translation,
    alike,
    broadcast,
    unary,
)
from holdfast.graph.aten.patterns import factored, log1p

aten = torch.ops.aten


def product(b: Builder, call: Call, left: Ref, right: Ref) -> Translation:
    """Translate a product by entry of two values that move; of a value with itself, its square."""
    if left.at_one is not None or right.at_one is not None:
        return None  # a number that follows the batch
    if alike(b, left, right, call):
        return b.emit("power", [left], call, call.shape, exponent=2)
    if whole := factored(b, call, left, right):
        return whole
    parts = [broadcast(b, call, ref) for ref in (left, right)]
    moving = [ref for ref in parts if ref is not None]
    return b.emit("product", moving, call, call.shape) if len(moving) == 2 else None


def _power(b: Builder, call: Call) -> Translation:
    x, exponent = call.args
    if not isinstance(x, Ref) or isinstance(exponent, Ref | torch.Tensor):
        return None
    if abs(exponent) == 0.5:
        return b.emit("sqrt" if exponent > 0 else "rsqrt", [x], call, x.shape)
    # The rounding of a derivative is known for powers that are not large.
    if exponent == 0 or not abs(exponent) <= 64:
        return None
    if exponent != int(exponent):
        return b.emit("root", [x], call, x.shape, exponent=float(exponent))
    if abs(exponent) > 1:
        x = b.emit("power", [x], call, x.shape, exponent=int(abs(exponent)))
    return x if exponent > 0 else b.emit("reciprocal", [x], call, x.shape)


def _log1p(b: Builder, call: Call) -> Translation:
    if whole := log1p(b, call):
        return whole
    (x,) = call.args
    moved = b.emit("shift", [x], call, x.shape, offset=1.0)
    return b.emit("log", [moved], call, x.shape)


def _expm1(b: Builder, call: Call) -> Translation:
    (x,) = call.args
    return b.emit("shift", [b.emit("exp", [x], call, x.shape)], call, x.shape, offset=-1.0)


PRODUCTS: Mapping[object, Translate] = {
    aten.pow.Tensor_Scalar: _power,
    aten.square.default: unary("power", exponent=2),
    aten.exp.default: unary("exp"),
    aten.tan.default: unary("tan"),
    aten.expm1.default: _expm1,
    aten.log.default: unary("log"),
    aten.log1p.default: _log1p,
    aten.sqrt.default: unary("sqrt"),
    aten.rsqrt.default: unary("rsqrt"),
    aten.reciprocal.default: unary("reciprocal"),
}
"""Translations by ATen overload."""
