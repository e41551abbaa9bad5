"""Linear bounds: sound on every net, tight on ReLU nets, and CROWN where written out plainly."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bounds.zoo import NETS, all_values, graph_of, points_in, some_regions
from tests.nets import crossed
from torch import Tensor, nn

import holdfast
from holdfast.bounds.interval import interval_bounds
from holdfast.bounds.linear import LinearBounds, Relaxed, linear_bounds
from holdfast.bounds.planes import Below
from holdfast.bounds.regions import Regions
from holdfast.bounds.relaxations import range_on
from holdfast.errors import InvalidInput
from holdfast.graph.ir import Graph
from holdfast.graph.running import Approximate
from holdfast.graph.walk import run
from holdfast.ops import Kind
from holdfast.rounding import gamma
from holdfast.sources.demo import GroupSort, demo_data, demo_model
from holdfast.types import Ball, Region

_CONSTANT = ("long sort",)
"""Nets with an operation that only has constant bounds."""


def plane_at(plane: Below, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the linear functions of the first region at points, and their rounding."""
    slope, offset, x = plane.slope[0].flatten(1), plane.offset[0], points.flatten(1)
    value = x @ slope.mT + offset
    return value, 4 * gamma(x.shape[1] + 4) * (x.abs() @ slope.abs().mT + offset.abs())


def combined(value: Approximate, spec: Tensor) -> tuple[Tensor, Tensor]:
    exact, error = value.value.flatten(1), value.error.flatten(1)
    room = error @ spec.abs().mT + gamma(len(spec[0]) + 8) * exact.abs() @ spec.abs().mT
    return exact @ spec.mT, 2 * room


def assert_holds(graph: Graph, got: LinearBounds, region: Region, spec: Tensor, n: int) -> None:
    points = points_in(region, n)
    values = all_values(graph, points)
    for name, value in values.items():
        bounds = got.intervals[name]
        assert bool((value.value + value.error >= bounds.low).all()), name
        assert bool((value.value - value.error <= bounds.high).all()), name
    exact, room = combined(values[graph.output], spec)
    assert bool((exact + room >= got.low).all())
    assert bool((exact - room <= got.high).all())
    for plane, sign in ((got.below, 1.0), (got.above, -1.0)):
        line, rounding = plane_at(plane, points)
        assert bool((sign * exact - line + room + rounding >= 0).all())


@pytest.mark.parametrize(("name", "size"), crossed(NETS, (0.0, 0.3, 3.0)))
def test_no_value_leaves_the_bounds(name: str, size: float) -> None:
    graph = graph_of(name)
    outputs = math.prod(graph[graph.output].shape)
    spec = torch.randn(4, outputs, dtype=torch.float64)
    for region in some_regions(3, size):
        got = linear_bounds(graph, region, spec, steps=2 if size == 0.3 else 0)
        assert_holds(graph, got, region, spec, 2_000 if size == 0.3 else 200)


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.floats(0.0, 4.0), st.integers(0, 3))
def test_random_nets_and_regions(seed: int, size: float, kind: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU()
    )
    graph = holdfast.capture(model.eval(), torch.zeros(2, 6))
    region = some_regions(seed, size)[kind]
    got = linear_bounds(graph, region, steps=1)
    assert_holds(graph, got, region, torch.eye(5, dtype=torch.float64), 500)


@pytest.mark.parametrize(("name", "at"), crossed(NETS, (1, 2)))
def test_never_looser_than_intervals_and_slopes_only_tighten(name: str, at: int) -> None:
    graph, region = graph_of(name), some_regions(4, 0.3)[at]
    plain, better = linear_bounds(graph, region), linear_bounds(graph, region, steps=3)
    assert bool((better.low >= plain.low).all() and (better.high <= plain.high).all())
    boxes = interval_bounds(graph, region)
    for node, box in boxes.items():
        room = 1e-9 * (1.0 + box.size())
        tight = plain.intervals[node]
        assert bool((tight.low >= box.low - room).all()), node
        assert bool((tight.high <= box.high + room).all()), node


