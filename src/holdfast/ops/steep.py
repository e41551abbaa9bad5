"""Records of what has bounds on a region only: powers, exponentials, logarithms, roots, products.

Their slopes grow without bound, so there is no Lipschitz constant on all inputs; on a region that
keeps away from poles there is one.
"""

import math
from collections.abc import Callable, Mapping
from math import inf

import torch
from torch import Tensor

from holdfast.ops.curves import DERIVATIVE_ERROR, Curve, Piece, Slopes, at
from holdfast.ops.record import Kind, Op, Params
from holdfast.rounding import TINY

_GROWS = "has no global Lipschitz constant (its slope grows without bound)"
_POLE = "has no global Lipschitz constant (its slope grows without bound near 0)"
_POLES = "has no global Lipschitz constant (its slope grows without bound near its poles)"
_PRODUCT = "has no global Lipschitz constant (a product of values that both move)"

_BRANCH = (-0.5 * math.pi, 0.5 * math.pi)


def _steep(
    function: Callable[[Tensor, Params], Tensor],
    curve: Curve | Callable[[Params], Curve],
    slopes: Slopes | Callable[[Params], Slopes],
    unbounded: str,
) -> Op:
    return Op(
        lambda inputs, params: function(inputs[0], params),
        Kind.STEEP,
        curve=curve if callable(curve) else lambda params: curve,
        slopes=slopes if callable(slopes) else lambda params: slopes,
        unbounded=unbounded,
    )


def _power_curve(params: Params) -> Curve:
    """Describe x^n for a whole n of at least 2."""
    n = params["exponent"]
    turn = at(0.0, 0.0)
    even = n % 2 == 0
    slope = Piece(lambda z: n * z ** (n - 1), turns=() if even else (turn,))
    return Curve((slope,), (turn,) if even else (), (0.0, inf) if even else (-inf, inf))


def _root_curve(params: Params) -> Curve:
    """Describe x^p where x is not negative, for any p but whole ones."""
    p = params["exponent"]
    # In p x^(p - 1) the exponent is rounded, which is magnified by |log x| < 745.
    error = DERIVATIVE_ERROR * (1.0 + abs(p))
    piece = Piece(lambda z: p * z ** (p - 1.0), low=0.0, error=error)
    return Curve((piece,), (), (0.0, inf), ((-inf, -TINY if p > 0 else 0.0),))


def _root_slopes(params: Params) -> Slopes:
    return (0.0, inf) if params["exponent"] > 0 else (-inf, 0.0)


STEEP: Mapping[str, Op] = {
    "power": _steep(lambda x, p: x ** p["exponent"], _power_curve, (-inf, inf), _GROWS),
    "root": _steep(lambda x, p: x ** p["exponent"], _root_curve, _root_slopes, _GROWS),
    # Its branch through 0 is all that is spoken of; the double below pi / 2 is within it.
    "tan": _steep(
        lambda x, p: torch.tan(x),
        Curve(
            (Piece(lambda z: 1.0 + torch.tan(z).square(), *_BRANCH, turns=(at(0.0, 1.0),)),),
            gaps=((-inf, _BRANCH[0]), (_BRANCH[1], inf)),
        ),
        (1.0, inf),
        _POLES,
    ),
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
"""Functions of one number by name; `power` has a whole exponent of at least 2, `root` any other."""

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
