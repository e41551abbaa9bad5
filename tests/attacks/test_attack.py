"""Attacks against closed forms, and what they promise: verified, measured, repeatable."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nets import Residual
from torch import nn

import holdfast
from holdfast.arguments import NORMS
from holdfast.attacks.attack import AttackOptions, attack_graph
from holdfast.attacks.geometry import distance_up
from holdfast.attacks.rows import Rows
from holdfast.attacks.search import search
from holdfast.errors import HoldfastWarning, InvalidInput, Unsupported
from holdfast.graph.capture import capture
from holdfast.sources.demo import demo_data, demo_model
from holdfast.types import dual

ONE_FAST = [math.inf, *(pytest.param(p, marks=pytest.mark.slow) for p in (1.0, 2.0))]


def linear(rows: list[list[float]]) -> nn.Linear:
    model = nn.Linear(len(rows[0]), len(rows), bias=False)
    model.weight.data = torch.tensor(rows)
    return model.eval()


def curved() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Linear(6, 16), nn.ReLU(), Residual(nn.Linear(16, 16), nn.GELU()), nn.Linear(16, 4)]
    return nn.Sequential(*body).eval()


def rows(model: nn.Module, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    return inputs, model(inputs).argmax(1)


def distances_of_linear(model: nn.Linear, x: torch.Tensor, norm: float) -> torch.Tensor:
    """Return the exact distance of each row to the boundary of its class."""
    with torch.no_grad():
        weight, bias = model.weight.double(), model.bias.double()
        logits = x.double() @ weight.T + bias
    top = logits.argmax(1)
    gaps = logits.gather(1, top[:, None]) - logits
    slopes = torch.linalg.vector_norm(weight[top][:, None] - weight, ord=dual(norm), dim=2)
    return (gaps / slopes).scatter(1, top[:, None], math.inf).amin(1)


def nearest(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, norm: float) -> torch.Tensor:
    rows = Rows.begin(model, (x, labels), norm)
    search(rows)
    return rows.distance


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 6))
def test_on_a_linear_model_the_nearest_attack_is_found(norm, seed, classes):
    torch.manual_seed(seed)
    model, x = nn.Linear(8, classes).eval(), torch.randn(40, 8)
    labels = model(x).argmax(1)
    distance = nearest(model, x, labels, norm)
    true = distances_of_linear(model, x, norm)
    assert bool((distance <= true * 1.001 + 1e-4).all())
    assert bool((distance >= true - 1e-5).all())


@pytest.mark.parametrize("norm", ONE_FAST)
def test_every_attack_is_run_and_measured(norm):
    model = curved()
    x, labels = rows(model)
    attacks = holdfast.attack(model, x, labels, norm=norm)
    assert set(attacks.reason) == {"found"}
    answers = model(attacks.adversarial).argmax(1)
    assert torch.equal(answers, attacks.predicted) and not bool((answers == labels).any())
    measured = distance_up(attacks.adversarial, x, norm)
    assert torch.equal(measured, attacks.distance)
    assert attacks.adversarial.shape == x.shape and attacks.adversarial.dtype == x.dtype
    certificates = holdfast.certify(model, x, labels, norm=norm)
    assert bool((certificates.radius < attacks.distance).all())


@pytest.mark.slow
@pytest.mark.parametrize("norm", [2, math.inf])
def test_an_attack_comes_near_what_is_proved_where_that_is_tight(norm):
    """On the bounded demo net the l2 certificates are known to be tight to a few per cent."""
    inputs, labels = demo_data()
    inputs, labels, model = inputs[::9], labels[::9], demo_model("digits-bounded")
    attacks = holdfast.attack(model, inputs, labels, norm=norm)
    certified = holdfast.certify(model, inputs, labels, norm=norm)
    ratio = (attacks.distance / certified.radius)[certified.radius > 0]
    assert bool((ratio > 1).all())
    assert float(ratio.median()) < {2: 1.1, math.inf: 2.0}[norm]


def test_ten_times_the_effort_finds_little_more(monkeypatch):
    inputs, labels = demo_data()
    inputs, labels, model = inputs[::36], labels[::36], demo_model("digits-plain")
    usual = holdfast.attack(model, inputs, labels)
    monkeypatch.setattr("holdfast.attacks.search._RESTARTS", 12)
    monkeypatch.setattr("holdfast.attacks.search._RIVALS", 9)
    patient = holdfast.attack(model, inputs, labels)
    assert bool((patient.distance <= usual.distance).all())
    assert float(usual.distance.mean()) <= 1.02 * float(patient.distance.mean())


@pytest.mark.parametrize("norm", ONE_FAST)
def test_with_epsilon_only_what_is_that_near_counts(norm):
    model = curved()
    x, labels = rows(model)
    nearest = holdfast.attack(model, x, labels, norm=norm).distance
    epsilon = float(nearest.median())
    attacks = holdfast.attack(model, x, labels, norm=norm, epsilon=epsilon)
    assert bool((attacks.distance[attacks.success] <= epsilon).all())
    assert set(attacks.reason) == {"found", "none_found"}
    missed = (nearest <= 0.99 * epsilon) & ~attacks.success
    assert int(missed.sum()) <= 1
    assert torch.equal(attacks.adversarial[~attacks.success], x[~attacks.success])
    assert torch.equal(attacks.predicted[~attacks.success], labels[~attacks.success])


def test_a_distance_of_zero_leaves_only_what_is_wrong_already():
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    x, labels = torch.tensor([[3.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 0])
    attacks = holdfast.attack(model, x, labels, epsilon=0)
    assert attacks.reason == ("none_found", "misclassified")
    assert attacks.accuracy_under_attack(0) == 0.5


def test_the_same_call_gives_the_same_result_and_leaves_no_trace():
    model = curved()
    x, labels = rows(model)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = holdfast.attack(model, x, labels)
    torch.manual_seed(4)
    second = holdfast.attack(model, x, labels)
    assert torch.equal(first.distance, second.distance)
    assert torch.equal(first.adversarial, second.adversarial)
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value.grad is None for value in model.parameters())
    assert not x.requires_grad


def test_inputs_that_ask_for_gradients_and_no_grad_around_are_fine():
    model = curved()
    x, labels = rows(model, 4)
    with torch.no_grad():
        attacks = holdfast.attack(model, x.clone().requires_grad_(), labels)
    assert not attacks.adversarial.requires_grad and bool(attacks.success.all())


@pytest.mark.parametrize("norm", ONE_FAST)
def test_a_row_is_attacked_as_if_it_were_alone(norm, monkeypatch):
    """Other rows of the call, their order and the chunks change only how products are rounded."""
    model = curved().double()
    x, labels = (part[:12] for part in rows(curved()))
    x = x.double()
    whole = nearest(model, x, labels, norm)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("holdfast.attacks.search._CHUNK", 7)
    shuffled = nearest(model, x[order], labels[order], norm)
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-3, atol=0)
    alone = nearest(model, x[:1], labels[:1], norm)
    torch.testing.assert_close(alone, whole[:1], rtol=1e-3, atol=0)


def test_every_ending_has_its_reason():
    model = linear([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    x = torch.tensor([[3.0, 1.0], [1.0, 3.0], [math.nan, 0.0], [1.0, math.inf]])
    attacks = holdfast.attack(model, x, torch.tensor([0, 0, 0, 0]))
    assert attacks.reason == ("found", "misclassified", "not_finite", "not_finite")
    assert attacks.distance[1:].tolist() == [0.0, math.inf, math.inf]
    assert attacks.predicted.tolist()[1:] == [1, -1, -1]
    assert attacks.success.tolist() == [True, True, False, False]
    assert torch.equal(attacks.adversarial[1:].nan_to_num(), x[1:].nan_to_num())
    assert attacks.accuracy_under_attack(0) == 0.25


def test_logits_that_overflow_are_no_attack():
    model = linear([[1e38, 0.0], [0.0, 1e38]])
    x = torch.tensor([[1e30, 0.0], [2.0, 1.0]])
    attacks = holdfast.attack(model, x, torch.tensor([0, 0]))
    assert attacks.reason == ("not_finite", "found")


def test_nothing_is_found_where_there_is_nothing():
    model = nn.Linear(3, 2)
    model.weight.data.zero_()
    model.bias.data = torch.tensor([1.0, 0.0])
    attacks = holdfast.attack(model.eval(), torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))
    assert set(attacks.reason) == {"none_found"}
    assert attacks.accuracy_under_attack(1e9) == 1.0


class Steps(nn.Module):
    """Its gradient is 0 nearly everywhere, and half of the space is the other class."""

    def forward(self, x):
        high = torch.nn.functional.hardtanh(1e9 * (x[:, :1] + 1e-3), 0.0, 1.0)
        return torch.cat([high, 1.0 - high], dim=1)


def test_where_gradients_vanish_a_leap_finds_the_way():
    x = torch.full((2, 3), 2.0)
    attacks = holdfast.attack(Steps().eval(), x, torch.tensor([0, 0]))
    assert bool(attacks.success.all()) and bool((attacks.distance >= 2.0).all())


def test_images_keep_their_shape():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    x = torch.rand(3, 1, 8, 8)
    attacks = holdfast.attack(model, x, model(x).argmax(1), norm=math.inf)
    assert attacks.adversarial.shape == x.shape and bool(attacks.success.all())


def test_time_that_is_spent_is_told_row_by_row():
    model = curved()
    graph = capture(model, torch.zeros(1, 6))
    attacks = attack_graph(graph, model, rows(model), AttackOptions(seconds=0.0))
    assert set(attacks.reason) == {"not_attacked"}
    assert attacks.accuracy_under_attack(1.0) == 1.0


@pytest.mark.parametrize("steps", [0, 3, 8])
def test_what_was_found_before_ctrl_c_is_kept(monkeypatch, steps):
    monkeypatch.setattr("holdfast.attacks.search._CHUNK", 16)
    model = curved()
    graph, (x, labels) = capture(model, torch.zeros(1, 6)), rows(model)
    count = itertools.count()

    def report(_):
        if next(count) == steps:
            raise KeyboardInterrupt

    found = attack_graph(graph, model, (x, labels), AttackOptions(seed=2), report)
    assert found.stopped and found.seed == 2 and found.coherent()
    assert found.reached == min(16 * steps, 40)
    won = torch.tensor([reason == "found" for reason in found.reason])
    assert int(won.sum()) >= found.reached // 2
    assert torch.equal(model(found.adversarial[won]).argmax(1), found.predicted[won])
    far = distance_up(found.adversarial[won], x[won], 2.0)
    assert torch.equal(far, found.distance[won])


def test_an_attack_without_a_row_done_warns():
    model = curved()
    with pytest.warns(HoldfastWarning, match="stopped: 0 of 40 rows were attacked"):
        holdfast.attack(model, *rows(model), report=_interrupt)


def _interrupt(_) -> None:
    raise KeyboardInterrupt


def test_the_seed_decides_the_starts():
    model, x, labels = Steps().eval(), torch.full((2, 3), 2.0), torch.tensor([0, 0])
    graph = capture(model, x)
    one, same, other = (
        attack_graph(graph, model, (x, labels), AttackOptions(seed=seed)).adversarial
        for seed in (3, 3, 2**63 - 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": 3}, "norm: got 3"),
        ({"epsilon": -1.0}, "epsilon: got -1.0"),
        ({"epsilon": math.nan}, "epsilon: got nan"),
        ({"epsilon": math.inf}, "epsilon: got inf"),
        ({"labels": torch.tensor([0, 9])}, "values from 0 to 9"),
        ({"labels": torch.tensor([0.0, 1.0])}, "targets .* is bounded by certify"),
        ({"seed": -1}, "seed: got -1"),
        ({"labels": torch.tensor([0])}, "one per input"),
        ({"inputs": torch.zeros(0, 6)}, "at least one row"),
        ({"inputs": torch.ones(2, 6, dtype=torch.uint8)}, "divide by 255"),
        ({"inputs": {"x": torch.ones(2, 6)}}, "one tensor"),
    ],
)
def test_arguments_that_are_not_usable(change, words):
    inputs, labels = torch.zeros(2, 6), torch.tensor([0, 1])
    with pytest.raises(InvalidInput, match=words):
        holdfast.attack(curved(), **({"inputs": inputs, "labels": labels} | change))


def test_models_that_cannot_be_attacked():
    x, labels = torch.zeros(2, 6), torch.tensor([0, 0])
    with pytest.raises(Unsupported, match="Dropout: training mode"):
        holdfast.attack(nn.Sequential(nn.Linear(6, 3), nn.Dropout()).train(), x, labels)
    with pytest.raises(Unsupported, match="wanted one row of logits"):
        holdfast.attack(nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (2, 2))), x, labels)
    with pytest.raises(InvalidInput, match=r"use holdfast\.knowledge"):
        holdfast.attack(nn.Embedding(6, 3), torch.zeros(2, dtype=torch.int64), labels)
