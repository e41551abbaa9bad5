"""Layers: graphs and hooks call the same call of a module by the same name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import holdfast
from holdfast.errors import InvalidInput
from holdfast.graph.capture import capture
from holdfast.graph.layers import Calls, layer_results, module_path
from holdfast.graph.walk import hidden_states


def hooked(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return what every call of a module returns, by the name that hooks give it."""
    results: dict[str, Tensor] = {}

    def note(layer: str, result: object) -> None:
        assert isinstance(result, Tensor) and layer not in results
        results[layer] = result.clone()

    with layer_results(model, note), torch.no_grad():
        model(x)
    assert not any(module._forward_hooks for module in model.modules())
    return results


def check_agreement(model: nn.Module, x: Tensor) -> None:
    """Check that graph and hooks know the same layers, and that these have the same values."""
    graph = capture(model, x[:1])
    seen = hooked(model, x)
    assert set(seen) - {""} == set(graph.layers)
    values = hidden_states(graph, x, list(graph.layers))[1]
    for layer, value in values.items():
        torch.testing.assert_close(value, seen[layer], msg=layer)


class Bottleneck(nn.Module):
    """Like a block of torchvision's ResNet: one ReLU for all places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(inner)) + x)


def test_both_calls_of_the_relu_of_a_residual_block_are_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Bottleneck(), nn.Flatten(), nn.Linear(48, 2)).eval()
    x = torch.randn(6, 3, 4, 4)
    check_agreement(model, x)
    knowledge = holdfast.knowledge(model, (x, torch.arange(6) % 2))
    assert list(knowledge.layers) == list(capture(model, x[:1]).leaf_layers)
    assert {"0.relu", "0.relu@1"} <= set(knowledge.layers)


def test_a_call_that_leaves_no_operation_is_counted() -> None:
    class Quiet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 4)
            self.flat = nn.Flatten()

        def forward(self, x: Tensor) -> Tensor:
            return self.flat(self.fc(self.flat(self.drop(x))).reshape(-1, 2, 2))

    model = Quiet().eval()
    graph = capture(model, torch.zeros(1, 4))
    assert "flat@1" in graph.layers and "flat" not in graph.layers
    x = torch.randn(3, 4)
    assert torch.equal(hidden_states(graph, x, ["flat@1"])[1]["flat@1"], hooked(model, x)["flat@1"])


class Program(nn.Module):
    """Calls modules in a given order, through whichever of their names."""

    def __init__(self, order: list[str]) -> None:
        super().__init__()
        self.order = order
        self.act = nn.Tanh()
        self.fc = nn.Linear(3, 3)
        self.block = nn.Sequential(self.fc, self.act, nn.Linear(3, 3))
        self.outer = nn.Sequential(self.block, nn.Tanh())
        self.outer.body = self.block  # type: ignore[assignment]
        self.same = self.act

    def forward(self, x: Tensor) -> Tensor:
        for path in self.order:
            x = self.get_submodule(path)(x)
        return x


PATHS = ["act", "fc", "block", "outer", "same", "block.0", "outer.body.1", "outer.body", "outer.1"]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(PATHS), min_size=1, max_size=6))
def test_the_names_agree_for_modules_with_several_names(order: list[str]) -> None:
    torch.manual_seed(0)
    check_agreement(Program(order).eval(), torch.randn(4, 3))


def test_names_count_the_calls_of_each_module() -> None:
    calls = Calls()
    assert [calls.name(path) for path in ("a", "b", "a", "a")] == ["a", "b", "a@1", "a@2"]
    assert calls.name("b", unseen=2) == "b@3"
    model = nn.ModuleDict({"a": nn.ReLU(), "a@1": nn.ReLU()})
    found = [module_path(layer, model) for layer in ("a", "a@1", "a@2", "a@1@1", "c", "c@1", "")]
    assert found == ["a", "a@1", "a", "a@1", None, None, None]


def test_further_calls_can_be_asked_for() -> None:
    torch.manual_seed(0)
    model = Program(["fc", "act", "fc", "act"]).eval()
    data = (torch.randn(8, 3), torch.arange(8) % 3)
    every = holdfast.knowledge(model, data)
    one = holdfast.knowledge(model, data, ["act@1"])
    assert one.layers == ("act@1",)
    assert one.scale["act@1"] == every.scale["act@1"] != every.scale["act"]
    with pytest.raises(InvalidInput, match=r"act@7.*a module that runs"):
        holdfast.knowledge(model, data, ["act@7"])


def test_a_layer_must_run_on_every_batch() -> None:
    class Now(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(x) if len(x) == 1 else x

    data = (torch.randn(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="'act' does not run"):
        holdfast.knowledge(Now().eval(), data, ["act"])
