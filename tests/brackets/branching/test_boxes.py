"""Branch and bound on boxes beside enumeration."""

import functools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.brackets.branching.test_tree import NORMS, enumerated, graph_of
from torch import Tensor, nn

import holdfast
from holdfast.bounds.forward import Forward
from holdfast.brackets.branching.boxes import branch_boxes, few_move
from holdfast.brackets.branching.merging import merged
from holdfast.brackets.branching.tree import Goal
from holdfast.brackets.branching.walls import Maps, exact_slope_lower
from holdfast.brackets.lipschitz import lipschitz_graph
from holdfast.brackets.lower.pairs import SteepPair, sample, slopes_lower
from holdfast.brackets.search import LipschitzOptions
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.ir import Graph, Node
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


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param("relu", 2.0, marks=pytest.mark.slow),
        pytest.param("maxmin", 1.0, marks=pytest.mark.slow),
        ("relu", math.inf),
    ],
)
def test_boxes_agree_with_the_enumeration(name: str, norm: float) -> None:
    graph = graph_of(name)
    box = Box(torch.tensor([-0.9, -0.4]).double(), torch.tensor([0.3, 1.1]).double())
    lower, upper = solved(graph, norm, box)
    exact = enumerated(graph, norm, box)
    assert lower <= exact <= upper
    assert lower == pytest.approx(float(exact), rel=2e-6)
    assert upper == pytest.approx(float(exact), rel=2e-6)


@pytest.mark.slow
@settings(max_examples=20)
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


@pytest.mark.parametrize("groups", [1, 8])
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


@functools.cache
def graph_of_minima() -> holdfast.Graph:
    return holdfast.capture(Minima().eval(), torch.zeros(1, 2).double())


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_of_a_lattice_is_longer_than_that_of_its_longest_piece(norm: float) -> None:
    model = Lattice(4, 4).eval()
    graph = with_pairs(holdfast.capture(model, torch.zeros(1, 2).double()).double())
    low = torch.tensor([[-1.0, -1.0], [-8.0, -8.0]]).double()
    found = Forward(graph, norm).read(low, -low, torch.arange(2), {})
    order = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]  # of gradients
    longest = float(torch.linalg.vector_norm(model.pieces.weight.detach(), order, dim=1).amax())
    # A box around all gradients has corners that are longer than every one of them.
    corners = (found.jacobian.abs() + found.reach)[:, :, 0].detach()
    assert float(torch.linalg.vector_norm(corners, order, dim=1).amin()) > longest
    assert float(found.length.detach().amax()) == pytest.approx(longest, rel=1e-12)


def test_kinks_that_are_there_twice_are_merged_and_nothing_changes() -> None:
    graph = with_pairs(graph_of_minima().double())
    once = merged(graph)
    assert sum(math.prod(n.shape[1:]) for n in once.nodes if n.op == "compare") == 3
    assert not [n for n in once.nodes if n.op == "relu"]
    points = torch.randint(-64, 64, (200, 2)).double() / 16.0  # whose values are exact
    assert torch.equal(run(graph, points), run(once, points))
    box = Box(torch.tensor([-2.0, -2.0]).double(), torch.tensor([2.0, 2.0]).double())
    before, after = solved(graph, 1.0, box, most=5), solved(once, 1.0, box)
    assert after[0] <= before[1] and after[1] <= before[1] * (1.0 + 1e-9)
    assert after[1] == pytest.approx(after[0], rel=2e-6)


def test_merged_values_are_selected_where_they_are_not_summed() -> None:
    """A sum may read none, some or all values, and a pair the input itself."""
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, -2.0]]).double()
    weight = {"weight": first, "bias": torch.tensor([0.0, 0.0, 0.75, 0.0]).double()}
    twice = torch.tensor([0, 3, 1, 2, 0, 3])
    nodes = (
        Node("x", "input", shape=(2,)),
        Node("a", "linear", ("x",), weight, (4,)),
        Node("b", "index_select", ("a",), {"dim": 1, "index": twice}, (6,)),
        Node("c", "slice", ("b",), {"dim": 1, "start": 0, "stop": 3, "step": 1}, (3,)),
        Node("d", "slice", ("b",), {"dim": 1, "start": 3, "stop": 6, "step": 1}, (3,)),
        Node("e", "compare", ("c", "d"), {}, (2, 3)),
        Node("f", "reshape", ("e",), {"shape": (6,)}, (6,)),
        Node("g", "relu", ("b",), {}, (6,)),
        Node("h", "add", ("f", "g"), {}, (6,)),
        Node("y", "relu", ("h",), {}, (6,)),
    )
    graph = Graph(nodes, "y", {}, precision=torch.float64)
    once = merged(graph)
    assert once is not graph
    points = torch.randint(-64, 64, (200, 2)).double() / 16.0  # whose values are exact
    assert torch.equal(run(graph, points), run(once, points))


def test_twins_beside_constants_are_merged_where_the_input_is_read_no_more() -> None:
    class Floors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("floor", torch.tensor([[0.5, 0.25]]))

        def forward(self, x: Tensor) -> Tensor:
            values, floor = torch.relu(x), self.floor.expand(x.shape[0], 2)
            return torch.maximum(values, floor) + torch.maximum(floor, values)

    graph = with_pairs(holdfast.capture(Floors().eval(), torch.zeros(1, 2)).double())
    once = merged(graph)
    assert once is not graph
    points = torch.randint(-64, 64, (200, 2)).double() / 16.0  # whose values are exact
    assert torch.equal(run(graph, points), run(once, points))


