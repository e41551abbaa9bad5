"""Odd arguments of every verb and method: an answer, or a refusal that names the argument."""

from collections import defaultdict
from pathlib import Path

import pytest
from tests.odd.calls import CALLS, SETTINGS, VERBS, saved
from tests.odd.judge import outcome

GROUPS: dict[str, list[str]] = defaultdict(list)
for call in CALLS:
    GROUPS[call.partition(":")[0]].append(call)


def failures(calls: list[str]) -> list[str]:
    """Return what went wrong with some calls."""
    wrong = []
    for name in calls:
        try:
            outcome(CALLS[name])
        except Exception as problem:  # whatever it is, it is not what was promised
            wrong.append(f"{name}: {type(problem).__name__}: {str(problem)[:200]}")
    return wrong


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_some_odd_arguments_are_read_or_refused() -> None:
    assert not failures(list(CALLS)[::97])


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_odd_arguments_are_read_or_refused(group: str) -> None:
    assert not failures(GROUPS[group])


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_torch_are_lived_with(setting: str) -> None:
    wrong = []
    for verb, call in VERBS.items():
        try:
            with SETTINGS[setting]():
                outcome(call)
        except Exception as problem:
            wrong.append(f"{verb}: {type(problem).__name__}: {str(problem)[:200]}")
    assert not wrong


def test_odd_paths_are_refused(tmp_path: Path) -> None:
    for call in saved(tmp_path):
        outcome(call)
