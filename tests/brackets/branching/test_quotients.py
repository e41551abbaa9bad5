"""Quotients in branch and bound, beside nets on a line, written out in fractions."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.brackets.branching.test_tree import solved
from tests.traps.truth import Function
from torch import nn

import holdfast
from holdfast.brackets.branching.cells import Cell, look_inside
from holdfast.brackets.branching.pieces import pieces
from holdfast.graph.ir import Graph, Node
from holdfast.types import Box, Outcome

WIDTH = 3
WEIGHTS = st.floats(-2, 2, width=16)
DIVISORS = st.floats(0.01, 100).flatmap(lambda size: st.sampled_from([size, -size, 1.0, 3.0]))


def floats(*shape: int, of: st.SearchStrategy = WEIGHTS) -> st.SearchStrategy:
    count = math.prod(shape)
    numbers = st.lists(of, min_size=count, max_size=count)
    return numbers.map(lambda entries: torch.tensor(entries, dtype=torch.float64).reshape(shape))


def nets(weights: st.SearchStrategy, divisors: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries(
        {
            "divisor": floats(1, 1, of=divisors),
            "first": floats(WIDTH, 1, of=weights),
            "first_bias": floats(WIDTH, of=weights),
            "std": floats(1, WIDTH, of=divisors),
            "second": floats(WIDTH, WIDTH, of=weights),
            "second_bias": floats(WIDTH, of=weights),
            "last": floats(2, WIDTH, of=weights),
        }
    )


def extreme(numbers: st.SearchStrategy) -> st.SearchStrategy:
    """Return these numbers, times powers of two down to the subnormal ones."""
    sizes = st.sampled_from([1.0, 2.0**-60, 2.0**-300, 2.0**300, 2.0**-1040])
    return st.tuples(numbers, sizes).map(math.prod).filter(bool)


def graph_of(net: dict) -> Graph:
    """Divide, apply a layer, divide, apply a layer, and average its first two units in."""

    def layer(name: str, source: str, weight: str, bias: str) -> Node:
        params = {"weight": net[weight], "bias": net[bias] if bias else None}
        return Node(name, "linear", (source,), params, (len(net[weight]),))

    nodes = (
        Node("x", "input", shape=(1,)),
        Node("x0", "divide", ("x",), {"divisor": net["divisor"]}, (1,)),
        layer("z1", "x0", "first", "first_bias"),
        Node("v1", "relu", ("z1",), {}, (WIDTH,)),
        Node("n1", "divide", ("v1",), {"divisor": net["std"]}, (WIDTH,)),
        layer("z2", "n1", "second", "second_bias"),
        Node("v2", "relu", ("z2",), {}, (WIDTH,)),
        layer("y", "v2", "last", ""),
        Node("m", "mean", ("v2",), {"dims": (1,), "keepdim": True}, (1,)),
        Node("wide", "expand", ("m",), {"shape": (2,)}, (2,)),
        Node("out", "add", ("y", "wide"), {}, (2,)),
    )
    return Graph(nodes, "out", {}, precision=torch.float64)


def exactly(values: torch.Tensor) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(values.numpy())


def slopes(net: dict, low: Fraction | None, high: Fraction | None) -> Iterator[np.ndarray]:
    """Yield the two slopes of every piece between two ends, in fractions."""
    n = {name: exactly(value) for name, value in net.items()}
    for signs in itertools.product((0, 1), repeat=2 * WIDTH):
        one, two = signs[:WIDTH], signs[WIDTH:]
        z1 = n["first"][:, 0] / n["divisor"][0, 0], n["first_bias"]
        n1 = [np.array(one) * part / n["std"][0] for part in z1]
        z2 = n["second"] @ n1[0], n["second"] @ n1[1] + n["second_bias"]
        walls = [*zip(*z1, one, strict=True), *zip(*z2, two, strict=True)]
        if is_open(walls, low, high):
            v2 = np.array(two) * z2[0]
            yield n["last"] @ v2 + sum(v2) / WIDTH


def is_open(walls: list, low: Fraction | None, high: Fraction | None) -> bool:
    """Return whether some x between the ends has slope x + offset above 0 (1) or below it (0)."""
    for slope, offset, positive in walls:
        if slope == 0:
            # On a kink that is always met both sides give the value 0.
            if offset != 0 and (offset > 0) != bool(positive):
                return False
            continue
        wall = -offset / slope
        if (slope > 0) == bool(positive):
            low = wall if low is None else max(low, wall)
        else:
            high = wall if high is None else min(high, wall)
    return low is None or high is None or low < high


def squared(slope: np.ndarray, norm: float) -> Fraction:
    """Return the square of the operator norm of a Jacobian with one column."""
    sizes = [abs(entry) for entry in slope]
    if norm == 2.0:
        return sum((size * size for size in sizes), Fraction(0))
    return (sum(sizes) if norm == 1.0 else max(sizes)) ** 2


def held(net: dict, norm: float, is_bounded: bool) -> tuple[Fraction, float]:
    """Return the square of the truth, and the upper end, once both ends are held against it."""
    ends = (-0.3, 0.7) if is_bounded else None
    region = Box(*(torch.tensor([end]).double() for end in ends)) if ends else None
    low, high = map(Fraction, ends) if ends else (None, None)
    truth = max(squared(slope, norm) for slope in slopes(net, low, high))
    lower, upper = solved(graph_of(net), norm, region)
    assert Fraction(lower) ** 2 <= truth
    assert upper == math.inf or truth <= Fraction(upper) ** 2
    return truth, upper


NORMS = st.sampled_from([1.0, 2.0, math.inf])


@settings(max_examples=4)
@given(nets(WEIGHTS, DIVISORS), NORMS, st.booleans())
def test_nets_that_divide_have_their_exact_constant(net: dict, norm: float, is_bounded) -> None:
    truth, upper = held(net, norm, is_bounded)
    assert upper <= math.sqrt(truth) * (1 + 1e-6) + 1e-12


@settings(max_examples=5)
@given(nets(extreme(WEIGHTS), extreme(DIVISORS)), NORMS, st.booleans())
def test_both_ends_hold_at_every_scale(net: dict, norm: float, is_bounded: bool) -> None:
    held(net, norm, is_bounded)


def chained(constant: float) -> Graph:
    """f(x) = relu(x / 3^6 - 1) - relu(c - x), steep only where 729 < x < c."""
    model = Function(
        lambda x: (x / 3 / 3 / 3 / 3 / 3 / 3 - 1).relu() - (constant - x).relu()
    ).double()
    return holdfast.capture(model, torch.zeros(1, 1, dtype=torch.float64))


def test_a_cell_as_wide_as_one_rounding_is_kept_and_one_without_width_is_not() -> None:
    for constant, is_empty in ((math.nextafter(729.0, math.inf), False), (729.0, True)):
        graph = chained(constant)
        network = pieces(graph)
        cell = Cell.whole(network)
        for unit in network.kinked:
            cell = cell.split(unit, 1)
        assert look_inside(cell, None).empty is is_empty
        exact = Fraction(1) if is_empty else 1 + Fraction(1, 729)
        _, upper = solved(graph, math.inf)
        assert exact <= Fraction(upper)
        assert upper == pytest.approx(float(exact), rel=1e-9)


def test_thirds_add_up_to_a_whole() -> None:
    """The mean of three copies less one of them is 0, which no rounded third is."""
    model = Function(lambda x: (torch.cat([x, x, x], 1) * 1e20).mean(1, keepdim=True) - x * 1e20)
    net = nn.Sequential(model, nn.ReLU()).double()
    network = pieces(holdfast.capture(net, torch.zeros(1, 1, dtype=torch.float64)))
    cell = Cell.whole(network)
    assert not cell.free.size
    assert not cell.values[len(network.B) - 1].integers.any()


MEAN, STD = torch.tensor([0.1, -0.7]).double(), torch.tensor([0.3, 1.1]).double()
NORMALISING = {"tenths": lambda x: x / 0.3, "statistics": lambda x: (x - MEAN) / STD}


@pytest.mark.parametrize(("name", "norm"), [("tenths", 2.0), ("statistics", math.inf)])
def test_a_net_that_normalises_its_input_has_a_closed_bracket(name: str, norm: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    model = nn.Sequential(Function(NORMALISING[name]), net)
    points = torch.randn(8, 2).double()
    bracket = holdfast.lipschitz(model, points, norm, tolerance=1e-6, seconds=60)
    assert bracket.outcome is Outcome.CLOSED
