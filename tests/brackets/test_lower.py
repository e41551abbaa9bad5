"""Witnesses: proved slopes against exact arithmetic, regions, and the data maximum."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

import holdfast
from holdfast.brackets.lower.pairs import contains, pairs_along, project, sample, slopes_lower
from holdfast.brackets.lower.steepest import steepest_directions, steepest_pairs
from holdfast.graph.walk import run
from holdfast.types import Ball, Box

REGIONS = [
    Ball(torch.full((6,), 0.5), 0.25),
    Ball(torch.zeros(6), 0.5, norm=math.inf),
    Ball(torch.zeros(6), 0.5, norm=1),
    Ball(torch.full((6,), 100.0), 1e-3),
    Box(torch.zeros(6), torch.linspace(0.0, 1.0, 6)),
]


def small(seed: int = 0, wide: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, wide), nn.ReLU(), nn.Linear(wide, 3)).eval()


def exactly(net: nn.Sequential, x: torch.Tensor) -> list[Fraction]:
    """Evaluate a net of linear layers and ReLUs on rational numbers."""
    values = [Fraction(v) for v in x.tolist()]
    for layer in net:
        if isinstance(layer, nn.ReLU):
            values = [max(v, Fraction(0)) for v in values]
            continue
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        values = [
            sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(bias))
            for row, bias in rows
        ]
    return values


def at_most_the_slope(claim: float, net: nn.Sequential, first, second, norm: float) -> bool:
    """Return whether claim <= ||f(x) - f(y)|| / ||x - y||, decided on rational numbers."""
    change = [a - b for a, b in zip(exactly(net, first), exactly(net, second), strict=True)]
    move = [Fraction(a) - Fraction(b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    slope = Fraction(claim)
    if norm == 2.0:
        return slope**2 * sum(m * m for m in move) <= sum(c * c for c in change)
    size = sum if norm == 1.0 else max
    return slope * size(abs(m) for m in move) <= size(abs(c) for c in change)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_slopes_are_proved_in_exact_arithmetic(norm: float) -> None:
    net = small()
    graph = holdfast.capture(net, torch.zeros(1, 6))
    generator = torch.Generator().manual_seed(3)
    first = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    lengths = 10.0 ** -torch.arange(40, dtype=torch.float64)[:, None]
    second = first + lengths * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    slopes = slopes_lower(graph, first, second, norm)
    assert int((slopes > 0).sum()) > 8
    for claim, x, y in zip(slopes.tolist(), first, second, strict=True):
        assert at_most_the_slope(claim, net, x, y, norm)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_slopes_of_pairs_too_close_for_squares_are_proved(norm: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2)).double()
    net[0].bias.data.zero_()
    graph = holdfast.capture(net, torch.zeros(1, 2, dtype=torch.float64))
    zero = torch.zeros(1, 2, dtype=torch.float64)
    for size in (1e-150, 1e-160, 1e-300, 5e-324):
        (claim,) = slopes_lower(graph, zero, zero + size, norm).tolist()
        assert at_most_the_slope(claim, net, zero[0], zero[0] + size, norm)
        assert (claim > 0) == (size > 1e-320)


@pytest.mark.parametrize("region", REGIONS)
def test_pairs_stay_in_the_region(region) -> None:
    generator = torch.Generator().manual_seed(0)
    points = project(region, sample(region, 50, generator) * 1.5)
    assert bool(contains(region, points).all())
    found = 0
    for first, second in pairs_along(points, torch.randn(50, 6).double(), region):
        assert bool(contains(region, torch.cat([first, second])).all())
        found += len(first)
    assert found > 50


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_the_data_maximum_grows_and_is_proved(norm: float) -> None:
    net = small(1)
    graph = holdfast.capture(net, torch.zeros(1, 6))
    points = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    found = list(steepest_pairs(graph, points, norm, None, batch=50))
    slopes = [witness.slope for witness in found]
    assert slopes == sorted(set(slopes)) and slopes
    for witness in found:
        assert at_most_the_slope(witness.slope, net, witness.first, witness.second, norm)


class Swapped(nn.Module):
    """Group norm of channels that come last, which PyTorch's forward mode does not take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.head = nn.GroupNorm(1, 4), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x.permute(0, 3, 1, 2)).flatten(1))


def test_channels_that_come_last_are_climbed_too() -> None:
    x = torch.randn(3, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    graph = holdfast.capture(Swapped().eval(), x).double()
    directions, values = steepest_directions(graph, x.double(), 2.0)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: run(graph, row[None])[0]))
    exact = torch.linalg.matrix_norm(jacobian(x.double()).flatten(2), 2)
    assert (values <= exact * (1 + 1e-9)).all() and (values >= 0.9 * exact).all()
    assert directions.shape == x.shape and not values.requires_grad
