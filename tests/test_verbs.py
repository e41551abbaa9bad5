"""What all verbs on a captured graph have in common: one capture, two hashes, progress, a check."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import holdfast
from holdfast.audits.study import AuditOptions
from holdfast.errors import Unsupported
from holdfast.graph import capture
from holdfast.types import Progress, Report


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


INPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
LABELS = net()(INPUTS).argmax(1)

VERBS: dict[str, Callable[[nn.Module, Report, object], object]] = {
    "lipschitz": lambda model, report, _: holdfast.lipschitz(
        model, INPUTS, seconds=0.1, report=report
    ),
    "certify": lambda model, report, _: holdfast.certify(model, INPUTS, LABELS, report=report),
    "conditions": lambda model, report, _: holdfast.conditions(
        model, INPUTS, LABELS, seconds=0.1, report=report
    ),
    "attack": lambda model, report, _: holdfast.attack(model, INPUTS, LABELS, report=report),
    "audit": lambda model, report, folder: holdfast.audit(
        model, (INPUTS, LABELS), folder / "audit", AuditOptions(seconds=0.1), report=report
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_captures_once_hashes_twice_and_says_how_far_it_is(
    verb, monkeypatch, tmp_path
) -> None:
    calls, taken = [], []

    def counted(name: str) -> None:
        function = getattr(capture, name)
        monkeypatch.setattr(capture, name, lambda *a: calls.append(name) or function(*a))

    counted("_export")
    counted("weights_hash")
    VERBS[verb](net(), taken.append, tmp_path)
    assert sorted(calls) == ["_export", "weights_hash", "weights_hash"]
    assert taken and all(isinstance(progress, Progress) for progress in taken)
    assert all(0 <= progress.done <= (progress.total or math.inf) for progress in taken)


@pytest.mark.parametrize("verb", VERBS)
def test_weights_that_change_while_a_verb_runs_are_refused(verb, tmp_path) -> None:
    model = net()

    def change(progress: Progress) -> None:
        if "capture" not in progress.part:  # the audit's first step, before there are any hashes
            model[0].weight.data[0, 0] += 1e-3

    with pytest.raises(Unsupported, match="changed after the model was captured"):
        VERBS[verb](model, change, tmp_path)
    assert not list(tmp_path.glob("audit/*"))


def test_progress_reads_as_a_sentence() -> None:
    assert str(Progress("attacks")) == "attacks"
    assert str(Progress("pairs of classes", 3)) == "pairs of classes (3)"
    assert str(Progress("attacks", 3, 9)) == "attacks (3 of 9)"
