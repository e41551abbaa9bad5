"""Ranges, slopes and lines of activations, against 50 digits and dense samples."""

import itertools
import math
from dataclasses import replace

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.bounds.zoo import ACTIVATIONS, activation_nodes
from torch import Tensor, nn

import holdfast
from holdfast.bounds import relaxations
from holdfast.bounds.relaxations import lines, range_on
from holdfast.graph import running
from holdfast.graph.ir import Node
from holdfast.graph.running import Approximate
from holdfast.graph.slopes import holds, slopes_on
from holdfast.ops import Kind, names
from holdfast.ops.curves import Turn

ROOT = mpmath.sqrt(2 / mpmath.pi)
EXACT = {
    "relu": lambda x: max(x, 0),
    "leaky": lambda x: x if x > 0 else x * mpmath.mpf(0.2),
    "leaky negative": lambda x: x if x > 0 else -x / 2,
    "elu": lambda x: x if x > 0 else 1.5 * mpmath.expm1(x),
    "elu negative": lambda x: x if x > 0 else mpmath.mpf(-0.7) * mpmath.expm1(x),
    "celu": lambda x: x if x > 0 else 2 * mpmath.expm1(x / 2),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu tanh": lambda x: x * (1 + mpmath.tanh(ROOT * (x + mpmath.mpf(0.044715) * x**3))) / 2,
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "hardsigmoid": lambda x: min(max(x + 3, 0), 6) / mpmath.mpf(6),
    "relu6": lambda x: min(max(x, 0), 6),
    "hardtanh": lambda x: min(max(x, -0.5), 0.25),
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "atan": mpmath.atan,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "erf": mpmath.erf,
    "softsign": lambda x: x / (1 + abs(x)),
    "softshrink": lambda x: mpmath.sign(x) * max(abs(x) - mpmath.mpf(0.3), 0),
    "tanhshrink": lambda x: x - mpmath.tanh(x),
    "log1p of relu": lambda x: mpmath.log1p(max(x, 0)),
    "logsigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(3 * x)) / 3,
}
CURVED = ("gelu", "gelu tanh", "silu", "mish")


def node_of(name: str) -> Node:
    node = activation_nodes()[name]
    return replace(node, params={k: double(v) for k, v in node.params.items()})


def double(value: object) -> object:
    return value.double() if isinstance(value, Tensor) else value


