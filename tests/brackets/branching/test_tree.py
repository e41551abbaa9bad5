"""Branch and bound beside the enumeration of every pattern of sides."""

import functools
import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from benchmarks.milp import milp_estimate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from tests.nets import MaxMin, Residual, crossed, exact_values, load_net
from tests.traps.truth import Function
from torch import nn

import holdfast
from holdfast.brackets.branching.cells import Cell, look_inside
from holdfast.brackets.branching.pieces import pieces
from holdfast.brackets.branching.tree import Goal, branch
from holdfast.brackets.lower.pairs import SteepPair, sample, slopes_lower
from holdfast.errors import Unsupported
from holdfast.sources.demo import GroupSort
from holdfast.types import Ball, Box, Outcome

NORMS = (1.0, 2.0, math.inf)


def dead(*modules: nn.Module) -> nn.Module:
    """Kill a unit, make twins of two others, and put one kink on the origin."""
    net = nn.Sequential(*modules)
    net[0].weight.data[0] = 0.0
    net[0].bias.data[0] = 0.0
    net[0].weight.data[1] = net[0].weight.data[2]
    net[0].bias.data[1:3] = 0.0
    return net


MODELS = {
    "relu": lambda: nn.Sequential(
        nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)
    ),
    "no bias": lambda: nn.Sequential(
        nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)
    ),
    "leaky": lambda: nn.Sequential(nn.Linear(2, 5), nn.LeakyReLU(0.3), nn.Linear(5, 2)),
    "steep": lambda: nn.Sequential(nn.Linear(2, 4), nn.LeakyReLU(-1.5), nn.Linear(4, 2)),
    "prelu": lambda: nn.Sequential(nn.Linear(2, 4), nn.PReLU(4), nn.Linear(4, 1)),
    "maxmin": lambda: nn.Sequential(
        nn.Linear(2, 4), MaxMin(), nn.Linear(4, 4), MaxMin(), nn.Linear(4, 2)
    ),
    "groupsort": lambda: nn.Sequential(nn.Linear(2, 3), GroupSort(3), nn.Linear(3, 2)),
    "max pool": lambda: nn.Sequential(
        nn.Linear(2, 4), nn.Unflatten(1, (1, 4)), nn.MaxPool1d(3, 2, 1), nn.Flatten()
    ),
    "residual": lambda: nn.Sequential(
        Residual(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), nn.ReLU()
    ),
    "dead and twins": lambda: dead(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)),
    "divided": lambda: nn.Sequential(
        Function(lambda x: x / 0.3),
        nn.Linear(2, 4),
        nn.ReLU(),
        Function(lambda x: x / -0.7),
        nn.Linear(4, 2),
    ),
    "averages": lambda: nn.Sequential(
        nn.Linear(2, 5),
        nn.ReLU(),
        nn.Unflatten(1, (1, 5)),
        nn.AvgPool1d(3, 2, 1),
        nn.Flatten(),
        nn.Linear(3, 2),
        nn.ReLU(),
        Function(lambda x: x.mean(1, keepdim=True)),
    ),
}


@functools.cache
def graph_of(name: str, seed: int = 0) -> holdfast.Graph:
    torch.manual_seed(seed)
    model = MODELS[name]().double().eval()
    width = next(m.in_features for m in model.modules() if isinstance(m, nn.Linear))
    return holdfast.capture(model, torch.zeros(1, width, dtype=torch.float64))


def solved(graph, norm: float, region=None, tolerance: float = 1e-9) -> tuple[float, float]:
    """Return both ends of what branch and bound finds."""
    lower, upper = 0.0, math.inf
    goal = Goal(norm, region, tolerance, lambda: lower, lambda: False)
    for found in branch(graph, goal):
        if isinstance(found, SteepPair):
            lower = max(lower, found.slope)
        else:
            assert found < upper
            upper = found
    return lower, upper


def enumerated(graph, norm: float, box=None) -> mpmath.mpf:
    """Return the constant over all patterns of sides whose cell a linear program finds open.

    Jacobians are exact, and their norms have 50 digits.
    """
    network = pieces(graph)
    d, units = network.inputs, len(network.B)
    B, C, offset = (exactly(part) for part in (network.B, network.C, network.offset))
    left, right = (
        exactly(part) / exactly(network.divisor) for part in (network.left, network.right)
    )
    best = mpmath.mpf(0)
    for sides in itertools.product((0, 1), repeat=len(network.kinked)):
        side = dict(zip(network.kinked.tolist(), sides, strict=True))
        rows = exactly(np.vstack([np.eye(d, d + 1), np.zeros((units, d + 1))]))
        walls = []
        for unit in range(units):
            z = B[unit] @ rows
            z[d] += offset[unit]
            is_right = side.get(unit, 1) == 1
            rows[d + unit] = z * (right if is_right else left)[unit]
            if unit in side and z.any():
                wall = (z if is_right else -z).astype(float)
                walls.append(wall / max(np.linalg.norm(wall[:d]), 1e-9))
        if inside(np.array(walls).reshape(-1, d + 1), box, d):
            best = max(best, norm_of((C @ rows)[:, :d], norm))
    return best


