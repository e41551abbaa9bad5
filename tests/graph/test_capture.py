"""Capture: what is taken, what is folded, and what is refused with which words."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from tests.nets import MaxMin, Residual
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import holdfast
from holdfast.brackets.gain import gain_upper
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import captured, check_unchanged
from holdfast.graph.walk import hidden_states, run


def module_of(function) -> nn.Module:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Wrapped().eval()


def ops(graph: holdfast.Graph) -> list[str]:
    return [node.title for node in graph.nodes if node.op != "input"]


def test_graph_executes_like_the_model_at_any_batch_size() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, 5),
    ).eval()
    graph = holdfast.capture(model, torch.randn(1, 3, 8, 8))
    assert ops(graph) == ["conv", "batch_norm", "relu", "reshape", "linear"]
    for rows in (1, 2, 7):
        x = torch.randn(rows, 3, 8, 8)
        torch.testing.assert_close(run(graph, x), model(x))


def test_layers_are_module_paths_in_execution_order() -> None:
    relu = nn.ReLU()
    model = nn.Sequential()
    model.add_module("first", nn.Linear(4, 4))
    model.add_module("act", relu)
    model.add_module("block", Residual(nn.Linear(4, 4), relu))
    graph = holdfast.capture(model, torch.zeros(1, 4))
    assert graph.leaf_layers == ("first", "act", "block.body.0", "act@1", "block")
    x = torch.randn(3, 4)
    output, states = hidden_states(graph, x, ["first", "block"])
    torch.testing.assert_close(states["first"], model.first(x))
    torch.testing.assert_close(output, model(x))
    torch.testing.assert_close(states["block"], output)


def test_a_module_used_twice_gives_two_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.shared(x))

    graph = holdfast.capture(Twice().eval(), torch.zeros(1, 3))
    assert ops(graph) == ["linear", "linear"]
    assert graph.leaf_layers == ("shared", "shared@1")


def test_what_the_input_does_not_reach_becomes_a_constant() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 4)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        parametrizations.weight_norm(nn.Linear(4, 2)),
    ).eval()
    graph = holdfast.capture(model, torch.zeros(1, 4))
    assert ops(graph) == ["linear"] * 3
    weight = graph.nodes[2].params["weight"]
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), atol=1e-5, rtol=0)


def test_positions_and_tokens_that_follow_the_batch_are_constants() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 1, 3))
            self.position = nn.Parameter(torch.randn(1, 5, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
            return x + self.position

    graph = holdfast.capture(Positions().eval(), torch.zeros(1, 4, 3))
    assert ops(graph) == ["constant", "cat", "shift"]


def test_maxmin_becomes_one_comparison() -> None:
    graph = holdfast.capture(MaxMin().eval(), torch.zeros(1, 6))
    assert ops(graph).count("compare") == 1
    x = torch.randn(4, 6)
    torch.testing.assert_close(run(graph, x), MaxMin()(x))


def test_keyword_inputs_and_a_fixed_mask() -> None:
    class Masked(nn.Module):
        def forward(self, values: Tensor, mask: Tensor) -> Tensor:
            return values * mask

    example = {"values": torch.zeros(2, 3), "mask": torch.ones(2, 3, dtype=torch.int64)}
    graph = holdfast.capture(Masked().eval(), example)
    assert graph.perturbed_input.name == "values"
    assert [node.perturbed for node in graph.inputs] == [True, False]


def test_token_models_run_but_have_no_distance() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2)).eval()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    graph = holdfast.capture(model, ids)
    torch.testing.assert_close(run(graph, ids), model(ids))
    with pytest.raises(Unsupported, match="no floating-point input"):
        _ = graph.perturbed_input


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), ["1: Dropout: training mode", "eval()"]),
        (nn.Sequential(nn.BatchNorm1d(4)), ["0: BatchNorm1d: training mode"]),
        (module_of(lambda x: F.dropout(x, 0.5, training=True)), ["draws random numbers"]),
        (module_of(lambda x: x * torch.rand(4)), ["draws random numbers"]),
        (module_of(lambda x: x if x.sum() > 0 else -x), ["control flow", "torch.where"]),
        (module_of(lambda x: x - x.mean(0)), ["a row alone differs"]),
        (module_of(lambda x: x / x.shape[0]), ["replay"]),
        (module_of(lambda x: F.batch_norm(x, None, None, training=True)), ["of the batch"]),
        (module_of(lambda x: {"a": x, "b": 2 * x}), ["2 results", "logits alone"]),
        (module_of(lambda x: torch.ones(x.shape[0], 2)), ["does not depend on the input"]),
        (module_of(lambda x: x.reshape(3, 4) * 2), ["batch"]),
    ],
)
def test_refusals_say_what_and_how_to_go_on(model: nn.Module, words: list[str]) -> None:
    with pytest.raises(Unsupported) as refusal:
        holdfast.capture(model, torch.randn(2, 4))
    for word in words:
        assert word in str(refusal.value)


def test_a_generator_in_the_forward_pass_is_refused() -> None:
    order = torch.Generator().manual_seed(0)
    model = module_of(lambda x: x[:, torch.randperm(3, generator=order)])
    with pytest.raises(Unsupported, match="an object that is no tensor"):
        holdfast.capture(model, torch.zeros(1, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.arange(x.shape[0]).float()[1],
        lambda x: x + torch.linalg.inv(torch.ones(2, 2)).sum(),
    ],
    ids=["second row", "singular"],
)
def test_a_constant_that_cannot_be_computed_is_named(function) -> None:
    with pytest.raises(Unsupported, match=r"aten\..*: fails for one row: .*any number of rows"):
        holdfast.capture(module_of(function), torch.zeros(1, 3))


def test_every_obstacle_is_named_at_once() -> None:
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.2))
    with pytest.raises(Unsupported) as refusal:
        holdfast.capture(model, torch.zeros(2, 2))
    assert [obstacle.path for obstacle in refusal.value.obstacles] == ["0", "2", "3"]
    assert model.training, "the user's model must stay as it was"


def test_state_that_the_forward_pass_writes_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return x * 2

    class Attribute(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * 2

    for model, word in ((Counter(), "seen: state"), (Attribute(), "changes an attribute")):
        with pytest.raises(Unsupported, match=word):
            holdfast.capture(model.eval(), torch.zeros(1, 3))


def test_weights_must_be_finite_and_of_full_precision() -> None:
    broken = nn.Linear(2, 2)
    broken.weight.data[0, 0] = float("nan")
    with pytest.raises(Unsupported, match="weight: weights: holds NaN"):
        holdfast.capture(broken, torch.zeros(1, 2))
    with pytest.raises(Unsupported, match="stored as bfloat16"):
        holdfast.capture(nn.Linear(2, 2).bfloat16(), torch.zeros(1, 2))
    negative = nn.BatchNorm1d(2).eval()
    negative.running_var[0] = -1.0
    with pytest.raises(Unsupported, match="variance below zero"):
        holdfast.capture(negative, torch.zeros(1, 2))


def test_weights_that_change_after_capture_are_noticed() -> None:
    model = nn.Linear(2, 2)
    graph = holdfast.capture(model, torch.zeros(1, 2))
    check_unchanged(graph, model)
    before = run(graph, torch.ones(1, 2))
    model.weight.data[0, 0] += 1e-7
    with pytest.raises(Unsupported, match="changed after"):
        check_unchanged(graph, model)
    assert torch.equal(before, run(graph, torch.ones(1, 2))), "the graph keeps its own weights"


def test_dividing_by_a_power_of_two_whose_inverse_is_no_float32() -> None:
    scale = torch.full((3,), 2.0**-140)
    model, x = module_of(lambda x: x / scale), torch.tensor([[2.0**-140, -(2.0**-145), 2.0**-30]])
    graph = holdfast.capture(model, x)
    assert ops(graph) == ["divide"]
    assert torch.equal(run(graph, x), x / scale)
    assert gain_upper(graph, 2.0) >= 2.0**140


def test_dividing_by_a_constant_tensor() -> None:
    scale = torch.tensor([2.0, 3.0, 4.0])
    graph = holdfast.capture(module_of(lambda x: x / scale), torch.zeros(1, 3))
    assert ops(graph) == ["divide"]
    x = torch.randn(4, 3)
    torch.testing.assert_close(run(graph, x), x / scale)


def test_hooks_are_seen() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda module, args, output: output * 100)
    graph = holdfast.capture(model.eval(), torch.zeros(1, 2))
    assert ops(graph) == ["linear", "scale"]


def test_unknown_ops_are_kept_with_their_path_and_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erfinv(x.clamp(-0.5, 0.5))

    model = nn.Sequential()
    model.add_module("odd", Odd())
    graph = holdfast.capture(model.eval(), torch.zeros(1, 2))
    x = torch.rand(3, 2)
    torch.testing.assert_close(run(graph, x), model(x))
    node = graph.nodes[-1]
    assert (node.title, node.path) == ("aten.erfinv.default", "odd")
    assert "test_capture.py" in node.source


def test_cut_gives_two_parts_that_compose() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Residual(nn.Linear(4, 4)), nn.Linear(4, 2))
    graph = holdfast.capture(model.eval(), torch.zeros(1, 3))
    x = torch.randn(5, 3)
    for layer in graph.leaf_layers:
        if layer == "2.body.0":
            with pytest.raises(Unsupported, match="leads round it"):
                graph.cut(layer)
            continue
        front, back = graph.cut(layer)
        torch.testing.assert_close(run(back, run(front, x)), run(graph, x))
    with pytest.raises(InvalidInput, match="did you mean '2'"):
        graph.cut("22")


@pytest.mark.parametrize(
    "example", [torch.zeros(0, 3), torch.tensor(1.0), ["one"], {"x": torch.zeros(0)}]
)
def test_examples_that_are_no_batch(example) -> None:
    with pytest.raises(InvalidInput, match="at least one row"):
        holdfast.capture(nn.Linear(3, 2), example)


def test_rows_must_agree_across_keyword_inputs() -> None:
    with pytest.raises(InvalidInput, match="same number of rows"):
        holdfast.capture(nn.Linear(3, 2), {"a": torch.zeros(1, 3), "b": torch.zeros(2, 3)})


def test_attention_that_moves_the_batch_is_executed_and_has_bounds_on_balls() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x).mean(1))

    torch.manual_seed(0)
    model = Encoder().eval()
    graph = holdfast.capture(model, torch.randn(2, 5, 8))
    for rows in (1, 2, 7):
        x = torch.randn(rows, 5, 8)
        torch.testing.assert_close(run(graph, x), model(x))
    states = hidden_states(graph, torch.randn(4, 5, 8), graph.leaf_layers)[1]
    assert {len(state) for state in states.values()} == {4}
    with pytest.raises(Unsupported, match=r"layer\.self_attn: matmul: .*method='local'"):
        gain_upper(graph, 2.0)
    x = torch.randn(2, 5, 8)
    rows = holdfast.certify(model, x, model(x).argmax(1), method="local")
    assert bool((rows.radius > 0).all())


def test_weights_made_in_inference_mode_are_refused_with_the_way_on() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with pytest.raises(holdfast.Unsupported, match="inference"):
        holdfast.capture(model, torch.zeros(1, 3))


@pytest.fixture
def flushing() -> Iterator[None]:
    """Flush subnormal numbers to zero for the length of a test."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    yield
    torch.set_flush_denormal(False)


