"""Odd arguments of every verb and method: an answer, or a refusal that names the argument."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.odd.calls import ARGUMENTS, GROUPS, SETTINGS, Calls, ask, bench, calls, saves
from tests.odd.judge import outcome
from torch import Tensor, nn

import holdfast


def failures(asked: Calls) -> list[str]:
    """Return what went wrong with some calls."""
    wrong = []
    for name, call in asked.items():
        try:
            outcome(call)
        except Exception as problem:  # whatever it is, it is not what was promised
            wrong.append(f"{name}: {type(problem).__name__}: {str(problem)[:200]}")
    return wrong


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_some_odd_arguments_are_read_or_refused() -> None:
    for place, group in enumerate(GROUPS):
        asked = list(calls(group).items())
        assert not failures(dict(asked[place % 90 :: 90])), group


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_odd_arguments_are_read_or_refused(group: str) -> None:
    assert not failures(calls(group))


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_torch_are_lived_with(setting: str) -> None:
    bench()
    wrong = []
    for verb in ARGUMENTS:
        try:
            with SETTINGS[setting]():
                outcome(lambda verb=verb: ask(verb))
        except Exception as problem:
            wrong.append(f"{verb}: {type(problem).__name__}: {str(problem)[:200]}")
    assert not wrong


def answers(x: Tensor, verbs: Sequence[str]) -> list[Any]:
    """Return what verbs answer about a convolutional net."""
    with torch.inference_mode(False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    y = torch.arange(len(x), dtype=torch.int32) % 3

    def certified() -> list[Any]:
        found = holdfast.certify(net, x, y)
        changes = found.output_change(0.1), found.loss_change(0.1)
        return [part.tolist() for part in (found.radius, *changes)]

    def bracketed() -> list[float]:
        region = holdfast.Box(x[0] - 0.1, x[0] + 0.1)
        asked = ({"norm": 1}, {"region": region})
        return [holdfast.lipschitz(net, x, seconds=0.0, **each).upper for each in asked]

    every: dict[str, Callable[[], Any]] = {
        "certify": certified,
        "float32": lambda: [*holdfast.certify(net, x, y, 1, semantics="float32").radius],
        "lipschitz": bracketed,
        "attack": lambda: [*holdfast.attack(net, x, y).distance],
        "descent": lambda: holdfast.descent(net, "cross_entropy", x, y).document(),
        "knowledge": lambda: holdfast.knowledge(net, (x, y)).document(),
        "conditions": lambda: holdfast.conditions(net, x, y, seconds=0.0).median_radius,
    }
    return [every[verb]() for verb in verbs]


@pytest.mark.parametrize(
    "verbs",
    [
        ("float32", "descent", "knowledge"),
        pytest.param(("certify", "lipschitz", "attack", "conditions"), marks=pytest.mark.slow),
    ],
)
def test_answers_are_the_same_where_gradients_are_switched_off(verbs: Sequence[str]) -> None:
    rows = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    usual = answers(rows, verbs)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert answers(rows.clone(), verbs) == usual


def test_odd_paths_are_refused(tmp_path: Path) -> None:
    assert not failures(saves(tmp_path))
