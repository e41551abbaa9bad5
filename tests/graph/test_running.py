"""The running error bound against exact rational evaluation."""

from fractions import Fraction

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nets import Residual
from torch import nn

import holdfast
from holdfast.graph.running import evaluate


def exact_mlp(net: nn.Sequential, row: list[float]) -> list[Fraction]:
    """Evaluate a ReLU net in rationals: the slow, obvious reference."""
    values = [Fraction(value) for value in row]
    for layer in net:
        if isinstance(layer, nn.Linear):
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            values = [
                sum((Fraction(w) * v for w, v in zip(weights, values, strict=True)), Fraction(bias))
                for weights, bias in rows
            ]
        else:
            values = [max(value, Fraction(0)) for value in values]
    return values


@settings(max_examples=9)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 2.0**20, 1e-20]))
def test_the_exact_value_lies_within_the_error(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    net[0].bias.data *= scale
    graph = holdfast.capture(net.eval(), torch.zeros(1, 5))
    x = torch.randn(2, 5)
    got = evaluate(graph, x)
    for row, values, errors in zip(x.tolist(), got.value.tolist(), got.error.tolist(), strict=True):
        exact = exact_mlp(net, row)
        for truth, value, error in zip(exact, values, errors, strict=True):
            assert abs(truth - Fraction(value)) <= Fraction(error)


def test_the_bound_is_near_the_rounding() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 5)).eval()
    graph = holdfast.capture(net, torch.zeros(1, 100))
    assert float(evaluate(graph, torch.randn(4, 100)).error.max()) < 1e-11


MODELS = {
    "norms": nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
    "group": nn.Sequential(nn.Unflatten(1, (2, 3)), nn.GroupNorm(2, 2), nn.Flatten(), nn.ELU(2.0)),
    "batch": nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Softplus(0.1), nn.Softmax(-1)),
    "shrunk": nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.Softshrink(0.2), nn.Softsign()),
    "residual": Residual(nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 6), nn.LogSoftmax(-1)),
    "pool": nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 3, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool1d(2, 1),
        nn.AvgPool1d(2, 1, 1),
        nn.ConvTranspose1d(3, 2, 2, stride=2),
        nn.Flatten(),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_perturbed_arithmetic_stays_within_the_error(name: str) -> None:
    """Evaluate in float32 with float64's bound scaled up: both err by their own unit."""
    torch.manual_seed(1)
    model = MODELS[name].eval()
    graph = holdfast.capture(model, torch.zeros(2, 6))
    x = torch.randn(200, 6)
    got = evaluate(graph, x)
    with torch.no_grad():
        gap = (model(x).double() - got.value).abs()
    assert bool((gap <= got.error * 2.0**29 + 2.0**-100).all())
    assert bool((got.error >= 0).all())
    assert float(got.error.max()) < 1e-7


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e7])
def test_a_normalisation_is_as_exact_in_every_memory_layout(offset: float) -> None:
    """Channels come last in memory here, where torch subtracts large squares from each other."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 4).double().eval()
    graph = holdfast.capture(norm, torch.zeros(1, 4, 3, 2).double())
    x = (offset + 1e-2 * torch.randn(3, 3, 2, 4)).double().permute(0, 3, 1, 2)
    found = evaluate(graph, x)
    rows = (x, found.value, found.error)
    with mpmath.workdps(60):
        for row, value, error in zip(*(part.reshape(6, 12) for part in rows), strict=True):
            entries = [mpmath.mpf(entry) for entry in row.tolist()]
            mean = sum(entries) / 12
            deviation = mpmath.sqrt(sum((e - mean) ** 2 for e in entries) / 12 + norm.eps)
            z = [(entry - mean) / deviation for entry in entries]
            for one, got, room in zip(z, value.tolist(), error.tolist(), strict=True):
                assert abs(one - got) <= room
