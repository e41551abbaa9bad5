"""What each kind of answer says in a few lines: the facts that its text and its HTML share.

Numbers have three significant digits, or more where two bounds are closer; bounds are rounded
outward, so that what is shown is proved as well.
"""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from holdfast.report import formats
from holdfast.report.brittle import brittle_words
from holdfast.report.formats import amount, span
from holdfast.report.training import descent_sentence, run_sentence
from holdfast.rows import tally
from holdfast.types import norm_name
from holdfast.views.kinds import ByKind

if TYPE_CHECKING:
    from holdfast.attacks.result import Attacks
    from holdfast.audits.audit import AuditReport
    from holdfast.brackets.bracket import Bracket
    from holdfast.certificates.certificate import Certificates
    from holdfast.certificates.conditions import Conditions
    from holdfast.graph.ir import Graph
    from holdfast.knowledge_continuity.evidence.certificate import Frontier, KnowledgeCertificate
    from holdfast.knowledge_continuity.evidence.expected import VolatilityCertificate
    from holdfast.knowledge_continuity.result import Knowledge
    from holdfast.language.attack import TextAttacks
    from holdfast.language.result import SubstitutionCertificates
    from holdfast.smoothing.votes import Votes
    from holdfast.smoothness.descent import Descent, Smoothness
    from holdfast.smoothness.monitor import DescentMonitor
    from holdfast.sources.models import LoadedModel
    from holdfast.types import Estimate


MOST = 5
"""So many layers, models or kinds are named one by one; the others are counted."""


