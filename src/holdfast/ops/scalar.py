"""Records of scalar functions: activations, and others that have a slope on the whole real line.

Slopes over the real line are the extreme values of the derivatives, rounded outward in the last
digit given. The tests compute every slope and every turn anew with 50 digits, and prove with
interval arithmetic that there is no other turn.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.ops.curves import (
    DERIVATIVE_ERROR,
    Curve,
    Piece,
    Slopes,
    at,
    bent,
    flat,
    kinked,
    near,
    wave,
)
from holdfast.ops.record import Kind, Op, Params
from holdfast.rounding import UNIT, mul_up, up


def _by_settings(params: Params) -> float:
    """Return the product of all settings above 1: the most that their rounding is magnified by."""
    return math.prod(max(1.0, abs(v)) for v in params.values() if isinstance(v, float))


def _scalar(
    function: Callable[[Tensor, Params], Tensor],
    curve: Curve | Callable[[Params], Curve],
    slopes: Slopes | Callable[[Params], Slopes],
    exact: bool = False,
    inflation: Callable[[Params], float] = _by_settings,
    inner: Callable[[Tensor], Tensor] | None = None,
) -> Op:
    """Make a record out of facts that may depend on the settings."""
    return Op(
        lambda inputs, params: function(inputs[0], params),
        Kind.SCALAR,
        exact=exact,
        curve=curve if callable(curve) else lambda params: curve,
        slopes=slopes if callable(slopes) else lambda params: slopes,
        inflation=inflation,
        inner=inner,
    )


# --- derivatives ------------------------------------------------------------------------------


def _square_of_sech(z: Tensor) -> Tensor:
    """Return 1 / cosh(z)^2 without overflow or cancellation."""
    small = torch.exp(-2.0 * z.abs())
    return 4.0 * small / (1.0 + small).square()


def _gelu_slope(z: Tensor) -> Tensor:
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)
    return 0.5 * torch.erfc(-z / math.sqrt(2.0)) + z * density


def _gelu_tanh_slope(z: Tensor) -> Tensor:
    root = math.sqrt(2.0 / math.pi)
    inner = root * (z + 0.044715 * z**3)
    growth = root * (1.0 + 3.0 * 0.044715 * z.square())
    return 0.5 * (1.0 + torch.tanh(inner)) + 0.5 * z * _square_of_sech(inner) * growth


def _silu_slope(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * (1.0 + z * torch.sigmoid(-z))


def _mish_slope(z: Tensor) -> Tensor:
    """With q = sigmoid(-z): tanh(softplus z) = (1 - q^2) / (1 + q^2), its sech 2 q / (1 + q^2)."""
    square = torch.sigmoid(-z).square()
    whole = 1.0 + square
    return (1.0 - square) / whole + z * torch.sigmoid(z) * 4.0 * square / whole.square()


def _erf_slope(z: Tensor) -> Tensor:
    return torch.exp(-z.square()) * (2.0 / math.sqrt(math.pi))


# --- functions with settings --------------------------------------------------------------------


def _leaky_slopes(params: Params) -> Slopes:
    slope = params["negative_slope"]
    return min(slope, 1.0), max(slope, 1.0)


def _prelu_slopes(params: Params) -> Slopes:
    weight = params["weight"]
    return min(0.0, float(weight.min()), 1.0), max(1.0, float(weight.max()))


def _elu(x: Tensor, params: Params) -> Tensor:
    negative = torch.expm1(x.clamp(max=0) * params["input_scale"]) * params["alpha"]
    return torch.where(x > 0, x, negative) * params["scale"]


def _elu_curve(params: Params) -> Curve:
    alpha, scale, input_scale = (params[name] for name in ("alpha", "scale", "input_scale"))
    steepest = alpha * scale * input_scale
    error = DERIVATIVE_ERROR * max(1.0, abs(steepest))
    left = Piece(lambda z: steepest * torch.exp(z * input_scale), high=0.0, error=error)
    return Curve((left, flat(scale, low=0.0)), (at(0.0, 0.0),))


def _elu_slopes(params: Params) -> Slopes:
    """Slopes of scale * x above 0 and scale * alpha * (exp(input_scale x) - 1) below."""
    alpha, scale, input_scale = (params[name] for name in ("alpha", "scale", "input_scale"))
    if scale < 0 or input_scale < 0:
        return -inf, inf
    steepest = mul_up(abs(alpha), scale, input_scale)
    # Below 0 the slope lies between 0 and alpha * scale * input_scale.
    below = (-steepest, 0.0) if alpha < 0 else (0.0, steepest)
    return below[0], max(below[1], scale)


def _gelu_curve(params: Params) -> Curve:
    if params["approximate"] == "none":
        function, root, least = _gelu_slope, 1.4142135623730950, -0.16997120747990367
        place, steep = -0.75179152469356446, 0.12890414518515479
    else:
        function, root, least = _gelu_tanh_slope, 1.4185040087908284, -0.17004075057125405
        place, steep = -0.75246142207101626, 0.12899306865877177
    return bent(function, (near(-root, -steep), near(root, 1.0 + steep)), near(place, least))


def _gelu_slopes(params: Params) -> Slopes:
    exact = params["approximate"] == "none"
    return (-0.128904146, 1.128904146) if exact else (-0.128993070, 1.128993070)


def _hardtanh_curve(params: Params) -> Curve:
    low, high = params["low"], params["high"]
    pieces = (flat(0.0, high=low), flat(1.0, low, high), flat(0.0, low=high))
    return Curve(pieces, (), (low, high))


def _hardtanh_slopes(params: Params) -> Slopes:
    return (0.0, 0.0) if params["low"] == params["high"] else (0.0, 1.0)


def _softshrink_curve(params: Params) -> Curve:
    end = params["limit"]
    if end == 0.0:
        return Curve((flat(1.0),))
    return Curve((flat(1.0, high=-end), flat(0.0, -end, end), flat(1.0, low=end)), (at(0.0, 0.0),))


def _softplus(x: Tensor, params: Params) -> Tensor:
    # Torch's switch to the identity is taken for rounding where it is hidden in it, and the call
    # is left untranslated where it is not.
    return torch.logaddexp(x * params["beta"], x.new_zeros(())) / params["beta"]


def _softplus_curve(params: Params) -> Curve:
    beta = params["beta"]
    error = DERIVATIVE_ERROR * max(1.0, beta)
    return Curve((Piece(lambda z: torch.sigmoid(z * beta), error=error),), (), (0.0, inf))


def _softplus_inflation(params: Params) -> float:
    return _by_settings(params) * max(1.0, 1.0 / params["beta"])


SCALAR: Mapping[str, Op] = {
    "relu": _scalar(
        lambda x, p: F.relu(x),
        Curve((flat(0.0, high=0.0), flat(1.0, low=0.0)), (), (0.0, inf)),
        (0.0, 1.0),
        exact=True,
    ),
    "leaky_relu": _scalar(
        lambda x, p: F.leaky_relu(x, p["negative_slope"]),
        lambda p: kinked(p["negative_slope"]),
        _leaky_slopes,
    ),
    "prelu": _scalar(
        lambda x, p: F.prelu(x, p["weight"]), lambda p: kinked(p["weight"]), _prelu_slopes
    ),
    "elu": _scalar(_elu, _elu_curve, _elu_slopes),
    "gelu": _scalar(
        lambda x, p: F.gelu(x, approximate=p["approximate"]),
        _gelu_curve,
        _gelu_slopes,
        inner=lambda x: -x.clamp(-10.0, 0.0),  # 1 + erf(x), which is 0 below -10
    ),
    "silu": _scalar(
        lambda x, p: F.silu(x),
        bent(
            _silu_slope,
            (
                near(-2.3993572805154677, -0.099839320128866917),
                near(2.3993572805154677, 1.0998393201288669),
            ),
            near(-1.2784645427610738, -0.27846454276107380),
        ),
        (-0.0998393202, 1.0998393202),
    ),
    "mish": _scalar(
        lambda x, p: F.mish(x),
        bent(
            _mish_slope,
            (
                near(-2.2563763963607931, -0.11252612238946256),
                near(1.4905711794854285, 1.0884981612517279),
            ),
            near(-1.1924312145154952, -0.30884341301725041),
        ),
        (-0.112526123, 1.088498162),
    ),
    "hardswish": _scalar(
        lambda x, p: F.hardswish(x),
        Curve(
            (
                flat(0.0, high=-3.0),
                Piece(lambda z: (2.0 * z + 3.0) / 6.0, -3.0, 3.0),
                flat(1.0, low=3.0),
            ),
            (at(-1.5, -0.375),),
            (-0.375, inf),
        ),
        (-0.5, 1.5),
    ),
    "hardsigmoid": _scalar(
        lambda x, p: F.hardsigmoid(x),
        Curve(
            (
                flat(0.0, high=-3.0),
                Piece(lambda z: torch.full_like(z, 1.0 / 6.0), -3.0, 3.0, error=UNIT),
                flat(0.0, low=3.0),
            ),
            (),
            (0.0, 1.0),
        ),
        (0.0, up(1 / 6)),
    ),
    "hardtanh": _scalar(
        lambda x, p: x.clamp(p["low"], p["high"]), _hardtanh_curve, _hardtanh_slopes, exact=True
    ),
    "tanh": _scalar(
        lambda x, p: torch.tanh(x),
        Curve((Piece(_square_of_sech, turns=(at(0.0, 1.0),)),), (), (-1.0, 1.0)),
        (0.0, 1.0),
    ),
    "sigmoid": _scalar(
        lambda x, p: torch.sigmoid(x),
        Curve(
            (Piece(lambda z: 0.25 * _square_of_sech(0.5 * z), turns=(at(0.0, 0.25),)),),
            (),
            (0.0, 1.0),
        ),
        (0.0, 0.25),
    ),
    "atan": _scalar(
        lambda x, p: torch.atan(x),
        Curve(
            (Piece(lambda z: 1.0 / (1.0 + z.square()), turns=(at(0.0, 1.0),)),),
            (),
            (-up(math.pi / 2), up(math.pi / 2)),
        ),
        (0.0, 1.0),
    ),
    "sin": _scalar(
        lambda x, p: torch.sin(x),
        Curve((Piece(torch.cos, turns=wave(0.0)),), wave(math.pi / 2), (-1.0, 1.0)),
        (-1.0, 1.0),
    ),
    "cos": _scalar(
        lambda x, p: torch.cos(x),
        Curve((Piece(lambda z: -torch.sin(z), turns=wave(-math.pi / 2)),), wave(0.0), (-1.0, 1.0)),
        (-1.0, 1.0),
    ),
    "erf": _scalar(
        lambda x, p: torch.erf(x),
        Curve((Piece(_erf_slope, turns=(near(0.0, 1.1283791670955126),)),), (), (-1.0, 1.0)),
        (0.0, 1.128379168),
    ),
    "softsign": _scalar(
        lambda x, p: F.softsign(x),
        Curve(
            (Piece(lambda z: 1.0 / (1.0 + z.abs()).square(), turns=(at(0.0, 1.0),)),),
            (),
            (-1.0, 1.0),
        ),
        (0.0, 1.0),
    ),
    "softshrink": _scalar(lambda x, p: F.softshrink(x, p["limit"]), _softshrink_curve, (0.0, 1.0)),
    "tanhshrink": _scalar(
        lambda x, p: F.tanhshrink(x),
        Curve((Piece(lambda z: torch.tanh(z).square(), turns=(at(0.0, 0.0),)),)),
        (0.0, 1.0),
        inner=lambda x: x.tanh().abs(),
    ),
    # The logarithm of 1 + x where x is at least 0, continued by 0: all that is asked of it.
    "log1p_relu": _scalar(
        lambda x, p: torch.log1p(F.relu(x)),
        Curve((flat(0.0, high=0.0), Piece(lambda z: 1.0 / (1.0 + z), low=0.0)), (), (0.0, inf)),
        (0.0, 1.0),
    ),
    "logsigmoid": _scalar(
        lambda x, p: F.logsigmoid(x),
        Curve((Piece(lambda z: torch.sigmoid(-z)),), (), (-inf, 0.0)),
        (0.0, 1.0),
    ),
    "softplus": _scalar(_softplus, _softplus_curve, (0.0, 1.0), inflation=_softplus_inflation),
    "abs": _scalar(
        lambda x, p: x.abs(),
        dataclasses.replace(kinked(-1.0), limits=(0.0, inf)),
        (-1.0, 1.0),
        exact=True,
    ),
}
"""The records by name."""
