"""Every part of an audit on one model: what was found, or why the model does not allow it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from holdfast.attacks.agreement import check_agreement
from holdfast.attacks.attack import attack_captured
from holdfast.attacks.result import Attacks
from holdfast.audits.link import link
from holdfast.audits.parts import bracket_part, conditions_part, descent_part, knowledge_part
from holdfast.brackets.lower.ascent import within
from holdfast.brackets.search import Search
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.certify import Asked, certify_graph
from holdfast.certificates.conditions import conditions, conditions_of
from holdfast.errors import InvalidInput, Unsupported
from holdfast.files import StrPath, plain
from holdfast.graph.capture import capture, check_unchanged, weights_hash
from holdfast.graph.ir import Graph
from holdfast.graph.walk import run
from holdfast.knowledge_continuity.knowledge import knowledge
from holdfast.smoothness.descent import descent
from holdfast.smoothness.records import read_measurements
from holdfast.sources.data import LoadedData
from holdfast.sources.models import LoadedModel, parameters
from holdfast.sources.tokens import LoadedTokens
from holdfast.types import Outcome

KNOWLEDGE_ROWS = 2000
"""Pairs grow with the square of the rows: volatility is measured on the first so many."""

DESCENT_ROWS = 2000
"""The curvature takes dozens of passes: a training step is measured on the first so many rows."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What an audit is asked for.

    Attributes:
        norm: Norm of the distance between inputs: 1, 2 or inf.
        epsilon: Distance of the headline, in input units; None lets the results choose it.
        seconds: Time for each model's bracket, and for its attacks.
        step: Learning rate of the training step that is measured.
        training: A `DescentMonitor`'s file about the training of the model, which must be one.
        command: The command that reproduces the run, for the page.
    """

    norm: float = 2.0
    epsilon: float | None = None
    seconds: float = 5.0
    step: float = 0.01
    training: StrPath | None = None
    command: str = "holdfast.audit(model, data)"


STEPS = (
    "capture",
    "Lipschitz bracket",
    "certificates",
    "attacks",
    "knowledge continuity",
    "training step",
)
"""What is done for every model, in order."""

TOKEN_STEPS = ("knowledge continuity",)
"""What of it is done where inputs are token ids."""


def steps_of(data: LoadedData | LoadedTokens) -> tuple[str, ...]:
    """Return what is done for every model on such data."""
    return STEPS if isinstance(data, LoadedData) else TOKEN_STEPS


@dataclass
class Study:
    """One model while it is audited: its document, its operations, its certificates and attacks."""

    subject: dict[str, Any]
    ops: set[str] = field(default_factory=set)
    certificates: Certificates | None = None
    attacks: Attacks | None = None


def study(
    loaded: LoadedModel, data: LoadedData | LoadedTokens, settings: Settings, progress: Progress
) -> Study:
    """Run every part that makes sense for the data on one model."""

    def begin(step: str) -> None:
        progress(f"{loaded.name}: {step}")

    if isinstance(data, LoadedTokens):
        return _study_tokens(loaded, data, settings, begin)
    begin(STEPS[0])
    graph = capture(loaded.model, data.inputs[:1])
    subject = _subject(loaded, graph.fingerprint) | {"accuracy": _accuracy(graph, data)}
    begin(STEPS[1])
    subject["lipschitz"] = _or_refused(lambda: _bracket(graph, data, settings))
    begin(STEPS[2])
    certificates: list[Certificates] = []
    subject["certificates"] = _or_refused(
        lambda: certificates.append(_certificates(graph, data, settings)) or {}
    )
    proved = certificates[0] if certificates else None
    begin(STEPS[3])
    attacks: list[Attacks] = []
    subject["attacks"] = _or_refused(
        lambda: attacks.append(_attacks(graph, loaded.model, data, settings)) or {}
    )
    if proved is not None and attacks:
        check_agreement(graph, proved, attacks[0])
    subject["conditions"] = _conditions(subject["lipschitz"], data, settings, proved)
    begin(STEPS[4])
    try:
        subject["knowledge"] = _knowledge(graph, loaded.model, data)
    except (Unsupported, InvalidInput) as refusal:  # one row, or no layer: nothing to compare
        subject["knowledge"] = {"refused": str(refusal)}
    begin(STEPS[5])
    try:
        subject["descent"] = _descent(loaded, data, settings)
    except (Unsupported, InvalidInput) as refusal:  # nothing to train, or labels that do not fit
        subject["descent"] = {"refused": str(refusal)}
    check_unchanged(graph, loaded.model)
    ops = {node.op for node in graph.nodes}
    return Study(subject, ops, proved, attacks[0] if attacks else None)


def _study_tokens(
    loaded: LoadedModel, data: LoadedTokens, settings: Settings, begin: Progress
) -> Study:
    """Run what needs no distance between inputs; the model need not be one that can be captured."""
    begin(TOKEN_STEPS[0])
    verdict = conditions(loaded.model, *data.batches[0], settings.norm)
    subject = _subject(loaded, weights_hash(loaded.model))
    subject |= {"accuracy": None, "conditions": conditions_part(verdict)}
    try:
        rows = data.first(KNOWLEDGE_ROWS)
        found = knowledge(loaded.model, rows.batches, perturbations=rows.perturbations)
        subject |= {"accuracy": found.accuracy, "knowledge": knowledge_part(found, data)}
    except (Unsupported, InvalidInput) as refusal:
        subject["knowledge"] = {"refused": str(refusal)}
    return Study(subject)


def _subject(loaded: LoadedModel, fingerprint: str) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "description": loaded.description,
        "model": loaded.spec,
        "parameters": parameters(loaded.model),
        "fingerprint": fingerprint,
    }


def _accuracy(graph: Graph, data: LoadedData) -> float:
    """Return the share of rows whose largest logit is the label's."""
    with torch.no_grad():
        predicted = torch.cat([run(graph, part).argmax(-1) for part in data.inputs.split(256)])
    return float((predicted == data.labels).double().mean())


