"""The table of scalar activations: where each turns, and where its derivative turns.

A function is monotone between its turns, and so is its derivative between the turns of the
derivative; `holdfast.bounds.relaxations` derives ranges, slopes and lines from that alone. The
tests compute every turn anew and prove with interval arithmetic that there is no other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.ir import Node
from holdfast.graph.ops import per_channel
from holdfast.rounding import UNIT

_INF = math.inf
_DERIVATIVE_ERROR = 2.0**-42
"""Rounding of a derivative, relative to 1 + |derivative|: 2048 units of roundoff, for formulas
of a dozen operations each within 32."""

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Turn:
    """A point where a function turns.

    Attributes:
        where: Two numbers with the point between them.
        value: Two numbers with the function's value between them.
    """

    where: tuple[float, float]
    value: tuple[float, float]


@dataclass(frozen=True)
class Piece:
    """A stretch of the real line on which the derivative is continuous.

    Attributes:
        slope: The derivative there, also defined at the two ends.
        low: Lower end.
        high: Upper end.
        turns: Where the derivative turns; between turns it is monotone.
        error: Rounding of `slope`, relative to 1 + |slope|.
    """

    slope: Function
    low: float = -_INF
    high: float = _INF
    turns: tuple[Turn, ...] = ()
    error: float = _DERIVATIVE_ERROR


@dataclass(frozen=True)
class Curve:
    """What is known about one activation.

    Attributes:
        pieces: They cover the real line; the function is continuous across them.
        turns: Where the function turns; between turns it is monotone.
        limits: No value lies outside.
    """

    pieces: tuple[Piece, ...]
    turns: tuple[Turn, ...] = ()
    limits: tuple[float, float] = (-_INF, _INF)

    @property
    def breaks(self) -> tuple[float, ...]:
        """The finite ends of pieces."""
        ends = {end for piece in self.pieces for end in (piece.low, piece.high)}
        return tuple(sorted(end for end in ends if math.isfinite(end)))

    @property
    def curved(self) -> bool:
        """Whether a piece is not a straight line."""
        return any(piece.error >= _DERIVATIVE_ERROR for piece in self.pieces)


def _near(where: float, value: float) -> Turn:
    """Enclose a turn given to at least 15 digits."""
    room = 2.0**-40
    return Turn((where - room, where + room), (value - room, value + room))


def _at(where: float, value: float) -> Turn:
    """Name a turn that is known exactly."""
    return Turn((where, where), (value, value))


def _flat(value: float | Tensor, low: float = -_INF, high: float = _INF) -> Piece:
    """Make a straight piece of an exactly known slope."""

    def slope(z: Tensor) -> Tensor:
        if isinstance(value, Tensor):
            weight = per_channel(value, z.dim()) if value.numel() > 1 else value
            return weight.to(z.dtype).expand_as(z)
        return torch.full_like(z, value)

    return Piece(slope, low, high, error=0.0)


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


def _gelu(params: Mapping[str, Any]) -> Curve:
    if params["approximate"] == "none":
        function, root, least = _gelu_slope, 1.4142135623730950, -0.16997120747990367
        place, steep = -0.75179152469356446, 0.12890414518515479
    else:
        function, root, least = _gelu_tanh_slope, 1.4185040087908284, -0.17004075057125405
        place, steep = -0.75246142207101626, 0.12899306865877177
    turns = (_near(-root, -steep), _near(root, 1.0 + steep))
    bottom = _near(place, least)
    return Curve((Piece(function, turns=turns),), (bottom,), (bottom.value[0], _INF))


def _bent(slope: Function, turns: tuple[Turn, Turn], bottom: Turn) -> Curve:
    return Curve((Piece(slope, turns=turns),), (bottom,), (bottom.value[0], _INF))


def _kinked(left: float | Tensor, right: float = 1.0) -> Curve:
    """Two straight pieces that meet in the origin."""
    pieces = (_flat(left, high=0.0), _flat(right, low=0.0))
    return Curve(pieces, (_at(0.0, 0.0),))


def _elu(params: Mapping[str, Any]) -> Curve:
    alpha, scale, input_scale = (params[name] for name in ("alpha", "scale", "input_scale"))
    steepest = alpha * scale * input_scale
    error = _DERIVATIVE_ERROR * max(1.0, abs(steepest))
    left = Piece(lambda z: steepest * torch.exp(z * input_scale), high=0.0, error=error)
    return Curve((left, _flat(scale, low=0.0)), (_at(0.0, 0.0),))


def _hardtanh(params: Mapping[str, Any]) -> Curve:
    low, high = params["low"], params["high"]
    pieces = (_flat(0.0, high=low), _flat(1.0, low, high), _flat(0.0, low=high))
    return Curve(pieces, (), (low, high))


def _softplus(params: Mapping[str, Any]) -> Curve:
    beta = params["beta"]
    error = _DERIVATIVE_ERROR * max(1.0, beta)
    return Curve((Piece(lambda z: torch.sigmoid(z * beta), error=error),), (), (0.0, _INF))


_CURVES: Mapping[str, Curve | Callable[[Mapping[str, Any]], Curve]] = {
    "relu": Curve((_flat(0.0, high=0.0), _flat(1.0, low=0.0)), (), (0.0, _INF)),
    "leaky_relu": lambda params: _kinked(params["negative_slope"]),
    "prelu": lambda params: _kinked(params["weight"]),
    "elu": _elu,
    "gelu": _gelu,
    "silu": _bent(
        _silu_slope,
        (
            _near(-2.3993572805154677, -0.099839320128866917),
            _near(2.3993572805154677, 1.0998393201288669),
        ),
        _near(-1.2784645427610738, -0.27846454276107380),
    ),
    "mish": _bent(
        _mish_slope,
        (
            _near(-2.2563763963607931, -0.11252612238946256),
            _near(1.4905711794854285, 1.0884981612517279),
        ),
        _near(-1.1924312145154952, -0.30884341301725041),
    ),
    "hardswish": Curve(
        (
            _flat(0.0, high=-3.0),
            Piece(lambda z: (2.0 * z + 3.0) / 6.0, -3.0, 3.0),
            _flat(1.0, low=3.0),
        ),
        (_at(-1.5, -0.375),),
        (-0.375, _INF),
    ),
    "hardsigmoid": Curve(
        (
            _flat(0.0, high=-3.0),
            Piece(lambda z: torch.full_like(z, 1.0 / 6.0), -3.0, 3.0, error=UNIT),
            _flat(0.0, low=3.0),
        ),
        (),
        (0.0, 1.0),
    ),
    "hardtanh": _hardtanh,
    "tanh": Curve((Piece(_square_of_sech, turns=(_at(0.0, 1.0),)),), (), (-1.0, 1.0)),
    "sigmoid": Curve(
        (Piece(lambda z: 0.25 * _square_of_sech(0.5 * z), turns=(_at(0.0, 0.25),)),),
        (),
        (0.0, 1.0),
    ),
    "logsigmoid": Curve((Piece(lambda z: torch.sigmoid(-z)),), (), (-_INF, 0.0)),
    "softplus": _softplus,
    "abs": _kinked(-1.0),
}


def curve(node: Node) -> Curve:
    """Return what is known about an elementwise node."""
    entry = _CURVES[node.op]
    return entry(node.params) if callable(entry) else entry
