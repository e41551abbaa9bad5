"""Slopes of activations, recomputed with 50 digits."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import holdfast
from holdfast.bounds.activations import slope_bound, slopes
from holdfast.graph.ir import Node

SQRT2 = mpmath.sqrt(2)
FUNCTIONS = {
    "gelu": lambda x: x * (1 + mpmath.erf(x / SQRT2)) / 2,
    "gelu_tanh": lambda x: (
        x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))) / 2
    ),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
}
MODULES = {
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(3.0),
    "leaky negative": nn.LeakyReLU(-2.0),
    "elu": nn.ELU(1.5),
    "celu": nn.CELU(2.0),
    "selu": nn.SELU(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-2.0, 3.0),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "logsigmoid": nn.LogSigmoid(),
    "softplus": nn.Softplus(beta=2.0),
}


def node_of(module: nn.Module) -> Node:
    return holdfast.capture(module.eval(), torch.zeros(1, 3)).nodes[-1]


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
        low, high = slopes(node_of(MODULES[name]))
        assert mpmath.mpf(low) < min(extremes) and max(extremes) < mpmath.mpf(high)
        assert high - max(extremes) < 1e-8 and min(extremes) - low < 1e-7


@pytest.mark.parametrize("name", MODULES)
def test_no_secant_is_steeper(name: str) -> None:
    module = MODULES[name].double()
    low, high = slopes(node_of(module))
    grid = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    secants = module(grid).diff() / grid.diff()
    room = 1e-10  # of the difference quotient itself: values of size 10 over steps of 6e-4
    assert low - room <= float(secants.min()) and float(secants.max()) <= high + room
    assert slope_bound(node_of(module)) == max(abs(low), abs(high))


@given(st.floats(-4, 4), st.floats(-4, 4))
def test_prelu_takes_the_steepest_channel(a: float, b: float) -> None:
    module = nn.PReLU(2)
    module.weight.data = torch.tensor([a, b])
    node = holdfast.capture(module.eval(), torch.zeros(1, 2)).nodes[-1]
    assert slope_bound(node) == max(1.0, float(module.weight.detach().abs().max()))


def test_a_clamp_that_is_constant_has_slope_zero() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clamp(1.0, 1.0)

    assert slope_bound(node_of(Constant())) == 0.0


def test_softplus_with_a_low_threshold_is_left_unbounded() -> None:
    graph = holdfast.capture(nn.Softplus(threshold=1.0), torch.zeros(1, 2))
    assert graph.nodes[-1].op == "aten"
    assert math.isfinite(slope_bound(node_of(nn.Softplus())))
