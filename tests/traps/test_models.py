"""What models are made of, where other tools count too little: the distance itself is known.

In each test the certificate is held against the exact distance to a change of class.
"""

import math
from fractions import Fraction

import mpmath
import pytest
import torch
import torch.nn.functional as F
from tests.nets import Residual
from tests.traps.truth import (
    Function,
    affine_halves,
    check_both_sides,
    dyadic,
    every_radius,
    sums_of_largest,
    threshold,
    with_dyadic,
)
from torch import Tensor, nn
from torch.nn.utils import parametrize

import holdfast
from holdfast.errors import Unsupported


def check_affine(model: nn.Module, x: Tensor, executed: bool = True) -> None:
    """Take the class of the row as its label, and the half-spaces from the net itself."""
    label = int(model(x).argmax(1))
    check_both_sides(model, x, affine_halves(model, x, label), executed, label)


def check_threshold(body: nn.Module, *shape: int) -> None:
    """Check an affine body under a threshold that its row at zero does not reach."""
    x = torch.zeros(1, *shape)
    weights = dyadic(9, body(x).numel())
    bias = float(weights.double() @ body(x).detach().flatten().double()) + 1.0
    check_affine(threshold(body, weights, bias), x)


def test_a_tiny_variance_is_a_large_gain() -> None:
    """Trap 3: gamma / sqrt(var + eps) is 1024 here, and it counts."""
    norm = nn.BatchNorm1d(2, eps=2.0**-22)
    norm.running_var = torch.tensor([3 * 2.0**-22, 0.75])
    norm.running_mean = torch.tensor([0.5, 0.0])
    norm.running_var[1] = 1.0 - 2.0**-22
    check_affine(nn.Sequential(norm, with_dyadic(nn.Linear(2, 3), 5)).eval(), torch.zeros(1, 2))


def centred(eps: float, norm: nn.Module, *shape: int) -> tuple[nn.Module, list]:
    """Return a net of class 0 while the normalised first entry is below 3/5.

    Of the row (a, b) it is d / sqrt(d^2 + eps) with d = (a - b) / 2: below 3/5 while d is below
    3/4 sqrt(eps).
    """
    double = [Fraction(1, 2), Fraction(-1, 2)]
    halves = [(double, -Fraction(3, 4) * Fraction(math.isqrt(int(1 / eps)), 1) ** -1)]
    # Three fifths is rounded down, so that the class is left at the distance at the latest.
    bias = float(torch.tensor(0.6).nextafter(torch.tensor(0.0)))
    body = nn.Sequential(nn.Unflatten(1, shape), norm) if shape else norm
    return threshold(body, torch.tensor([1.0, 0.0]), bias), halves


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_layer_norm_is_steepest_at_a_constant_row(center: float) -> None:
    """Trap 5: the gain there is 1/sqrt(eps) = 256, however large the row."""
    model, halves = centred(2.0**-16, nn.LayerNorm(2, eps=2.0**-16))
    check_both_sides(model, torch.full((1, 2), center), halves, executed=False)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.GroupNorm(1, 2, eps=2.0**-16), ()),
        (nn.GroupNorm(1, 1, eps=2.0**-16), (1, 2)),
        (nn.InstanceNorm1d(1, eps=2.0**-16), (1, 2)),
    ],
)
def test_other_normalisations_are_as_steep(norm: nn.Module, shape: tuple) -> None:
    """Trap 6."""
    model, halves = centred(2.0**-16, norm, *shape)
    check_both_sides(model, torch.zeros(1, 2), halves, executed=False)


def test_a_root_mean_square_is_steepest_in_the_origin() -> None:
    """Trap 6: of one entry, a / sqrt(a^2 + eps) is below 3/5 while a is below 3/4 sqrt(eps)."""
    body = nn.Sequential(nn.Unflatten(1, (2, 1)), nn.RMSNorm(1, eps=2.0**-16))
    bias = float(torch.tensor(0.6).nextafter(torch.tensor(0.0)))
    model = threshold(body, torch.tensor([1.0, 0.0]), bias)
    halves = [([Fraction(1), Fraction(0)], Fraction(-3, 4 * 256))]
    check_both_sides(model, torch.zeros(1, 2), halves, executed=False)


