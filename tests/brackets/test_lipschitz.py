"""The bracket: both sides, the witness, the trace and the ways to end."""

import math

import pytest
import torch
from tests.nets import load_net
from torch import nn

import holdfast
from holdfast.brackets.lower.pairs import contains, sample, slopes_lower
from holdfast.brackets.search import LipschitzOptions, Search
from holdfast.errors import InvalidInput, Unsupported
from holdfast.types import Ball, Box, Outcome

SHORT = 0.6
"""Seconds: the search spends what it is given unless the bracket closes."""


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_the_witness_attains_the_lower_bound(norm: float) -> None:
    model = small().double()
    bracket = holdfast.lipschitz(
        model, torch.randn(64, 6, dtype=torch.float64), norm, seconds=SHORT
    )
    first, second = bracket.witness
    assert first.dtype == second.dtype == torch.float64
    with torch.no_grad():
        change = torch.linalg.vector_norm(model(first[None]) - model(second[None]), ord=norm)
    slope = float(change / torch.linalg.vector_norm(first - second, ord=norm))
    assert bracket.lower == pytest.approx(slope, rel=1e-9)
    assert 0 < bracket.lower <= bracket.upper
    assert bracket.ratio == bracket.upper / bracket.lower


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_a_linear_model_closes(norm: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    bracket = holdfast.lipschitz(model, torch.randn(8, 5, dtype=torch.float64), norm, seconds=SHORT)
    true = float(torch.linalg.matrix_norm(model.weight.detach(), norm))
    assert bracket.outcome is Outcome.CLOSED
    assert bracket.lower <= true * (1 + 1e-15) and true <= bracket.upper
    assert bracket.ratio <= 1.001


def test_the_trace_is_monotone_on_each_side() -> None:
    taken = []
    graph = holdfast.capture(small(), torch.zeros(1, 6))
    bracket = Search(graph, LipschitzOptions(seconds=SHORT), taken.append).run(torch.randn(600, 6))
    steps = [progress.improvement for progress in taken]
    assert tuple(steps) == bracket.trace
    lower = [step.value for step in steps if step.side == "lower"]
    upper = [step.value for step in steps if step.side == "upper"]
    assert lower == sorted(lower) and upper == sorted(upper, reverse=True)
    assert [step.seconds for step in steps] == sorted(step.seconds for step in steps)
    assert (bracket.lower, bracket.upper) == (lower[-1], upper[-1])


def test_a_dead_model_has_constant_zero() -> None:
    model = nn.Linear(3, 2)
    model.weight.data.zero_()
    bracket = holdfast.lipschitz(model, torch.randn(4, 3))
    assert (bracket.lower, bracket.upper, bracket.ratio) == (0.0, 0.0, 1.0)
    assert bracket.witness is None and bracket.outcome is Outcome.CLOSED


def test_no_finite_constant_is_said() -> None:
    bracket = holdfast.lipschitz(nn.LayerNorm(4, eps=0.0).eval(), torch.randn(4, 4))
    assert bracket.outcome is Outcome.UNBOUNDED and bracket.upper == math.inf


def test_time_and_interruption_end_with_the_best_so_far() -> None:
    graph = holdfast.capture(small(), torch.zeros(1, 6))
    bracket = Search(graph, LipschitzOptions(seconds=0.0)).run(torch.randn(600, 6))
    assert bracket.outcome is Outcome.BUDGET_SPENT and bracket.lower > 0

    def interrupt(progress) -> None:
        if progress.improvement.side == "lower":
            raise KeyboardInterrupt

    bracket = Search(graph, LipschitzOptions(), interrupt).run(torch.randn(600, 6))
    assert bracket.outcome is Outcome.INTERRUPTED
    assert bracket.lower > 0


@pytest.mark.parametrize(
    "region",
    [
        Ball(torch.full((6,), 0.5), 0.25),
        Ball(torch.zeros(6), 0.5, norm=math.inf),
        Ball(torch.zeros(6), 0.5, norm=1),
        Box(torch.zeros(6), torch.linspace(0.0, 1.0, 6)),
    ],
)
def test_the_witness_stays_in_the_region(region) -> None:
    bracket = holdfast.lipschitz(small(), torch.zeros(1, 6), region=region, seconds=SHORT)
    assert bool(contains(region, torch.stack(bracket.witness)).all())
    points = sample(region, 50, torch.Generator().manual_seed(0))
    assert bool(contains(region, points).all())
    assert 0 < bracket.lower <= bracket.upper


def test_membership_is_never_claimed_outside() -> None:
    ball = Ball(torch.zeros(3), 1.0)
    edge = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-8, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64)
    assert contains(ball, edge).tolist()[1:] == [False, True]


def test_slopes_of_equal_points_are_zero() -> None:
    graph = holdfast.capture(small(), torch.zeros(1, 6))
    x = torch.randn(3, 6, dtype=torch.float64)
    assert slopes_lower(graph, x, x, 2.0).tolist() == [0.0] * 3


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"norm": 3}, "norm"),
        ({"norm": True}, "norm"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"region": Ball(torch.zeros(5), 1.0)}, "region"),
        ({"region": Box(torch.zeros(1, 6), torch.ones(1, 6))}, "region"),
    ],
)
def test_arguments_out_of_range(arguments: dict, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name}: got"):
        holdfast.lipschitz(small(), torch.zeros(1, 6), **arguments)


def test_regions_out_of_range() -> None:
    with pytest.raises(InvalidInput, match="radius"):
        Ball(torch.zeros(2), -1.0)
    with pytest.raises(InvalidInput, match="center"):
        Ball(torch.tensor([math.nan]), 1.0)
    with pytest.raises(InvalidInput, match="high"):
        Box(torch.ones(2), torch.zeros(2))
    with pytest.raises(InvalidInput, match="high"):
        Box(torch.ones(2), torch.ones(3))


def test_token_models_are_refused_with_advice() -> None:
    model = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(Unsupported, match=r"holdfast\.knowledge"):
        holdfast.lipschitz(model.eval(), torch.tensor([[1, 2]]))


def test_rows_that_are_not_finite_are_left_out() -> None:
    rows = torch.randn(4, 6)
    rows[1, 2] = math.nan
    assert holdfast.lipschitz(small(), rows, seconds=SHORT).lower > 0
    with pytest.raises(InvalidInput, match="no row without NaN"):
        holdfast.lipschitz(small(), torch.full((2, 6), math.nan))


def test_exact_constants_lie_inside(shared) -> None:
    import json

    reference = json.loads((shared / "nets/lipschitz/reference.json").read_text())
    exact = reference["tiny_2-8-8-2_moons"]["exact"]
    net, _ = load_net(shared / "nets/lipschitz/tiny_2-8-8-2_moons")
    points = torch.randn(2000, 2, dtype=torch.float64)
    bracket = holdfast.lipschitz(net, points.to(next(net.parameters()).dtype), seconds=SHORT)
    assert bracket.lower <= exact * (1 + 1e-12) and exact <= bracket.upper
    for stem, value in (
        ("exlipbab_iris_relu", 11.634355134114875),
        ("exlipbab_wine12_groupsort2", 2.788306161469607),
        ("exlipbab_wine12_relu", 1.7433699967107172),
    ):
        net, _ = load_net(shared / "nets" / stem)
        dtype = next(net.parameters()).dtype
        points = torch.randn(2000, net[0].in_features, dtype=dtype)
        bracket = holdfast.lipschitz(net, points, seconds=SHORT)
        assert bracket.lower <= value * (1 + 1e-6) and value * (1 - 1e-6) <= bracket.upper
