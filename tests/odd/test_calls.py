"""Odd arguments of every verb and method: an answer, or a refusal that names the argument."""

from pathlib import Path

import pytest
from tests.odd.calls import ARGUMENTS, GROUPS, SETTINGS, Calls, ask, bench, calls, saves
from tests.odd.judge import outcome


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


def test_odd_paths_are_refused(tmp_path: Path) -> None:
    assert not failures(saves(tmp_path))
