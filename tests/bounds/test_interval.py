"""Interval bounds hold every sampled value of every node."""

import math

import pytest
import torch
from tests.bounds.zoo import NETS, all_values, graph_of, points_in, some_regions
from tests.nets import crossed
from torch import nn

import holdfast
from holdfast.bounds.interval import interval_bounds
from holdfast.bounds.regions import Regions
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.ir import Graph
from holdfast.types import Ball, Box, Region


def assert_holds(graph: Graph, env: dict, row: int, region: Region, count: int) -> None:
    values = all_values(graph, points_in(region, count))
    for name, value in values.items():
        bounds = env[name]
        low, high = (end[row if len(end) > 1 else 0] for end in (bounds.low, bounds.high))
        assert bool((value.value + value.error >= low).all()), name
        assert bool((value.value - value.error <= high).all()), name


@pytest.mark.parametrize(("name", "size"), crossed(NETS, (0.0, 0.3, 3.0)))
def test_no_value_leaves_the_bounds(name: str, size: float) -> None:
    graph = graph_of(name)
    for region in some_regions(1, size):
        env = interval_bounds(graph, region)
        assert_holds(graph, env, 0, region, 2_000 if size == 0.3 else 200)


@pytest.mark.parametrize("name", NETS)
def test_a_point_has_an_interval_of_rounding_only(name: str) -> None:
    graph = graph_of(name)
    for region in some_regions(2, 0.0):
        for bounds in interval_bounds(graph, region).values():
            assert float((bounds.high - bounds.low).max()) < 1e-9


def test_the_first_affine_node_uses_the_dual_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 2, padding=1)).double()
    graph = holdfast.capture(model.eval(), torch.zeros(1, 6, dtype=torch.float64))
    with torch.no_grad():
        matrix = torch.stack(
            [model(e[None])[0] - model(0 * e[None])[0] for e in torch.eye(6).double()], -1
        )
    for norm, dual in ((1.0, math.inf), (2.0, 2.0), (math.inf, 1.0)):
        got = interval_bounds(graph, Ball(torch.zeros(6), 0.5, norm))[graph.output]
        width = 0.5 * torch.linalg.vector_norm(matrix, ord=dual, dim=-1)
        found = (got.high - got.low)[0] / 2
        assert bool((found >= width * (1 - 1e-12)).all())
        if norm != 1.0:  # for l1 a convolution takes its largest tap, also at the edges
            assert torch.allclose(found, width, rtol=1e-9)


def test_a_ball_survives_normalisation_of_the_input() -> None:
    class Normalised(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ((x - 0.3) * torch.tensor([[2.0, 0.5]])) @ torch.ones(2, 1)

    graph = holdfast.capture(Normalised(), torch.zeros(1, 2))
    got = interval_bounds(graph, Ball(torch.zeros(2), 1.0, 2.0))[graph.output]
    assert float(got.high - got.low) == pytest.approx(2 * math.hypot(2.0, 0.5))


class Twice(nn.Module):
    """Reads one entry twice: the dual norm of the weights is not that of the map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.index_select(1, torch.tensor([0, 0])) @ torch.ones(2, 1)


def test_repeated_entries_count_together() -> None:
    graph = holdfast.capture(Twice(), torch.zeros(1, 2))
    got = interval_bounds(graph, Ball(torch.zeros(2), 1.0))[graph.output]
    assert float(got.high) >= 2.0
    around = nn.Sequential(
        nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 1, 3, 1, 1, padding_mode="circular")
    )
    around[1].weight.data.fill_(1.0)
    graph = holdfast.capture(around.eval(), torch.zeros(1, 2))
    got = interval_bounds(graph, Ball(torch.zeros(2), 1.0))[graph.output]
    assert bool(((got.high - got.low) / 2 >= 5**0.5).all())


@pytest.mark.parametrize("name", NETS)
def test_a_batch_of_regions_is_the_regions_one_by_one(name: str) -> None:
    graph = graph_of(name)
    balls = [some_regions(seed, 0.2)[1] for seed in range(4)]
    together = interval_bounds(graph, balls)[graph.output]
    for row, ball in enumerate(balls):
        alone = interval_bounds(graph, ball)[graph.output]
        torch.testing.assert_close(together.low[row], alone.low[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.high[row], alone.high[0], rtol=1e-9, atol=1e-9)


def test_values_beyond_float64_leave_no_finite_bound() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1), nn.ReLU()).double()
    for layer in list(model)[:3]:
        layer.weight.data.fill_(1e200)
    graph = holdfast.capture(model.eval(), torch.zeros(1, 1, dtype=torch.float64))
    got = interval_bounds(graph, Ball(torch.zeros(1), 1.0))[graph.output]
    assert math.isinf(float(got.high)) and float(got.low) == 0.0


def test_regions_of_different_kinds_are_refused() -> None:
    with pytest.raises(InvalidInput, match="one kind"):
        Regions.of([Ball(torch.zeros(2), 1.0), Box(torch.zeros(2), torch.ones(2))])
    with pytest.raises(InvalidInput, match="none"):
        Regions.of([])
    with pytest.raises(InvalidInput, match="shape"):
        interval_bounds(graph_of("relu"), Ball(torch.zeros(5), 1.0))


def test_an_operation_without_a_rule_is_named() -> None:
    class Steps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.floor()

    graph = holdfast.capture(Steps(), torch.zeros(1, 2))
    with pytest.raises(Unsupported, match=r"aten\.floor"):
        interval_bounds(graph, Ball(torch.zeros(2), 1.0))
