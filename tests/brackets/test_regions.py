"""Bounds on a region: never below a slope inside it, and tighter than those for all inputs."""

import math

import pytest
import torch
from tests.nets import MaxMin, Residual, exact_values, load_net
from torch import nn

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lower.witness import sample, slopes_lower
from holdfast.brackets.semidefinite import form_on, lipsdp_upper, row_bounds_upper
from holdfast.types import Ball, Box, Outcome

MODELS = {
    "relu": nn.Sequential(
        nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    ),
    "gelu": nn.Sequential(
        nn.Linear(5, 10), nn.GELU(), nn.Linear(10, 8), nn.SiLU(), nn.Linear(8, 3)
    ),
    "residual": nn.Sequential(Residual(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5))),
    "maxmin": nn.Sequential(nn.Linear(5, 6), MaxMin(), nn.Linear(6, 4), nn.Sigmoid()),
    "conv": nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 3), nn.ReLU(), nn.MaxPool1d(2, 1), nn.Flatten()
    ),
}
REGIONS = {
    "ball": Ball(torch.full((5,), 0.3), 0.2),
    "small ball": Ball(torch.tensor([0.4, -0.2, 0.1, 0.9, -0.5]), 1e-3),
    "linf ball": Ball(torch.full((5,), -0.1), 0.1, norm=math.inf),
    "l1 ball": Ball(torch.zeros(5), 0.5, norm=1),
    "box": Box(torch.tensor([0.0, 0.0, -1.0, 0.2, 0.2]), torch.tensor([0.1, 0.3, -0.5, 0.2, 0.9])),
}


def graph_of(name: str) -> holdfast.Graph:
    torch.manual_seed(4)
    for module in MODELS[name].modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return holdfast.capture(MODELS[name].eval(), torch.zeros(1, 5))


@pytest.mark.parametrize("where", REGIONS)
@pytest.mark.parametrize("name", MODELS)
def test_no_slope_inside_exceeds_the_bound(name: str, where: str) -> None:
    graph, region = graph_of(name), REGIONS[where]
    points = sample(region, 4000, torch.Generator().manual_seed(1))
    first, second = points.chunk(2)
    for norm in (1.0, 2.0, math.inf):
        if norm == 2.0:
            bounds = list(lipsdp_upper(graph, 1e-3, 20.0, region))
        else:
            bounds = list(row_bounds_upper(graph, norm, 20.0, region))
        assert bounds == sorted(bounds, reverse=True)
        upper = bounds[-1]
        assert float(slopes_lower(graph, first, second, norm).max()) <= upper
        near = first + (second - first) * 1e-3
        assert float(slopes_lower(graph, first, near, norm).max()) <= upper


def test_without_unstable_units_the_bracket_closes() -> None:
    graph = graph_of("relu")
    region = Ball(torch.tensor([0.4, -0.2, 0.1, 0.9, -0.5]), 1e-6)
    form = form_on(graph, region)
    assert bool((form.low == form.high).all())
    bracket = holdfast.lipschitz(MODELS["relu"], torch.zeros(1, 5), region=region, seconds=5)
    assert bracket.outcome is Outcome.CLOSED
    assert bracket.upper < 0.9 * gain_upper(graph, 2)


def test_a_larger_ball_never_has_a_smaller_bound_than_its_slopes() -> None:
    graph, center = graph_of("gelu"), torch.full((5,), 0.3)
    bounds = [min(lipsdp_upper(graph, 1e-4, 20.0, Ball(center, r))) for r in (0.01, 0.1, 1.0)]
    assert bounds[0] < bounds[-1]
    assert bounds[-1] <= min(lipsdp_upper(graph, 1e-4, 20.0)) * (1 + 1e-3)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_published_exact_values_on_boxes_lie_inside(shared, norm: float) -> None:
    names = {1: "l1", 2: "l2", math.inf: "linf"}
    cases = {"lipbab_iris_4_5_5_3": 1.0, "lipbab_sd_10_15_10_3": 0.1}
    for stem, side in cases.items():
        net, spec = load_net(shared / "nets" / stem)
        exact = exact_values(spec)[names[norm]]
        width, dtype = net[0].in_features, next(net.parameters()).dtype
        box = Box(torch.zeros(width), torch.full((width,), side))
        example = torch.zeros(1, width, dtype=dtype)
        bracket = holdfast.lipschitz(net, example, norm, box, seconds=10.0)
        assert bracket.lower <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= bracket.upper
        assert bracket.lower >= 0.99 * exact
