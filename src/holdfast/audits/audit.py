"""The audit: every part on every model, one JSON document and one page."""

import datetime
import hashlib
import os
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from holdfast.arguments import check_model
from holdfast.audits.citations import citations_for
from holdfast.audits.distances import Distances, distances_for
from holdfast.audits.parts import attacks_part, certificates_part, data_part
from holdfast.audits.study import AuditOptions, Steps, Study, steps_of, study
from holdfast.batches import Data, join_batches, read_batches
from holdfast.certificates.misleading import few_rows, uneven, warn_of
from holdfast.errors import HoldfastWarning, InvalidInput, MissingExtra, Stopped
from holdfast.files import StrPath, to_json, write_whole
from holdfast.report.page import write_page
from holdfast.results import ChartedResult
from holdfast.runs.folder import claim
from holdfast.smoothness.records import read_measurements
from holdfast.sources.data import LoadedData, checked
from holdfast.sources.models import LoadedModel
from holdfast.sources.substitutions import load_substitutions
from holdfast.sources.tokens import Batch, LoadedTokens
from holdfast.types import Report, norm_name, silent
from holdfast.versions import VERSION

Rows = LoadedData | LoadedTokens


@dataclass(frozen=True, repr=False)
class AuditReport(ChartedResult):
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
    model: nn.Module,
    data: Data,
    out: StrPath = "runs/audit",
    options: AuditOptions | None = None,
    *,
    report: Report = silent,
) -> AuditReport:
    """Audit a classifier: bracket, certificates, attacks and knowledge continuity, on one page.

    Args:
        model: Any module in eval mode, [N, ...] to logits.
        data: Inputs and labels, or an iterable of such batches. Where inputs are a mapping of token
            ids there is no distance between them, and knowledge continuity is all that is measured.
        out: Folder for `audit.json` and `report.html`.
        options: Norm, distance and time; see `AuditOptions`.
        report: Called with the progress.

    Returns:
        The results and where they lie.

    Raises:
        Unsupported: When the model cannot be captured. A part that cannot be done on a captured
            model is reported as refused, with its reasons; the others go on. Or when its weights
            change meanwhile.
        InvalidInput: When data or `out` are not usable.
        InternalError: When an attack lies inside a certified ball, which must never be.

    Warns:
        HoldfastWarning: Where results would mislead, as for `certify`; also on the page.
    """
    model = check_model(model)
    name = type(model).__name__
    loaded = LoadedModel(model, name, name)
    found = audit_models([loaded], _given(data), out, options or AuditOptions(), report)
    few = few_rows(found.document["data"]["rows"])  # whoever calls this knows how many there are
    warn_of(each for each in found.document.get("warnings", ()) if each not in few)
    return found


def _given(data: Data) -> Rows:
    """Return what a user handed over, as data with a name.

    Raises:
        InvalidInput: When it is no data.
    """
    batches = tuple(read_batches(data))
    if isinstance(batches[0][0], Mapping):
        return LoadedTokens(cast(Sequence[Batch], batches), "given")
    return checked(*join_batches(batches), "given")


def audit_models(
    models: Sequence[LoadedModel],
    data: Rows,
    out: StrPath,
    options: AuditOptions,
    report: Report = silent,
) -> AuditReport:
    """Audit one or several models on the same data; see `audit`.

    Args:
        models: The models; the page compares them.
        data: The rows.
        out: Folder for the files.
        options: What is asked for.
        report: Called with the progress.

    Returns:
        The results and where they lie.

    Raises:
        Stopped: When the user stops it and some part was done: the files have what was done.
    """
    _check_training(models, options)
    _check_distance(data, options)
    steps = Steps(report, len(models) * len(steps_of(data, options)) + 1)
    with claim(out) as folder:
        document = _document(models, data, options, steps)
        steps.begin("page")
        path = folder / "audit.json"
        write_whole(path, to_json(document))
        found = AuditReport(document, path, _page(document, folder / "report.html"))
        if "stopped" in document:
            raise Stopped(f"what was done before is in {found.page or found.json}")
        return found


def _check_training(models: Sequence[LoadedModel], options: AuditOptions) -> None:
    """Refuse a file about training before the work, not after it.

    Raises:
        InvalidInput: When it cannot be read, or there are several models it may be about.
    """
    if options.training is None:
        return
    if len(models) > 1:
        raise InvalidInput("training", f"one file for {len(models)} models", "one model")
    read_measurements(options.training)


