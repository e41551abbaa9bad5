"""Progress on stderr: an estimate of what is left, and lines where there is no terminal."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import holdfast
from holdfast import progress as shown
from holdfast.certificates import local
from holdfast.types import Improvement, Progress


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(shown, "time", made)
    return made


def test_lines_come_after_ten_seconds_and_every_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown.show_progress("certificates") as report:
        for clock.now in (100.0, 105.0, 112.0, 130.0, 171.0, 173.0):
            report(Progress("certificates", int(clock.now) - 100, 1000))
    assert capsys.readouterr().err.splitlines() == [
        "holdfast: certificates (12 of 1000), 12 s, about 17 min left",
        "holdfast: certificates (73 of 1000), 73 s, about 16 min left",
    ]


def test_the_pace_is_that_of_the_part(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with shown.show_progress("audit") as report:
        steps = [(0, 0), (50, 1), (60, 2), (111, 3)]
        for seconds, done in steps:
            clock.now = 100.0 + seconds
            verb = Progress("certificates", 10 * max(done - 1, 0), 40)
            report(Progress(f"one: certificates, {verb}", 4, 13, within=verb))
    lines = capsys.readouterr().err.splitlines()
    # Ten rows took 60 seconds from the first report on, twenty took 111.
    assert [line.rpartition(", ")[2] for line in lines] == ["50 s", "about 2 min left"]


def test_a_bracket_says_its_best_bound(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with shown.closing_bracket() as report:
        clock.now += 11.0
        best = Improvement(11.0, "upper", 1.25, "LipSDP")
        report(Progress("Lipschitz bracket", improvement=best))
    assert capsys.readouterr().err == ("holdfast: Lipschitz bracket, upper 1.25 by LipSDP, 11 s\n")


def test_rows_are_finished_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    rows, taken = torch.randn(12, 6), []
    labels = model(rows).argmax(1)
    at_once = holdfast.certify(model, rows, labels, math.inf, method="local")
    monkeypatch.setattr(
        local, "batches", lambda graph, count: torch.arange(count).split(2) if count else ()
    )
    in_turn = holdfast.certify(model, rows, labels, math.inf, method="local", report=taken.append)
    done = [progress.done for progress in taken if progress.total == 12]
    assert len(set(done)) > 6 and done == sorted(done) and max(done) <= 11
    assert torch.equal(in_turn.radius, at_once.radius)


def test_in_a_notebook_it_is_a_bar_that_goes_away(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells: list[str] = []
    handle = SimpleNamespace(update=cells.append)
    display = ModuleType("IPython.display")
    display.__dict__.update(HTML=str, display=lambda text, display_id: cells.append(text) or handle)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with holdfast.show_progress("capture") as report:
        for clock.now in (100.1, 100.2, 105.0):
            report(Progress("<b>rows</b>", int(clock.now) - 100, 50))
    assert cells == [
        "<progress></progress> capture",
        '<progress value="0" max="50"></progress> &lt;b&gt;rows&lt;/b&gt; (0 of 50), 0 s',
        '<progress value="5" max="50"></progress> &lt;b&gt;rows&lt;/b&gt; (5 of 50), 5 s, '
        "about 45 s left",
        "",
    ]