def intervals(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return intervals [count, 8] of all widths, some of a single point, some with whole ends."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(3, count, 8, generator=generator, dtype=torch.float64)
    middle, width = 3.0 * draw[0], 2.0 * draw[1].abs() * 10.0 ** draw[2].clamp(max=0.7)
    width[: count // 8] = 0.0
    low, high = middle - width, middle + width
    low[count // 8 : count // 4] = low[count // 8 : count // 4].round()
    return low, torch.maximum(high, low)


def values(node: Node, z: Tensor) -> Approximate:
    flat = z.reshape(-1, 8)  # channels are the last dimension here
    at = running.elementwise(node, [Approximate(flat, torch.zeros_like(flat))])
    return Approximate(at.value.reshape(z.shape), at.error.reshape(z.shape))


def grid(low: Tensor, high: Tensor, count: int) -> Tensor:
    share = torch.linspace(0, 1, count, dtype=torch.float64)[:, None, None]
    return torch.minimum(torch.maximum(low + share * (high - low), low), high)


def test_every_activation_is_tried() -> None:
    tried = {node_of(name).op for name in ACTIVATIONS} | {"abs"}
    assert tried == set(names(Kind.SCALAR))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_sample_leaves_range_or_lines(name: str) -> None:
    node = node_of(name)
    low, high = intervals(400, 0)
    least, most = range_on(node, low, high)
    bounds = lines(node, low, high)
    for z in grid(low, high, 301):
        at = values(node, z)
        assert bool((at.value + at.error >= least).all() and (at.value - at.error <= most).all())
        for slope, offset, sign in (
            (bounds.lower_slope, bounds.lower_offset, 1.0),
            (bounds.upper_slope, bounds.upper_offset, -1.0),
        ):
            line = slope * z + offset
            room = at.error + 2.0**-51 * ((slope * z).abs() + offset.abs() + at.value.abs())
            assert bool((sign * (at.value - line) + room >= 0).all())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_any_slope_has_a_valid_offset(name: str) -> None:
    node = node_of(name)
    low, high = intervals(200, 4)
    cells = relaxations._cells(node, low, high)
    for slope in (torch.randn_like(low), torch.full_like(low, -3.0), torch.full_like(low, 3.0)):
        offset = relaxations._offset_below(cells, slope)
        for z in grid(low, high, 101):
            at, line = values(node, z), slope * z + offset
            room = at.error + 2.0**-51 * ((slope * z).abs() + offset.abs() + at.value.abs())
            assert bool((at.value - line + room >= 0).all())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_secant_is_steeper(name: str) -> None:
    node = node_of(name)
    low, high = intervals(400, 1)
    least, most = slopes_on(node, low, high)
    lowest, highest = node.facts.slopes(node.params)
    assert bool((lowest <= least).all() and (least <= most).all() and (most <= highest).all())
    at = values(node, z := grid(low, high, 301))
    step, rise = z.diff(dim=0), at.value.diff(dim=0)
    room = at.error[1:] + at.error[:-1] + 2.0**-50 * at.value.abs()[1:]
    assert bool((rise + room >= least * step).all() and (rise - room <= most * step).all())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_reached(name: str) -> None:
    """The slopes are those of the function, not only bounds: short secants come near them."""
    node = node_of(name)
    low, high = intervals(200, 2)
    wide = (high - low) > 1e-2
    least, most = slopes_on(node, low, high)
    z = grid(low, high, 2001)
    secants = values(node, z).value.diff(dim=0) / z.diff(dim=0)
    room = 1e-3 + 2e-3 * (high - low)  # curvature times a step of the grid
    assert bool((secants.amin(0) - least <= room)[wide].all())
    assert bool((most - secants.amax(0) <= room)[wide].all())


@pytest.mark.parametrize("name", EXACT)
@given(st.floats(-9, 9), st.floats(0, 1), st.integers(-9, 3), st.lists(st.floats(0, 1)))
def test_fifty_digits(name: str, low: float, size: float, power: int, shares: list[float]) -> None:
    node, high = node_of(name), low + size * 2.0**power
    ends = [torch.full((1, 8), end, dtype=torch.float64) for end in (low, high)]
    least, most = (float(end[0, 0]) for end in range_on(node, *ends))
    a, b = (float(end[0, 0]) for end in slopes_on(node, *ends))
    bounds = lines(node, *ends)
    (k, c), (m, d) = (
        (mpmath.mpf(float(slope[0, 0])), mpmath.mpf(float(offset[0, 0])))
        for slope, offset in (
            (bounds.lower_slope, bounds.lower_offset),
            (bounds.upper_slope, bounds.upper_offset),
        )
    )
    with mpmath.workdps(50):
        at_low = EXACT[name](mpmath.mpf(low))
        for share in (0.0, 0.25, 0.5, 1.0, *shares):
            z = mpmath.mpf(min(max(low + share * (high - low), low), high))
            truth = EXACT[name](z)
            assert least <= truth <= most
            assert k * z + c <= truth <= m * z + d
            if z - low > 1e-6:  # nearer, 50 digits cancel
                assert a * (z - low) <= truth - at_low <= b * (z - low)


@pytest.mark.parametrize("name", EXACT)
@given(st.floats(-10, 10), st.integers(-30, 30), st.integers(-17, 1), st.lists(st.floats(0, 1)))
def test_two_hundred_digits_at_every_scale(
    name: str, low: float, power: int, size: int, shares: list[float]
) -> None:
    low *= 10.0**power
    node, high = node_of(name), low + abs(low) * 10.0**size
    ends = [torch.full((1, 8), end, dtype=torch.float64) for end in (low, high)]
    found = lines(node, *ends)
    parts = (*range_on(node, *ends), *slopes_on(node, *ends))
    parts += (found.lower_slope, found.lower_offset, found.upper_slope, found.upper_offset)
    least, most, a, b, k, c, m, d = (float(part[0, 0]) for part in parts)
    with mpmath.workdps(200):
        at_low = EXACT[name](mpmath.mpf(low))
        for share in (0.0, 0.25, 0.5, 1.0, *shares):
            z = mpmath.mpf(min(max(low + share * (high - low), low), high))
            truth = EXACT[name](z)
            assert least <= truth <= most
            assert mpmath.mpf(k) * z + c <= truth <= mpmath.mpf(m) * z + d
            if z - low > 1e-50:  # nearer, 200 digits cancel
                assert a * (z - low) <= truth - at_low <= b * (z - low)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lines_are_close_where_the_function_is_nearly_straight(name: str) -> None:
    node = node_of(name)
    low, high = intervals(100, 3)
    breaks = torch.tensor([*node.facts.curve(node.params).breaks, 0.0])
    smooth = ((low[..., None] > breaks) == (high[..., None] > breaks)).all(-1)
    width = (high - low).clamp(max=1e-3)
    bounds = lines(node, low, low + width)
    middle = low + 0.5 * width
    gap = (bounds.upper_slope - bounds.lower_slope) * middle
    gap = gap + bounds.upper_offset - bounds.lower_offset
    assert bool((gap <= 2.0 * width.square() + 1e-12)[smooth].all())


def test_relu_has_the_lines_of_crown() -> None:
    low = torch.tensor([[-1.0, -2.0, 0.5, -3.0]], dtype=torch.float64)
    high = torch.tensor([[2.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    bounds = lines(node_of("relu"), low, high)
    torch.testing.assert_close(bounds.upper_slope[0], torch.tensor([2 / 3, 1 / 3, 1, 0]).double())
    torch.testing.assert_close(bounds.upper_offset[0], torch.tensor([2 / 3, 2 / 3, 0, 0]).double())
    assert torch.equal(bounds.lower_slope[0], torch.tensor([1.0, 0.0, 1.0, 0.0]).double())
    assert float(bounds.lower_offset.abs().max()) < 1e-13
    least, most = slopes_on(node_of("relu"), low, high)
    assert least.tolist() == [[0, 0, 1, 0]] and most.tolist() == [[1, 1, 1, 0]]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_end_that_is_not_a_number_has_the_slopes_of_the_whole_line(name: str) -> None:
    node, shape = node_of(name), (1, 8)
    ends = torch.full(shape, math.nan).double(), torch.zeros(shape).double()
    for low, high in (ends, ends[::-1], ends[:1] * 2):
        least, most = slopes_on(node, low, high)
        assert (least.unique().item(), most.unique().item()) == node.facts.slopes(node.params)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_unbounded_intervals_have_sound_answers(name: str) -> None:
    node = node_of(name)
    low = torch.tensor([[-math.inf, -math.inf, -1.0]], dtype=torch.float64).repeat(1, 3)[:, :8]
    high = torch.tensor([[math.inf, 1.0, math.inf]], dtype=torch.float64).repeat(1, 3)[:, :8]
    z = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64)[None]
    least, most = range_on(node, low, high)
    bounds = lines(node, low, high)
    value = values(node, z).value
    assert bool((least <= value).all() and (value <= most).all())
    assert bool((bounds.lower_slope * z + bounds.lower_offset <= value).all())
    assert bool((bounds.upper_slope * z + bounds.upper_offset >= value).all())
    a, b = slopes_on(node, low, high)
    lowest, highest = node.facts.slopes(node.params)
    assert bool((a >= lowest).all() and (b <= highest).all() and (a <= b).all())


def inside(turn: Turn, where: mpmath.mpf, value: mpmath.mpf) -> bool:
    place = turn.where[0] <= where <= turn.where[1]
    return place and turn.value[0] <= value <= turn.value[1]


@pytest.mark.parametrize("name", CURVED)
def test_the_turns_to_thirty_digits(name: str) -> None:
    known = node_of(name).facts.curve(node_of(name).params)
    with mpmath.workdps(40):
        function = EXACT[name]
        settings = {"solver": "anderson", "tol": 1e-30}
        bottom = mpmath.findroot(lambda x: mpmath.diff(function, x), (-1.5, -0.5), **settings)
        assert inside(known.turns[0], bottom, function(bottom))
        for turn, ends in zip(known.pieces[0].turns, ((-3, -1.2), (1.2, 3)), strict=True):
            second = mpmath.findroot(lambda x: mpmath.diff(function, x, 2), ends, **settings)
            assert inside(turn, second, mpmath.diff(function, second))


def _bend_silu(x):
    """f'' / sigmoid' = 2 - x tanh(x / 2)."""
    e = mpmath.iv.exp(-x)
    return 2 - x * (1 - e) / (1 + e)


def _bend_gelu_tanh(x):
    """f'' / sech^2 p = p' + x p'' / 2 - x tanh(p) p'^2, with p = r (x + a x^3)."""
    iv = mpmath.iv
    r, a = iv.sqrt(2 / iv.pi), iv.mpf(0.044715)
    e = iv.exp(-2 * r * (x + a * x**3))
    first, second = r * (1 + 3 * a * x**2), 6 * r * a * x
    return first + x * second / 2 - x * (1 - e) / (1 + e) * first**2


def _bend_mish(x):
    """f'' up to a positive factor, with e = e^x.

    f' = e w / d^2 with w = 4 (x + 1) + (4 x + 6) e + 4 e^2 + e^3 and d = 2 + 2 e + e^2, so that f''
    has the sign of (w + w') d - 2 w d' = 4 (2 x + 4 + (2 x + 8) e + (6 - 3 x) e^2 + (2 - 2 x) e^3).
    """
    e = mpmath.iv.exp(x)
    return 2 * x + 4 + (2 * x + 8) * e + (6 - 3 * x) * e**2 + (2 - 2 * x) * e**3


def sign_on(function, low: float, high: float) -> int:
    """Prove that a function keeps one sign on an interval, by halving; return the sign."""
    value = function(mpmath.iv.mpf([low, high]))
    if value.a > 0 or value.b < 0:
        return 1 if value.a > 0 else -1
    assert high - low > 1e-7, "no sign"
    middle = 0.5 * (low + high)
    left, right = sign_on(function, low, middle), sign_on(function, middle, high)
    assert left == right
    return left


@pytest.mark.parametrize(
    ("name", "bend"), [("silu", _bend_silu), ("gelu tanh", _bend_gelu_tanh), ("mish", _bend_mish)]
)
def test_the_derivative_turns_nowhere_else(name: str, bend) -> None:
    """f'' has one sign between the turns; gelu's is (2 - x^2) times a density.

    Beyond 12 the leading terms rule: x tanh(x / 2) of silu and x p'^2 of gelu are far above the
    rest, mish's has the sign of x + 2 towards minus infinity and of 1 - x towards infinity.
    """
    first, second = (
        turn.where for turn in node_of(name).facts.curve(node_of(name).params).pieces[0].turns
    )
    near = 1e-3
    signs = [
        sign_on(bend, -12.0, first[0] - near),
        sign_on(bend, first[1] + near, second[0] - near),
        sign_on(bend, second[1] + near, 12.0),
    ]
    assert signs == [-1, 1, -1]
    with mpmath.workdps(30):
        for turn, way in ((first, 1), (second, -1)):
            places = [mpmath.mpf(turn[0]) - near + k * near / 20 for k in range(41)]
            bends = [way * mpmath.diff(EXACT[name], place, 2) for place in places]
            assert all(a < b for a, b in itertools.pairwise(bends))


@given(st.sampled_from(["sin", "cos"]), st.integers(-(10**15), 10**15), st.integers(-60, 2))
def test_every_turn_of_a_wave_is_found(name: str, quarter: int, power: int) -> None:
    """Between two numbers with a turn between them the range reaches it, however far out."""
    with mpmath.workdps(60):
        where = float(quarter * mpmath.pi / 2)
    ends = [math.nextafter(where + s * 2.0**power, s * math.inf) for s in (-1, 1)]
    low, high = (torch.full((1, 8), end, dtype=torch.float64) for end in ends)
    sine, cosine = (0, 1, 0, -1)[quarter % 4], (1, 0, -1, 0)[quarter % 4]
    value, slope = (sine, cosine) if name == "sin" else (cosine, -sine)
    least, most = (float(end[0, 0]) for end in range_on(node_of(name), low, high))
    a, b = (float(end[0, 0]) for end in slopes_on(node_of(name), low, high))
    assert least <= value <= most and a <= slope <= b
    with mpmath.workdps(60):
        assert all(least <= EXACT[name](mpmath.mpf(end)) <= most for end in ends)


def test_a_wave_turns_nowhere_else() -> None:
    for k in range(-20, 20):  # from just above a turn of the sine to just below the next
        low, high = ((k + 0.5) * math.pi + 1e-6, (k + 1.5) * math.pi - 1e-6)
        ends = [torch.full((1, 8), end, dtype=torch.float64) for end in (low, high)]
        least, most = range_on(node_of("sin"), *ends)
        assert float(most.max()) < 1.0 and float(least.min()) > -1.0
        turns = node_of("sin").facts.curve({}).turns
        assert not any(bool(holds(turn, *ends).any()) for turn in turns)


def test_prelu_takes_each_channel_by_itself() -> None:
    module = nn.PReLU(2)
    module.weight.data = torch.tensor([-1.0, 0.5])
    graph = holdfast.capture(module.eval(), torch.zeros(1, 2, 3)).double()
    low = torch.full((1, 2, 3), -1.0, dtype=torch.float64)
    least, most = slopes_on(graph[graph.output], low, -low)
    assert least[0, :, 0].tolist() == [-1.0, 0.5] and most[0, :, 0].tolist() == [1.0, 1.0]
