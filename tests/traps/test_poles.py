"""Poles, overflow and products of every scale: no certificate reaches the true distance."""

import functools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.traps.truth import Function
from torch import Tensor

import holdfast
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.certify import CertifyOptions, certify_graph


def logits(function: Callable[[Tensor], Tensor], level: float) -> Function:
    """Return a model of class 0 where a function of the row is below a level."""

    def both(x: Tensor) -> Tensor:
        value = function(x)
        return torch.stack([0.0 * value + level, value], 1)

    return Function(both)


def local(graph: holdfast.Graph, x: Tensor, label: int, norm: float = math.inf) -> Certificates:
    return certify_graph(graph, x, torch.tensor([label]), CertifyOptions(norm, "local"))


@pytest.mark.parametrize(
    "norm", [2.0, *(pytest.param(p, marks=pytest.mark.slow) for p in (1.0, math.inf))]
)
@pytest.mark.parametrize(
    ("function", "closed"),
    [
        (lambda x: torch.log(x[:, 0]).tanh(), True),
        (lambda x: torch.rsqrt(x[:, 0]).neg().sigmoid(), True),
        (lambda x: (1.0 / x[:, 0]).sin(), True),
        (lambda x: torch.sqrt(x[:, 0]).neg().tanh(), False),
        (lambda x: (x[:, 1] / x[:, 0]).tanh(), True),
        (lambda x: (x[:, 0] ** -3).tanh(), True),
        (lambda x: (x[:, 0] ** -1.5).tanh(), True),
        (lambda x: (x[:, 0] ** 0.7).neg().tanh(), False),
        (lambda x: torch.tan(math.pi / 2 - x[:, 0]).sin(), True),
    ],
)
def test_no_ball_reaches_a_pole_behind_a_bounded_function(
    function, closed: bool, norm: float
) -> None:
    """Beyond the pole the model gives NaN or jumps, whatever bounds its logits."""
    model, row = logits(function, 2.0), torch.tensor([[0.125, 3.0]], dtype=torch.float64)
    graph = holdfast.capture(model.double(), row)
    found = local(graph, row, 0, norm)
    radius = Fraction(float(found.radius))
    assert found.reason == ("certified",) and radius > Fraction(1, 10**4)
    assert radius < Fraction(1, 8) or (not closed and radius == Fraction(1, 8))
    beyond = torch.tensor([[-1e-9, 3.0]], dtype=torch.float64)
    assert float(local(graph, beyond, 0).radius) == 0.0 or not bool(model(beyond).isnan().any())


def test_a_row_on_a_pole_has_no_radius_and_says_so() -> None:
    model = logits(lambda x: torch.sqrt(x[:, 0]), 2.0)
    row = torch.zeros(1, 2, dtype=torch.float64)
    found = local(holdfast.capture(model.double(), row + 1.0), row, 0)
    assert float(found.radius) == 0.0 and found.reason == ("not_bounded",)


@settings(max_examples=5)
@given(st.sampled_from([-1000, -300, -20, 0, 30, 500, 1000]), st.floats(0.1, 8.0))
def test_products_at_every_scale(exponent: int, x: float) -> None:
    """The class of (2^k a)(2^-k b) changes where a b = 1, whatever k."""
    row = torch.tensor([[x, x]], dtype=torch.float64)
    square = Fraction(x) ** 2
    if abs(square - 1) < Fraction(1, 100):
        return
    label = int(square > 1)
    for norm in (1.0, 2.0, math.inf):
        radius = Fraction(float(local(product_graph(exponent), row, label, norm).radius))
        assert radius > 0 or abs(exponent) == 1000
        # Along one axis, which all balls hold, and along the diagonal, which linf holds.
        near = Fraction(x) - radius if label else Fraction(x) + radius
        value = near**2 if norm == math.inf else Fraction(x) * near
        assert (value - 1) * (square - 1) >= 0


@functools.cache
def product_graph(exponent: int) -> holdfast.Graph:
    def product(x: Tensor) -> Tensor:
        return (x[:, 0] * 2.0**exponent) * (x[:, 1] * 2.0**-exponent)

    row = torch.ones(1, 2, dtype=torch.float64)
    return holdfast.capture(logits(product, 1.0).double(), row)


@pytest.mark.parametrize(("level", "x"), [(700.0, 1.0), (709.0, 700.0), (50.0, -740.0)])
def test_exponentials_next_to_overflow(level: float, x: float) -> None:
    model = logits(lambda x: torch.exp(x[:, 0]), math.exp(level))
    row = torch.tensor([[x, 0.0]], dtype=torch.float64)
    found = local(holdfast.capture(model.double(), torch.zeros_like(row)), row, 0)
    # The exponential reaches exp(level) rounded within 1e-12 of the level.
    assert 0.0 < float(found.radius) < level - x + 1e-9


def test_an_overflow_at_the_row_certifies_nothing() -> None:
    def ratio(x: Tensor) -> Tensor:
        return torch.exp(x[:, 0]) / torch.exp(x[:, 1])

    row = torch.tensor([[800.0, 790.0]], dtype=torch.float64)
    found = local(holdfast.capture(logits(ratio, 1e9).double(), torch.zeros_like(row)), row, 0)
    assert float(found.radius) == 0.0 and found.reason == ("not_finite",)
