"""Layers of any scale: every bound, radius and slope held against exact rationals.

Weights between 1e-300 and 1e300 (1e-36 and 1e36 in float32), mixed so that the whole net often has
an ordinary scale: products, squares and differences on the way underflow and overflow.
"""

import itertools
import math
import random
import time
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.scaled import ScaledNet, exceeds, power, powered, rationals, reaches
from torch import Tensor

from holdfast.brackets.branching.tree import Goal, branch
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lower.pairs import SteepPair
from holdfast.brackets.search import LipschitzOptions, Search
from holdfast.brackets.semidefinite import lipsdp_upper, row_bounds_upper, row_upper
from holdfast.certificates.certify import CertifyOptions, certify_graph
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph
from holdfast.sdp.chain.chain import chain_of
from holdfast.sdp.chain.proof import chain_upper
from holdfast.sdp.chain.start import closed_form
from holdfast.sdp.form import TOO_EXTREME
from holdfast.sdp.lift import normal_form
from holdfast.types import Ball, Box, Region

NORMS = (1.0, 2.0, math.inf)
PRECISIONS = {torch.float64: 300.0, torch.float32: 36.0}
SEEDS = st.integers(0, 2**32)


class Draw:
    """Random choices from one seed.

    Args:
        seed: Any number.
        dtype: Of all tensors.
    """

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.random, self.dtype, self.top = random.Random(seed), dtype, PRECISIONS[dtype]

    def matrix(self, rows: int, columns: int, size: float) -> Tensor:
        """Return a matrix of entries around a size, of one of several kinds."""
        choose = self.random.choice
        entry = choose([lambda: self.random.gauss(0.0, 1.0), lambda: choose([-2, -1, 0, 1, 3])])
        entries = [[float(entry()) for _ in range(columns)] for _ in range(rows)]
        weight = torch.tensor(entries, dtype=torch.float64)
        kind = choose(["plain", "plain", "twins", "diagonal", "uneven"])
        if kind == "twins":
            weight[-1] = weight[0] * (1.0 + choose([0.0, 2.0**-20]))
        if kind == "diagonal":
            weight = torch.eye(rows, columns, dtype=torch.float64) * choose([1.0, -1.0])
        if kind == "uneven":
            weight = weight * 10.0 ** -self.random.uniform(0.0, self.top / 3.0)
        return (weight * size).to(self.dtype)

    def exponent(self, total: float) -> float:
        """Return a decimal exponent for the next layer, often one that makes up for the others."""
        if self.random.random() < 0.4:
            return max(-self.top, min(self.top, self.random.uniform(-5.0, 5.0) - total))
        return self.random.choice([0.0, self.random.uniform(-self.top, self.top)])

    def net(self) -> ScaledNet:
        """Return a net of up to six layers."""
        net = ScaledNet(self.dtype, image=self.random.random() < 0.2)
        total = 0.0
        for _ in range(self.random.randint(1, 6)):
            exponent = self.exponent(total)
            total += exponent
            self.layer(net, exponent)
            if self.random.random() < 0.5:
                net.relu()
        return net

    def layer(self, net: ScaledNet, exponent: float) -> None:
        """Add a layer of some scale."""
        kind = self.random.choice(["linear", "linear", "residual", "scale", "divide", "batch_norm"])
        size = 10.0**exponent
        if kind == "linear":
            net.linear(self.matrix(self.random.choice([2, 2, 3]), net.width, size))
        elif kind == "residual":
            net.residual(self.matrix(net.width, net.width, size))
        elif kind == "scale":
            net.scale(self.matrix(1, net.width, size)[0])
        elif kind == "divide":
            net.divide(float(torch.tensor(1.0 / size, dtype=torch.float64).to(self.dtype)))
        else:
            halves = round(exponent / 2.0 / math.log10(2.0))
            weight = self.matrix(1, net.width, 2.0**halves)[0]
            net.batch_norm(weight, -halves)

    def point(self) -> Tensor:
        """Return a point, [1, 2], of any size."""
        size = 10.0 ** self.random.choice([0.0, self.random.uniform(-self.top, self.top) / 4.0])
        return self.numbers(2, size)[None]

    def numbers(self, count: int, size: float) -> Tensor:
        """Return numbers around a size, all finite."""
        entries = [self.random.gauss(0.0, size) for _ in range(count)]
        drawn = torch.tensor(entries, dtype=torch.float64).to(self.dtype)
        return drawn.nan_to_num(0.0, 1.0, -1.0)

    def region(self, center: Tensor, norm: float) -> Region:
        """Return a ball or a box around a point, of about its size or smaller."""
        center = center.double()
        radius = float(center.abs().max()) * 10.0 ** self.random.uniform(-3.0, 1.0)
        box = Box(center - radius, center + radius)
        return self.random.choice([Ball(center, radius, norm), box])


