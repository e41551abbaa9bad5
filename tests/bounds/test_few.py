"""Bounds on regions of few moving entries, tightened forwards."""

import math

import pytest
import torch
from torch import nn

import holdfast
from holdfast.bounds import few
from holdfast.bounds.jacobian import region_constant_upper
from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.brackets.lower.pairs import sample, slopes_lower
from holdfast.graph.ir import Graph
from holdfast.graph.walk import CONCRETE, lift, read, run
from holdfast.types import Ball, Box

CENTER = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


@pytest.fixture(scope="module")
def generator_and_critic() -> Graph:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 16),
        nn.Unflatten(1, (4, 2, 2)),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 3, stride=2),
        nn.Tanh(),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 2),
    ).double()
    return holdfast.capture(model.eval(), CENTER[None].repeat(2, 1))


@pytest.fixture(params=[1e11, 1e18], ids=["long", "too long"])
def forwards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Make tightening any graph backwards take long; count what is done about it."""
    used: list[bool] = []
    ranges = few._ranges

    def counted(graph, regions):
        found = ranges(graph, regions)
        used.append(found is not None)
        return found

    monkeypatch.setattr(few, "_tightening", lambda graph: request.param)
    monkeypatch.setattr(few, "_ranges", counted)
    return used


REGIONS = [
    Box(CENTER - 0.3, CENTER + torch.tensor([0.3, 0.0, 0.4])),
    Ball(CENTER, 0.4, 2.0),
    Ball(CENTER, 0.4, 1.0),
    Ball(CENTER, 0.2, math.inf),
    Ball(CENTER, 0.0, math.inf),
]


@pytest.mark.parametrize("region", REGIONS, ids=["box", "l2", "l1", "linf", "point"])
def test_no_value_leaves_its_interval(region, generator_and_critic, forwards) -> None:
    relaxed = few.relaxed_on(generator_and_critic, Regions.of(region))
    plain = Relaxed(generator_and_critic, Regions.of(region), end=-1.0)
    assert forwards == [True]
    points = sample(region, 2000, torch.Generator().manual_seed(0))
    graph = relaxed.graph
    values = read(graph, CONCRETE, lift(graph, points))
    narrower = 0
    for node in graph.nodes:
        if not node.perturbed:
            continue
        interval = relaxed.intervals[node.name]
        assert bool((interval.low <= values[node.name]).all())
        assert bool((values[node.name] <= interval.high).all())
        wider = plain.intervals[node.name]
        narrower += int((interval.high - interval.low < 0.9 * (wider.high - wider.low)).sum())
    assert narrower > 0 or bool((points == CENTER).all())


@pytest.mark.parametrize("region", REGIONS[:4], ids=["box", "l2", "l1", "linf"])
def test_no_slope_is_above_the_constant(region, generator_and_critic, forwards) -> None:
    upper = region_constant_upper(generator_and_critic, region, 2.0)
    assert forwards == [True]
    points = sample(region, 2000, torch.Generator().manual_seed(0))
    graph = generator_and_critic.double()
    slopes = slopes_lower(graph, points[::2], points[1::2], 2.0)
    assert 0.0 < float(slopes.max()) <= upper < float("inf")


def test_more_entries_than_thirty_two_are_left_to_the_backward_pass(forwards) -> None:
    graph = holdfast.capture(nn.Linear(33, 2).double().eval(), torch.zeros(2, 33).double())
    region = Ball(torch.zeros(33).double(), 0.1)
    relaxed = few.relaxed_on(graph, Regions.of(region))
    assert forwards == [False]
    value = run(graph, region.center[None])
    assert bool((relaxed.intervals[graph.output].high >= value).all())