FLUSHED = r"refused: .*subnormal numbers: .* call torch.set_flush_denormal\(False\)"


@pytest.mark.usefixtures("flushing")
def test_flushed_subnormal_numbers_are_refused() -> None:
    model, x = nn.Linear(2, 2).eval(), torch.ones(1, 2)
    with pytest.raises(Unsupported, match="capture " + FLUSHED):
        holdfast.capture(model, x)
    torch.set_flush_denormal(False)
    certificates = holdfast.certify(model, x, model(x).argmax(1))
    torch.set_flush_denormal(True)
    with pytest.raises(Unsupported, match="a bound of change " + FLUSHED):
        certificates.output_change(1.0)


@pytest.mark.usefixtures("flushing")
def test_a_setting_that_changes_meanwhile_is_refused() -> None:
    torch.set_flush_denormal(False)
    with pytest.raises(Unsupported, match="certification " + FLUSHED):  # noqa: SIM117
        with captured(nn.Linear(2, 2).eval(), torch.ones(1, 2)):
            torch.set_flush_denormal(True)


@pytest.mark.slow
def test_threads_that_still_flush_are_refused() -> None:
    script = """if True:
        import torch
        from holdfast.rounding import check_subnormals
        torch.set_num_threads(2)
        torch.set_flush_denormal(True)
        torch.ones(1_000_000) * 2.0  # starts the other thread
        torch.set_flush_denormal(False)
        check_subnormals("capture")
    """
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "capture refused: (1) (model): subnormal numbers" in ended.stderr


class Scaled(nn.Module):
    """A float32 layer whose outputs are multiplied by a buffer, of float64 until converted."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale


@pytest.mark.parametrize("shape", [(), (3,)])
def test_mixed_types_are_told_with_the_way_out(shape: tuple[int, ...]) -> None:
    model = Scaled(torch.full(shape, 0.5, dtype=torch.float64)).eval()
    with pytest.raises(Unsupported, match=r"mixes float32 and float64 .*call model\.float\(\)"):
        holdfast.capture(model, torch.zeros(2, 4))
    holdfast.capture(model.float(), torch.zeros(2, 4))