def exactly(part: np.ndarray) -> np.ndarray:
    """Return an array of fractions."""
    return np.vectorize(Fraction, otypes=[object])(part)


def norm_of(matrix: np.ndarray, norm: float) -> mpmath.mpf:
    """Return the operator norm of a matrix of fractions."""
    with mpmath.workdps(50):
        if norm == 2.0:
            entries = [[mpmath.mpf(x.numerator) / x.denominator for x in row] for row in matrix]
            return max(mpmath.svd_r(mpmath.matrix(entries), compute_uv=False))
        worst = max(abs(matrix).sum(0 if norm == 1.0 else 1))
        return mpmath.mpf(worst.numerator) / worst.denominator


def inside(walls: np.ndarray, box, d: int) -> bool:
    """Return whether some input is on the positive side of all walls."""
    ends = (
        [(-1e4, 1e4)] * d
        if box is None
        else list(zip(box.low.tolist(), box.high.tolist(), strict=True))
    )
    tight = np.hstack([-walls[:, :d], np.ones((len(walls), 1))])
    cost = np.eye(d + 1)[d] * -1.0
    found = linprog(cost, tight, walls[:, d], bounds=[*ends, (None, 1.0)])
    return found.x[d] > 1e-9


@pytest.mark.parametrize(("name", "norm"), crossed(MODELS, NORMS))
def test_all_inputs_agree_with_the_enumeration(name: str, norm: float) -> None:
    graph = graph_of(name)
    lower, upper = solved(graph, norm)
    exact = enumerated(graph, norm)
    assert lower <= exact <= upper
    assert lower == pytest.approx(float(exact), rel=1e-7)
    assert upper == pytest.approx(float(exact), rel=1e-7)


@settings(max_examples=3)
@given(
    st.sampled_from(["relu", "leaky", "maxmin", "dead and twins"]),
    st.integers(1, 10**6),
    st.sampled_from(NORMS),
)
def test_boxes_agree_with_the_enumeration(name: str, seed: int, norm: float) -> None:
    graph = graph_of(name, seed)
    low = torch.randn(2, dtype=torch.float64)
    box = Box(low, low + torch.rand(2, dtype=torch.float64) + 0.05)
    lower, upper = solved(graph, norm, box)
    exact = enumerated(graph, norm, box)
    assert lower <= exact <= upper
    assert upper == pytest.approx(float(exact), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("name", "norm"), crossed(MODELS, NORMS))
def test_ten_thousand_slopes_in_a_ball_are_no_steeper(name: str, norm: float) -> None:
    graph = graph_of(name, 3)
    width = graph.perturbed_input.shape[0]
    ball = Ball(torch.zeros(width, dtype=torch.float64), 0.7, norm)
    _, upper = solved(graph, norm, ball, tolerance=1e-3)
    generator = torch.Generator().manual_seed(0)
    first, second = (sample(ball, 10_000, generator) for _ in range(2))
    near = first + 1e-3 * (second - first)
    for other in (second, near):
        assert float(slopes_lower(graph, first, other, norm).max()) <= upper


@pytest.mark.parametrize(("name", "norm"), crossed(["relu", "leaky", "maxmin"], [1.0, math.inf]))
def test_the_mixed_integer_program_finds_the_same_constant(name: str, norm: float) -> None:
    graph = graph_of(name, 5)
    box = Box(torch.full((2,), -1.0).double(), torch.ones(2).double())
    network = pieces(graph)
    value, point = milp_estimate(network, (box.low.numpy(), box.high.numpy()), norm, 20.0)
    assert value == pytest.approx(float(enumerated(graph, norm, box)), rel=1e-6)
    assert point is not None and (np.abs(point) <= 1.0 + 1e-9).all()


