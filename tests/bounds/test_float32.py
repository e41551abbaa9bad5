"""The error of float32 execution at a row, against a slow recursion in rationals."""

import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from tests.machine import exact
from torch import nn

import holdfast
from holdfast.bounds.float32 import UNIT32, Executed, affine_rounding, execution_error, gamma32
from holdfast.graph.ir import Graph


def at_rows(graph: Graph, x: torch.Tensor) -> Executed:
    still = dict.fromkeys((node.name for node in graph.nodes), 0.0)
    return execution_error(graph, x, torch.zeros(len(x)), still)


def reference(net: nn.Sequential, row: Sequence[float], spare: int) -> list[Fraction]:
    """Bound the error neuron by neuron, with n + spare operations for n terms."""
    values = [Fraction(value) for value in row]
    errors = [Fraction(0)] * len(row)
    for layer in net:
        before, values = values, exact(layer, values)
        if isinstance(layer, nn.ReLU):
            known = zip(before, errors, strict=True)
            errors = [Fraction(0) if v + e < 0 else e for v, e in known]
            continue
        unit = (layer.in_features + spare) * Fraction(UNIT32)
        gamma = unit / (1 - unit)
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        errors = [
            sum(
                abs(Fraction(w)) * (e + gamma * (abs(v) + e))
                for w, v, e in zip(weights, before, errors, strict=True)
            )
            + gamma * abs(Fraction(bias))
            for weights, bias in rows
        ]
    return errors


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_the_recursion_with_a_few_operations_to_spare(seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)
    ).eval()
    x = torch.randn(3, 9)
    got = at_rows(holdfast.capture(net, x), x)
    for row, errors in zip(x.tolist(), got.error.tolist(), strict=True):
        pairs = zip(reference(net, row, 1), reference(net, row, 7), errors, strict=True)
        for least, most, error in pairs:
            assert least <= Fraction(error) <= most


def test_units_that_are_off_carry_no_error() -> None:
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    net[0].weight.data = torch.tensor([[1.0], [1.0]])
    net[0].bias.data = torch.tensor([0.0, -(2.0**20)])
    net[2].weight.data = torch.tensor([[1.0, 2.0**20]])
    net[2].bias.data.zero_()
    x = torch.ones(1, 1)
    graph = holdfast.capture(net, x)
    assert float(at_rows(graph, x).error) < 1e-4
    rates = dict.fromkeys((node.name for node in graph.nodes), 1.0)
    far = execution_error(graph, x, torch.full((1,), 2.0**20), rates)
    assert float(far.error) > 2.0**19 * UNIT32 * 2.0**20, "within reach it may be on"


def test_the_sum_of_a_channel_is_not_the_sum_of_the_row() -> None:
    """Means over some dimensions count only the entries that they add."""

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    for model in (Mean(), nn.AdaptiveAvgPool2d(1)):
        graph = holdfast.capture(model, torch.zeros(1, 50, 3, 3))
        node = graph[graph.output] if graph[graph.output].op != "reshape" else graph.nodes[-2]
        assert affine_rounding(node, (50, 3, 3)) == gamma32(9 + 2 + 4)


def test_too_many_operations_bound_nothing() -> None:
    assert gamma32(2**23) == math.inf
    assert 100 * UNIT32 < gamma32(100) < 100.001 * UNIT32