def proved(bounds: Callable[[], list[float]]) -> list[float]:
    """Return what a method proves; nothing where it says that the weights are too extreme."""
    try:
        return bounds()
    except (Unsupported, *TOO_EXTREME):
        return []


def upper_bounds(graph: Graph, norm: float) -> list[tuple[str, float]]:
    """Return the upper bounds of every method by itself."""
    found = [("gain", gain_upper(graph, norm))]
    if norm == 2.0:
        found += [("LipSDP", bound) for bound in lipsdp_upper(graph, 1e-3, 0.2)]
        found += [("chain", bound) for bound in proved(lambda: chain_bounds(graph))]
        found += [("dense", bound) for bound in proved(lambda: [dense_bound(graph)])]
    else:
        found += [("rows", bound) for bound in row_bounds_upper(graph, norm, 0.2)]
    return found


def chain_bounds(graph: Graph) -> list[float]:
    """Return the bound along the chain, with multipliers in closed form."""
    chain = chain_of(normal_form(graph, 100))
    if chain is None:
        return []
    return [chain_upper(chain, chain.split(closed_form(chain)))]


def dense_bound(graph: Graph) -> float:
    """Return the bound of the interior point method."""
    return row_upper(normal_form(graph, 100), 2.0)


def check_constants(seed: int, dtype: torch.dtype) -> None:
    """Hold all bounds of the global constant against the largest Jacobian."""
    draw = Draw(seed, dtype)
    net, norm = draw.net(), draw.random.choice(NORMS)
    graph, jacobians = net.graph(), [M for _, _, M in net.sectors()]
    for method, bound in upper_bounds(graph, norm):
        assert all(reaches(bound, J, norm) for J in jacobians), (norm, method, bound)
    end = time.perf_counter() + 0.2
    goal = Goal(norm, None, 1e-3, lambda: 0.0, lambda: time.perf_counter() > end)
    for found in branch(graph, goal):
        if isinstance(found, SteepPair):
            assert not all(exceeds(found.slope, J, norm) for J in jacobians), norm
        else:
            assert all(reaches(found, J, norm) for J in jacobians), (norm, found)


def check_bracket(seed: int, dtype: torch.dtype) -> None:
    """Hold a bracket, on a region or everywhere, against slopes between points there."""
    draw = Draw(seed, dtype)
    net, center, norm = draw.net(), draw.point(), draw.random.choice(NORMS)
    graph, jacobians = net.graph(), [M for _, _, M in net.sectors()]
    shape = graph.perturbed_input.shape
    region = draw.region(center[0].reshape(shape), norm)
    for where in (None, region):
        bracket = Search(graph, LipschitzOptions(norm, where, seconds=0.02)).run(
            center.reshape(1, *shape)
        )
        assert bracket.lower <= bracket.upper
        assert not all(exceeds(bracket.lower, J, norm) for J in jacobians), norm
        if bracket.witness is not None:
            assert_slope(net, bracket.witness, bracket.lower, norm)
        if where is None:
            assert all(reaches(bracket.upper, J, norm) for J in jacobians), norm
        elif math.isfinite(bracket.upper):
            low, high = inner_box(region)
            points = low + torch.rand(2, *shape, dtype=torch.float64) * (high - low)
            assert_not_steeper(net, points, bracket.upper, norm)
            if bracket.witness is not None:
                assert all(inside(point, region) for point in bracket.witness)