def test_a_normalisation_by_a_power_of_sums_is_bounded_on_balls_alone() -> None:
    """Trap 6: LocalResponseNorm has no constant here for all inputs; on a ball no row flips."""
    norm = nn.LocalResponseNorm(2, alpha=1.0)
    model = nn.Sequential(nn.Unflatten(1, (2, 1)), norm, nn.Flatten()).double().eval()
    x, label = torch.tensor([[2.0, 1.0]], dtype=torch.float64), torch.tensor([0])
    with pytest.raises(Unsupported, match="no global Lipschitz constant"):
        holdfast.certify(model, x, label, method="global")
    radius = float(holdfast.certify(model, x, label, method="local").radius)
    assert radius > 0.1
    steps = torch.randn(4000, 2, dtype=torch.float64)
    steps = steps / steps.norm(dim=1, keepdim=True) * radius * torch.rand(4000, 1).double()
    assert bool((model(x + steps).argmax(1) == 0).all())


@pytest.mark.parametrize("padding", [0, 1])
def test_overlapping_windows_of_a_maximum_add_up(padding: int) -> None:
    """Trap 7: one pixel is the largest of four windows at once."""
    pool = nn.MaxPool2d(2, stride=1, padding=padding)
    side = 2 + padding if padding else 3
    x = -torch.arange(9.0).reshape(1, 1, 3, 3) / 16 if not padding else torch.zeros(1, 1, 2, 2)
    pixels = x[0].numel()
    size = x.shape[-1]
    windows = [
        [
            ([Fraction(i == r * size + c) for i in range(pixels)], Fraction(0))
            for r in range(row, row + 2)
            for c in range(column, column + 2)
            if 0 <= r < size and 0 <= c < size
        ]
        for row in range(-padding, size + padding - 1)
        for column in range(-padding, size + padding - 1)
    ]
    assert len(windows) == pool(x).numel() == (side if padding else 2) ** 2
    model = threshold(pool, torch.ones(len(windows)), 2.0)
    check_both_sides(model, x, sums_of_largest(windows, Fraction(2)))


@pytest.mark.parametrize(
    "pool",
    [nn.AvgPool2d(2, stride=1), nn.AvgPool2d(2, padding=1), nn.AdaptiveAvgPool2d(2)],
)
def test_mean_pools_are_convolutions(pool: nn.Module) -> None:
    """Trap 7."""
    check_threshold(pool, 1, 4, 4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(2, 3, 2, dilation=2, padding=1),
        nn.Conv2d(2, 4, 3, groups=2, stride=(1, 2), padding=(0, 1)),
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        nn.Conv1d(2, 3, 3, stride=3),
    ],
)
def test_convolutions_of_every_geometry(layer: nn.Module) -> None:
    """Trap 8."""
    shape = (2, 9) if isinstance(layer, nn.Conv1d) else (2, 4, 4)
    check_threshold(with_dyadic(layer), *shape)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_repeats_pixels(mode: str) -> None:
    """Trap 9: a pixel that is read from outside as well counts again."""
    layer = nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode)
    layer.weight.data.fill_(1.0)
    layer.bias.data.zero_()
    model = threshold(layer.eval(), torch.ones(18), 2.0)
    check_affine(model, torch.zeros(1, 1, 3, 3))


def test_every_use_of_a_weight_counts() -> None:
    """Trap 10: four steps of a recurrence with one matrix."""
    cell = with_dyadic(nn.Linear(2, 2), 3)
    cell.weight.data *= 4

    def unrolled(x: Tensor) -> Tensor:
        state = x[:, 0]
        for step in range(1, 4):
            state = x[:, step] + cell(state)
        return state

    check_affine(
        threshold(Function(unrolled, cell=cell), torch.ones(2), 20.0), torch.zeros(1, 4, 2)
    )
    block = Residual(cell)
    twice = Function(lambda x: block(block(x)), block=block)
    check_affine(threshold(twice, torch.ones(2), 20.0), torch.zeros(1, 2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + F.pad(x[:, 1:], (0, 1)),
        lambda x: torch.cat([x, 2 * x, -x], 1),
        lambda x: F.interpolate(x[:, None], scale_factor=2, mode="nearest"),
        lambda x: torch.stack([x, x], 1),
        lambda x: x[:, None].expand(-1, 3, -1),
    ],
    ids=["residual", "cat", "upsample", "stack", "expand"],
)
def test_copies_of_a_value_add_up(function) -> None:
    """Trap 11."""
    body = Function(function)
    x = torch.zeros(1, 4)
    model = threshold(body, torch.ones(body(x).numel()), 1.0)
    check_affine(model, x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 128,
        lambda x: (x - 0.5) / 0.125,
        lambda x: x / 0.25,
        lambda x: -x + 3,
        lambda x: 2 - x * torch.tensor([1.0, 2.0, 4.0]),
    ],
)
def test_arithmetic_in_forward_counts(function) -> None:
    """Trap 12: no module shows it."""
    model = Function(lambda x: layer(function(x)), layer=(layer := with_dyadic(nn.Linear(3, 3), 2)))
    check_affine(model, torch.tensor([[0.5, -0.25, 0.125]]))


