"""Branch and bound on boxes beside enumeration, and forward enclosures beside exact values."""

import functools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.brackets.branching.test_tree import MODELS, NORMS, enumerated
from torch import Tensor, nn

import holdfast
from holdfast.bounds.forward import Forward
from holdfast.brackets.branching.boxes import branch_boxes, few_move
from holdfast.brackets.branching.merging import merged
from holdfast.brackets.branching.tree import Goal
from holdfast.brackets.lower.pairs import SteepPair, sample, slopes_lower
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.walk import run
from holdfast.norms.matrix import spectral_uppers
from holdfast.types import Ball, Box


def solved(graph, norm: float, region, tolerance: float = 1e-6, most: int = 400):
    """Return both ends of what splitting boxes finds in so many batches."""
    lower, upper = 0.0, math.inf
    goal = Goal(norm, region, tolerance, lambda: lower, lambda: False)
    for count, found in enumerate(branch_boxes(graph, goal)):
        if isinstance(found, SteepPair):
            assert found.slope > lower
            lower = found.slope
        else:
            assert found <= upper
            upper = found
        if count > most:
            break
    return lower, upper


@functools.cache
def graph_of(name: str, seed: int = 0) -> holdfast.Graph:
    torch.manual_seed(seed)
    model = MODELS[name]().double().eval()
    width = next(m.in_features for m in model.modules() if isinstance(m, nn.Linear))
    return holdfast.capture(model, torch.zeros(1, width, dtype=torch.float64))


@pytest.mark.parametrize(("name", "norm"), [("relu", 2.0), ("maxmin", 1.0), ("relu", math.inf)])
def test_boxes_agree_with_the_enumeration(name: str, norm: float) -> None:
    graph = graph_of(name)
    box = Box(torch.tensor([-0.9, -0.4]).double(), torch.tensor([0.3, 1.1]).double())
    lower, upper = solved(graph, norm, box)
    exact = enumerated(graph, norm, box)
    assert lower <= exact <= upper
    assert lower == pytest.approx(float(exact), rel=2e-6)
    assert upper == pytest.approx(float(exact), rel=2e-6)


@settings(max_examples=3)
@given(
    st.sampled_from(["relu", "steep", "prelu", "averages", "dead and twins", "groupsort"]),
    st.integers(0, 3),
    st.sampled_from(NORMS),
    st.floats(-1.0, 1.0),
    st.sampled_from([1e-6, 0.05, 3.0]),
)
def test_drawn_boxes_agree_with_the_enumeration(name, seed, norm, place, size) -> None:
    graph = graph_of(name, seed)
    low = torch.tensor([place, 0.3 - place], dtype=torch.float64)
    box = Box(low, low + torch.tensor([size, 2.0 * size]))
    lower, upper = solved(graph, norm, box)
    exact = enumerated(graph, norm, box)
    assert lower <= exact <= upper
    assert upper == pytest.approx(float(exact), rel=2e-6, abs=1e-12)


