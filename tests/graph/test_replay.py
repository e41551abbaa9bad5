"""Replay: nothing hides behind a large constant, and honest models pass at any scale."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.bounds.zoo import NETS, graph_of
from torch import Tensor, nn

import holdfast
from holdfast.errors import Unsupported
from holdfast.graph.capture import capture
from holdfast.graph.ir import Graph
from holdfast.graph.noise import rounding_spread
from holdfast.graph.replay import BATCH_SIZES, check_replay
from holdfast.graph.walk import CONCRETE, hidden_states, lift, read, run


class Apply(nn.Module):
    """One function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Masked(nn.Module):
    """Three classes, the third one perhaps masked out, behind a part that may lie."""

    def __init__(self, part, mask: float) -> None:
        super().__init__()
        self.part = part
        self.register_buffer("mask", torch.tensor([0.0, 0.0, mask]))
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.part(x)) + self.mask


def coin(x: Tensor) -> Tensor:
    return x * random.choice([1.0, -3.0])


_own = random.Random(0)

LIES = {
    "row index": lambda x: x + torch.arange(x.shape[0])[:, None] * -1e-3,
    "mean of the batch": lambda x: x - 1e-3 * x.mean(0),
    "standard generator": coin,
    "numpy": lambda x: x * float(np.random.choice([1.0, 1.001])),
    "generator of its own": lambda x: x * _own.choice([1.0, 1.001]),
    "exporting": lambda x: x * (1.001 if torch.compiler.is_exporting() else 1.0),
    "compiling": lambda x: x * (1.001 if torch.compiler.is_compiling() else 1.0),
    "one row": lambda x: x * (1.001 if x.shape[0] == 1 else 1.0),
}


@pytest.mark.parametrize(
    ("lie", "mask"), [*((lie, -1e9) for lie in LIES), ("row index", torch.finfo(torch.float32).min)]
)
def test_a_masked_class_hides_nothing(lie: str, mask: float) -> None:
    torch.manual_seed(0)
    with pytest.raises(Unsupported, match=r"replay|chance"):
        capture(Masked(LIES[lie], mask).eval(), torch.randn(1, 6))


def test_chance_is_noticed_at_once_and_wound_back() -> None:
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1]
    with pytest.raises(Unsupported, match="draws random numbers from random and torch and numpy"):
        check_replay(*_pair(lambda x: x * (1 + 0 * (random.random() + np.random.rand()))))
    now = random.getstate(), torch.get_rng_state(), np.random.get_state()[1]
    assert all(np.array_equal(a, b) for a, b in zip(states[1:], now[1:], strict=True))
    assert states[0] == now[0]


@pytest.mark.parametrize(
    "generator", [random.Random(0), np.random.default_rng(0), torch.Generator()], ids=type
)
def test_a_generator_that_a_module_carries_is_noticed(generator) -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = generator

        def forward(self, x: Tensor) -> Tensor:
            if torch.compiler.is_exporting():
                return x * 2
            if isinstance(generator, torch.Generator):
                return x * 2 + 0 * torch.rand(1, generator=generator)
            return x * (2 if self.generator.random() < 1 else 3)

    with pytest.raises(Unsupported, match="changes an attribute"):
        capture(Rare().eval(), torch.zeros(1, 2))