def inner_box(region: Region) -> tuple[Tensor, Tensor]:
    """Return a box inside a region."""
    if isinstance(region, Box):
        return region.low, region.high
    share = 0.49 * region.radius  # less than 1 / 2: two entries of that size are inside in l1
    return region.center - share, region.center + share


def inside(point: Tensor, region: Region) -> bool:
    """Return whether a point lies in a region, exactly."""
    if isinstance(region, Box):
        return bool(((point >= region.low) & (point <= region.high)).all())
    apart = [a - b for a, b in zip(rationals(point), rationals(region.center), strict=True)]
    return power(apart, region.norm) <= powered(region.radius, region.norm)


def moves(net: ScaledNet, pair: tuple[Tensor, Tensor], norm: float) -> tuple[Fraction, Fraction]:
    """Return how far apart two points and their outputs are, as powers of the norm."""
    x, y = map(rationals, pair)
    values = net.value(x), net.value(y)
    apart = [[a - b for a, b in zip(*ends, strict=True)] for ends in ((x, y), values)]
    return power(apart[0], norm), power(apart[1], norm)


def assert_slope(net: ScaledNet, pair: tuple[Tensor, Tensor], slope: float, norm: float) -> None:
    distance, change = moves(net, pair, norm)
    assert powered(slope, norm) * distance <= change


def assert_not_steeper(net: ScaledNet, pair: Tensor, upper: float, norm: float) -> None:
    distance, change = moves(net, (pair[0], pair[1]), norm)
    assert change <= powered(upper, norm) * distance


def check_radii(seed: int, dtype: torch.dtype) -> None:
    """Hold every radius against points at which another class is at least as large."""
    draw = Draw(seed, dtype)
    net, point, norm = draw.net(), draw.point(), draw.random.choice(NORMS)
    before = rationals(point)
    size = min(max(*map(abs, net.value(before)), Fraction(1e-300)), Fraction(1e300))
    net.head(draw.matrix(3, net.width, 1.0), draw.numbers(3, float(size)))
    value = net.value(before)
    label = max(range(3), key=value.__getitem__)
    steps = [step for near, step in net.flips(before, label) if near == norm]
    graph = net.graph()
    row = point.reshape(1, *graph.perturbed_input.shape)
    kinds = ("real",) if dtype == torch.float64 else ("real", "float32")
    for method, kind in itertools.product(("auto", "global", "local"), kinds):
        asked = CertifyOptions(norm, method, kind)
        try:
            certificates = certify_graph(graph, row, torch.tensor([label]), asked)
        except Unsupported:
            continue
        radius = float(certificates.radius)
        assert math.isfinite(radius) or not steps, asked
        assert all(powered(radius, norm) <= power(step, norm) for step in steps), asked
        change = float(certificates.output_change(float(point.abs().max())))
        moved = plus_entry(before, Fraction(float(point.abs().max())))
        apart = [a - b for a, b in zip(net.value(moved), value, strict=True)]
        assert math.isinf(change) or power(apart, norm) <= powered(change, norm)


def plus_entry(point: list[Fraction], step: Fraction) -> list[Fraction]:
    return [point[0] + step, *point[1:]]