def test_much_tighter_than_intervals_on_deep_relu_nets() -> None:
    torch.manual_seed(0)
    widths = [6, 30, 30, 30, 30]
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*[part for pair in layers for part in pair], nn.Linear(30, 3))
    graph = holdfast.capture(model.eval(), torch.zeros(2, 6))
    for norm in (1.0, 2.0, math.inf):
        ball = Ball(torch.randn(6), 0.1, norm)
        got, box = linear_bounds(graph, ball), interval_bounds(graph, ball)[graph.output]
        assert float((got.high - got.low).mean()) < 0.1 * float((box.high - box.low).mean())


@pytest.mark.parametrize("name", [name for name in NETS if name not in _CONSTANT])
def test_small_regions_are_bounded_to_second_order(name: str) -> None:
    """Bounds close in on the linear map: the width is at most that of the Jacobian, nearly."""
    graph = graph_of(name)
    torch.manual_seed(5)
    x = torch.randn(6, dtype=torch.float64)
    got = linear_bounds(graph, Ball(x, 1e-6, 2.0))

    def flat(point: Tensor) -> Tensor:
        return run(graph.double(), point[None])[0].flatten()

    jacobian = torch.autograd.functional.jacobian(flat, x)
    widest = 2e-6 * torch.linalg.vector_norm(jacobian, dim=1)
    assert bool(((got.high - got.low)[0] <= 1.001 * widest + 1e-10).all())


@pytest.mark.parametrize("name", NETS)
def test_a_batch_of_regions_is_the_regions_one_by_one(name: str) -> None:
    graph = graph_of(name)
    balls = [some_regions(seed, 0.2)[1] for seed in range(2)]
    together = linear_bounds(graph, balls, steps=1)
    for row, ball in enumerate(balls):
        alone = linear_bounds(graph, ball, steps=1)
        for ends in ((together.low, alone.low), (together.high, alone.high)):
            torch.testing.assert_close(ends[0][row], ends[1][0], rtol=1e-7, atol=1e-7)


def test_rows_for_each_region() -> None:
    graph = graph_of("relu")
    balls = [some_regions(seed, 0.2)[1] for seed in range(3)]
    spec = torch.randn(3, 2, 3)
    together = linear_bounds(graph, balls, spec)
    for row, ball in enumerate(balls):
        alone = linear_bounds(graph, ball, spec[row])
        torch.testing.assert_close(together.low[row], alone.low[0], rtol=1e-9, atol=1e-9)
    with pytest.raises(InvalidInput, match="spec"):
        linear_bounds(graph, balls, torch.ones(2, 4))


def test_rows_in_parts_are_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, region = graph_of("conv"), some_regions(0, 0.2)[1]
    whole = linear_bounds(graph, region)
    monkeypatch.setattr("holdfast.bounds.linear._ENTRIES", 100)
    parts = linear_bounds(graph, region)
    torch.testing.assert_close(whole.low, parts.low, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.high, parts.high, rtol=1e-9, atol=1e-9)


def crown(
    weights: list[Tensor], biases: list[Tensor], center: Tensor, radius: float, dual: float
) -> tuple[Tensor, Tensor]:
    """CROWN for a ReLU net, one region, with matrices: the slow, obvious reference."""
    bounds: list[tuple[Tensor, Tensor]] = []
    for depth in range(len(weights)):
        box_low = box_high = torch.zeros(0)
        if bounds:
            below, above = (end.clamp(min=0) for end in bounds[-1])
            up, down = weights[depth].clamp(min=0), weights[depth].clamp(max=0)
            box_low = up @ below + down @ above + biases[depth]
            box_high = up @ above + down @ below + biases[depth]
        ends = []
        for sign in (1.0, -1.0):
            rows, rest = sign * weights[depth], sign * biases[depth]
            for k in range(depth - 1, -1, -1):
                low, high = bounds[k]
                unstable = (low < 0) & (high > 0)
                on = (low >= 0).double()
                above = torch.where(unstable, high / (high - low), on)
                below = torch.where(unstable, (high > -low).double(), on)
                up, down = rows.clamp(min=0), rows.clamp(max=0)
                rest = rest + down @ torch.where(unstable, -above * low, 0.0 * low)
                rows = up * below + down * above
                rest = rest + rows @ biases[k]
                rows = rows @ weights[k]
            reach = radius * torch.linalg.vector_norm(rows, ord=dual, dim=1)
            ends.append(sign * (rows @ center + rest - reach))
        if bounds:
            last = torch.tensor(depth == len(weights) - 1)
            unsure = (box_low < 0) & (box_high > 0) | last
            ends[0] = torch.where(unsure, torch.maximum(ends[0], box_low), box_low)
            ends[1] = torch.where(unsure, torch.minimum(ends[1], box_high), box_high)
        bounds.append((ends[0], ends[1]))
    return bounds[-1]