class Lattice(nn.Module):
    """The smallest of the largest of affine functions."""

    def __init__(self, groups: int, size: int) -> None:
        super().__init__()
        self.groups, self.pieces = groups, nn.Linear(2, groups * size, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        for part in (self.pieces.weight, self.pieces.bias):
            part.data = torch.randn(part.shape, generator=generator, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.pieces(x).unflatten(1, (self.groups, -1)).amax(-1).amin(-1, keepdim=True)


@pytest.mark.parametrize("groups", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_a_lattice_of_64_selectors_closes(groups: int) -> None:
    model = Lattice(groups, 64 // groups).eval()
    box = Box(-torch.ones(2).double(), torch.ones(2).double())
    graph = holdfast.capture(model, torch.zeros(1, 2, dtype=torch.float64))
    lower, upper = solved(graph, 2.0, box, tolerance=1e-3)
    # every gradient is that of the piece whose value is chosen: on a grid, and exactly
    axis = torch.linspace(-1.0, 1.0, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    values = model.pieces(grid).unflatten(1, (groups, -1))
    group = values.amax(-1).argmin(1)
    piece = group * values.shape[2] + values.argmax(-1).gather(1, group[:, None])[:, 0]
    exact = [[Fraction(x) ** 2 for x in row] for row in model.pieces.weight.tolist()]
    truth = max(sum(exact[k]) for k in piece.unique().tolist())
    assert Fraction(upper) ** 2 >= truth
    assert upper <= lower * 1.001
    assert float(truth) ** 0.5 == pytest.approx(upper, rel=1e-3)


class Minima(nn.Module):
    """min(x, y) and max(x, y) by ReLU layers, as (|x + y| - |x - y|) and the like, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 4, dtype=torch.float64)
        self.first.weight.data = torch.tensor(
            [[0.5, 1.25], [-0.75, 1.0], [1.5, -0.25], [-0.5, -2.0]], dtype=torch.float64
        )
        self.first.bias.data = torch.tensor([0.5, -0.25, 0.0, 1.0], dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        values = self.first(x)
        while values.shape[1] > 1:
            a, b = values[:, ::2], values[:, 1::2]
            total = torch.relu(a + b) - torch.relu(-a - b)
            apart = torch.relu(a - b) + torch.relu(b - a)
            values = 0.5 * (total - apart)
        return values


def test_kinks_that_are_there_twice_are_merged_and_nothing_changes() -> None:
    graph = with_pairs(holdfast.capture(Minima().eval(), torch.zeros(1, 2).double()).double())
    once = merged(graph)
    assert sum(math.prod(n.shape[1:]) for n in once.nodes if n.op == "compare") == 3
    assert not [n for n in once.nodes if n.op == "relu"]
    points = torch.randint(-64, 64, (200, 2)).double() / 16.0  # whose values are exact
    assert torch.equal(run(graph, points), run(once, points))
    box = Box(torch.tensor([-2.0, -2.0]).double(), torch.tensor([2.0, 2.0]).double())
    for norm in NORMS:
        before, after = solved(graph, norm, box, most=20), solved(once, norm, box)
        assert after[0] <= before[1] and after[1] <= before[1] * (1.0 + 1e-9)
        assert after[1] == pytest.approx(after[0], rel=2e-6)


def test_nets_without_twins_are_left_as_they_are() -> None:
    graph = with_pairs(graph_of("relu").double())
    assert merged(graph) is graph


@pytest.mark.parametrize("norm", [2.0, 1.0])
def test_balls_and_thin_boxes_and_smooth_nets(norm: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double().eval()
    graph = holdfast.capture(model, torch.zeros(1, 3, dtype=torch.float64))
    thin = Box(torch.tensor([0.1, -0.3, 0.5]).double(), torch.tensor([0.2, -0.3, 0.9]).double())
    generator = torch.Generator().manual_seed(0)
    for region in (thin, Ball(torch.full((3,), 0.2).double(), 0.3, norm)):
        lower, upper = solved(graph, norm, region, most=15)
        pairs = (sample(region, 2000, generator) for _ in range(2))
        first, second = pairs
        slopes = slopes_lower(graph, first, first + 1e-3 * (second - first), norm)
        assert max(lower, float(slopes.max())) <= upper <= 1.2 * float(slopes.max())


def test_many_or_no_moving_entries_are_left_to_others() -> None:
    assert not few_move(Ball(torch.zeros(13), 1.0))
    assert not few_move(Ball(torch.zeros(3), 0.0))
    low, high = torch.zeros(50), torch.zeros(50)
    high[7] = 1.0
    assert few_move(Box(low, high))


@pytest.mark.parametrize("name", ["relu", "steep", "maxmin", "residual", "averages", "curved"])
def test_forms_hold_every_value_and_gradient(name: str) -> None:
    torch.manual_seed(2)
    if name == "curved":
        layers = nn.Linear(2, 5), nn.GELU(), nn.Linear(5, 4), nn.Hardtanh(), nn.Linear(4, 2)
        model = nn.Sequential(*layers).double().eval()
        graph = holdfast.capture(model, torch.zeros(1, 2, dtype=torch.float64))
    else:
        graph = graph_of(name)
    graph = with_pairs(graph.double())
    low = torch.randn(20, 2, dtype=torch.float64)
    high = low + torch.rand(20, 1) * torch.tensor([1.0, 0.1])
    found = Forward(graph).read(low, high, torch.arange(2), {})
    below, above = found.range()
    reach = found.reach.detach()
    for _ in range(50):
        points = low + torch.rand(20, 2, dtype=torch.float64) * (high - low)
        values = run(graph, points)
        assert bool(((below <= values) & (values <= above)).all())
        jacobian = torch.func.vmap(torch.func.jacrev(lambda x: run(graph, x[None])[0]))(points)
        apart = (jacobian.mT - found.jacobian).abs() - reach
        assert float(apart.max()) <= 1e-12  # of the gradient that autograd rounds


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 1e-150, 1e150, 1e-310, 1e300]))
def test_spectral_norms_of_many_matrices_are_not_below_exact_ones(seed: int, scale: float) -> None:
    numbers = np.random.default_rng(seed)
    stack = numbers.integers(-3, 4, (4, *numbers.integers(1, 5, 2))).astype(float) * scale
    uppers = spectral_uppers(torch.from_numpy(stack)).tolist()
    with mpmath.workdps(50):
        for matrix, upper in zip(stack, uppers, strict=True):
            rows = mpmath.matrix(matrix.tolist())
            exact = max(mpmath.svd_r(rows, compute_uv=False))
            assert exact <= upper
            assert upper <= exact * (1 + mpmath.mpf(2) ** -30) + mpmath.mpf(2) ** -1000
