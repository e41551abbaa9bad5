"""Ctrl-C in `certify`: rows that were done keep their radii, and no other row has one."""

import functools
import itertools
import sys
from collections.abc import Iterator

import pytest
import torch
from tests import test_onehot
from torch import Tensor, nn

import holdfast
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.certify import certify_graph
from holdfast.certificates.options import CertifyOptions
from holdfast.errors import HoldfastWarning
from holdfast.graph.capture import capture
from holdfast.graph.ir import Graph
from holdfast.moves import Moves
from holdfast.types import silent


@functools.cache
def case() -> tuple[nn.Module, Graph, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    x = torch.randn(12, 5)
    labels = model(x).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    return model, capture(model, x), x, labels


@functools.cache
def onehot_case() -> tuple[nn.Module, Graph, Tensor, Tensor]:
    model, graph = test_onehot.captured(test_onehot.linear)
    x = test_onehot.rows(5)
    return model, graph, x, model(x).argmax(1)


KINDS = {
    "auto": (case, {}),
    "global": (case, {"method": "global"}),
    "float32": (case, {"semantics": "float32"}),
    "l1": (case, {"norm": 1.0, "method": "local"}),
    "onehot": (onehot_case, {"moves": Moves(onehot=test_onehot.GROUPS)}),
}


def check_kept(found: Certificates, whole: Certificates) -> None:
    done = torch.tensor([reason != "stopped" for reason in found.reason])
    assert found.reached == int(done.sum())
    assert torch.equal(found.radius[done], whole.radius[done])
    assert not found.radius[~done].any()
    assert found.coherent()
    assert ("Stopped: " in found.guarantee) == (found.reached < len(found))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_done_are_as_without_the_stop(kind, monkeypatch) -> None:
    """An interrupt before any line of the certificates' code, as Python delivers one."""
    make, asked = KINDS[kind]
    _, graph, x, labels = make()
    options = CertifyOptions(**asked)
    monkeypatch.setattr("holdfast.certificates.local.batches", few_at_once)
    whole = certify_graph(graph, x, labels, options)
    lines, _ = interrupted(lambda: certify_graph(graph, x, labels, options), 10**9)
    for at in range(17, lines, max(1, lines // 4)):
        _, found = interrupted(lambda: certify_graph(graph, x, labels, options), at)
        if found is not None:
            check_kept(found, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_every_report_may_be_the_last(kind, monkeypatch) -> None:
    make, asked = KINDS[kind]
    _, graph, x, labels = make()
    options = CertifyOptions(**asked)
    monkeypatch.setattr("holdfast.certificates.local.batches", few_at_once)
    whole = certify_graph(graph, x, labels, options)
    reached = []
    for last in range(1, 100, 2):
        steps = itertools.count()

        def report(_: object, steps: Iterator[int] = steps, last: int = last) -> None:
            if next(steps) == last:
                raise KeyboardInterrupt

        found = certify_graph(graph, x, labels, options, report)
        check_kept(found, whole)
        reached.append(found.reached)
        if found.reached == len(found):
            break
    assert len(reached) > 1 and reached == sorted(reached) and reached[-1] == len(x)


def few_at_once(_: object, count: int) -> tuple[Tensor, ...]:
    return torch.arange(count).split(3) if count else ()


def interrupted(call, at: int) -> tuple[int, Certificates | None]:
    """Call with a KeyboardInterrupt before the line of that number; None where it ends the call."""
    seen = 0

    def watch(frame, event, _):
        nonlocal seen
        if "/certificates/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            seen += 1
            if seen == at:
                raise KeyboardInterrupt
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        found = call()
    except KeyboardInterrupt:
        found = None
    finally:
        sys.settrace(before)
    return seen, found


def test_the_user_is_told_how_far_it_came() -> None:
    model, _, x, labels = case()

    def report(progress: object) -> None:
        if "of" in str(progress):
            raise KeyboardInterrupt

    with pytest.warns(HoldfastWarning, match="stopped: 1 of 12 rows; the others have radius 0"):
        found = holdfast.certify(model, x, labels, report=report)
    assert found.counts() == {"stopped": 11, "misclassified": 1}
    assert found.verified_accuracy(0.0) == 0.0
    with pytest.raises(KeyboardInterrupt):
        holdfast.conditions(model, x, labels, report=report)
    with pytest.raises(KeyboardInterrupt):
        holdfast.certify(model, x, labels, report=lambda _: raise_interrupt())
    assert holdfast.certify(model, x, labels, report=silent).reached == 12


def raise_interrupt() -> None:
    raise KeyboardInterrupt
