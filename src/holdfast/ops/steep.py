"""Records of what has bounds on a region only: powers, exponentials, logarithms, roots, products.

Their slopes grow without bound, so there is no Lipschitz constant on all inputs; on a region that
keeps away from poles there is one.
"""

from collections.abc import Callable, Mapping
from math import inf

import torch
from torch import Tensor

from holdfast.ops.curves import Curve, Piece, Slopes, at
from holdfast.ops.record import Kind, Op, Params
from holdfast.rounding import TINY

_GROWS = "has no global Lipschitz constant (its slope grows without bound)"
_POLE = "has no global Lipschitz constant (its slope grows without bound near 0)"
_PRODUCT = "has no global Lipschitz constant (a product of values that both move)"


def _steep(
    function: Callable[[Tensor, Params], Tensor],
    curve: Curve | Callable[[Params], Curve],
    slopes: Slopes,
    unbounded: str,
) -> Op:
    return Op(
        lambda inputs, params: function(inputs[0], params),
        Kind.STEEP,
        curve=curve if callable(curve) else lambda params: curve,
        slopes=lambda params: slopes,
        unbounded=unbounded,
    )


def _power_curve(params: Params) -> Curve:
    """Describe x^n for a whole n of at least 2."""
    n = params["exponent"]
    turn = at(0.0, 0.0)
    even = n % 2 == 0
    slope = Piece(lambda z: n * z ** (n - 1), turns=() if even else (turn,))
    return Curve((slope,), (turn,) if even else (), (0.0, inf) if even else (-inf, inf))


STEEP: Mapping[str, Op] = {
    "power": _steep(lambda x, p: x ** p["exponent"], _power_curve, (-inf, inf), _GROWS),
    "exp": _steep(
        lambda x, p: torch.exp(x), Curve((Piece(torch.exp),), (), (0.0, inf)), (0.0, inf), _GROWS
    ),
    "log": _steep(
        lambda x, p: torch.log(x),
        Curve((Piece(lambda z: 1.0 / z, low=0.0),), gaps=((-inf, 0.0),)),
        (0.0, inf),
        _POLE,
    ),
    "sqrt": _steep(
        lambda x, p: torch.sqrt(x),
        Curve((Piece(lambda z: 0.5 / z.sqrt(), low=0.0),), (), (0.0, inf), ((-inf, -TINY),)),
        (0.0, inf),
        _POLE,
    ),
    "rsqrt": _steep(
        lambda x, p: torch.rsqrt(x),
        Curve((Piece(lambda z: -0.5 / (z * z.sqrt()), low=0.0),), (), (0.0, inf), ((-inf, 0.0),)),
        (-inf, 0.0),
        _POLE,
    ),
    "reciprocal": _steep(
        lambda x, p: torch.reciprocal(x),
        Curve(
            tuple(Piece(lambda z: -1.0 / z.square(), *ends) for ends in ((-inf, 0.0), (0.0, inf))),
            gaps=((0.0, 0.0),),
        ),
        (-inf, 0.0),
        _POLE,
    ),
}
"""Functions of one number by name; `power` has a whole exponent of at least 2."""

PRODUCT: Mapping[str, Op] = {
    "product": Op(
        lambda x, p: x[0] * x[1],
        Kind.PRODUCT,
        roundings=lambda params, shape: 1,
        unbounded=_PRODUCT,
    ),
    "matmul": Op(
        lambda x, p: x[0] @ x[1],
        Kind.PRODUCT,
        roundings=lambda params, shape: 2 * shape[-1],
        unbounded=_PRODUCT,
    ),
}
"""Products by name: of entries, and of the matrices in the last two dimensions."""
