"""Lengths, logarithms of sums and root mean squares, against 50 digits at every scale."""

import math
from collections.abc import Callable, Iterator, Sequence

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from holdfast.bounds.interval import RULES, Interval
from holdfast.bounds.vector import convex_lines, vector_range
from holdfast.graph import running
from holdfast.graph.ir import Node
from holdfast.graph.running import Approximate
from holdfast.ops import OPS

Truth = Callable[[Sequence[mpmath.mpf]], list[mpmath.mpf]]
SHAPES = [((4,), (1,)), ((2, 3), (2,)), ((2, 3), (1,)), ((2, 3, 2), (1, 3)), ((3, 1), (1, 2))]


def reduced(op: str, shape: tuple[int, ...], dims: tuple[int, ...], keepdim: bool) -> Node:
    kept = [1 if d in dims else n for d, n in enumerate(shape, 1) if keepdim or d not in dims]
    return Node("y", op, ("x",), {"dims": dims, "keepdim": keepdim}, tuple(kept))


def groups(x: Tensor, dims: Sequence[int]) -> Iterator[list[mpmath.mpf]]:
    """Yield the entries of every group of one row, in the order of the results."""
    others = [d for d in range(1, x.dim()) if d not in dims]
    flat = x.permute(0, *others, *dims).reshape(-1, math.prod(x.shape[d] for d in dims))
    for row in flat.tolist():
        yield [mpmath.mpf(value) for value in row]


def length(values: Sequence[mpmath.mpf]) -> mpmath.mpf:
    return mpmath.sqrt(sum(v * v for v in values))


def log_sum(values: Sequence[mpmath.mpf]) -> mpmath.mpf:
    top = max(values)
    return top + mpmath.log(sum(mpmath.exp(v - top) for v in values))


REDUCTIONS = {"vector_norm": length, "logsumexp": log_sum}


def drawn(seed: int, shape: Sequence[int], power: int) -> Tensor:
    """Return a row of numbers of mixed sizes, up to about 10 to the given power."""
    generator = torch.Generator().manual_seed(seed)
    size = 10.0 ** (power - 6 * torch.rand(1, *shape, generator=generator, dtype=torch.float64))
    return size * torch.randn(1, *shape, generator=generator, dtype=torch.float64)


CASES = st.tuples(
    st.integers(0, 2**31), st.sampled_from(SHAPES), st.integers(-30, 30), st.booleans()
)


@pytest.mark.parametrize("op", REDUCTIONS)
@settings(max_examples=60)
@given(CASES, st.sampled_from([0.0, 1e-12, 0.1, 3.0]))
def test_no_reduction_leaves_its_bounds(op: str, case: tuple, width: float) -> None:
    seed, (shape, dims), power, keepdim = case
    node, x = reduced(op, shape, dims, keepdim), drawn(seed, shape, power)
    reach = width * drawn(seed + 1, shape, power).abs()
    box = Interval(x - reach, x + reach)
    known = RULES[op](node, [box])
    assert known.low.shape == known.high.shape == (1, *node.shape)
    inside = [box.low, box.high, x, torch.where(torch.rand_like(x) < 0.5, box.low, box.high)]
    with mpmath.workdps(50):
        for point in inside:
            at = running.ONE_STEP[op](node, [Approximate(point, torch.zeros_like(point))])
            ends = zip(
                groups(point, dims),
                *(t.flatten().tolist() for t in (known.low, known.high, at.value, at.error)),
                strict=True,
            )
            for values, low, high, value, error in ends:
                truth = REDUCTIONS[op](values)
                assert low <= truth <= high
                assert abs(truth - mpmath.mpf(value)) <= mpmath.mpf(error)


