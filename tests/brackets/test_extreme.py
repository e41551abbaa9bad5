"""Weights near the ends of float64: every end of a bracket holds, and nothing breaks."""

import math
from fractions import Fraction

import pytest
import torch
from tests.nets import crossed
from torch import nn

import holdfast
from holdfast.brackets.lower.pairs import slopes_lower
from holdfast.types import Box

SIZES = (1e-300, 1e-170, 1e-100, 1e-60, 1e60, 1e100, 1e153, 1e154)


def scaled(size: float, depth: int = 2) -> nn.Sequential:
    """Return a ReLU net whose weights are whole numbers times `size`."""
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(2, 2, bias=False), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).double()
    for layer in layers[::2]:
        layer.weight.data = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double() * size
    return model


def slope_of_the_diagonal(size: float, norm: float) -> Fraction:
    """Return at most the slope of `scaled(size)` along (1, 1), where all units are active."""
    W = [[Fraction(float(entry) * size) for entry in row] for row in ((3, 1), (1, 2))]
    x = [Fraction(1), Fraction(1)]
    for _ in range(2):
        x = [row[0] * x[0] + row[1] * x[1] for row in W]
    length = {1.0: Fraction(2), math.inf: Fraction(1), 2.0: Fraction(3, 2)}[norm]  # > sqrt(2)
    return (sum(x) if norm == 1.0 else max(x)) / length


@pytest.mark.parametrize(
    ("size", "boxed", "norm"), crossed(SIZES, [False, True], [1.0, 2.0, math.inf])
)
def test_both_ends_hold(size: float, norm: float, boxed: bool) -> None:
    box = Box(-torch.ones(2).double(), torch.ones(2).double()) if boxed else None
    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
    bracket = holdfast.lipschitz(scaled(size), points, norm, box, seconds=0.1)
    assert bracket.lower <= bracket.upper
    assert math.isinf(bracket.upper) or Fraction(bracket.upper) >= slope_of_the_diagonal(size, norm)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_linear_layers_whose_product_vanishes_are_not_constant(norm: float) -> None:
    model = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(2)]).double()
    for layer in model:
        layer.weight.data = torch.eye(2).double() * 1e-170
    bracket = holdfast.lipschitz(model, torch.randn(8, 2).double(), norm, seconds=0.1)
    assert bracket.upper > 0.0


def test_a_slope_that_overflows_proves_nothing() -> None:
    graph = holdfast.capture(scaled(1e153), torch.zeros(1, 2).double())
    first = torch.tensor([[1e5, 1e5]]).double()
    assert slopes_lower(graph, first, -first, 2.0).tolist() == [0.0]


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("low", [-math.inf, 0.0])
def test_a_box_without_end_is_bounded_from_above(low: float, norm: float) -> None:
    ends = torch.full((2,), low).double(), torch.full((2,), math.inf).double()
    bracket = holdfast.lipschitz(scaled(1.0), torch.ones(4, 2).double(), norm, Box(*ends), 0.1)
    assert bracket.lower <= bracket.upper
    assert Fraction(bracket.upper) >= slope_of_the_diagonal(1.0, norm)
