"""Every verb on odd models: an answer that holds, or a refusal, and nothing else."""

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from tests.odd.judge import check_rows, outcome
from tests.odd.models import MODELS
from torch import Tensor, nn

import holdfast

NORMS = ("l1", 2, math.inf)


def fresh(name: str) -> tuple[nn.Module, Any]:
    """Return a model with its rows, the same at every call, and never one that was run before."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about models that it would not make today
        return MODELS[name]()


def labels_of(name: str) -> Tensor:
    """Return what the model answers; the first class where it does not."""
    model, rows = fresh(name)
    count = len(next(iter(rows.values())) if isinstance(rows, Mapping) else rows)
    with warnings.catch_warnings(), contextlib.suppress(Exception), torch.no_grad():
        warnings.simplefilter("ignore")
        answer = model(**rows) if isinstance(rows, Mapping) else model(rows)
        answer = next(iter(answer.values())) if isinstance(answer, Mapping) else answer
        labels = answer.argmax(1)
        if labels.shape == (count,):
            return labels
    return torch.zeros(count, dtype=torch.int64)


def verbs(norm: Any, labels: Tensor) -> dict[str, Callable[[nn.Module, Any], Any]]:
    """Return what is asked of a model and its rows."""

    def first_box(x: Any) -> holdfast.Box:
        row = x[0] if isinstance(x, Tensor) else next(iter(x.values()))[0]
        return holdfast.Box(row - 0.1, row + 0.1)

    def executed(m: nn.Module, x: Any) -> Any:
        return holdfast.certify(m, x, labels, norm, semantics="float32")

    def bracket(m: nn.Module, x: Any) -> Any:
        return holdfast.lipschitz(m, x, norm, seconds=0.01)

    def on_a_box(m: nn.Module, x: Any) -> Any:
        return holdfast.lipschitz(m, x, norm, first_box(x), seconds=0.01)

    return {
        "certify": lambda m, x: holdfast.certify(m, x, labels, norm),
        "knowledge": lambda m, x: holdfast.knowledge(m, (x, labels)),
        "descent": lambda m, x: holdfast.descent(m, "cross_entropy", x, labels),
        "capture": holdfast.capture,
        "lipschitz": bracket,
        "on a box": on_a_box,
        "float32": executed,
        "conditions": lambda m, x: holdfast.conditions(m, x, labels, norm, seconds=0.01),
        "attack": lambda m, x: holdfast.attack(m, x, labels, norm, epsilon="1/50"),
    }


def ask(name: str, chosen: slice = slice(None)) -> None:
    """Ask verbs about a model; once it cannot be captured, those that need no graph."""
    labels = labels_of(name)
    norm = NORMS[list(MODELS).index(name) % 3]
    asked = list(verbs(norm, labels).items())[chosen]
    for verb, call in asked:
        model, rows = fresh(name)
        found = outcome(lambda model=model, rows=rows, call=call: call(model, rows))
        if verb == "capture" and found is None:
            return
        if verb in ("certify", "float32") and found is not None and isinstance(rows, Tensor):
            check_rows(fresh(name)[0], rows, found)


@pytest.mark.parametrize("name", list(MODELS)[::31])
def test_some_odd_models_are_answered_or_refused(name: str) -> None:
    ask(name, slice(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_odd_models_are_answered_or_refused(name: str) -> None:
    ask(name)