class Eight(nn.Module):
    """A parametrisation that multiplies by eight."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that is used."""
        return 8 * weight


def test_hooks_and_parametrisations_count() -> None:
    """Trap 13: what is stored is not what is executed."""
    x = torch.tensor([[0.5, -0.25, 0.125]])
    hooked = with_dyadic(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), 2)
    hooked[0].register_forward_hook(lambda module, args, output: output * 32)
    hooked[1].register_forward_pre_hook(lambda module, args: (args[0] * 4,))
    check_affine(hooked, x)
    layer = with_dyadic(nn.Linear(3, 3), 2)
    parametrize.register_parametrization(layer, "weight", Eight())
    check_affine(layer, x)


def test_a_weight_that_changes_in_place_gives_another_radius() -> None:
    """Trap 14: nothing is remembered by identity."""
    model = with_dyadic(nn.Linear(3, 2), 4)
    x = torch.zeros(1, 3)
    label = model(x).argmax(1)
    before = float(holdfast.certify(model, x, label).radius)
    model.weight.data *= 64
    assert float(holdfast.certify(model, x, label).radius) < before / 60
    check_affine(model, x)


def test_values_are_read_and_not_storage() -> None:
    """Trap 15: expanded, transposed and strided weights and rows."""
    model = nn.Linear(3, 3)
    model.weight.data = dyadic(5, 3, 3).T
    model.bias = nn.Parameter(torch.zeros(1).expand(3), requires_grad=False)
    wide = dyadic(6, 1, 6)
    check_affine(model.eval(), wide[:, ::2])
    expanded = nn.Linear(4, 2)
    expanded.weight.data = torch.tensor([[1.0], [-0.5]]).expand(2, 4)
    expanded.bias.data = torch.tensor([0.0, -1.0])
    check_affine(expanded.eval(), torch.tensor(0.125).expand(1, 4))


