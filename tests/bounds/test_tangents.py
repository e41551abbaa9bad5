"""What has bounds on a region only, and tangents, against 60 digits at every scale."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf
from torch import Tensor

from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import evaluate_all
from holdfast.graph.slopes import slopes_on
from holdfast.ops import OPS, Kind, names
from holdfast.types import Box

Numbers = Sequence[mpf]


class Case(NamedTuple):
    """One operation on rows of some shape, and what it is in exact numbers.

    Attributes:
        op: Its name.
        params: Its settings.
        shapes: Of one row of each input.
        shape: Of one row of the result.
        truth: From all entries of the inputs, in order, to those of the result.
    """

    op: str
    params: dict
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    truth: Callable[[Numbers], Iterable[mpf]]


def shares(x: Numbers) -> list[mpf]:
    powers = [mpmath.exp(v - max(x)) for v in x]
    return [p / sum(powers) for p in powers]


KEPT = torch.tensor([[[True, True, False, True], [False, True, True, True], [True] * 4]])


def kept_shares(x: Numbers) -> list[mpf]:
    """Return the shares of the entries that a mask keeps."""
    result = []
    for k, row in enumerate(KEPT[0].tolist()):
        part = [v for v, keep in zip(x[4 * k : 4 * k + 4], row, strict=True) if keep]
        found = iter(shares(part))
        result += [next(found) if keep else mpf(0) for keep in row]
    return result


def log_shares(x: Numbers) -> list[mpf]:
    total = mpmath.log(sum(mpmath.exp(v - max(x)) for v in x)) + max(x)
    return [v - total for v in x]


def by_rows(function: Callable[[Numbers], list[mpf]], length: int) -> Callable[[Numbers], list]:
    """Apply a function to every so many entries."""
    return lambda x: [v for k in range(0, len(x), length) for v in function(x[k : k + length])]


def matrices(x: Numbers) -> list[mpf]:
    """Return the products of two pairs of matrices, [2, 2, 3] and [2, 3, 2]."""
    a, b = x[:12], x[12:]
    return [
        sum(a[6 * k + 3 * i + n] * b[6 * k + 2 * n + j] for n in range(3))
        for k, i, j in itertools.product(range(2), repeat=3)
    ]


WEIGHT = torch.tensor([1.0, -0.7, 0.0, 2.5], dtype=torch.float64)
BIAS = torch.tensor([0.5, -3.0, 1.0, 0.0], dtype=torch.float64)
EPS = 1e-5


def normalised(x: Numbers, centred: bool) -> list[mpf]:
    mean = sum(x) / len(x) if centred else mpf(0)
    s = mpmath.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + mpf(EPS))
    return [(v - mean) / s for v in x]


def layer_normed(x: Numbers, centred: bool = True) -> list[mpf]:
    scale = zip(normalised(x, centred), WEIGHT.tolist(), BIAS.tolist(), strict=True)
    return [mpf(w) * z + (mpf(b) if centred else 0) for z, w, b in scale]


def group_normed(x: Numbers) -> list[mpf]:
    """Two groups of two channels, of two entries each."""
    z = by_rows(lambda part: normalised(part, True), 4)(x)
    return [mpf(WEIGHT[k // 2].item()) * v + mpf(BIAS[k // 2].item()) for k, v in enumerate(z)]


def each(function: Callable[[mpf], mpf]) -> Callable[[Numbers], list[mpf]]:
    return lambda x: [function(v) for v in x]


STEEP = {
    "square": Case("power", {"exponent": 2}, ((5,),), (5,), each(lambda v: v**2)),
    "cube": Case("power", {"exponent": 3}, ((5,),), (5,), each(lambda v: v**3)),
    "seventh power": Case("power", {"exponent": 7}, ((5,),), (5,), each(lambda v: v**7)),
    **{
        f"to the {p:g}": Case(
            "root", {"exponent": p}, ((5,),), (5,), each(lambda v, p=p: v ** mpf(p))
        )
        for p in (1.7, 0.3, -2.5)
    },
    "tan": Case("tan", {}, ((5,),), (5,), each(mpmath.tan)),
    "exp": Case("exp", {}, ((5,),), (5,), each(mpmath.exp)),
    "log": Case("log", {}, ((5,),), (5,), each(mpmath.log)),
    "sqrt": Case("sqrt", {}, ((5,),), (5,), each(mpmath.sqrt)),
    "rsqrt": Case("rsqrt", {}, ((5,),), (5,), each(lambda v: 1 / mpmath.sqrt(v))),
    "reciprocal": Case("reciprocal", {}, ((5,),), (5,), each(lambda v: 1 / v)),
}
POSITIVE = ("log", "sqrt", "rsqrt", "to the 1.7", "to the 0.3", "to the -2.5")
CASES = {
    **STEEP,
    "product": Case(
        "product", {}, ((4,), (4,)), (4,), lambda x: [x[k] * x[k + 4] for k in range(4)]
    ),
    "matmul": Case("matmul", {}, ((2, 2, 3), (2, 3, 2)), (2, 2, 2), matrices),
    "softmax": Case("softmax", {"dim": 2}, ((2, 4),), (2, 4), by_rows(shares, 4)),
    "masked": Case("softmax", {"dim": 2, "mask": KEPT}, ((3, 4),), (3, 4), kept_shares),
    "log_softmax": Case("log_softmax", {"dim": 1}, ((4,),), (4,), log_shares),
    "layer_norm": Case(
        "layer_norm",
        {"shape": (4,), "weight": WEIGHT, "bias": BIAS, "eps": EPS},
        ((2, 4),),
        (2, 4),
        by_rows(layer_normed, 4),
    ),
    "rms_norm": Case(
        "rms_norm",
        {"shape": (4,), "weight": WEIGHT, "bias": None, "eps": EPS},
        ((4,),),
        (4,),
        functools.partial(layer_normed, centred=False),
    ),
    "group_norm": Case(
        "group_norm",
        {"groups": 2, "weight": WEIGHT, "bias": BIAS, "eps": EPS},
        ((4, 2),),
        (4, 2),
        group_normed,
    ),
}


def graph_of(case: Case) -> Graph:
    """Return a graph of the operation alone; several inputs are parts of one."""
    sizes = [math.prod(shape) for shape in case.shapes]
    nodes, names, start = [Node("x", "input", shape=(sum(sizes),))], [], 0
    for k, (size, shape) in enumerate(zip(sizes, case.shapes, strict=True)):
        cut = {"dim": 1, "start": start, "stop": start + size, "step": 1}
        nodes.append(Node(f"cut{k}", "slice", ("x",), cut, (size,)))
        nodes.append(Node(f"in{k}", "reshape", (f"cut{k}",), {"shape": shape}, shape))
        names.append(f"in{k}")
        start += size
    nodes.append(Node("y", case.op, tuple(names), case.params, case.shape))
    return Graph(tuple(nodes), "y", {}, precision=torch.float64)


def drawn(seed: int, name: str, power: int, width: float) -> tuple[Tensor, Tensor]:
    """Return a box of entries of mixed sizes, up to about 10 to the given power."""
    count = sum(math.prod(shape) for shape in CASES[name].shapes)
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    size = 10.0 ** (power - 6 * torch.rand(count, generator=generator, dtype=torch.float64))
    x, reach = size * normal(), width * size * normal().abs()
    if name == "reciprocal" and width < 1.0:
        reach = torch.minimum(reach, 0.9 * x.abs())
    if name == "tan":
        x = x.clamp(-1.2, 1.2)
        reach = torch.minimum(reach, 0.9 * (math.pi / 2 - x.abs()))
    if name in POSITIVE:
        x = x.abs() + 1e-300
        reach = torch.minimum(reach, 0.9 * x)
    return x - reach, x + reach


def points_of(low: Tensor, high: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coin = torch.rand(3, len(low), generator=generator) < 0.5
    share = torch.rand(2, len(low), generator=generator, dtype=torch.float64)
    inner = [(low + part * (high - low)).clamp(low, high) for part in share]
    return [low, high, (0.5 * low + 0.5 * high).clamp(low, high), *inner] + [
        torch.where(part, low, high) for part in coin
    ]


def exactly(values: Tensor) -> list[mpf]:
    return [mpf(value) for value in values.flatten().tolist()]


DRAWS = st.tuples(st.integers(0, 2**31), st.integers(-3, 3), st.booleans()).map(
    lambda draw: (draw[0], draw[1] if draw[2] else 100 * draw[1])
)
WIDTHS = st.sampled_from([0.0, 1e-12, 1e-3, 0.1, 3.0])


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12)
@given(DRAWS, WIDTHS)
def test_no_value_leaves_the_bounds(name: str, draw: tuple[int, int], width: float) -> None:
    (seed, power), case = draw, CASES[name]
    low, high = drawn(seed, name, power, width)
    graph = graph_of(case)
    relaxed = Relaxed(graph, Regions.of(Box(low, high)))
    box = relaxed.intervals["y"]
    count = math.prod(case.shape)
    rows = torch.eye(count, dtype=torch.float64).reshape(1, count, *case.shape)
    planes = [relaxed.below({"y": sign * rows}) for sign in (1.0, -1.0)]
    with mpmath.workdps(80):
        ends = [exactly(end) for end in (box.low, box.high)]
        lines = [
            ([exactly(row) for row in plane.slope[0]], exactly(plane.offset)) for plane in planes
        ]
        for point in points_of(low, high, seed):
            if not bool(relaxed.defined.all()):
                assert bool((planes[0].low == -math.inf).all())
                continue
            x = exactly(point)
            at = evaluate_all(graph, point[None])["y"]
            values = zip(exactly(at.value), exactly(at.error), strict=True)
            for k, (truth, (value, error)) in enumerate(zip(case.truth(x), values, strict=True)):
                assert ends[0][k] <= truth <= ends[1][k]
                if mpmath.isfinite(error):
                    assert abs(truth - value) <= error
                for sign, (slopes, offsets) in zip((1, -1), lines, strict=True):
                    if mpmath.isfinite(offsets[k]):
                        line = sum(a * b for a, b in zip(slopes[k], x, strict=True))
                        assert sign * truth >= line + offsets[k]


@pytest.mark.parametrize("name", STEEP)
@settings(max_examples=12)
@given(DRAWS, WIDTHS)
def test_no_secant_leaves_the_slopes(name: str, draw: tuple[int, int], width: float) -> None:
    (seed, power), case = draw, CASES[name]
    low, high = drawn(seed, name, power, width)
    node = Node("y", case.op, ("x",), case.params, case.shape)
    least, most = slopes_on(node, low[None], high[None])
    if bool(node.facts.curve(case.params).undefined(low, high).any()):
        return
    # Slopes of tiny entries differ from those in the origin by their squares.
    with mpmath.workdps(80 + 3 * max(0, -power)):
        bounds = [exactly(end) for end in (least, most)]
        ends = [(x, case.truth(x)) for x in map(exactly, points_of(low, high, seed))]
        for (x, at_x), (y, at_y) in itertools.combinations(ends, 2):
            for a, b, at, there, bottom, top in zip(x, y, at_x, at_y, *bounds, strict=True):
                if a != b:
                    assert bottom <= (at - there) / (a - b) <= top


@pytest.mark.parametrize("name", [name for name in CASES if name not in STEEP])
@settings(max_examples=12)
@given(DRAWS, st.sampled_from([1e-9, 1e-3]))
def test_an_error_of_the_input_passes(name: str, draw: tuple[int, int], size: float) -> None:
    """The inputs of an operation err, and so does its value, by no more than is said."""
    (seed, power), case = draw, CASES[name]
    low, high = drawn(seed, name, power, 0.0)
    assert torch.equal(low, high)
    graph = graph_of(case)
    # A shift by a number that rounds: its own rounding is the error of the inputs.
    moved = torch.full_like(low, size * 10.0**power)
    shift = Node("s", "shift", ("x",), {"offset": moved}, tuple(low.shape))
    nodes = [
        Node(n.name, n.op, tuple("s" if i == "x" else i for i in n.inputs), n.params, n.shape)
        for n in graph.nodes
    ]
    graph = Graph((nodes[0], shift, *nodes[1:]), "y", {}, precision=torch.float64)
    at = evaluate_all(graph, low[None])["y"]
    with mpmath.workdps(80):
        truth = case.truth([a + b for a, b in zip(exactly(low), exactly(moved), strict=True)])
        for t, value, error in zip(truth, exactly(at.value), exactly(at.error), strict=True):
            if mpmath.isfinite(error):
                assert abs(t - value) <= error


def test_everything_without_a_constant_is_tried() -> None:
    assert {case.op for case in CASES.values()} >= {*names(Kind.STEEP, Kind.PRODUCT)}


@pytest.mark.parametrize("name", ["log", "rsqrt", "reciprocal", "sqrt"])
def test_nothing_is_proved_where_a_function_is_not_defined(name: str) -> None:
    """Also behind a function that is bounded whatever it reads."""
    case = CASES[name]
    nodes = [*graph_of(case).nodes, Node("z", "tanh", ("y",), {}, (5,))]
    graph = Graph(tuple(nodes), "z", {}, precision=torch.float64)
    low = torch.tensor([1.0, 2.0, 3.0, -1e-9, 4.0]).double()
    relaxed = Relaxed(graph, Regions.of(Box(low, torch.full_like(low, 5.0))))
    assert not bool(relaxed.defined.any())
    got = relaxed.bounds()
    assert bool((got.low == -math.inf).all() and (got.high == math.inf).all())


@pytest.mark.parametrize("op", names(Kind.STEEP, Kind.PRODUCT))
def test_what_has_no_constant_says_why(op: str) -> None:
    assert OPS[op].unbounded.startswith("has no global Lipschitz constant")


@pytest.mark.parametrize("name", CASES)
def test_what_a_tangent_leaves_is_of_second_order(name: str) -> None:
    case = CASES[name]
    generator = torch.Generator().manual_seed(1)
    count, size = sum(math.prod(shape) for shape in case.shapes), math.prod(case.shape)
    x = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    rows = torch.eye(size, dtype=torch.float64).reshape(1, size, *case.shape)

    def gap(radius: float) -> Tensor:
        """Return how far apart the planes are in the middle."""
        relaxed = Relaxed(graph_of(case), Regions.of(Box(x - radius, x + radius)))
        below, above = (relaxed.below({"y": sign * rows}) for sign in (1.0, -1.0))
        return -(above.slope + below.slope).flatten(2) @ x - (above.offset + below.offset)

    assert bool((gap(1e-5) <= 0.02 * gap(1e-4) + 1e-11).all())