def _pair(function) -> tuple[Graph, nn.Module, Tensor, tuple[Tensor]]:
    """Return a graph of the identity, and a model that also draws."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            return function(x)

    example = torch.zeros(1, 2)
    return capture(nn.Identity(), example), Model().eval(), example, (example,)


def altered(graph: Graph, place: int, name: str, entry: int, factor: float) -> Graph:
    """Return the graph with one entry of one constant multiplied."""
    value = graph.nodes[place].params[name].clone()
    value.view(-1)[entry] *= factor
    nodes = list(graph.nodes)
    params = {**nodes[place].params, name: value}
    nodes[place] = dataclasses.replace(nodes[place], params=params)
    return dataclasses.replace(graph, nodes=tuple(nodes))


ALTERED = ["tanh", "residual", "conv", "sums", "maxmin", "averages"]


@pytest.mark.parametrize("name", ALTERED)
def test_one_wrong_weight_anywhere_is_seen(name: str) -> None:
    torch.manual_seed(0)
    model, example, graph = NETS[name]().eval(), torch.zeros(1, 6), graph_of(name)
    weights = [
        (place, key, value.numel())
        for place, node in enumerate(graph.nodes)
        for key, value in node.params.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    assert weights
    for place, key, count in weights:
        for entry in {0, count // 2, count - 1}:
            wrong = altered(graph, place, key, entry, 1.003)
            with pytest.raises(Unsupported, match="differs from"):
                check_replay(wrong, model, example, (example,))


def test_a_part_that_the_output_does_not_show_is_compared_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    model[0].bias.data -= 1e3  # every unit is dead
    example = torch.randn(1, 4)
    graph = capture(model, example)
    wrong = altered(graph, 1, "weight", 0, 1.01)
    assert torch.equal(run(wrong, example), run(graph, example))
    model[0].bias.data += 999.0
    graph = altered(capture(model, example), 1, "bias", 3, 1.01)
    with pytest.raises(Unsupported, match=r"\(1\) 0: replay: .* what the module returns"):
        check_replay(graph, model, example, (example,))


class Attention(nn.Module):
    """One head, with entries that it must not look at."""

    def __init__(self, mask: float) -> None:
        super().__init__()
        self.mask = mask
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        later = torch.full((3, 3), self.mask, dtype=x.dtype).triu(1)
        scores = self.query(x) @ self.key(x).transpose(1, 2) + later
        return self.out((scores.softmax(-1) @ self.value(x)).flatten(1))


class FloatMask(nn.Module):
    """Rows of marks as a second input: 1 - mask is exactly 0, whatever it is multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        weights = (values.mean(2) + (1.0 - mask) * -1e9).softmax(-1)
        return self.out((weights[:, None] @ values)[:, 0])


def _scaled(factor: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3))
    for value in model.parameters():
        value.data.mul_(factor)
    return model


def _cancelling() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 3))
    model[0].bias.data += 2.0**20
    model[2].weight.data -= model[2].weight.data.mean(1, keepdim=True)
    return model


def _deep() -> nn.Module:
    layers = [part for _ in range(40) for part in (nn.Linear(32, 32), nn.ReLU())]
    model = nn.Sequential(nn.Linear(4, 32), *layers, nn.Linear(32, 3))
    for value in model.parameters():
        value.data.mul_(2.5)
    return model


HONEST = {
    "scale 1e-18": lambda: _scaled(1e-18),
    "scale 1e15": lambda: _scaled(1e15),
    "cancelling": _cancelling,
    "deep": _deep,
    "wide": lambda: nn.Sequential(nn.Linear(4, 4000), nn.ReLU(), nn.Linear(4000, 3)),
    "masked class": lambda: nn.Sequential(nn.Linear(4, 6), Masked(nn.Tanh(), -1e9)),
    "constant rows": lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, torch.float32) for name in HONEST] + [("cancelling", torch.float64)],
)
def test_honest_models_pass_at_any_scale(name: str, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    example = torch.ones(1, 4) if name == "constant rows" else torch.randn(1, 4)
    capture(HONEST[name]().to(kind).eval(), example.to(kind))


@pytest.mark.parametrize("mask", [-1e4, -1e9, -math.inf])
def test_masks_inside_a_softmax_pass_and_make_nobody_blind(mask: float) -> None:
    torch.manual_seed(0)
    model, example = Attention(mask).eval(), torch.randn(1, 3, 4)
    graph = capture(model, example)
    for place, node in enumerate(graph.nodes):
        if node.op == "linear":
            with pytest.raises(Unsupported, match="differs from"):
                wrong = altered(graph, place, "weight", 5, 1.003)
                check_replay(wrong, model, example, (example,))


def test_marks_in_floating_point_make_nobody_blind() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    example = {"values": torch.randn(1, 3, 4), "mask": mask}
    model = FloatMask().eval()
    graph = capture(model, example)
    place = next(i for i, node in enumerate(graph.nodes) if node.op == "linear")
    with pytest.raises(Unsupported, match="differs from"):
        wrong = altered(graph, place, "weight", 5, 1.003)
        check_replay(wrong, model, example, tuple(example.values()))


@pytest.mark.parametrize("name", ALTERED)
def test_the_spread_covers_the_rounding_that_float32_does(name: str) -> None:
    graph = graph_of(name)
    for seed in range(5):
        torch.manual_seed(seed)
        rows = torch.randn(5, 6)
        with torch.no_grad():
            single = read(graph, CONCRETE, lift(graph, rows))
            double = read(graph.double(), CONCRETE, lift(graph.double(), rows))
            spread = rounding_spread(graph, [rows], single)
        for node, value in single.items():
            room = 32.0 * spread[node] + 32.0 * torch.finfo(torch.float32).eps * value.abs()
            assert bool(((value.double() - double[node]).abs() <= room).all()), node


def test_a_large_entry_spreads_itself_alone() -> None:
    torch.manual_seed(0)
    graph = capture(Masked(nn.Tanh(), -1e9).eval(), torch.zeros(1, 6))
    rows = torch.randn(5, 6)
    env = read(graph, CONCRETE, lift(graph, rows))
    spread = rounding_spread(graph, [rows], env)[graph.output]
    assert spread[:, 2].max() <= 64.0
    assert 0.0 < spread[:, :2].max() < 1e-5


def test_what_a_batch_norm_adds_spreads_beside_short_numbers() -> None:
    norm = nn.BatchNorm1d(6).eval()
    norm.running_mean.fill_(0.7)
    norm.bias.data.fill_(0.7001)  # nearly cancels
    graph = capture(norm, torch.zeros(1, 6))
    rows = torch.zeros(5, 6)
    env = read(graph, CONCRETE, lift(graph, rows))
    spread = rounding_spread(graph, [rows], env)[graph.output]
    assert bool((32.0 * spread > 2.0**-23).all())


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x * 2 if x.shape[0] <= 7 else x * 3, "rows <= 7"),
        (lambda x: x * 2 if x.shape[0] % 2 else x * 3, r"\(rows % 2\) != 0"),
        (lambda x: x * 2 if x.shape[0] != 23 else x * 3, "rows != 23"),
        (lambda x: x * 2 if x.numel() > 4000 else x * 3, r"4\*rows <= 4000"),
    ],
)
def test_what_the_number_of_rows_decides_is_refused(function, words: str) -> None:
    with pytest.raises(Unsupported, match=f"depends on the number of rows: exported for {words}"):
        capture(Apply(function).eval(), torch.randn(1, 4))


