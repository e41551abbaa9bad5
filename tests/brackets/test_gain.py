"""The gain bound: never below a sampled slope, and exact where it should be."""

import math

import pytest
import torch
from tests.nets import MaxMin, Residual, load_net
from torch import Tensor, nn

import holdfast
from holdfast.brackets.gain import GainReading, gain_upper
from holdfast.brackets.lower.pairs import slopes_lower
from holdfast.errors import Unsupported
from holdfast.sources.demo import GroupSort

NORMS = (1, 2, math.inf)


def image(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (2, 4, 4)), *modules, nn.Flatten())


def function(body) -> nn.Module:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return body(x)

    return Wrapped()


MODELS = {
    "mlp": nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3)),
    "conv": image(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2)),
    "groups": image(nn.Conv2d(2, 4, 3, groups=2, dilation=2, padding=2)),
    "circular": image(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")),
    "reflect": image(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Tanh()),
    "replicate": image(nn.Conv2d(2, 2, 3, padding=2, padding_mode="replicate", stride=3)),
    "transposed": image(nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1)),
    "conv1d": nn.Sequential(nn.Unflatten(1, (4, 8)), nn.Conv1d(4, 2, 3, 2, 1), nn.Flatten()),
    "batch norm": image(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ELU(1.5)),
    "max pool": image(nn.MaxPool2d(2)),
    "max pool overlap": image(nn.MaxPool2d(3, 1, 1), nn.Conv2d(2, 1, 2)),
    "avg pool": image(nn.AvgPool2d(2)),
    "avg pool overlap": image(nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(2)),
    "groupsort": nn.Sequential(nn.Linear(32, 8), GroupSort(4), nn.Linear(8, 4)),
    "maxmin": nn.Sequential(nn.Linear(32, 8), MaxMin(), nn.Linear(8, 4)),
    "residual": nn.Sequential(Residual(nn.Linear(32, 32), nn.ReLU()), nn.Linear(32, 2)),
    "gelu": nn.Sequential(nn.GELU(), nn.Linear(32, 4), nn.GELU(approximate="tanh")),
    "smooth": nn.Sequential(nn.SiLU(), nn.Hardswish(), nn.Softplus(), nn.Sigmoid(), nn.Tanh()),
    "leaky": nn.Sequential(nn.LeakyReLU(3.0), nn.PReLU(1, -4.0), nn.Linear(32, 3)),
    "layer norm": nn.Sequential(nn.Linear(32, 6), nn.LayerNorm(6)),
    "group norm": image(nn.GroupNorm(2, 2)),
    "rms norm": nn.Sequential(nn.Linear(32, 6), nn.RMSNorm(6)),
    "lengths": function(
        lambda x: torch.cat([x.norm(dim=1, keepdim=True), x.reshape(-1, 4, 8).norm(dim=2)], 1)
    ),
    "lengths of another order": function(
        lambda x: torch.stack([x.norm(p=p, dim=1) for p in (1, 2, math.inf)], 1)
    ),
    "log sum exp": function(lambda x: 5 * x.reshape(-1, 4, 8).logsumexp(2)),
    "waves": nn.Sequential(nn.Linear(32, 4), function(lambda x: torch.sin(3 * x).cos().erf())),
    "shrunk": nn.Sequential(nn.Softshrink(0.2), nn.Tanhshrink(), nn.Softsign()),
    "log1p": function(lambda x: torch.log1p(x.abs())),
    "softmax": nn.Sequential(nn.Linear(32, 5), nn.Softmax(-1)),
    "log softmax": nn.Sequential(nn.Linear(32, 5), nn.LogSoftmax(-1)),
    "arithmetic": function(lambda x: (3 - 2 * x) / 4 + x - x.mean(1, keepdim=True)),
    "wiring": function(lambda x: torch.stack([x[:, :8], x[:, 8:16].flip(1)], 2).transpose(1, 2)),
    "repeat": function(lambda x: torch.cat([x, x, x[:, ::2]], 1)),
    "pad": function(lambda x: nn.functional.pad(x, (2, 3), value=7.0)),
    "maximum": function(lambda x: torch.maximum(x[:, :16], 2 * x[:, 16:])),
    "amax": function(lambda x: x.reshape(-1, 4, 8).amax(2) - x.sum(1, keepdim=True)),
    "upsample": image(nn.Upsample(scale_factor=2), nn.AvgPool2d(2)),
    "shuffle": image(nn.Conv2d(2, 4, 1), nn.PixelShuffle(2)),
}


def prepared(name: str) -> nn.Module:
    torch.manual_seed(3)
    model = MODELS[name]
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.01, 2.0)
            module.weight.data.normal_()
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            module.weight.data.normal_()
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_no_sampled_slope_is_steeper(name: str) -> None:
    graph = holdfast.capture(prepared(name), torch.randn(2, 32))
    torch.manual_seed(0)
    for norm in NORMS:
        upper = gain_upper(graph, norm)
        assert math.isfinite(upper)
        for size in (1e-3, 1.0):
            first = torch.randn(500, 32, dtype=torch.float64) * size
            step = (
                torch.randn(500, 32, dtype=torch.float64)
                * 10.0 ** -torch.arange(500).div(100)[:, None].round()
            )
            if norm == 1:  # the extreme points of the l1 ball
                step = torch.eye(32, dtype=torch.float64).repeat(16, 1)[:500] * 1e-2
            elif norm == math.inf:
                step = step.sign() * 1e-2
            slopes = slopes_lower(graph, first, first + step, norm)
            assert float(slopes.max()) <= upper


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["wiring", "max pool", "pad"])
def test_moving_entries_costs_nothing(name: str, norm: float) -> None:
    graph = holdfast.capture(MODELS[name].eval(), torch.zeros(1, 32))
    assert gain_upper(graph, norm) == 1.0