@dataclass(frozen=True)
class Summary:
    """An answer in a few lines.

    Attributes:
        title: The answer itself.
        facts: What belongs to it, each with its name.
        note: What exactly is claimed, or what to do, in sentences.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    note: str = ""


@ByKind
def summary(result: object) -> Summary:
    """Return what an answer says; of a kind without words of its own, the fields.

    Args:
        result: What a verb returned.
    """
    every = [(name.replace("_", " "), _short(value)) for name, value in vars(result).items()]
    return Summary(type(result).__name__, every)


def _short(value: Any) -> str:
    """Return a field in a few words."""
    if isinstance(value, Tensor):
        return f"tensor {list(value.shape)}"
    if isinstance(value, float):
        return amount(value)
    if isinstance(value, tuple | list | dict) and len(value) > MOST:
        return f"{len(value)} entries"
    return str(value)


@summary.of("Bracket")
def _(result: "Bracket") -> Summary:
    digits = formats.telling_digits(result.lower, result.upper)
    ratio = amount(result.ratio, functools.partial(formats.at_most, digits=digits))
    reach = span(result.lower, result.upper)
    largest = max(result.layers, key=lambda layer: layer.gain, default=None)
    facts = {
        "ratio": ratio,
        "lower by": result.lower_by,
        "upper by": result.upper_by,
        "search": f"{amount(result.seconds)} s; {result.outcome.value}",
    }
    if largest is not None:
        gain = amount(largest.gain, formats.at_most)
        where = f"{largest.path or '(model)'} ({largest.op})"
        facts["operations"] = f"{len(result.layers)}; largest gain {gain} at {where}"
    note = _sentences(*result.notes, *result.assumptions)
    norm = norm_name(result.norm)
    return Summary(f"Bracket: {norm} Lipschitz constant {reach}", [*facts.items()], note)


@summary.of("Certificates")
def _(result: "Certificates") -> Summary:
    rows, norm = _rows(len(result)), norm_name(result.norm)
    facts = {}
    if result.has_classes:
        title = f"Certificates of {rows}: {norm} radii, {result.semantics} semantics"
        facts |= _right(result)
        facts |= _spread("radius", result.radius, formats.at_least, math.floor)
        facts["reasons"] = _counts(result.counts())
    else:
        title = f"Certificates of {rows} with targets: bounds of change in {norm} distance"
    if result.smoothing is not None:
        facts |= _smoothed(result.smoothing)
        return Summary(title, [*facts.items()], result.guarantee)
    facts["methods"] = _counts(tally(method for method in result.method if method))
    facts["constant"] = f"at most {amount(result.constant, formats.at_most)}, for all inputs"
    return Summary(title, [*facts.items()], result.guarantee)


@summary.of("Attacks")
def _(result: "Attacks") -> Summary:
    facts = {}
    if math.isfinite(result.epsilon):
        share = formats.percent(result.accuracy_under_attack(result.epsilon))
        facts["right under attack"] = f"{share} within {formats.given(result.epsilon)}"
    else:
        facts |= _spread("nearest", result.distance, formats.at_most, math.ceil, endless="none")
    facts["reasons"] = _counts(result.counts())
    norm = norm_name(result.norm)
    note = (
        f"Every attack found is within its {norm} distance, as measured. That none was found "
        "does not show that there is none."
    )
    return Summary(f"Attacks on {_rows(len(result))}: {norm} distance", [*facts.items()], note)


@summary.of("SubstitutionCertificates")
def _(result: "SubstitutionCertificates") -> Summary:
    facts = {
        "certified": formats.percent(result.certified_accuracy),
        "right": formats.percent(result.clean_accuracy),
        "outcomes": _counts(result.counts()),
        "texts run": f"{formats.count(int(result.tried.sum()))} of "
        + formats.count(sum(result.combinations.tolist())),
    }
    changes = [change for one in result.brittle for change in one[:1]]
    changes.sort(key=lambda change: -abs(change.loss_change))
    if changes:
        said = (f"{one.word} ({amount(one.loss_change)})" for one in changes[:MOST])
        facts["most brittle words"] = _some(said)
    words = "1 word" if result.budget == 1 else f"{result.budget} words"
    note = (
        "Certified: every text within the budget was run and gets the label; other texts are not "
        "claimed."
    )
    title = f"SubstitutionCertificates of {_rows(len(result))}: up to {words} replaced"
    return Summary(title, [*facts.items()], note)


@summary.of("TextAttacks")
def _(result: "TextAttacks") -> Summary:
    facts = {
        "right under attack": formats.percent(result.accuracy_under_attack),
        "reasons": _counts(result.counts()),
        "texts run": formats.count(int(result.queries.sum())),
    }
    note = "Every attack found was run. That none was found does not show that there is none."
    return Summary(f"TextAttacks on {_rows(len(result))}", [*facts.items()], note)


@summary.of("Conditions")
def _(result: "Conditions") -> Summary:
    facts = {
        "metric": result.metric,
        "upper ÷ lower": amount(result.ratio, formats.at_most),
        "median radius": amount(result.median_radius, formats.at_least),
        "resolution": amount(result.resolution),
        "quantisation": amount(result.quantisation),
    }
    title = f"Conditions: {result.bounded} ({norm_name(result.norm)} distance)"
    if result.metric == "none":
        title = "Conditions: there is no distance between these inputs"
    return Summary(title, [*facts.items()], result.advice)


@summary.of("Knowledge")
def _(result: "Knowledge") -> Summary:
    ranked, most = result.rank(), MOST if len(result.layers) <= MOST + 1 else MOST - 1
    facts = [(layer or "(model)", str_of(result.normalised[layer])) for layer in ranked[:most]]
    if len(ranked) > most:
        facts.append(("and", f"{len(ranked) - most} less volatile layers"))
    if result.accuracy is not None:
        facts.append(("right", formats.percent(result.accuracy)))
    what = f"{result.loss}, {result.distance} distance"
    title = f"Knowledge of {_rows(result.n)}: scale-free volatility ({what})"
    return Summary(title, facts, _sentences(*result.notes))


@summary.of("KnowledgeCertificate")
def _(result: "KnowledgeCertificate") -> Summary:
    within, above = amount(result.delta, formats.at_least), amount(result.eta, formats.at_most)
    facts = {
        "within delta, above eta": f"at most {formats.percent_at_most(result.probability)}",
        "given within delta": f"at most {formats.percent_at_most(result.conditional)}",
        "seen": f"{result.observed} of {result.near} near, of {result.trials}",
        "confidence": formats.given(result.confidence),
    }
    if result.vacuous:
        facts["says nothing"] = "; ".join(result.why)
    where = f"delta {within}, eta {above}"
    title = f"KnowledgeCertificate at layer {result.layer or '(model)'}: {where}"
    return Summary(title, [*facts.items()], result.statement)


@summary.of("VolatilityCertificate")
def _(result: "VolatilityCertificate") -> Summary:
    facts = {
        "expected slope": f"at most {amount(result.upper, formats.at_most)}",
        "seen": amount(result.observed),
        "rows": str(result.rows),
        "confidence": formats.given(result.confidence),
    }
    if result.vacuous:
        facts["says nothing"] = "; ".join(result.why)
    title = f"VolatilityCertificate at layer {result.layer or '(model)'}"
    return Summary(title, [*facts.items()], result.statement)


@summary.of("Frontier")
def _(result: "Frontier") -> Summary:
    cells = [cell for row in result.cells for cell in row]
    telling = [cell for cell in cells if not cell.vacuous]
    facts = {
        "cells": f"{len(result.deltas)} distances by {len(result.etas)} loss changes",
        "of these": f"{len(telling)} say something",
        "confidence": formats.given(result.confidence),
    }
    best = min(telling, key=lambda cell: cell.conditional, default=None)
    where = f"Frontier of layer {result.layer or '(model)'}, method {result.method}"
    return Summary(where, [*facts.items()], "" if best is None else best.statement)


@summary.of("Descent")
def _(result: "Descent") -> Summary:
    facts = {
        "loss": amount(result.loss),
        "promised change": amount(result.predicted_change),
        "measured change": amount(result.actual_change),
        "largest safe step": amount(result.largest_safe_step),
        "smoothness": amount(result.smoothness.constant),
    }
    holds = "holds" if result.holds else "does not hold"
    step = formats.given(result.step)
    title = f"Descent: the promise for a step of {step} {holds}, {_rows(result.rows)}"
    return Summary(title, [*facts.items()], descent_sentence(result.document()))


@summary.of("Smoothness")
def _(result: "Smoothness") -> Summary:
    facts = {
        "along the step": amount(result.along_step),
        "top eigenvalue": amount(result.top_eigenvalue),
    }
    return Summary(f"Smoothness {amount(result.constant)}, as measured", [*facts.items()])


@summary.of("DescentMonitor")
def _(result: "DescentMonitor") -> Summary:
    found = result.measurements
    facts = {
        "lowered the loss": formats.percent(result.improved),
        "last ÷ safe step": amount(result.ratio),
        "sharpness": amount(result.sharpness),
    }
    note = run_sentence(run_of(result)) if found else ""
    return Summary(f"DescentMonitor after {len(found)} measured steps", [*facts.items()], note)


@summary.of("AuditReport")
def _(result: "AuditReport") -> Summary:
    document = result.document
    subjects = document["subjects"]
    facts = [(one["name"], _audited(document, one)) for one in subjects[: MOST - 1]]
    if len(subjects) > len(facts):
        facts.append(("and", f"{len(subjects) - len(facts)} more models"))
    facts += [("results", str(result.json)), ("page", str(result.page or "not written"))]
    data = document["data"]
    return Summary(f"AuditReport on {data['name']}, {_rows(data['rows'])}", facts)


@summary.of("Graph")
def _(result: "Graph") -> Summary:
    kinds = Counter(node.title for node in result.nodes if node.op not in ("input", "constant"))
    shapes = [str(list(node.shape)) for node in result.inputs]
    facts = {
        "operations": _counts(dict(kinds.most_common())),
        "layers": _some(layer or "(model)" for layer in result.layers),
        "weights": f"{result.fingerprint[:12]}, {str(result.precision).removeprefix('torch.')}",
    }
    way = f"{', '.join(shapes)} to {list(result[result.output].shape)}"
    return Summary(f"Graph of {len(result.nodes)} nodes, rows of {way}", [*facts.items()])


@summary.of("LoadedModel")
def _(result: "LoadedModel") -> Summary:
    weights = sum(value.numel() for value in result.model.parameters())
    facts = {"parameters": formats.count(weights)}
    facts["class"] = type(result.model).__name__
    if result.shape is not None:
        facts["input row"] = str(list(result.shape))
    if result.units:
        facts["units"] = ", ".join(f"{name} {value}" for name, value in result.units.items())
    return Summary(f"LoadedModel {result.spec}", [*facts.items()], result.description)


@summary.of("Estimate")
def _(result: "Estimate") -> Summary:
    return Summary(f"Estimate {str_of(result)}, {100 * result.level:g}% interval", [])


def str_of(estimate: "Estimate") -> str:
    """Return an estimate with its interval, which is rounded outward."""
    low, high = amount(estimate.low, formats.at_least), amount(estimate.high, formats.at_most)
    return f"{amount(estimate.value)} [{low}, {high}]"


def run_of(monitor: "DescentMonitor") -> dict[str, Any]:
    """Return a run as the page of an audit takes it."""
    steps = [dataclasses.asdict(one) for one in monitor.measurements]
    return {"improved": monitor.improved, "measurements": steps}


def _right(result: "Certificates") -> dict[str, str]:
    """Return the share of rows that are right; of a single row its class and its label."""
    if len(result) > 1:
        return {"right": formats.percent(result.clean_accuracy)}
    return {"predicted": f"{int(result.predicted)}, label {int(result.labels)}"}


def _smoothed(votes: "Votes") -> dict[str, str]:
    """Return by what radii are smoothed, and how much it took."""
    options, drawn = votes.options, votes.drawn
    middle = f"{int(drawn.sort().values[(len(drawn) - 1) // 2])} of the median row"
    return {
        "noise": f"{options.noise}",
        "confidence": f"{options.confidence:g} for each row by itself",
        "samples": f"{int(drawn.sum())}, {middle}; at most {options.samples} of a row",
    }


def _audited(document: Mapping[str, Any], subject: Mapping[str, Any]) -> str:
    """Return what an audit found of one model."""
    parts = [f"{formats.percent(subject['accuracy'])} right"]
    certificates, bracket = subject.get("certificates") or {}, subject.get("lipschitz") or {}
    if certificates.get("verified_accuracy") is not None:
        share = formats.percent(certificates["verified_accuracy"])
        parts.append(f"{share} proved within {formats.given(document['epsilon'])}")
    elif certificates.get("median_radius") is not None:
        parts.append(f"half proved within {formats.at_least(certificates['median_radius'])}")
    if "lower" in bracket:
        parts.append(f"constant {span(bracket['lower'], bracket['upper'])}")
    known = subject.get("knowledge") or {}
    if known.get("rank"):
        parts.append(f"most brittle layer: {brittle_words(subject)}")
    return ", ".join(parts)


def _sentences(*parts: str) -> str:
    """Return sentences after one another, each with its end."""
    return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{formats.count(count)} rows"


def _counts(counts: Mapping[str, int]) -> str:
    """Return how many there are of each kind, the most frequent first."""
    told = [f"{formats.count(n)} {kind.replace('_', ' ')}" for kind, n in counts.items()]
    return _some(told)


def _some(words: Iterable[str]) -> str:
    """Return words one by one, and how many more there are."""
    every = list(words)
    more = f", {len(every) - MOST} more" if len(every) > MOST else ""
    return ", ".join(every[:MOST]) + more or "none"


def _spread(
    name: str,
    values: Tensor,
    write: Callable[[float], str],
    side: Callable[[float], int],
    endless: str = "unbounded",
) -> dict[str, str]:
    """Return the tenth, the middle and the ninth tenth of values, or the only one."""
    found = spread(values, side)
    title = name if len(found) == 1 else f"{name} (10 %, median, 90 %)"
    return {title: ", ".join(endless if math.isinf(v) else amount(v, write) for v in found)}


def spread(values: Tensor, side: Callable[[float], int]) -> list[float]:
    """Return the tenth, the middle and the ninth tenth of values, or the only value.

    Args:
        values: [N].
        side: `math.floor` for what a share of the rows has at least, `math.ceil` for at most.
    """
    ranked = values.sort().values
    shares = (0.1, 0.5, 0.9) if len(ranked) > 1 else (0.5,)
    return [float(ranked[side(share * (len(ranked) - 1))]) for share in shares]