@pytest.mark.parametrize("seed", range(6))
def test_crown_written_plainly(seed: int) -> None:
    torch.manual_seed(seed)
    linears = [nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)]
    model = nn.Sequential(*[m for lin in linears for m in (lin, nn.ReLU())][:-1])
    graph = holdfast.capture(model.eval(), torch.zeros(2, 4))
    weights = [lin.weight.detach().double() for lin in linears]
    biases = [lin.bias.detach().double() for lin in linears]
    for norm, dual in ((1.0, math.inf), (2.0, 2.0), (math.inf, 1.0)):
        ball = Ball(torch.randn(4), 0.7, norm)
        low, high = crown(weights, biases, ball.center.double(), 0.7, dual)
        got = linear_bounds(graph, ball)
        assert torch.allclose(got.low[0], low, rtol=1e-9, atol=1e-9)
        assert torch.allclose(got.high[0], high, rtol=1e-9, atol=1e-9)
        assert bool((got.low[0] <= low + 1e-13).all() and (got.high[0] >= high - 1e-13).all())


def exact_mlp(net: nn.Sequential, row: list[Fraction]) -> list[Fraction]:
    """Evaluate a net of ReLUs and sorted groups in rationals."""
    for layer in net:
        if isinstance(layer, nn.Linear):
            sums = [
                sum((Fraction(w) * v for w, v in zip(weights, row, strict=True)), Fraction(bias))
                for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            ]
            row = sums
        elif isinstance(layer, GroupSort):
            groups = [row[k : k + layer.group] for k in range(0, len(row), layer.group)]
            row = [value for group in groups for value in sorted(group)]
        else:
            row = [max(value, Fraction(0)) for value in row]
    return row


@settings(max_examples=8)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1.0, 2.0**40, 1e-20, 1e-300]),
    st.sampled_from([nn.ReLU, GroupSort, lambda: GroupSort(3)]),
)
def test_exact_rationals_lie_within(seed: int, scale: float, bend: Callable) -> None:
    """At a point the bounds are as narrow as rounding, and still hold the exact value."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 6), bend(), nn.Linear(6, 6), bend(), nn.Linear(6, 3))
    net = net.double().eval()
    net[0].weight.data *= scale
    net[2].bias.data *= 1.0 / min(max(scale, 1e-30), 1e30)
    graph = holdfast.capture(net, torch.zeros(1, 5, dtype=torch.float64))
    x = torch.randn(6, 5, dtype=torch.float64)
    spec = torch.randn(4, 3, dtype=torch.float64)
    truth = [exact_mlp(net, [Fraction(v) for v in row]) for row in x.tolist()]
    for norm in (1.0, 2.0, math.inf):
        for radius in (0.0, 1e-15):
            got = linear_bounds(graph, [Ball(row, radius, norm) for row in x], spec, steps=1)
            for k, row in enumerate(x.tolist()):
                for j, weights in enumerate(spec.tolist()):
                    value = sum(Fraction(w) * t for w, t in zip(weights, truth[k], strict=True))
                    assert (
                        Fraction(float(got.low[k, j])) <= value <= Fraction(float(got.high[k, j]))
                    )
                    line = Fraction(float(got.below.offset[k, j])) + sum(
                        Fraction(a) * Fraction(v)
                        for a, v in zip(got.below.slope[k, j].tolist(), row, strict=True)
                    )
                    assert line <= value


@pytest.mark.parametrize("seed", range(3))
def test_the_rounding_of_long_sums_is_covered(seed: int) -> None:
    """Affine nodes alone, whose sums cancel: nothing but the rounding is between the bounds."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40)).double().eval()
    with torch.no_grad():
        net[2].weight[:, 20:] = -net[2].weight[:, :20]
        net[1].weight[20:] = net[1].weight[:20] * (1 + 1e-12)
        net[1].bias[20:] = net[1].bias[:20]
    graph = holdfast.capture(net, torch.zeros(1, 40, dtype=torch.float64))
    x = torch.randn(40, dtype=torch.float64)
    truth = exact_mlp(net, [Fraction(v) for v in x.tolist()])
    got = linear_bounds(graph, Ball(x, 0.0))
    boxes = interval_bounds(graph, Ball(x, 0.0))[graph.output]
    for k, value in enumerate(truth):
        line = sum(
            Fraction(a) * Fraction(v)
            for a, v in zip(got.below.slope[0, k].tolist(), x.tolist(), strict=True)
        )
        assert Fraction(float(got.below.offset[0, k])) + line <= value
        assert Fraction(float(got.low[0, k])) <= value <= Fraction(float(got.high[0, k]))
        assert Fraction(float(boxes.low[0, k])) <= value <= Fraction(float(boxes.high[0, k]))


