"""Slopes of activations over the real line, recomputed with 50 digits."""

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.bounds.zoo import ACTIVATIONS, activation_nodes
from torch import Tensor

from holdfast.graph.ir import Node
from holdfast.ops import OPS

SQRT2 = mpmath.sqrt(2)
FUNCTIONS = {
    "gelu": lambda x: x * (1 + mpmath.erf(x / SQRT2)) / 2,
    "gelu tanh": lambda x: (
        x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))) / 2
    ),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
}


def slopes(node: Node) -> tuple[float, float]:
    return node.facts.slopes(node.params)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extreme_slopes_to_fifty_digits(name: str) -> None:
    with mpmath.workdps(50):
        function = FUNCTIONS[name]
        brackets = ((-3, -1.2), (1.2, 3))
        turns = [
            mpmath.findroot(
                lambda x: mpmath.diff(function, x, 2), ends, solver="anderson", tol=1e-30
            )
            for ends in brackets
        ]
        extremes = [mpmath.diff(function, turn) for turn in turns]
        low, high = slopes(activation_nodes()[name])
        assert mpmath.mpf(low) < min(extremes) and max(extremes) < mpmath.mpf(high)
        assert high - max(extremes) < 1e-8 and min(extremes) - low < 1e-7


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_secant_is_steeper(name: str) -> None:
    node = activation_nodes()[name]
    low, high = slopes(node)
    grid = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    wide = grid[:, None].expand(-1, 8)  # one column per channel of a PReLU
    params = {k: v.double() if isinstance(v, Tensor) else v for k, v in node.params.items()}
    secants = node.facts.run([wide], params).diff(dim=0) / grid.diff()[:, None]
    room = 1e-10  # of the difference quotient itself: values of size 10 over steps of 6e-4
    assert low - room <= float(secants.min()) and float(secants.max()) <= high + room
    assert node.facts.steepest(node.params) == max(abs(low), abs(high))


def test_the_slope_of_the_error_function_in_the_origin_to_fifty_digits() -> None:
    with mpmath.workdps(50):
        steepest = mpmath.diff(mpmath.erf, 0)
        assert 0 <= OPS["erf"].steepest({}) - steepest < 1e-9
        (turn,) = OPS["erf"].curve({}).pieces[0].turns
        assert turn.value[0] < steepest < turn.value[1]


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=3))
def test_prelu_takes_the_steepest_channel(weight: list[float]) -> None:
    params = {"weight": torch.tensor(weight, dtype=torch.float64)}
    assert OPS["prelu"].steepest(params) == max(1.0, *map(abs, weight))


def test_a_clamp_that_is_constant_has_slope_zero() -> None:
    assert OPS["hardtanh"].steepest({"low": 1.0, "high": 1.0}) == 0.0
