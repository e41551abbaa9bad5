"""Boxes around Jacobians: no secant in a region is steeper, and small regions are closed in on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bounds.zoo import NETS, graph_of, points_in, some_regions
from torch import Tensor

from holdfast.bounds.jacobian import region_constant_upper
from holdfast.brackets.lower.pairs import slopes_lower
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import run
from holdfast.types import Ball, Box


def alone(op: str, shape: tuple[int, ...], **params: object) -> Graph:
    """Return the graph of one function of numbers."""
    nodes = (Node("x", "input", shape=shape), Node("y", op, ("x",), params, shape))
    return Graph(nodes, "y", {}, precision=torch.float64)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "size",
    [0.3, *(pytest.param(size, marks=pytest.mark.slow) for size in (1e-3, 3.0))],
)
def test_no_secant_in_the_region_is_steeper(name: str, size: float) -> None:
    graph = graph_of(name)
    for region in some_regions(7, size)[1:]:
        first, second = points_in(region, 200), points_in(region, 200, seed=1)
        near = first + 1e-3 * (second - first)
        for norm in (1.0, 2.0, math.inf):
            upper = region_constant_upper(graph, region, norm)
            for other in (second, near):
                assert float(slopes_lower(graph, first, other, norm).max()) <= upper


@pytest.mark.parametrize("name", [name for name in NETS if name != "long sort"])
def test_small_regions_close_in_on_the_jacobian(name: str) -> None:
    graph = graph_of(name)
    torch.manual_seed(5)
    x = torch.randn(6, dtype=torch.float64)

    def flat(point: Tensor) -> Tensor:
        return run(graph.double(), point[None])[0].flatten()

    jacobian = torch.autograd.functional.jacobian(flat, x)
    for norm in (1.0, 2.0, math.inf):
        upper = region_constant_upper(graph, Ball(x, 1e-7, 2.0), norm)
        assert upper <= 1.001 * float(torch.linalg.matrix_norm(jacobian, norm)) + 1e-9


def test_products_and_powers_of_numbers_in_a_box() -> None:
    """On [0, 1] x [2, 3] the gradient of x y is (y, x)."""
    cut = [
        Node(f"x{k}", "slice", ("x",), {"dim": 1, "start": k, "stop": k + 1, "step": 1}, (1,))
        for k in range(2)
    ]
    nodes = (Node("x", "input", shape=(2,)), *cut, Node("y", "product", ("x0", "x1"), {}, (1,)))
    graph = Graph(nodes, "y", {}, precision=torch.float64)
    box = Box(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0]))
    for norm, truth in ((1.0, 3.0), (2.0, math.sqrt(10.0)), (math.inf, 4.0)):
        assert truth <= region_constant_upper(graph, box, norm) < truth + 1e-9
    fixed = Box(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    assert 1.0 <= region_constant_upper(graph, fixed, 2.0) < 1.0 + 1e-9


@settings(max_examples=40)
@given(st.integers(2, 9), st.floats(-3.0, 3.0), st.floats(0.0, 3.0))
def test_powers_on_an_interval(n: int, center: float, radius: float) -> None:
    graph = alone("power", (1,), exponent=n)
    ball = Ball(torch.tensor([center], dtype=torch.float64), radius)
    steepest = n * max(abs(center - radius), abs(center + radius)) ** (n - 1)
    found = region_constant_upper(graph, ball, 2.0)
    assert steepest * (1.0 - 1e-12) <= found <= steepest * (1.0 + 1e-9) + 1e-9


@pytest.mark.parametrize("op", ["log", "sqrt", "rsqrt", "reciprocal"])
def test_a_region_with_a_pole_has_no_constant(op: str) -> None:
    graph = alone(op, (2,))
    for low in (-1e-12, 0.0):
        box = Box(torch.full((2,), low).double(), torch.ones(2).double())
        assert region_constant_upper(graph, box, 2.0) == math.inf
    box = Box(torch.full((2,), 0.25).double(), torch.ones(2).double())
    steepest = {"log": 4.0, "sqrt": 1.0, "rsqrt": 4.0, "reciprocal": 16.0}[op]
    assert steepest <= region_constant_upper(graph, box, 2.0) < steepest + 1e-9


def test_exponentials_beyond_float64_have_no_finite_constant() -> None:
    box = Box(torch.zeros(2).double(), torch.tensor([1.0, 800.0]).double())
    assert region_constant_upper(alone("exp", (2,)), box, 2.0) == math.inf