def test_the_guarantee_says_which_numbers_of_rows_were_tried() -> None:
    seen = set()

    class Counting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_exporting():
                seen.add(len(x))
            return super().forward(x)

    rows, labels = torch.randn(3, 4), torch.zeros(3, dtype=torch.int64)
    certificates = holdfast.certify(Counting(4, 2).eval(), rows, labels)
    assert seen >= set(BATCH_SIZES)
    assert ", ".join(map(str, BATCH_SIZES)) in certificates.guarantee


def test_tokens_of_one_row_are_told_apart() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.fc = nn.Embedding(9, 4), nn.Linear(12, 2)

        def forward(self, ids: Tensor) -> Tensor:
            states = self.words(ids).flatten(1)
            return self.fc(states - states.mean(0))

    with pytest.raises(Unsupported, match="a row alone differs"):
        capture(Mixed().eval(), torch.tensor([[1, 2, 3]]))


class Several(nn.Module):
    """Modules whose last operation is not what they return."""

    class First(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.tanh(), x.sin()

    class Early(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            early = x.sigmoid()
            self.late = early * 3
            return early

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.late = x * 3
            return torch.ones(x.shape[0], 1)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.early, self.constant = self.First(), self.Early(), self.Constant()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x)
        return a + b + self.early(x) + self.early.late + self.constant(x) + self.constant.late


def test_a_layer_is_what_its_module_returns() -> None:
    class Forgetful(Several):
        def forward(self, x: Tensor) -> Tensor:
            result = super().forward(x)
            del self.early.late, self.constant.late
            return result

    graph = capture(Forgetful().eval(), torch.randn(1, 3))
    x = torch.randn(4, 3)
    values = hidden_states(graph, x, list(graph.layers))[1]
    assert set(values) == {"first", "early"}
    torch.testing.assert_close(values["first"], x.tanh())
    torch.testing.assert_close(values["early"], F.sigmoid(x))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x / 0 * 0, "no output is a finite number"),
        (lambda x: x[:, :0], "no entries"),
    ],
)
def test_models_without_any_or_finite_outputs_are_refused(function, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        capture(Apply(function).eval(), torch.randn(1, 6))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "function", [nn.GELU(), nn.GELU(approximate="tanh"), nn.Tanhshrink()], ids=str
)
def test_what_cancels_inside_a_function_is_no_difference(function, kind: torch.dtype) -> None:
    """Where 1 + erf(x) is tiny it rounds as 1 does, by steps that depend on the last bit of x."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 1024), function, nn.Linear(1024, 256)).to(kind).eval()
    with torch.no_grad():
        if isinstance(function, nn.Tanhshrink):
            net[0].weight *= 0.003
            net[0].bias.zero_()
        else:
            net[0].bias -= 4.0
    assert capture(net, torch.randn(1, 256, dtype=kind)).layers
