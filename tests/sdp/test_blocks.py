"""Blocks on a lattice: their bounds hold for every choice of slopes, at every stride and border."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nets import crossed
from torch import Tensor, nn

import holdfast
from holdfast.brackets.blockwise import blockwise_upper
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.lower.pairs import slopes_lower
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import run
from holdfast.ops.geometry import ConvGeometry
from holdfast.rounding import lengths_down, lengths_up, sqrt_up
from holdfast.sdp.blocks.cut import blocks, passages
from holdfast.sdp.blocks.lift import BlockForm, block_form
from holdfast.sdp.blocks.plan import plan
from holdfast.sdp.blocks.proof import block_upper
from holdfast.sdp.blocks.search import first_multipliers


class Residual(nn.Module):
    """relu(bn(conv(relu(conv(x))) + shortcut(x))), with weights that float64 multiplies exactly."""

    def __init__(self, channels: tuple[int, int], stride: int, taps: int) -> None:
        super().__init__()
        a, b = channels
        self.first = nn.Conv2d(a, b, taps, stride, taps // 2)
        self.second = nn.Conv2d(b, b, 3, 1, 1)
        self.shortcut = nn.Conv2d(a, b, 1, stride) if stride > 1 or a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))

    def with_slopes(self, x: Tensor, slopes: tuple[Tensor, Tensor]) -> Tensor:
        """Return the linear map that the net is at the given slopes, without biases."""
        inner = slopes[0] * nn.functional.conv2d(
            x, self.first.weight, None, self.first.stride, self.first.padding
        )
        outer = nn.functional.conv2d(inner, self.second.weight, None, 1, 1)
        short = self.shortcut
        straight = (
            nn.functional.conv2d(x, short.weight, None, short.stride)
            if isinstance(short, nn.Conv2d)
            else x
        )
        return slopes[1] * (outer + straight)


def exactly(net: nn.Module, seed: int) -> nn.Module:
    """Give a net weights that are small multiples of 1 / 8."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
        parameter.data = torch.randint(-8, 9, parameter.shape, generator=generator).double() / 8
    return net.eval()


def form_of(net: nn.Module, shape: tuple[int, ...]) -> BlockForm:
    graph = holdfast.capture(net, torch.zeros(1, *shape).double()).double().pruned()
    return block_form(graph, plan(graph))


def bound_of(form: BlockForm) -> float:
    before = torch.ones(int(form.before.max()) + 1, dtype=torch.float64)
    after = torch.ones(int(form.after.max()) + 1, dtype=torch.float64)
    return block_upper(form, before, after, first_multipliers(form, before, after))


@pytest.mark.parametrize(
    ("channels", "stride", "taps", "size"),
    [((1, 2), 1, 3, 3), ((2, 2), 1, 3, 4), ((1, 2), 2, 3, 5), ((2, 2), 2, 1, 4), ((1, 1), 3, 5, 7)],
)
def test_no_choice_of_slopes_is_steeper(
    channels: tuple[int, int], stride: int, taps: int, size: int
) -> None:
    """The maps at slopes 0 and 1 are exact, and so are their images of vectors of whole numbers."""
    net = exactly(Residual(channels, stride, taps), stride + taps + size)
    bound = sqrt_up(bound_of(form_of(net, (channels[0], size, size))))
    generator = torch.Generator().manual_seed(0)
    shape = net(torch.zeros(1, channels[0], size, size).double()).shape[1:]
    basis = torch.eye(channels[0] * size * size).double().reshape(-1, channels[0], size, size)
    steepest = 0.0
    for _ in range(200):
        slopes = tuple(torch.randint(0, 2, shape, generator=generator).double() for _ in range(2))
        if _ == 0:
            slopes = (torch.ones(shape).double(), torch.ones(shape).double())
        jacobian = net.with_slopes(basis, (slopes[0], slopes[1])).flatten(1).T
        direction = torch.linalg.svd(jacobian)[2][:1]
        direction = (direction * 2.0**20).round()  # whole numbers: the product below is exact
        slope = lengths_down(direction @ jacobian.T) / lengths_up(direction) * (1.0 - 2.0**-50)
        steepest = max(steepest, float(slope))
    assert steepest <= bound
    assert bound <= 3.0 * steepest


