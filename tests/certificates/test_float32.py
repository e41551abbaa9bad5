"""Certificates of the executed network: no float32 execution in the ball contradicts them."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.aligned import attack_executed
from tests.bounds.zoo import NETS, graph_of
from tests.machine import Machine, distance_within, exact
from tests.nets import Residual
from torch import Tensor, nn

import holdfast
from holdfast.certificates.float32 import execution
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.running import evaluate
from holdfast.graph.walk import run

NORMS = (1.0, 2.0, math.inf)


def scaled_net(seed: int, scales: tuple[float, ...], bias: float) -> nn.Sequential:
    torch.manual_seed(seed)
    act = (nn.ReLU(), nn.LeakyReLU(0.1), nn.Hardtanh(-0.3, 1.7))[seed % 3]
    body = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    net = nn.Sequential(nn.Linear(4, 5), act, Residual(*body), nn.Linear(5, 3))
    for layer, scale in zip((net[0], body[0], body[2], net[3]), scales, strict=True):
        layer.weight.data *= scale
        layer.bias.data *= bias
    return net.eval()


def near(x: Tensor, size: float, norm: float, generator: torch.Generator) -> Tensor:
    """Return a float32 point at about a distance."""
    step = torch.randn(x.shape, generator=generator)
    return x + step / torch.linalg.vector_norm(step, ord=norm) * size


SCALES = ((1, 1, 1, 1), (1e-42, 1e30, 1, 1), (1e30, 1e-30, 1e-8, 1), (1e-20, 1e-21, 1, 1e-38))


@settings(max_examples=6)
@given(
    st.integers(0, 2**31),
    st.sampled_from(SCALES),
    st.sampled_from([1.0, 2.0**20, 0.0]),
    st.sampled_from([0.0, 1e-4, 0.5]),
    st.sampled_from(NORMS),
)
def test_every_execution_lies_within_the_error(seed, scales, bias, radius, norm) -> None:
    net = scaled_net(seed, scales, bias)
    x = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))
    bound = execution(
        holdfast.capture(net, x), x, torch.tensor([radius], dtype=torch.float64), norm
    )
    assert float(bound.limit) <= radius
    assert float(bound.limit) == radius or max(scales) > 1
    reach = Fraction(bound.growth) * Fraction(float(bound.limit))
    generator = torch.Generator().manual_seed(seed)
    for fused, flush in ((False, False), (False, True), (True, False), (True, True)):
        point = near(x, float(bound.limit) * 0.999, norm, generator)
        if not distance_within(x[0].tolist(), point[0].tolist(), float(bound.limit), norm):
            point = x
        values = [Fraction(value) for value in point[0].tolist()]
        got = Machine(seed, fused, flush).run(net, values)
        for a, b, error in zip(got, exact(net, values), bound.error[0].tolist(), strict=True):
            assert abs(a - b) <= Fraction(error) + reach


_UNROUNDED = {"layer norm", "group norm", "rms norm", "lengths"} | {
    "attention",
    "exponentials",
    "products",
    "roots",
    "tangents",
}
"""Nets with an operation whose rounding in float32 is not known."""


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("name", sorted(set(NETS) - _UNROUNDED))
def test_what_torch_executes_lies_within_the_error(name: str, flush: bool) -> None:
    graph = graph_of(name)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30, 6, generator=generator)
    size = 10.0 ** torch.linspace(-6, 1, 30)[:, None]
    points = x + size * torch.randn(30, 6, generator=generator)
    for norm in NORMS:
        apart = torch.linalg.vector_norm(points.double() - x.double(), ord=norm, dim=1)
        radius = apart * (1 + 1e-12)
        bound = execution(graph, x, radius, norm)
        assert bool((bound.limit == radius).all()) and bool(bound.in_range.all())
        truth = evaluate(graph, points)
        if flush and not torch.set_flush_denormal(True):
            pytest.skip("this processor does not flush")
        try:
            with torch.no_grad():
                got = run(graph, points)
        finally:
            torch.set_flush_denormal(False)
        room = bound.error + (bound.growth * radius).reshape(-1, *[1] * (got.dim() - 1))
        gap = (got.double() - truth.value).abs()
        assert bool((gap <= room + truth.error).all())


# --- nets made so that the exact radius is too large for the executed network --------------------


def test_only_executed_certificates_hold_in_float32() -> None:
    found = [attack_executed(seed, 100) for seed in (6, 9)]
    assert sum(real for real, _, _ in found) > 10, "the nets must be hard for the exact radius"
    assert sum(executed for _, executed, _ in found) == 0
    assert sum(certified for _, _, certified in found) > 50


@pytest.mark.slow
def test_ten_thousand_attacked_certificates() -> None:
    found = [attack_executed(seed, 420, 8 + seed % 9) for seed in range(40)]
    assert sum(real for real, _, _ in found) > 1000
    assert sum(executed for _, executed, _ in found) == 0
    assert sum(certified for _, _, certified in found) >= 10_000


# --- what is claimed, and what is refused --------------------------------------------------------


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).eval()


def test_radii_do_not_depend_on_batch_or_order_or_threads() -> None:
    net, inputs = small_net(), torch.randn(40, 6)
    labels = net(inputs).argmax(1)

    def radii(rows: Tensor | slice) -> Tensor:
        return holdfast.certify(net, inputs[rows], labels[rows], semantics="float32").radius

    whole = radii(slice(None))
    order = torch.randperm(40)
    assert torch.equal(radii(order), whole[order])
    assert torch.equal(radii(slice(7, 8)), whole[7:8])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(radii(slice(None)), whole)
    finally:
        torch.set_num_threads(threads)


def test_the_guarantee_says_what_is_executed_and_survives_a_file(tmp_path) -> None:
    net, inputs = small_net(), torch.randn(5, 6)
    certificates = holdfast.certify(net, inputs, net(inputs).argmax(1), semantics="float32")
    for words in ("float32 input", "in any order", "TF32", "Winograd", "32 units"):
        assert words in certificates.guarantee
    certificates.save(tmp_path / "c.json")
    assert holdfast.Certificates.load(tmp_path / "c.json", claimed=True).semantics == "float32"


def test_values_near_the_end_of_float32_are_not_certified() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).eval()
    net[0].weight.data = torch.eye(2) * 1e30
    net[1].weight.data = torch.eye(2) * 1e-30
    inputs, labels = torch.tensor([[1.0, 0.0], [1e9, 0.0]]), torch.tensor([0, 0])
    exact_radius = holdfast.certify(net, inputs, labels)
    executed = holdfast.certify(net, inputs, labels, semantics="float32")
    assert exact_radius.reason == ("certified", "certified")
    assert executed.reason == ("certified", "may_overflow")
    assert float(executed.radius[1]) == 0.0
    zeros = nn.Linear(2, 2)
    zeros.weight.data.zero_()
    zeros.bias.data = torch.tensor([1.0, 0.0])
    radius = float(holdfast.certify(zeros.eval(), inputs, labels, semantics="float32").radius[0])
    assert 1e30 < radius < float(torch.finfo(torch.float32).max), "not beyond what can be read"


def test_every_reason_to_refuse_is_named_at_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).eval()
    net[0].bfloat16()
    net[1].double()
    inputs, labels = torch.zeros(1, 2), torch.tensor([0])
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(Unsupported) as refusal:
        holdfast.certify(net, inputs, labels, semantics="float32")
    text = str(refusal.value)
    for words in ("0.weight: weights: stored as bfloat16", "1.bias", "float64", "active on cpu"):
        assert words in text


def test_products_in_less_than_float32_are_refused() -> None:
    net, inputs, labels = small_net(), torch.zeros(1, 6), torch.tensor([0])
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        with pytest.raises(Unsupported, match=r"mkldnn\.matmul: products in bf16; set its fp32"):
            holdfast.certify(net, inputs, labels, semantics="float32")
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_quantised_modules_are_refused() -> None:
    layer = type("Linear", (nn.Linear,), {"__module__": "torch.ao.nn.quantized.modules.linear"})
    with pytest.raises(Unsupported, match="0: Linear: quantised"):
        holdfast.certify(
            nn.Sequential(layer(2, 2)), torch.zeros(1, 2), torch.tensor([0]), semantics="float32"
        )


def test_operations_without_a_bound_are_named_together() -> None:
    norms = nn.LayerNorm(4), nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.RMSNorm(4)
    net = nn.Sequential(*norms).eval()
    with pytest.raises(Unsupported) as refusal:
        holdfast.certify(net, torch.randn(1, 4), torch.tensor([0]), semantics="float32")
    found = [obstacle.op for obstacle in refusal.value.obstacles]
    assert found == ["layer_norm", "group_norm", "rms_norm"]


def test_rows_that_are_not_float32_are_refused() -> None:
    wanted = "inputs: got torch.float64, wanted float32 rows"
    with pytest.raises(InvalidInput, match=wanted):
        holdfast.certify(
            nn.ReLU(), torch.randn(1, 4).double(), torch.tensor([0]), semantics="float32"
        )


def test_a_variance_that_may_be_flushed_is_not_trusted() -> None:
    """Read as zero, it makes the executed factor infinite."""
    norm = nn.BatchNorm1d(2, eps=1e-39)
    norm.running_var = torch.full((2,), 1e-40)
    inputs, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    certificates = holdfast.certify(norm.eval(), inputs, labels, semantics="float32")
    assert certificates.reason == ("may_overflow",)


# --- how much the execution costs ----------------------------------------------------------------


def mnist_net(shared) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the 784-256-256-10 net of shared/nets and 30 test images."""
    onnx = pytest.importorskip("onnx")
    stored = onnx.load(shared / "nets" / "mnist_fc_256x2.onnx").graph.initializer
    arrays = {item.name: torch.tensor(onnx.numpy_helper.to_array(item)) for item in stored}
    sizes = (784, 256, 256, 10)
    layers: list[nn.Module] = []
    for place, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(fan_in, fan_out)
        layer.weight.data = arrays[f"layers.{2 * place}.weight"]
        layer.bias.data = arrays[f"layers.{2 * place}.bias"]
        layers += [layer, nn.ReLU()]
    with np.load(shared / "data" / "mnist.npz", allow_pickle=False) as data:
        inputs = torch.tensor(data["x_test"][:30]).reshape(-1, 784).float() / 255
        labels = torch.tensor(data["y_test"][:30]).long()
    return nn.Sequential(*layers[:-1]).eval(), inputs, labels


@pytest.mark.slow
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_executed_radii_are_nearly_the_exact_ones(shared, norm: float) -> None:
    net, inputs, labels = mnist_net(shared)
    real = holdfast.certify(net, inputs, labels, norm=norm)
    executed = holdfast.certify(net, inputs, labels, norm=norm, semantics="float32")
    certified = real.radius > 0
    share = executed.radius[certified] / real.radius[certified]
    assert bool((executed.radius <= real.radius).all())
    assert float(share.min()) >= 0.97
