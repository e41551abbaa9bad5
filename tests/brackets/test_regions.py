"""Bounds on a region: never below a slope inside it, and tighter than those for all inputs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nets import MaxMin, Residual, crossed
from torch import Tensor, nn

import holdfast
from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.brackets.branching.cells import Cell
from holdfast.brackets.branching.jacobian import constant_upper
from holdfast.brackets.branching.pieces import PiecewiseNet, pieces
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lower.pairs import sample, slopes_lower
from holdfast.brackets.semidefinite import form_on, lipsdp_upper, row_bounds_upper, slope_bounds
from holdfast.sources.demo import GroupSort
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


@pytest.mark.parametrize(("name", "where"), crossed(MODELS, REGIONS))
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


class Maxout(nn.Module):
    """The largest entry of each of two halves."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 2, -1).amax(2)


LAWFUL = {
    "relu": lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
    "pairs": lambda: nn.Sequential(nn.Linear(4, 6), MaxMin(), nn.Linear(6, 4), MaxMin()),
    "groups of two": lambda: nn.Sequential(nn.Linear(4, 6), GroupSort(2), nn.Linear(6, 2)),
    "groups of four": lambda: nn.Sequential(nn.Linear(4, 8), GroupSort(4), nn.Linear(8, 2)),
    "maxout": lambda: nn.Sequential(nn.Linear(4, 8), Maxout(), nn.Linear(2, 2), nn.ReLU()),
    "max pool": lambda: nn.Sequential(
        nn.Linear(4, 6), nn.Unflatten(1, (1, 6)), nn.MaxPool1d(3, 2, 1), nn.Flatten()
    ),
    "with skips": lambda: nn.Sequential(
        Residual(nn.Linear(4, 4), GroupSort(2)), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)
    ),
}


def region_of(kind: int, size: float, seed: int) -> Ball | Box:
    """Return a ball of some norm, or a box of which one entry is held fixed."""
    torch.manual_seed(seed)
    center, sides = torch.randn(4), size * torch.rand(4)
    if kind < 3:
        return Ball(center, size, (1.0, 2.0, math.inf)[kind])
    sides[0] = 0.0
    return Box(center - sides, center + sides)


@settings(max_examples=5)
@given(
    st.sampled_from(list(LAWFUL)),
    st.sampled_from([1.0, 2.0, math.inf]),
    st.integers(0, 3),
    st.floats(-3.0, 3.0),
    st.integers(0, 1000),
)
def test_no_bound_is_larger_on_a_region_than_everywhere(
    name: str, norm: float, kind: int, size: float, seed: int
) -> None:
    torch.manual_seed(seed)
    graph = holdfast.capture(LAWFUL[name]().eval(), torch.zeros(1, 4))
    region = region_of(kind, 10.0**size, seed)
    everywhere, local = (
        min(bound for bound, _ in slope_bounds(graph, norm, 1e-4, 60.0, where))
        for where in (None, region)
    )
    assert local <= everywhere
    # By itself the form on the region is no worse, but for the accuracy of the solvers.
    if norm == 2.0:
        alone = min(lipsdp_upper(graph, 1e-4, 60.0, region))
    else:
        alone = min(row_bounds_upper(graph, norm, 60.0, region))
    assert alone <= everywhere * (1 + 2e-3)
    forms = form_on(graph, None), form_on(graph, region)
    assert forms[0].units == forms[1].units
    assert (forms[0].low <= forms[1].low).all() and (forms[1].high <= forms[0].high).all()
    cells = [
        cells_upper(pieces(graph), norm),
        cells_upper(pieces(*Relaxed(graph, Regions.of(region)).slopes()), norm),
    ]
    assert cells[1] <= cells[0] * (1 + 2e-3)


def cells_upper(network: PiecewiseNet, norm: float) -> float:
    """Return the bound of branch and bound before it branches."""
    return constant_upper(network, *Cell.whole(network).slopes(), norm, 1e-4)


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


class Function(nn.Module):
    """A function that is no module of torch."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "constant"),
    [
        (lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1), math.sqrt(2)),
        (lambda x: x**2, 2.0),
        (torch.exp, math.e),
        (lambda x: 1 / (1 + x), 1.0),
    ],
)
def test_what_has_no_constant_on_all_inputs_has_one_on_a_region(function, constant: float) -> None:
    model, x = Function(function).eval(), torch.rand(6, 4)
    box = Box(torch.zeros(4), torch.ones(4))
    bracket = holdfast.lipschitz(model, x, region=box, seconds=1)
    assert bracket.lower <= constant <= bracket.upper < constant + 1e-9
    assert bracket.layers == ()
    with pytest.raises(holdfast.Unsupported, match=r"region=holdfast\.Ball\(row, radius\)"):
        holdfast.lipschitz(model, x, seconds=1)


def test_a_region_with_a_pole_is_said_to_have_no_constant() -> None:
    model = Function(lambda x: 1 / x).eval()
    box = Box(torch.full((4,), -1.0), torch.ones(4))
    bracket = holdfast.lipschitz(model, torch.rand(6, 4), region=box, seconds=1)
    assert bracket.outcome is Outcome.UNBOUNDED and bracket.upper == math.inf


def test_what_has_no_bounds_on_a_region_is_refused_there_too() -> None:
    model = Function(lambda x: torch.exp(x) + x.floor()).eval()
    with pytest.raises(holdfast.Unsupported, match="jumps") as refusal:
        holdfast.lipschitz(model, torch.rand(6, 4), region=Ball(torch.zeros(4), 1.0))
    assert "region=" not in str(refusal.value)