CHECKS = [check_constants, check_bracket, check_radii]
NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""A smaller seed makes no simpler net."""


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=3, phases=NO_SHRINKING)
@given(SEEDS)
def test_layers_of_any_scale(check: Callable, dtype: torch.dtype, seed: int) -> None:
    check(seed, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=250, phases=NO_SHRINKING)
@given(SEEDS)
def test_many_layers_of_any_scale(check: Callable, dtype: torch.dtype, seed: int) -> None:
    check(seed, dtype)


def diagonal_chain(exponents: list[float], dtype: torch.dtype) -> ScaledNet:
    """Return layers 10^e I one after the other."""
    net = ScaledNet(dtype)
    for exponent in exponents:
        net.linear((torch.eye(2, dtype=torch.float64) * 10.0**exponent).to(dtype))
    return net


VANISHING = {
    "float32": ([-38.0] * 8 + [-19.7] + [38.0] * 8 + [19.0], torch.float32),
    "float64": ([-200.0, -200.0, 200.0, 200.0], torch.float64),
    "gradual": ([-300.0, -20.0, 20.0, 300.0], torch.float64),
    "overflow": ([200.0, 200.0, -200.0, -200.0], torch.float64),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("case", VANISHING)
def test_products_that_vanish_on_the_way_have_a_tight_bound(case: str, norm: float) -> None:
    net = diagonal_chain(*VANISHING[case])
    ((_, _, jacobian), *_) = net.sectors()
    upper = gain_upper(net.graph(), norm)
    assert reaches(upper, jacobian, norm)
    if norm == 2.0:
        assert exceeds(upper, jacobian, norm)
        assert not exceeds(upper * (1.0 - 1e-12), jacobian, norm)


@pytest.mark.parametrize("method", ["auto", "global", "local"])
@pytest.mark.parametrize("case", VANISHING)
def test_no_radius_comes_from_a_product_that_vanished(case: str, method: str) -> None:
    exponents, dtype = VANISHING[case]
    net = diagonal_chain(exponents, dtype)
    net.head(torch.eye(2, dtype=dtype), torch.tensor([500.0, -500.0], dtype=dtype))
    asked = CertifyOptions(2.0, method)
    certificates = certify_graph(net.graph(), torch.zeros(1, 2).to(dtype), torch.tensor([0]), asked)
    (step,) = {tuple(step) for norm, step in net.flips([Fraction(0)] * 2, 0) if norm == 2.0}
    assert Fraction(float(certificates.radius)) ** 2 <= power(step, 2.0)


@pytest.mark.parametrize("method", ["auto", "local"])
def test_weights_whose_squares_overflow_leave_the_local_radius(method: str) -> None:
    net = ScaledNet(torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    net.linear(eye * 1e170)
    net.relu()
    weight = torch.tensor([[1e-170, 0.0], [-1e-170, 0.0]], dtype=torch.float64)
    net.head(weight, torch.tensor([-0.5, 0.5], dtype=torch.float64))
    row = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    certificates = certify_graph(net.graph(), row, torch.tensor([0]), CertifyOptions(2.0, method))
    assert 0.499 < float(certificates.radius) <= 0.5


def test_a_radius_beyond_float64_is_not_infinite() -> None:
    """Only equal rows make a class safe at any distance."""
    weight = torch.tensor([[1e-300, 0.0], [0.0, 1e-300]], dtype=torch.float64)
    net = ScaledNet(torch.float64)
    net.head(weight, torch.tensor([1e300, 0.0], dtype=torch.float64))
    row = torch.zeros(1, 2, dtype=torch.float64)
    for norm in NORMS:
        certificates = certify_graph(
            net.graph(), row, torch.tensor([0]), CertifyOptions(norm, "global")
        )
        assert 1e300 < float(certificates.radius) < math.inf


def test_rows_closer_than_the_square_of_the_smallest_number_differ() -> None:
    weight = torch.tensor([[1.0, 1e-170], [1.0, 0.0]], dtype=torch.float64)
    net = ScaledNet(torch.float64)
    net.head(weight, torch.tensor([1.0, 0.0], dtype=torch.float64))
    row = torch.zeros(1, 2, dtype=torch.float64)
    for norm in NORMS:
        certificates = certify_graph(
            net.graph(), row, torch.tensor([0]), CertifyOptions(norm, "global")
        )
        assert 0.99e170 < float(certificates.radius) <= 1e170