def test_the_demo_net() -> None:
    x, _ = demo_data()
    graph = holdfast.capture(demo_model("digits-plain"), x[:2])
    shares = []
    for radius in (0.05, 0.2, 0.5):
        balls = [Ball(row, radius) for row in x[::60]]
        got = linear_bounds(graph, balls)
        fronts = [got.intervals[n.inputs[0]] for n in graph.nodes if n.op == "relu"]
        stable = torch.cat([(f.low >= 0) | (f.high <= 0) for f in fronts], 1)
        shares.append(float(stable.double().mean()))
    assert shares[0] > 0.9 > shares[1] > 0.6 > shares[2] > 0.1
    points = points_in(balls[0])
    assert_holds(
        graph, linear_bounds(graph, balls[0], steps=3), balls[0], torch.eye(10).double(), 1
    )
    values = run(graph.double(), points)
    assert bool((values >= got.low[0]).all() and (values <= got.high[0]).all())


def test_intervals_on_larger_balls_leave_less_to_do_and_hold() -> None:
    """What is known around a ball is used inside it: bounds hold and are as tight as without."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    graph = holdfast.capture(net.double().eval(), torch.zeros(1, 1, 6, 6).double())
    center = torch.randn(1, 6, 6).double()
    large, small = (Regions.of(Ball(center, r, math.inf)) for r in (0.3, 0.1))
    outer = Relaxed(graph, large).tightened()
    assert outer
    known, alone = Relaxed(graph, small, outer=outer), Relaxed(graph, small)
    points = center + 0.1 * (2.0 * torch.rand(500, 1, 6, 6).double() - 1.0)
    values = net(points).detach()
    rows = torch.eye(3, dtype=torch.float64)
    lows = known.bounds(rows).low, alone.bounds(rows).low
    assert bool((lows[0] <= values.amin(0)).all())
    assert lows[0] == pytest.approx(lows[1], rel=1e-3)
    for name, interval in known.tightened().items():
        assert bool((interval.low >= outer[name].low).all())
        assert bool((interval.high <= outer[name].high).all())


def test_a_function_of_one_number_is_never_bounded_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its range on the tightened interval of what it reads is as tight, and costs nothing."""
    names, bounded = [], Relaxed._bounded

    def noting(self: Relaxed, signs, known, wanted):
        names.extend(signs)
        return bounded(self, signs, known, wanted)

    monkeypatch.setattr(Relaxed, "_bounded", noting)
    torch.manual_seed(0)
    pooled = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.GELU(), nn.MaxPool2d(2), nn.Flatten()
    )
    graph = holdfast.capture(pooled.eval(), torch.zeros(1, 1, 8, 8))
    relaxed = Relaxed(graph, Regions.of(Ball(torch.rand(1, 8, 8).double(), 0.1, math.inf)))
    kinds = [relaxed.graph[name].kind for name in names]
    assert kinds and Kind.SCALAR not in kinds
    (gelu,) = (node for node in relaxed.graph.nodes if node.op == "gelu")
    x, y = (relaxed.intervals[name] for name in (gelu.inputs[0], gelu.name))
    least, most = range_on(gelu, x.low, x.high)
    assert torch.equal(y.low, least) and torch.equal(y.high, most)
