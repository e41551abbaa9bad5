"""The audit: every part on every model, one JSON document and one page."""

import datetime
import hashlib
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from holdfast.attacks.agreement import check_agreement
from holdfast.attacks.attack import attack_captured
from holdfast.attacks.result import Attacks
from holdfast.auditing.citations import citations_for
from holdfast.auditing.link import link
from holdfast.auditing.parts import (
    attacks_part,
    bracket_part,
    certificates_part,
    conditions_part,
    data_part,
    descent_part,
    headline_distance,
    knowledge_part,
)
from holdfast.batches import Data, gather
from holdfast.brackets.ascent import within
from holdfast.brackets.search import Search
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.radius import Asked, certify_graph
from holdfast.conditioning.conditions import conditions_of
from holdfast.continuity.profile import knowledge
from holdfast.documents import StrPath, plain, to_json, write_whole
from holdfast.errors import HoldfastWarning, InvalidInput, MissingExtra, Unsupported
from holdfast.graph.capture import capture, check_unchanged
from holdfast.graph.ir import Graph
from holdfast.graph.walk import run
from holdfast.report.page import write_page
from holdfast.run.folder import claim
from holdfast.smoothness.records import read_measurements
from holdfast.smoothness.step import check_step, descent
from holdfast.sources.data import LoadedData, checked
from holdfast.sources.models import LoadedModel, parameters
from holdfast.types import Outcome, check_norm, norm_name
from holdfast.versions import VERSION

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


@dataclass(frozen=True)
class Report:
    """Where an audit left its results.

    Attributes:
        document: All results, as in `audit.json`.
        json: Path of `audit.json`.
        page: Path of `report.html`; None where the extra `report` is not installed.
    """

    document: dict[str, Any] = field(repr=False)
    json: Path
    page: Path | None


def audit(
    model: nn.Module, data: Data, out: StrPath = "runs/audit", settings: Settings | None = None
) -> Report:
    """Audit a classifier: bracket, certificates, attacks and knowledge continuity, on one page.

    Args:
        model: Any module in eval mode, [N, ...] to logits.
        data: Inputs and labels, or an iterable of such batches.
        out: Folder for `audit.json` and `report.html`.
        settings: Norm, distance and time; see `Settings`.

    Returns:
        The results and where they lie.

    Raises:
        Unsupported: When the model cannot be captured. A part that cannot be done on a captured
            model is reported as refused, with its reasons; the others go on.
        InvalidInput: When data or `out` are not usable.
        InternalError: When an attack lies inside a certified ball, which must never be.
    """
    inputs, labels = gather(data)
    name = type(model).__name__
    loaded = LoadedModel(model, name, name)
    return run_audit([loaded], checked(inputs, labels, "given"), out, settings or Settings())


def run_audit(
    models: Sequence[LoadedModel],
    data: LoadedData,
    out: StrPath,
    settings: Settings,
    progress: Progress = lambda step: None,
) -> Report:
    """Audit one or several models on the same data; see `audit`.

    Args:
        models: The models; the page compares them.
        data: The rows.
        out: Folder for the files.
        settings: What is asked for.
        progress: Called with the name of every step when it begins.

    Returns:
        The results and where they lie.
    """
    check_norm(settings.norm)
    check_step(settings.step)
    _check_training(models, settings)
    with claim(out) as folder:
        document = gather_results(models, data, settings, progress)
        progress("page")
        path = folder / "audit.json"
        write_whole(path, to_json(document))
        return Report(document, path, _page(document, folder / "report.html"))


def _check_training(models: Sequence[LoadedModel], settings: Settings) -> None:
    """Refuse a file about training before the work, not after it.

    Raises:
        InvalidInput: When it cannot be read, or there are several models it may be about.
    """
    if settings.training is None:
        return
    if len(models) > 1:
        raise InvalidInput("training", f"one file for {len(models)} models", "one model")
    read_measurements(settings.training)


STEPS = (
    "capture",
    "Lipschitz bracket",
    "certificates",
    "attacks",
    "knowledge continuity",
    "training step",
)
"""What is done for every model, in order."""


def gather_results(
    models: Sequence[LoadedModel], data: LoadedData, settings: Settings, progress: Progress
) -> dict[str, Any]:
    """Run every part on every model and return the document of the audit."""
    start = time.perf_counter()
    studies = [_study(loaded, data, settings, progress) for loaded in models]
    epsilon = settings.epsilon
    if epsilon is None:
        epsilon = headline_distance([s.certificates for s in studies if s.certificates])
    for study in studies:
        if study.certificates is not None:
            part = certificates_part(study.certificates, data, epsilon, study.attacks)
            study.subject["certificates"] = part
        if study.attacks is not None:
            study.subject["attacks"] = attacks_part(study.attacks, epsilon)
    ops = {node.op for study in studies for node in study.graph.nodes}
    return {
        "format": 1,
        "holdfast": VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 2),
        "command": settings.command,
        "norm": norm_name(settings.norm),
        "epsilon": epsilon,
        "data": data_part(data, _digest(data)),
        "subjects": [study.subject for study in studies],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "seeds": {"lipschitz": 0, "attacks": 0, "replay": 0},
        "citations": citations_for(ops, knowledge=True, descent=True),
    }


@dataclass
class _Study:
    """One model while it is audited: its graph, its document, its certificates and attacks."""

    graph: Graph
    subject: dict[str, Any]
    certificates: Certificates | None
    attacks: Attacks | None


def _study(loaded: LoadedModel, data: LoadedData, settings: Settings, progress: Progress) -> _Study:
    """Run every part on one model."""

    def begin(step: str) -> None:
        progress(f"{loaded.name}: {step}")

    begin(STEPS[0])
    graph = capture(loaded.model, data.inputs[:1])
    subject: dict[str, Any] = {
        "name": loaded.name,
        "description": loaded.description,
        "model": loaded.spec,
        "parameters": parameters(loaded.model),
        "fingerprint": graph.fingerprint,
        "accuracy": _accuracy(graph, data),
    }
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
    return _Study(graph, subject, proved, attacks[0] if attacks else None)


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


def _digest(data: LoadedData) -> str:
    """Return the SHA-256 of inputs and labels."""
    digest = hashlib.sha256()
    for part in (data.inputs, data.labels):
        digest.update(f"{part.dtype}|{tuple(part.shape)}|".encode())
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _page(document: dict[str, Any], path: Path) -> Path | None:
    """Write the page where its libraries are installed, and say so where they are not."""
    try:
        write_page(document, path)
    except MissingExtra as missing:
        warnings.warn(f"no page written: {missing}", HoldfastWarning, stacklevel=2)
        return None
    return path
