"""Every answer as columns: one line for each row, layer, operation, cell or step."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.errors import MissingExtra
from holdfast.views.kinds import ByKind

if TYPE_CHECKING:
    from holdfast.attacks.result import Attacks
    from holdfast.audits.audit import AuditReport
    from holdfast.brackets.bracket import Bracket
    from holdfast.certificates.certificate import Certificates
    from holdfast.graph.ir import Graph
    from holdfast.knowledge_continuity.evidence.certificate import Frontier
    from holdfast.knowledge_continuity.result import Knowledge
    from holdfast.language.attack import TextAttacks
    from holdfast.language.result import SubstitutionCertificates
    from holdfast.smoothness.descent import Descent
    from holdfast.smoothness.monitor import DescentMonitor
    from holdfast.sources.models import LoadedModel


Columns = dict[str, list[Any]]
"""Columns of one length, by name."""


def frame(result: object) -> Any:
    """Return an answer as a table of pandas.

    Args:
        result: What a verb returned.

    Returns:
        A `pandas.DataFrame`; what there is none of is None or NaN.

    Raises:
        MissingExtra: When pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra("pandas", "notebook", "to_pandas") from error
    return pandas.DataFrame(columns(result))


@ByKind
def columns(result: Any) -> Columns:
    """Return an answer as columns; of a kind without lines of its own, its fields in one line.

    Args:
        result: What a verb returned.
    """
    return {name: [value] for name, value in vars(result).items()}


@columns.of("Certificates")
def _(result: "Certificates") -> Columns:
    rows = {
        "radius": result.radius.tolist(),
        "margin": result.margin.tolist(),
        "predicted": result.predicted.tolist(),
        "label": result.labels.tolist(),
        "reason": list(result.reason),
        "method": list(result.method),
    }
    if result.has_classes:
        return rows
    single = result.labels.shape[1:] == (1,)
    targets = result.labels[:, 0].tolist() if single else rows["label"]
    return {"target": targets, "reason": rows["reason"]}


@columns.of("Attacks")
def _(result: "Attacks") -> Columns:
    return {
        "distance": result.distance.tolist(),
        "predicted": result.predicted.tolist(),
        "label": result.labels.tolist(),
        "reason": list(result.reason),
    }


@columns.of("SubstitutionCertificates")
def _(result: "SubstitutionCertificates") -> Columns:
    return {
        "text": list(result.texts),
        "outcome": list(result.outcome),
        "counterexample": list(result.counterexample),
        "margin": result.margin.tolist(),
        "tried": result.tried.tolist(),
        "combinations": result.combinations.tolist(),
        "predicted": result.predicted.tolist(),
        "label": result.labels.tolist(),
        "brittle": [one[0].word if one else None for one in result.brittle],
    }


@columns.of("TextAttacks")
def _(result: "TextAttacks") -> Columns:
    return {
        "text": list(result.texts),
        "reason": list(result.reason),
        "adversarial": list(result.adversarial),
        "changed": result.changed.tolist(),
        "queries": result.queries.tolist(),
        "predicted": result.predicted.tolist(),
        "label": result.labels.tolist(),
    }


@columns.of("Bracket")
def _(result: "Bracket") -> Columns:
    return _fields(result.layers, ("path", "op", "gain"))


@columns.of("Knowledge")
def _(result: "Knowledge") -> Columns:
    lines = []
    for layer in result.layers:
        line: dict[str, Any] = {"layer": layer}
        for kind in ("normalised", "volatility"):
            estimate = getattr(result, kind)[layer]
            line |= {kind: estimate.value, f"{kind}_low": estimate.low}
            line[f"{kind}_high"] = estimate.high
        for kind in ("near", "same_label", "other_label"):
            estimate = getattr(result, kind)[layer]
            line[kind] = None if estimate is None else estimate.value
        lines.append(line | {"collisions": result.collisions[layer], "scale": result.scale[layer]})
    return {name: [line[name] for line in lines] for name in lines[0]} if lines else {}


@columns.of("Frontier")
def _(result: "Frontier") -> Columns:
    names = ("delta", "eta", "probability", "conditional", "near", "observed", "vacuous")
    return _fields([cell for row in result.cells for cell in row], names)


@columns.of("Descent")
def _(result: "Descent") -> Columns:
    return _fields(result.path, ("step", "predicted", "actual"))


@columns.of("DescentMonitor")
def _(result: "DescentMonitor") -> Columns:
    lines = [dataclasses.asdict(one) for one in result.measurements]
    return {name: [line[name] for line in lines] for name in lines[0]} if lines else {}


@columns.of("AuditReport")
def _(result: "AuditReport") -> Columns:
    subjects = result.document["subjects"]
    parts = {
        "verified_accuracy": ("certificates", "verified_accuracy"),
        "median_radius": ("certificates", "median_radius"),
        "lower": ("lipschitz", "lower"),
        "upper": ("lipschitz", "upper"),
    }
    found = {name: [one[name] for one in subjects] for name in ("name", "accuracy")}
    for name, (part, entry) in parts.items():
        found[name] = [(one.get(part) or {}).get(entry) for one in subjects]
    return found


@columns.of("Graph")
def _(result: "Graph") -> Columns:
    return {
        "name": [node.name for node in result.nodes],
        "operation": [node.title for node in result.nodes],
        "inputs": [", ".join(node.inputs) for node in result.nodes],
        "shape": [list(node.shape) for node in result.nodes],
        "path": [node.path for node in result.nodes],
    }


@columns.of("LoadedModel")
def _(result: "LoadedModel") -> Columns:
    weights = dict(result.model.named_parameters())
    shapes = [list(value.shape) for value in weights.values()]
    return {"parameter": [*weights], "shape": shapes}


def _fields(lines: Sequence[Any], names: Sequence[str]) -> Columns:
    """Return some fields of objects as columns."""
    return {name: [getattr(line, name) for line in lines] for name in names}