def _check_distance(data: Rows, options: AuditOptions) -> None:
    """Refuse what has no meaning for such data.

    Raises:
        InvalidInput: When it is asked for.
    """
    asked = {"epsilon": options.epsilon, "training": options.training}
    for name, value in asked.items():
        if isinstance(data, LoadedTokens) and value is not None:
            raise InvalidInput(name, repr(value), "none, where inputs are token ids")
    if options.substitutions is not None:
        load_substitutions(options.substitutions)  # before hours of work, not after
        if not isinstance(data, LoadedTokens) or not data.texts:
            got = repr(options.substitutions)
            raise InvalidInput("substitutions", got, "none, where inputs are no sentences")


def _document(
    models: Sequence[LoadedModel], data: Rows, options: AuditOptions, steps: Steps
) -> dict[str, Any]:
    """Run every part on every model and return the document of the audit."""
    start = time.perf_counter()
    studies, stopped = _studies(models, data, options, steps)
    distances = None
    if isinstance(data, LoadedData):
        subjects = [one.subject for one in studies]
        distances = distances_for(data, options.norm, options.moves, options.epsilon, subjects)
        _add_certificates(studies, data, distances)
    ops = {op for one in studies for op in one.ops}
    described = data_part(data, _digest(data), options.held_out) | _units(data, options)
    said = dict.fromkeys(each for one in studies for each in one.warnings)
    said |= dict.fromkeys(few_rows(described["rows"]))
    return {
        "format": 1,
        "holdfast": VERSION,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 2),
        "command": options.command,
        **({"norm": norm_name(options.norm), "epsilon": options.epsilon} if distances else {}),
        **({"distances": distances.document()} if distances else {}),
        "data": described,
        **({"warnings": list(said)} if said else {}),
        "subjects": [one.subject for one in studies],
        **({"stopped": stopped} if stopped else {}),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "seeds": dict.fromkeys(("lipschitz", "attacks") if distances else (), options.seed)
        | ({"replay": 0} if distances else {})
        | {"knowledge": options.seed},
        "citations": citations_for(ops, distances=distances is not None),
    }


def _studies(
    models: Sequence[LoadedModel], data: Rows, options: AuditOptions, steps: Steps
) -> tuple[list[Study], str | None]:
    """Run every part on every model; where the user stops it, as far as it has come.

    Returns:
        The models of which a part is done, and the step that was stopped, if one was.

    Raises:
        Stopped: When the user stops it before any part is done.
        KeyboardInterrupt: As `Stopped`, where Ctrl-C is not held back.
    """
    studies: list[Study] = []
    try:
        for loaded in models:
            studies.append(Study())
            study(loaded, data, options, steps, studies[-1])
    except (KeyboardInterrupt, Stopped):
        begun = [one for one in studies if one.subject.keys() & {"lipschitz", "knowledge"}]
        if not begun:
            raise
        steps.report = silent  # what it may raise was heard
        return begun, steps.part
    return studies, None


def _add_certificates(studies: Sequence[Study], data: LoadedData, distances: Distances) -> None:
    """Add what is said about distances."""
    for one in studies:
        if one.certificates is not None:
            part = certificates_part(one.certificates, data, distances, one.attacks)
            one.subject["certificates"] = part
        if one.attacks is not None:
            one.subject["attacks"] = attacks_part(one.attacks, distances)


def _units(data: Rows, options: AuditOptions) -> dict[str, Any]:
    """Say by which factor the columns of a table are spread differently, where that matters."""
    if not isinstance(data, LoadedData) or data.image is not None:
        return {}
    return {"uneven": uneven(data.inputs, options.moves)}


def _digest(data: Rows) -> str:
    """Return the SHA-256 of inputs and labels, and of perturbed inputs and their rows."""
    digest = hashlib.sha256()
    changed = [] if data.perturbations is None else [data.perturbations]
    for inputs, labels in (*data.batches, *changed):
        parts = (
            [inputs[name] for name in sorted(inputs)] if isinstance(inputs, Mapping) else [inputs]
        )
        for part in (*parts, labels):
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