@pytest.mark.parametrize("op", REDUCTIONS)
@settings(max_examples=60)
@given(CASES, st.sampled_from([0.0, 1e-12, 1e-3, 0.3, 3.0]))
def test_no_reduction_leaves_its_planes(op: str, case: tuple, width: float) -> None:
    seed, (shape, dims), power, keepdim = case
    node, x = reduced(op, shape, dims, keepdim), drawn(seed, shape, power)
    reach = width * drawn(seed + 1, shape, power).abs()
    low, high = x - reach, x + reach
    known = convex_lines(node, low, high, vector_range(node, low, high))
    n = math.prod(shape[d - 1] for d in dims)
    slopes = [part.reshape(-1, n).tolist() for part in (known.lower_slope, known.upper_slope)]
    offsets = [part.flatten().tolist() for part in (known.lower_offset, known.upper_offset)]
    coin = torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    corners = [torch.where(part, low, high) for part in coin]
    with mpmath.workdps(60):
        for point in (low, high, x, *corners):
            for values, *planes in zip(groups(point, dims), *slopes, *offsets, strict=True):
                below, above, floor, ceiling = planes
                least, most = (
                    sum(mpmath.mpf(k) * v for k, v in zip(row, values, strict=True))
                    for row in (below, above)
                )
                assert least + floor <= REDUCTIONS[op](values) <= most + ceiling


@pytest.mark.parametrize("op", REDUCTIONS)
@settings(max_examples=60)
@given(CASES)
def test_an_error_of_the_input_passes(op: str, case: tuple) -> None:
    seed, (shape, dims), power, keepdim = case
    node, x = reduced(op, shape, dims, keepdim), drawn(seed, shape, power)
    error = drawn(seed + 1, shape, power).abs() * 1e-3
    at = running.ONE_STEP[op](node, [Approximate(x, error)])
    with mpmath.workdps(50):
        signs = drawn(seed + 2, shape, 0).sign()
        moved = [
            [v + e * s for v, e, s in zip(*group, strict=True)]
            for group in zip(*(groups(t, dims) for t in (x, error, signs)), strict=True)
        ]
        pairs = zip(moved, at.value.flatten().tolist(), at.error.flatten().tolist(), strict=True)
        for values, value, room in pairs:
            assert abs(REDUCTIONS[op](values) - mpmath.mpf(value)) <= mpmath.mpf(room)


@pytest.mark.parametrize("op", REDUCTIONS)
@settings(max_examples=60)
@given(CASES, st.integers(-12, 0), st.sampled_from([1.0, 2.0, math.inf]))
def test_no_reduction_is_steeper_than_its_constant(op, case, step, norm) -> None:
    seed, (shape, dims), power, keepdim = case
    node, x = reduced(op, shape, dims, keepdim), drawn(seed, shape, power)
    y = x + 10.0 ** (power + step) * drawn(seed + 1, shape, 0)
    constant = OPS[op].constant(node.params, shape, node.shape, norm)
    with mpmath.workdps(60):
        ends = [[REDUCTIONS[op](values) for values in groups(point, dims)] for point in (x, y)]
        rise = mpmath.norm([a - b for a, b in zip(*ends, strict=True)], norm)
        entries = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
        run = mpmath.norm([mpmath.mpf(a) - mpmath.mpf(b) for a, b in entries], norm)
        assert rise <= mpmath.mpf(constant) * run


def test_the_constants_are_reached() -> None:
    params, ones = {"dims": (1,), "keepdim": False}, torch.ones(1, 9, dtype=torch.float64)
    found = OPS["vector_norm"].run([ones], params)
    assert float(found) == OPS["vector_norm"].constant(params, (9,), (), math.inf) == 3.0
    first = torch.eye(9, dtype=torch.float64)[:1]
    for norm in (1.0, 2.0):
        assert float(OPS["vector_norm"].run([first], params)) == 1.0
        assert OPS["vector_norm"].constant(params, (9,), (), norm) == 1.0