def _or_refused(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a part of the document, or why the model does not allow it."""
    try:
        return part()
    except Unsupported as refusal:
        return {"refused": str(refusal)}


def _bracket(graph: Graph, data: LoadedData, settings: Settings) -> dict[str, Any]:
    bracket = Search(graph, settings.norm, seconds=settings.seconds).run(data.inputs)
    if bracket.outcome is Outcome.INTERRUPTED:
        raise KeyboardInterrupt  # the search kept it to return its best; here it ends the audit
    return bracket_part(bracket)


def _certificates(graph: Graph, data: LoadedData, settings: Settings) -> Certificates:
    return certify_graph(graph, data.inputs, data.labels, Asked(settings.norm))


def _attacks(graph: Graph, model: nn.Module, data: LoadedData, settings: Settings) -> Attacks:
    rows = (data.inputs, data.labels)
    spent = within(settings.seconds)
    return attack_captured(graph, model, rows, settings.norm, spent=spent)


def _conditions(
    bracket: dict[str, Any],
    data: LoadedData,
    settings: Settings,
    certificates: Certificates | None,
) -> dict[str, Any]:
    ratio = bracket.get("ratio")  # None where the bracket was refused or has no upper end
    rows = (data.inputs, data.labels)
    return conditions_part(
        conditions_of(rows, settings.norm, certificates, math.inf if ratio is None else ratio)
    )


def _knowledge(graph: Graph, model: nn.Module, data: LoadedData) -> dict[str, Any]:
    """Measure knowledge continuity, and hold it against the Lipschitz constants of the layers."""
    inputs, labels = data.inputs[:KNOWLEDGE_ROWS], data.labels[:KNOWLEDGE_ROWS]
    measured = knowledge(model, (inputs, labels))
    links = {}
    for layer in measured.layers:
        try:
            links[layer] = plain(link(graph, measured, inputs, labels, layer))
        except (Unsupported, InvalidInput) as refusal:  # a skip connection, attention, ...
            links[layer] = {"refused": str(refusal)}
    return knowledge_part(measured, data) | {"links": links}


def _descent(loaded: LoadedModel, data: LoadedData, settings: Settings) -> dict[str, Any]:
    rows = data.inputs[:DESCENT_ROWS], data.labels[:DESCENT_ROWS]
    found = descent(loaded.model, "cross_entropy", *rows, step=settings.step)
    training = None if settings.training is None else read_measurements(settings.training)
    return descent_part(found, training)