def test_nets_without_twins_are_left_as_they_are() -> None:
    graph = with_pairs(graph_of("relu").double())
    assert merged(graph) is graph


@pytest.mark.parametrize("norm", [2.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_balls_and_thin_boxes_and_smooth_nets(norm: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double().eval()
    graph = holdfast.capture(model, torch.zeros(1, 3, dtype=torch.float64))
    thin = Box(torch.tensor([0.1, -0.3, 0.5]).double(), torch.tensor([0.2, -0.3, 0.9]).double())
    generator = torch.Generator().manual_seed(0)
    for region in (thin, Ball(torch.full((3,), 0.2).double(), 0.3, norm)):
        lower, upper = solved(graph, norm, region, most=5)
        pairs = (sample(region, 500, generator) for _ in range(2))
        first, second = pairs
        slopes = slopes_lower(graph, first, first + 1e-3 * (second - first), norm)
        assert max(lower, float(slopes.max())) <= upper <= 1.2 * float(slopes.max())


def test_many_or_no_moving_entries_are_left_to_others() -> None:
    assert not few_move(Ball(torch.zeros(13), 1.0))
    assert not few_move(Ball(torch.zeros(3), 0.0))
    low, high = torch.zeros(50), torch.zeros(50)
    high[7] = 1.0
    assert few_move(Box(low, high))


def test_where_values_overflow_nothing_is_known() -> None:
    """Sums beyond float64 say neither where a wave is, nor on which side of a kink a value lies."""
    wave = Graph(
        (
            Node("x", "input", shape=(1,)),
            Node("first", "scale", ("x",), {"factor": 1e36}, (1,)),
            Node("wave", "sin", ("first",), shape=(1,)),
            Node("y", "scale", ("wave",), {"factor": 1e-36}, (1,)),
        ),
        "y",
        {},
    )
    box = Box(*torch.tensor([[-1e299], [1e300]], dtype=torch.float64))
    assert Fraction(solved(wave, 2.0, box, most=20)[1]) >= Fraction(1e36) * Fraction(1e-36)
    sums = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).double()
    apart = torch.tensor([[-1.0, 1.0, 1.0]]).double()
    kink = Graph(
        (
            Node("x", "input", shape=(4,)),
            Node("sums", "linear", ("x",), {"weight": sums, "bias": None}, (3,)),
            Node("apart", "linear", ("sums",), {"weight": apart, "bias": None}, (1,)),
            Node("y", "relu", ("apart",), shape=(1,)),
        ),
        "y",
        {},
    )
    low = torch.tensor([1.5e308, 1.5e308, 1.5e308, 1.6e308], dtype=torch.float64)
    # x3 + x4 - (x1 + x2) is 1e307: the gradient is (-1, -1, 1, 1)
    assert solved(kink, 2.0, Box(low, low + 1e300), most=20)[1] >= 2.0


def test_a_change_beyond_float64_proves_nothing() -> None:
    nodes = Node("x", "input", shape=(1,)), Node("y", "scale", ("x",), {"factor": 1e300}, (1,))
    first = torch.tensor([1e10]).double()
    maps = Maps(Graph(nodes, "y", {}, precision=torch.float64))
    assert exact_slope_lower(maps, first, -first, 2.0) <= 1e300
    tiny = torch.tensor([2.0**-1074], dtype=torch.float64)
    nodes = nodes[0], Node("y", "scale", ("x",), {"factor": 0.75}, (1,))
    maps = Maps(Graph(nodes, "y", {}, precision=torch.float64))
    assert exact_slope_lower(maps, tiny, 0.0 * tiny, 2.0) <= 0.75


def test_units_that_say_nothing_are_passed_over() -> None:
    """A clamp to one number has three pieces, and no output reads the unit."""
    nodes = (
        Node("x", "input", shape=(1,)),
        Node("none", "hardtanh", ("x",), {"low": 0.0, "high": 0.0}, (1,)),
        Node("unread", "relu", ("x",), shape=(1,)),
        Node("y", "tanh", ("x",), shape=(1,)),
    )
    box = Box(-torch.ones(1).double(), torch.ones(1).double())
    for output, most in (("y", 1.001), ("none", 1e-300)):
        lower, upper = solved(Graph(nodes, output, {}), 2.0, box)
        assert 0.0 <= lower <= upper <= most


def test_merging_keeps_its_time_and_the_gains_of_layers() -> None:
    graph = graph_of_minima()
    pairs = with_pairs(graph.double())
    assert merged(pairs) is not pairs
    assert merged(pairs, terms=10) is pairs
    options = LipschitzOptions(region=Box(-torch.ones(2), torch.ones(2)), seconds=0.1)
    paths = [layer.path for layer in lipschitz_graph(graph, torch.zeros(1, 2), options).layers]
    assert paths[0] == "first"


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 1e-150, 1e150, 1e-310, 1e300, 1e307]))
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