@given(
    stride=st.integers(1, 3), taps=st.integers(1, 3), pad=st.integers(0, 2), size=st.integers(3, 7),
    groups=st.sampled_from([1, 2]), dilation=st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_convolutions_alone(
    stride: int, taps: int, pad: int, size: int, groups: int, dilation: int
) -> None:
    """At least the norm of the zero-padded map, written out."""
    if size + 2 * pad < dilation * (taps - 1) + 1:
        return
    generator = torch.Generator().manual_seed(size)
    weight = torch.randint(-8, 9, (4, 2 // groups, taps, taps), generator=generator).double() / 8
    basis = torch.eye(2 * size * size).double().reshape(-1, 2, size, size)
    values = nn.functional.conv2d(basis, weight, None, stride, pad, dilation, groups)
    geometry = ConvGeometry((stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2, groups)
    params = {"weight": weight, "bias": None, "geometry": geometry}
    entry = Node("x", "input", shape=(2, size, size))
    node = Node("y", "conv", ("x",), params, tuple(values.shape[1:]))
    graph = Graph((entry, node), "y", {}, precision=torch.float64)
    matrix = values.flatten(1).T
    direction = (torch.linalg.svd(matrix)[2][:1] * 2.0**20).round()
    slope = lengths_down(direction @ matrix.T) / lengths_up(direction) * (1.0 - 2.0**-50)
    bound = sqrt_up(bound_of(block_form(graph, plan(graph))))
    assert float(slope) <= bound


class Small(nn.Module):
    """A residual net with batch norm, an average over all pixels and a last layer."""

    def __init__(self, act: nn.Module, hidden: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), act)
        self.outer = nn.Conv2d(6, 6, 3, 1, 1)
        self.shortcut = nn.Conv2d(4, 6, 1, 2)
        self.act, self.pool = act, nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 3)
        if hidden:
            self.head = nn.Sequential(nn.Linear(6 * 16, 5), act, nn.Linear(5, 3))
            self.pool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = self.act(self.outer(self.inner(x)) + self.shortcut(x))
        return self.head(self.pool(x).flatten(1))


def small(act: nn.Module, hidden: bool = False) -> Graph:
    torch.manual_seed(0)
    net = Small(act, hidden)
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(16, 2, 8, 8))
    return holdfast.capture(net.eval(), torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize(
    ("act", "hidden"),
    crossed([nn.ReLU(), nn.LeakyReLU(0.2), nn.GELU(), nn.Tanh()], [False, True]),
)
def test_whole_nets_are_bounded_more_tightly(act: nn.Module, hidden: bool) -> None:
    graph = small(act, hidden)
    bounds = list(blockwise_upper(graph, 3.0, lambda why: None))
    assert bounds
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, 2, 8, 8, generator=generator).double() * 3.0
    steps = torch.randn(400, 2, 8, 8, generator=generator).double() * 0.1
    steepest = float(slopes_lower(graph.double(), points, points + steps, 2.0).max())
    assert 0.0 < steepest <= min(bounds) < 0.7 * gain_upper(graph, 2.0)


def test_parts_put_together_are_the_net() -> None:
    graph = small(nn.ReLU()).double().pruned()
    places = passages(graph)
    assert places[0] == graph.perturbed_input.name
    assert places[-1] == graph.output
    # Between the ends of the residual block two paths lead on.
    assert not any(graph[name].path.startswith(("inner.0", "outer")) for name in places)
    x = torch.rand(3, 2, 8, 8).double()
    for limit in (3, 100):
        value = x
        for part in blocks(graph, lambda part, most=limit: len(part.nodes) <= most):
            value = run(part, value)
        assert torch.equal(value, run(graph, x))


def test_multipliers_from_anywhere_prove_what_holds_or_nothing() -> None:
    net = exactly(Residual((1, 2), 1, 3), 3)
    form = form_of(net, (1, 3, 3))
    one, two = torch.ones(1).double(), torch.ones(2).double()
    least = bound_of(form)
    lam = first_multipliers(form, one, two)
    for factor in (1e-3, 0.9, 1.5, 100.0):
        assert block_upper(form, one, two, factor * lam) > 0.5 * least
    for bad in (-lam, lam * math.nan, lam * math.inf, lam * 0.0):
        assert block_upper(form, one, two, bad) == math.inf


def test_weights_scale_as_they_should() -> None:
    form = form_of(exactly(Residual((1, 2), 1, 3), 3), (1, 3, 3))
    lam = first_multipliers(form, torch.ones(1).double(), torch.ones(2).double())
    one, two = torch.ones(1).double(), torch.ones(2).double()
    plain = block_upper(form, one, two, lam)
    for before, after in itertools.product((0.5, 4.0), (0.25, 2.0)):
        scaled = block_upper(form, before * one, after * two, after**2 * lam)
        assert scaled == pytest.approx(plain * after**2 / before**2, rel=1e-5)


@pytest.mark.parametrize("op", ["flip", "permute"])
def test_moved_channels_are_no_block(op: str) -> None:
    """They would be other rows of the same matrix: wiring is refused but for reshape."""
    torch.manual_seed(0)

    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x)).mean((2, 3))
            moved = x.flip(1) if op == "flip" else x.reshape(-1, 2, 2).permute(0, 2, 1)
            return self.last(moved.reshape(-1, 4))

    graph = holdfast.capture(Moved().eval(), torch.zeros(1, 1, 5, 5)).double().pruned()
    with pytest.raises(Unsupported):
        plan(graph)


def test_layers_on_every_token_are_no_block() -> None:
    """Their weight is no matrix of the whole row; they are bounded by their gains."""
    torch.manual_seed(0)
    feed = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.Flatten(), nn.Linear(12, 2)
    )
    graph = holdfast.capture(feed.eval(), torch.zeros(1, 3, 4)).double()
    with pytest.raises(Unsupported, match="linear"):
        plan(graph)
    found = holdfast.lipschitz(feed, torch.randn(8, 3, 4), seconds=1.0)
    assert 0.0 < found.lower <= found.upper
    for value in blockwise_upper(graph, 1.0, lambda note: None):
        assert value >= found.lower