def test_a_cell_is_only_empty_with_a_proof() -> None:
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    model[0].weight.data[:] = torch.tensor([[1.0], [-1.0], [1.0]])
    model[0].bias.data[:] = torch.tensor([0.0, 0.0, -1.0])
    network = pieces(holdfast.capture(model, torch.zeros(1, 1, dtype=torch.float64)))
    first, second, third = network.kinked
    whole = Cell.whole(network)
    assert look_inside(whole.split(first, 1).split(second, 1), None).empty  # x > 0 and -x > 0
    assert look_inside(whole.split(first, -1).split(third, 1), None).empty  # x < 0 and x > 1
    found = look_inside(whole.split(first, 1).split(third, -1), None)  # 0 < x < 1
    assert not found.empty and 0 < found.point[0] < 1
    ends = (np.array([2.0]), np.array([3.0]))
    assert look_inside(whole.split(third, -1), ends).empty
    assert not look_inside(whole.split(third, 1), ends).empty


def test_a_kink_that_is_always_met_is_on_both_sides() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    model[0].weight.data[:] = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    model[0].bias.data.zero_()
    model[2].weight.data[:] = 1.0
    graph = holdfast.capture(model, torch.zeros(1, 2, dtype=torch.float64))
    lower, upper = solved(graph, 2.0)
    assert lower <= 3.0 <= upper and upper == pytest.approx(3.0)


def test_what_is_not_made_of_pieces_yields_nothing() -> None:
    for layer in (nn.Tanh(), nn.ReLU6(), nn.GELU()):
        model = nn.Sequential(nn.Linear(2, 3), layer).double().eval()
        graph = holdfast.capture(model, torch.zeros(1, 2, dtype=torch.float64))
        with pytest.raises(Unsupported, match="branch and bound"):
            pieces(graph)
        assert solved(graph, 2.0) == (0.0, math.inf)
    wide = nn.Sequential(nn.Linear(2, 80), nn.ReLU(), nn.Linear(80, 1)).double()
    graph = holdfast.capture(wide, torch.zeros(1, 2, dtype=torch.float64))
    assert solved(graph, 2.0) == (0.0, math.inf)


def test_a_region_without_an_interior_has_the_bound_of_all_inputs() -> None:
    flat = Box(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
    lower, upper = solved(graph_of("leaky"), math.inf, flat)
    _, everywhere = solved(graph_of("leaky"), math.inf)
    assert lower <= upper <= everywhere * (1 + 1e-6)


@pytest.mark.parametrize(
    ("stem", "width", "exact"),
    [
        pytest.param("lipschitz/tiny_2-8-8-2_moons", 2, 82.32498440695787, marks=pytest.mark.slow),
        ("exlipbab_iris_relu", 4, 11.634355134114875),
        pytest.param("exlipbab_wine12_groupsort2", 11, 2.788306161469607, marks=pytest.mark.slow),
        pytest.param("exlipbab_wine12_relu", 11, 1.7433699967107172, marks=pytest.mark.slow),
    ],
)
def test_published_constants_of_all_inputs_are_reached(shared, stem, width, exact) -> None:
    model, _ = load_net(shared / "nets" / stem)
    points = torch.randn(16, width, generator=torch.Generator().manual_seed(0)).double()
    bracket = holdfast.lipschitz(model.double(), points, seconds=60, tolerance=1e-6)
    assert bracket.outcome is Outcome.CLOSED
    # the published digits are rounded to nearest
    assert bracket.lower <= exact * (1 + 1e-15) and exact * (1 - 1e-15) <= bracket.upper
    assert bracket.ratio <= 1 + 1e-6


@pytest.mark.parametrize(
    ("stem", "norm"), crossed(["lipbab_iris_4_5_5_3", "lipbab_sd_10_15_10_3"], NORMS)
)
def test_published_constants_of_boxes_are_reached(shared, norm, stem) -> None:
    high = 1.0 if stem == "lipbab_iris_4_5_5_3" else 0.1
    model, spec = load_net(shared / "nets" / stem)
    width = model[0].in_features
    box = Box(torch.zeros(width).double(), torch.full((width,), high).double())
    points = torch.zeros(1, width, dtype=model[0].weight.dtype)
    bracket = holdfast.lipschitz(model, points, norm, box, seconds=60, tolerance=1e-6)
    published = exact_values(spec)
    exact = published[{1.0: "l1", 2.0: "l2", math.inf: "linf"}[norm]]
    assert bracket.outcome is Outcome.CLOSED
    # the published digits are rounded to nearest
    assert bracket.lower <= exact * (1 + 1e-15)
    assert exact * (1 - 1e-15) <= bracket.upper <= exact * (1 + 1.01e-6)
