"""The centred bound: no secant in a ball is steeper, and small balls close in on the Jacobian."""

import functools
import math
from typing import Any

import pytest
import torch
from tests.bounds.zoo import NETS, graph_of, points_in
from tests.families import FAMILIES
from torch import Tensor

import holdfast
from holdfast.bounds.centred import Centred
from holdfast.brackets.lipschitz import LipschitzOptions, lipschitz_graph
from holdfast.brackets.lower.pairs import slopes_lower
from holdfast.graph.ir import Graph
from holdfast.graph.walk import run
from holdfast.types import Ball

LEFT_OUT = (
    "maxmin", "groupsort", "sort of four", "long sort", "wired", "sums", "max pool", "ceil pool",
    "dilated pool", "lengths", "log sum exp", "log softmax",
)  # fmt: skip
COVERED = [name for name in NETS if name not in LEFT_OUT]


def _center(seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(6, dtype=torch.float64)


@functools.cache
def _centred(name: str) -> Centred:
    return Centred(graph_of(name), _center())


def _true_norm(graph: Graph, center: Tensor) -> float:
    """Return the l2 norm of the Jacobian at a point, in float64."""
    found = torch.autograd.functional.jacobian(
        lambda x: run(graph.double(), x[None])[0].flatten(), center
    )
    assert isinstance(found, Tensor)
    return float(torch.linalg.matrix_norm(found.flatten(1), 2))


def _steepest(graph: Graph, center: Tensor, radius: float, count: int) -> float:
    """Return the largest proved slope of pairs in a ball: far, near, and with the centre."""
    ball = Ball(center, radius)
    first, second = points_in(ball, count), points_in(ball, count, seed=1)
    others = (second, first + 1e-3 * (second - first), center.expand_as(first))
    parts = [slopes_lower(graph, first, other, 2.0) for other in others]
    return float(torch.cat(parts).max())


@pytest.mark.parametrize("name", COVERED)
def test_no_secant_in_the_ball_is_steeper(name: str) -> None:
    graph, bound = graph_of(name), _centred(name)
    assert bound.covers
    for radius in (1e-4, 0.03, 0.5, 3.0):
        assert _steepest(graph, _center(), radius, 200) <= bound.upper(radius)


@pytest.mark.parametrize("name", COVERED)
def test_small_balls_close_in_on_the_jacobian(name: str) -> None:
    true = _true_norm(graph_of(name), _center())
    # torch's derivative of hardsigmoid has a float32 sixth in it
    assert true * (1.0 - 1e-7) <= _centred(name).upper(0.0) <= true * (1.0 + 1e-5) + 1e-9
    assert _centred(name).upper(1e-8) <= true * (1.0 + 1e-5) + 1e-9


@pytest.mark.parametrize("name", COVERED)
def test_a_larger_ball_has_no_smaller_bound(name: str) -> None:
    found = [_centred(name).upper(10.0**k) for k in range(-9, 3)]
    assert found == sorted(found)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_an_operation_without_curvature_leaves_it_open(name: str) -> None:
    bound = _centred(name)
    assert not bound.covers
    assert bound.upper(1e-3) == math.inf


def test_a_function_that_is_its_input_or_constant() -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.0 * x

    for model, true in ((torch.nn.Identity(), 1.0), (Constant(), 0.0)):
        graph = holdfast.capture(model.eval(), torch.zeros(1, 3))
        assert true <= Centred(graph, torch.zeros(3)).upper(2.0) <= true + 1e-9


def test_lipschitz_takes_it_where_it_is_the_least() -> None:
    graph = graph_of("attention")
    ball = Ball(_center().float(), 0.05)
    found = lipschitz_graph(graph, torch.zeros(1, 6), LipschitzOptions(2.0, ball, 1.0))
    assert found.upper_by == "Jacobian at the centre and what others differ by"
    assert found.lower <= found.upper <= Centred(graph, ball.center).upper(0.05)


@functools.cache
def _family(name: str) -> tuple[Graph, Tensor]:
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = FAMILIES[name](transformers).eval()
    x = torch.randn(3, 1, 8, 8) if name == "ViT" else torch.randn(3, 5, 16)
    return holdfast.capture(model, x), x[0].double()


def _check_family(name: str, count: int) -> None:
    graph, center = _family(name)
    bound = Centred(graph, center)
    true = _true_norm(graph, center)
    assert true <= bound.upper(1e-7) <= true * (1.0 + 1e-4)
    for radius in (1e-3, 0.02, 0.1, 0.5):
        assert _steepest(graph, center, radius, count) <= bound.upper(radius)


@pytest.mark.filterwarnings("ignore")
def test_no_secant_of_a_small_transformer_is_steeper() -> None:
    _check_family("BERT", 100)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_no_secant_of_ten_thousand_is_steeper(family: str) -> None:
    _check_family(family, 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", COVERED)
def test_no_secant_of_ten_thousand_in_small_nets_is_steeper(name: str) -> None:
    for radius in (1e-3, 0.1, 0.3, 1.0):
        found = _steepest(graph_of(name), _center(), radius, 10_000)
        assert found <= _centred(name).upper(radius)