def test_repeated_entries_count_exactly() -> None:
    graph = holdfast.capture(MODELS["repeat"].eval(), torch.zeros(1, 32))
    assert gain_upper(graph, 1) == 3.0
    assert 3.0**0.5 <= gain_upper(graph, 2) <= 3.0**0.5 * (1 + 1e-15)
    assert gain_upper(graph, math.inf) == 1.0


def test_maxmin_and_groupsort_have_the_same_gain() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    bounds = [
        gain_upper(holdfast.capture(nn.Sequential(first, act, second), torch.zeros(1, 6)), 2)
        for act in (MaxMin(), GroupSort(2))
    ]
    product = math.prod(
        float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))
        for layer in (first, second)
    )
    assert bounds[0] == bounds[1]
    assert product <= bounds[0] <= product * (1 + 1e-9)


def test_affine_runs_are_measured_as_one_operator() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)).eval()
    model[1].weight.data = torch.tensor([5.0, 0.1, 1.0, 2.0, 0.3, 0.2])
    graph = holdfast.capture(model.double(), torch.zeros(1, 6, dtype=torch.float64))
    x = torch.eye(6, dtype=torch.float64)
    with torch.no_grad():
        matrix = model(x) - model(torch.zeros_like(x))
    true = float(torch.linalg.matrix_norm(matrix, 2))
    assert true <= gain_upper(graph, 2) <= true * (1 + 1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_l1_and_linf_of_a_linear_layer_are_its_column_and_row_sums(norm: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 7).double()
    graph = holdfast.capture(model, torch.zeros(1, 5, dtype=torch.float64))
    true = float(torch.linalg.matrix_norm(model.weight.detach(), norm))
    assert true <= gain_upper(graph, norm) <= true * (1 + 1e-9)


def test_batch_norm_in_training_statistics_traps() -> None:
    """Trap 3: a tiny running variance is a large gain, not a refusal."""
    model = nn.BatchNorm1d(2).eval()
    model.running_var.fill_(1e-12)
    graph = holdfast.capture(model, torch.zeros(1, 2))
    assert gain_upper(graph, 2) >= (1e-12 + 1e-5) ** -0.5


def test_overlapping_windows_reach_their_bound() -> None:
    """Trap 7: a 3x3 window with stride 1 covers a pixel 9 times; the factor 3 is attained."""
    graph = holdfast.capture(nn.MaxPool2d(3, 1, 1).eval(), torch.zeros(1, 1, 5, 5))
    low = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    high = low.clone()
    high[0, 0, 2, 2] = 1.0
    assert gain_upper(graph, 2) == 3.0
    assert float(slopes_lower(graph, low, high, 2.0)) > 3.0 - 1e-9


def test_shared_weights_count_every_use() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False)
            self.layer.weight.data.fill_(3.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu())

    assert gain_upper(holdfast.capture(Twice().eval(), torch.zeros(1, 1)), 2) >= 9.0


def test_every_op_without_a_constant_is_named_at_once() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(self.inner(x)) * x + torch.round(x)

    model = nn.Sequential()
    model.add_module("odd", Products())
    graph = holdfast.capture(model.eval(), torch.zeros(1, 3))
    with pytest.raises(Unsupported) as refusal:
        gain_upper(graph, 2)
    found = [(obstacle.path, obstacle.op) for obstacle in refusal.value.obstacles]
    assert found == [("odd", "aten.round.default"), ("odd", "exp"), ("odd", "product")]
    assert "no global Lipschitz constant" in str(refusal.value)
    assert "holdfast.knowledge" in str(refusal.value)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_normalisation_without_eps_is_unbounded(norm: type[nn.Module]) -> None:
    model = norm(4, eps=0.0).eval()
    assert gain_upper(holdfast.capture(model, torch.randn(1, 4)), 2) == math.inf


def test_logarithms_of_what_may_be_negative_are_refused_with_a_way_on() -> None:
    graph = holdfast.capture(function(lambda x: torch.log1p(x.tanh())), torch.zeros(1, 3))
    with pytest.raises(Unsupported, match=r"log: .*near 0.*method='local'"):
        gain_upper(graph, 2)


def test_gains_of_single_layers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    reading = GainReading(holdfast.capture(model, torch.zeros(1, 4)), 2)
    assert [(layer.path, layer.op) for layer in reading.layers] == [
        ("0", "linear"),
        ("1", "gelu"),
        ("2", "linear"),
    ]


@pytest.mark.slow
def test_reference_nets_are_never_below_the_best_known_slope(shared) -> None:
    import json

    reference = json.loads((shared / "nets/lipschitz/reference.json").read_text())
    for name, values in reference.items():
        net, _ = load_net(shared / "nets/lipschitz" / name)
        width = 64 if name != "mnist_256_trained" else 784
        shapes = {"cnn_digits_trained": (1, 8, 8), "tiny_2-8-8-2_moons": (2,)}
        shape = shapes.get(name, (width,))
        dtype = next(net.parameters()).dtype
        upper = gain_upper(holdfast.capture(net, torch.zeros(1, *shape, dtype=dtype)), 2)
        product = values["product_of_spectral_norms"]
        assert values["best_lower"] <= upper
        assert upper <= product * (1 + 1e-6), name