class Liar(torch.autograd.Function):
    """Multiplies by eight and says that its gradient is zero."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """Multiply."""
        return 8 * x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """Lie."""
        return 0 * gradient


def test_gradients_that_lie_change_nothing() -> None:
    """Trap 17: a proof does not use them, nor a detached graph."""
    layer = with_dyadic(nn.Linear(3, 3), 2)
    x = torch.tensor([[0.5, -0.25, 0.125]])
    check_affine(Function(lambda x: layer(8 * x.detach()), layer=layer), x)
    liar = Function(lambda x: layer(Liar.apply(x)), layer=layer)
    check_affine(liar, x)


@pytest.mark.parametrize(
    ("layer", "slopes"),
    [
        (nn.LeakyReLU(3.0), (3, 1)),
        (nn.PReLU(init=-4.0), (-4, 1)),
        (nn.ReLU(), (0, 1)),
    ],
)
def test_activations_in_pieces_have_their_own_slopes(layer: nn.Module, slopes: tuple) -> None:
    """Trap 19: the steepest piece may be the one below zero, and point the other way."""
    below, above = slopes
    # A sum of s max(above u, below u), with s = -1 where the function is concave.
    sign = 1 if above >= below else -1
    front = with_dyadic(nn.Linear(3, 4), 7)
    front.bias.data -= 0.25
    x = torch.tensor([[0.25, -0.5, 0.125]])
    model = threshold(nn.Sequential(front, layer), torch.full((4,), float(sign)), 12.0)
    choices = []
    for row, bias in zip(front.weight.tolist(), front.bias.tolist(), strict=True):
        choices.append(
            [([Fraction(sign * s * w) for w in row], Fraction(sign * s * bias)) for s in slopes]
        )
    check_both_sides(model, x, sums_of_largest(choices, Fraction(12)))


def gelu(u: mpmath.mpf) -> mpmath.mpf:
    """GELU in mpmath."""
    return u * (1 + mpmath.erf(u / mpmath.sqrt(2))) / 2


CURVES = {
    "gelu": (nn.GELU(), gelu),
    "silu": (nn.SiLU(), lambda u: u / (1 + mpmath.exp(-u))),
    "hardswish": (nn.Hardswish(), lambda u: u * min(max(u + 3, 0), 6) / 6),
    "softplus": (nn.Softplus(), lambda u: mpmath.log1p(mpmath.exp(u))),
}


@pytest.mark.parametrize("name", CURVES)
def test_curved_activations_are_as_steep_as_they_are(name: str) -> None:
    """Trap 19: GELU 1.129, Hardswish 1.5, SiLU 1.1; the crossing is found in 50 digits."""
    layer, function = CURVES[name]
    bias = float(torch.tensor(float(function(mpmath.mpf("1.75")))))
    with mpmath.workdps(50):
        low, high = mpmath.mpf(1), mpmath.mpf(3)
        for _ in range(150):
            middle = (low + high) / 2
            low, high = (low, middle) if function(middle) >= bias else (middle, high)
    crossing = Fraction(int(mpmath.ceil(high * 2**100)), 2**100)
    model = threshold(nn.Sequential(nn.Identity(), layer), torch.tensor([1.0]), bias)
    check_both_sides(model, torch.tensor([[1.25]]), [([Fraction(1)], -crossing)])


def test_clipping_only_shortens_the_way() -> None:
    """Trap 31: to [0, 1] and back is a projection; the ball itself is not clipped."""
    layer = with_dyadic(nn.Linear(2, 2), 2)
    layer.weight.data, layer.bias.data = torch.eye(2), torch.zeros(2)
    clipped = nn.Sequential(nn.Hardtanh(0.0, 1.0), layer).eval()
    x = torch.tensor([[0.75, 0.25]])
    plain = affine_halves(layer, x, 0)
    check_both_sides(clipped, x, plain)
    # A row outside the box: its class holds as long as the projection does, and at least so long.
    outside = torch.tensor([[3.0, -2.0]])
    # It ties at (3, 1) and (0, -2), and where both entries are 1/2.
    graph = holdfast.capture(clipped, outside)
    for norm, true in ((1.0, 3.0), (2.0, 3.0), (math.inf, 2.5)):
        radii = every_radius(graph, outside, torch.tensor([0]), norm)
        assert bool((radii <= true).all()) and float(radii.max()) > 0


@pytest.mark.parametrize(
    "last",
    [
        nn.Softmax(1),
        nn.LogSoftmax(1),
        Function(lambda x: (x / 0.25).softmax(1)),
        Function(lambda x: (x * 64).softmax(1)),
    ],
    ids=["softmax", "log_softmax", "hot", "cold"],
)
def test_a_softmax_keeps_the_class(last: nn.Module) -> None:
    """Trap 33: the largest probability is that of the largest logit, at every temperature."""
    layer = with_dyadic(nn.Linear(3, 3), 2)
    x = torch.tensor([[0.5, -0.25, 0.125]])
    label = int(layer(x).argmax(1))
    halves = affine_halves(layer, x, label)
    check_both_sides(nn.Sequential(layer, last).eval(), x, halves, label=label)


def test_a_mean_of_nets_is_a_net_and_a_vote_is_refused() -> None:
    """Trap 34."""
    nets = nn.ModuleList(with_dyadic(nn.Linear(3, 2), seed) for seed in (1, 11, 21, 31))
    x = torch.tensor([[0.5, -0.25, 0.125]])
    check_affine(Function(lambda x: sum(net(x) for net in nets) / 4, nets=nets), x)
    check_affine(Function(lambda x: nets[0](x) * 0.25 + 0.75 * nets[1](x), nets=nets), x)

    def vote(x: Tensor) -> Tensor:
        return sum(F.one_hot(net(x).argmax(1), 2).to(x.dtype) for net in nets)

    with pytest.raises(Unsupported, match="argmax"):
        holdfast.certify(Function(vote, nets=nets), x, torch.tensor([0]))


def test_a_mask_is_held_fixed() -> None:
    """Trap 35: a mean over the valid tokens moves by 1/valid of each; the others do not count."""
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    layer = with_dyadic(nn.Linear(2, 2), 4)
    pooled = Function(lambda x: layer((x * mask[:, None]).sum(1) / 2), layer=layer)
    x = dyadic(3, 1, 4, 2)
    check_affine(pooled, x)
    ids = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2)).eval()
    with pytest.raises(holdfast.HoldfastError):
        holdfast.certify(ids, torch.tensor([[1, 2, 3]]), torch.tensor([0]))