@settings(max_examples=60)
@given(
    st.integers(0, 2**31),
    st.sampled_from([((4,), (4,)), ((2, 3), (3,)), ((2, 3), (2, 3)), ((3, 1), (1,))]),
    st.integers(-30, 30),
    st.sampled_from([0.0, 1e-12, 0.1, 3.0]),
    st.sampled_from([0.0, 1e-12, 1e-5, 1.0]),
)
def test_no_root_mean_square_leaves_its_bounds(seed, shapes, power, width, eps) -> None:
    shape, inner = shapes
    weight = drawn(seed + 5, inner, 0)[0]
    params = {"shape": inner, "weight": weight, "bias": None, "eps": eps}
    node, x = Node("y", "rms_norm", ("x",), params, shape), drawn(seed, shape, power)
    reach = width * drawn(seed + 1, shape, power).abs()
    box = Interval(x - reach, x + reach)
    known = RULES["rms_norm"](node, [box])
    d = math.prod(inner)
    with mpmath.workdps(50):
        for point in (box.low, box.high, x):
            at = running.ONE_STEP["rms_norm"](node, [Approximate(point, torch.zeros_like(point))])
            truths = []
            for row in point.reshape(-1, d).tolist():
                values = [mpmath.mpf(v) for v in row]
                s = mpmath.sqrt(sum(v * v for v in values) / d + mpmath.mpf(eps))
                weights = map(mpmath.mpf, weight.flatten().tolist())
                truths += [v / s * w for v, w in zip(values, weights, strict=True)]
            ends = zip(
                truths,
                *(t.flatten().tolist() for t in (known.low, known.high, at.value, at.error)),
                strict=True,
            )
            for truth, low, high, value, error in ends:
                assert low <= truth <= high
                assert math.isnan(value) or abs(truth - mpmath.mpf(value)) <= mpmath.mpf(error)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("seed", range(4))
def test_a_root_mean_square_is_no_steeper_than_its_constant(seed: int, norm: float) -> None:
    eps, d = 10.0**-seed, 5
    params = {"shape": (d,), "weight": drawn(seed, (d,), 1)[0], "bias": None, "eps": eps}
    constant = OPS["rms_norm"].constant(params, (d,), (d,), norm)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2000, d, generator=generator, dtype=torch.float64) * eps**0.5
    x = x * 10.0 ** (-3 * torch.rand(2000, 1, generator=generator, dtype=torch.float64))
    jacobian = torch.func.vmap(
        torch.func.jacrev(lambda v: OPS["rms_norm"].run([v[None]], params)[0])
    )(x)
    steepest = float(torch.linalg.matrix_norm(jacobian, norm).max())
    assert 0.5 * constant < steepest * (1.0 if norm == 2.0 else d**0.5) and steepest <= constant


def test_a_ball_bounds_a_length_by_its_radius() -> None:
    """Of a ball more is known than of the box around it."""
    import holdfast
    from holdfast.bounds.interval import interval_bounds

    class Length(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.norm(dim=1)

    graph = holdfast.capture(Length(), torch.randn(2, 16))
    center = torch.full((16,), 0.25, dtype=torch.float64)
    for norm, farthest in ((1.0, 1.5), (2.0, 1.5), (math.inf, 3.0)):
        got = interval_bounds(graph, holdfast.Ball(center, 0.5, norm))[graph.output]
        assert farthest <= float(got.high) < farthest + 1e-12
        assert max(2.0 - farthest, 0.0) - 1e-12 < float(got.low) <= max(2.0 - farthest, 0.0)


def test_ends_at_infinity_and_beyond_float64_are_sound() -> None:
    low = torch.tensor([[-math.inf, 1.0], [1e200, 1e200], [-1e-200, 2e-200]], dtype=torch.float64)
    high = torch.tensor([[2.0, math.inf], [1e200, 1e200], [-1e-200, 2e-200]], dtype=torch.float64)
    lengths = RULES["vector_norm"](reduced("vector_norm", (2,), (1,), False), [Interval(low, high)])
    assert lengths.low.tolist()[0] <= 1.0 and lengths.high.tolist()[0] == math.inf
    assert 0 < lengths.low.tolist()[1] <= 2**0.5 * 1e200 <= lengths.high.tolist()[1] < 2e200
    assert 0 < lengths.low.tolist()[2] <= 5**0.5 * 1e-200 <= lengths.high.tolist()[2] < 3e-200
    sums = RULES["logsumexp"](reduced("logsumexp", (2,), (1,), False), [Interval(low, high)])
    assert sums.low.tolist()[0] == 1.0 and sums.high.tolist()[0] == math.inf
    params = {"shape": (2,), "weight": None, "bias": None, "eps": 1e-5}
    node = Node("y", "rms_norm", ("x",), params, (2,))
    shares = RULES["rms_norm"](node, [Interval(low, high)])
    assert bool((shares.low <= 1.0).all() and (shares.high[1] >= 1.0).all())
    exact = torch.zeros_like(high[1:2])
    at = running.ONE_STEP["rms_norm"](node, [Approximate(high[1:2], exact)])
    assert bool((at.error >= (at.value - 1.0).abs()).all() | at.error.isnan().any())
