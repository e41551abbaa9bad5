"""Row by row bounds for l1 and linf, the transposed form, and the rates of pairs."""

import math

import numpy as np
import pytest
import torch
from tests.nets import MaxMin, Residual
from tests.sdp.builders import jacobian
from torch import nn

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lower.pairs import slopes_lower
from holdfast.brackets.rates import Rates
from holdfast.brackets.semidefinite import row_bounds_upper
from holdfast.sdp.lift import normal_form
from holdfast.sdp.reduction import transpose

MODELS = {
    "relu": nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)),
    "residual": nn.Sequential(Residual(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 5)), nn.Tanh()),
    "maxmin": nn.Sequential(nn.Linear(5, 6), MaxMin(), nn.Linear(6, 4)),
}


def graph_of(name: str) -> holdfast.Graph:
    torch.manual_seed(2)
    for module in MODELS[name].modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return holdfast.capture(MODELS[name].eval(), torch.zeros(1, 5))


@pytest.mark.parametrize("name", MODELS)
def test_the_transposed_form_has_the_transposed_jacobian(name: str) -> None:
    form = normal_form(graph_of(name), 100)
    turned = transpose(form)
    rng = np.random.default_rng(0)
    for _ in range(20):
        slopes = rng.uniform(form.low, form.high)
        np.testing.assert_allclose(
            jacobian(turned, slopes[::-1]), jacobian(form, slopes).T, atol=1e-13
        )
    assert (turned.B_error is None) == (form.B_error is None)
    back = transpose(turned)
    np.testing.assert_array_equal(back.B, form.B)
    np.testing.assert_array_equal(back.C, form.C)


@pytest.mark.parametrize("norm", [1, math.inf])
@pytest.mark.parametrize("name", MODELS)
def test_no_slope_exceeds_the_row_bounds(name: str, norm: float) -> None:
    graph = graph_of(name)
    bounds = list(row_bounds_upper(graph, norm, 60.0))
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] <= gain_upper(graph, norm) * (1 + 1e-3)
    form = normal_form(graph, 100)
    rng = np.random.default_rng(1)
    for _ in range(2000):
        ends = rng.uniform(size=form.units) < 0.5
        slopes = np.where(ends, form.low, form.high)
        assert np.linalg.norm(jacobian(form, slopes), norm) <= bounds[-1]
    torch.manual_seed(0)
    first = torch.randn(2000, 5, dtype=torch.float64)
    second = first + torch.randn(2000, 5, dtype=torch.float64) * 0.1
    assert float(slopes_lower(graph, first, second, norm).max()) <= bounds[-1]


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("name", ["relu", "maxmin"])
def test_pairs_of_outputs_never_part_faster_than_their_rate(name: str, norm: float) -> None:
    graph = graph_of(name)
    rates = Rates(graph, norm)
    before, promised = rates.pairs.clone(), rates.final.clone()
    for i, j in torch.combinations(torch.arange(len(before))).tolist():
        rates.tighten(i, j)
    assert bool((promised <= rates.pairs).all() and (rates.pairs <= before).all())
    assert torch.equal(rates.pairs, rates.final)
    assert torch.equal(rates.pairs, rates.pairs.T) and float(rates.pairs.diagonal().max()) == 0.0
    form = normal_form(graph, 100)
    rng = np.random.default_rng(1)
    dual = {1: math.inf, 2: 2, math.inf: 1}[norm]
    for _ in range(500):
        slopes = np.where(rng.uniform(size=form.units) < 0.5, form.low, form.high)
        J = jacobian(form, slopes)
        apart = np.linalg.norm(J[:, None] - J[None], ord=dual, axis=2)
        assert (apart <= rates.pairs.numpy()).all()
        assert np.linalg.norm(J, norm) <= rates.constant
