"""What each method found, as the JSON that `audit.json` and the page share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks.result import Attacks
from holdfast.audits.distances import Distances
from holdfast.audits.fresh import LEVEL, median_interval, share_of, shares_at
from holdfast.audits.frontier import frontier_part
from holdfast.brackets.bracket import Bracket
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.conditions import Conditions
from holdfast.files import plain
from holdfast.knowledge_continuity.pairs.localise import Brittle
from holdfast.knowledge_continuity.result import Knowledge
from holdfast.smoothness.descent import Descent
from holdfast.smoothness.records import Measurement, share_improved
from holdfast.sources.data import LoadedData
from holdfast.sources.tokens import LoadedTokens
from holdfast.types import norm_name


def bracket_part(bracket: Bracket) -> dict[str, Any]:
    """Return a bracket as it stands in an audit."""
    return plain(bracket_facts(bracket))


def bracket_facts(bracket: Bracket) -> dict[str, Any]:
    """Return a bracket: bounds, trace, layers, outcome, notes and assumptions."""
    return {
        "norm": norm_name(bracket.norm),
        "lower": bracket.lower,
        "upper": bracket.upper,
        "ratio": bracket.ratio,
        "lower_by": bracket.lower_by,
        "upper_by": bracket.upper_by,
        "outcome": bracket.outcome.name,
        "advice": bracket.outcome.value,
        "seconds": bracket.seconds,
        "trace": bracket.trace,
        "layers": bracket.layers,
        "notes": bracket.notes,
        "assumptions": bracket.assumptions,
    }


def certificates_part(
    certificates: Certificates,
    data: LoadedData,
    distances: Distances,
    attacks: Attacks | None = None,
) -> dict[str, Any]:
    """Return certificates: the curve, the counts, and the rows at both ends with their attacks."""
    epsilon = distances.epsilon
    certified = (certificates.radius > 0).nonzero().flatten()
    order = certified[certificates.radius[certified].argsort(stable=True)].tolist()
    shown = 7  # rows at either end: one line of pictures on the page
    verified = None if epsilon is None else certificates.verified_accuracy(epsilon)
    return plain(
        {
            "norm": norm_name(certificates.norm),
            "method": "auto",
            "semantics": certificates.semantics,
            "guarantee": certificates.guarantee,
            "clean_accuracy": certificates.clean_accuracy,
            "verified_accuracy": verified,
            "median_radius": median_radius(certificates),
            "median_interval": median_interval(certificates.radius),
            "shares": shares_at(certificates.radius, distances.every),
            "level": LEVEL,
            "constant": certificates.constant,
            "reasons": certificates.counts(),
            "curve": curve_points(*certificates.curve(), len(certificates), "proved"),
            "least": [
                _edge(certificates, data, row) | {"attack": _nearest_attack(attacks, data, row)}
                for row in order[:shown]
            ],
            "most": [_edge(certificates, data, row) for row in order[::-1][:shown]],
        }
    )


def median_radius(certificates: Certificates) -> float:
    """Return the lower median of the radii over all rows, those with radius 0 included."""
    return float(certificates.radius.median())


def curve_points(
    distances: Tensor, shares: Tensor, total: int, name: str
) -> list[dict[str, float]]:
    """Return points of a share of the rows against the distance, thinned for drawing."""
    points = min(240, len(distances))  # more than a figure of that width can tell apart
    keep = torch.linspace(0, len(distances) - 1, points).round().long()
    rows = zip(distances[keep].tolist(), shares[keep].tolist(), strict=True)
    return [
        {"radius": radius, name: share, "count": round(share * total)} for radius, share in rows
    ]


def _edge(certificates: Certificates, data: LoadedData, row: int) -> dict[str, Any]:
    return {
        "row": row,
        "label": int(certificates.labels[row]),
        "predicted": int(certificates.predicted[row]),
        "radius": float(certificates.radius[row]),
        "margin": float(certificates.margin[row]),
        **data.shown(row),
    }


def attacks_part(attacks: Attacks, distances: Distances) -> dict[str, Any]:
    """Return attacks: the curve, the counts and the shares that survive the distances."""
    epsilon, rows = distances.epsilon, len(attacks)
    right = attacks.accuracy_under_attack(distances.every)
    return plain(
        {
            "norm": norm_name(attacks.norm),
            "accuracy": None if epsilon is None else attacks.accuracy_under_attack(epsilon),
            "median_distance": float(attacks.distance.median()),
            "median_interval": median_interval(attacks.distance),
            "shares": [
                {"distance": distance, **share_of(round(share * rows), rows)}
                for distance, share in zip(distances.every, right, strict=True)
            ],
            "reasons": attacks.counts(),
            "curve": curve_points(*attacks.curve(), len(attacks), "surviving"),
            "statement": (
                "An attack is an input that the model, run on it, does not give the label; its "
                "distance is measured between stored values and rounded up. Inputs are not "
                "clipped to a range. That none was found does not show that there is none."
            ),
        }
    )


def conditions_part(conditions: Conditions) -> dict[str, Any]:
    """Return whether a certificate makes sense here; without a metric there is no norm."""
    if conditions.metric == "none":
        return {"metric": "none", "bounded": conditions.bounded, "advice": conditions.advice}
    return plain(conditions) | {"norm": norm_name(conditions.norm)}


def _nearest_attack(attacks: Attacks | None, data: LoadedData, row: int) -> dict[str, Any] | None:
    """Return the attack on a row: how far, what answer, and the input with its change."""
    if attacks is None or not bool(attacks.success[row]):
        return None
    there = attacks.adversarial[row].flatten()
    change = there.double() - data.inputs[row].flatten().double()
    return {
        "distance": float(attacks.distance[row]),
        "predicted": int(attacks.predicted[row]),
        "change": None if data.image is None else change.tolist(),
        **data.seen(there),
    }


def knowledge_part(
    knowledge: Knowledge, data: LoadedData | LoadedTokens, predicted: Tensor | None = None
) -> dict[str, Any]:
    """Return volatility by layer, and of each layer the worst pairs and the frontier.

    Args:
        knowledge: As measured.
        data: The rows.
        predicted: What the model answers to each row, [N], where that is known.
    """
    statement = (
        f"Volatility at a layer is the mean, over all ordered pairs of {knowledge.n} rows, of "
        f"|change of {knowledge.loss}| / {knowledge.distance} distance between their states there "
        "(pairs at distance 0 count as 0); the scale-free form divides distances by their mean. "
        "Intervals are asymptotic 95 % jackknife intervals. It is a measurement on this data, "
        "not a certificate."
    )
    found = knowledge.document() | worst_part(knowledge, data, predicted) | frontier_part(knowledge)
    return found | {"statement": statement}


def worst_part(
    knowledge: Knowledge, data: LoadedData | LoadedTokens, predicted: Tensor | None = None
) -> dict[str, Any]:
    """Return the worst pairs of each layer, and what there is to see of their rows."""
    worst = {layer: _pairs(knowledge.neighbours[layer]) for layer in knowledge.layers}
    rows = {row for pairs in worst.values() for pair in pairs for row in (pair.row, pair.neighbour)}
    shown = {row: data.shown(row) for row in sorted(rows)}
    if predicted is not None:
        shown = {row: known | {"predicted": int(predicted[row])} for row, known in shown.items()}
    return plain({"worst": worst, "rows": shown})


def _pairs(brittle: Sequence[Brittle]) -> list[Brittle]:
    """Return the first few rows, leaving out those whose pair is there the other way round."""
    kept: dict[frozenset[int], Brittle] = {}
    for one in brittle:
        kept.setdefault(frozenset((one.row, one.neighbour)), one)
    return list(kept.values())[:6]  # two lines of pictures on the page


def descent_part(descent: Descent, training: Sequence[Measurement] | None) -> dict[str, Any]:
    """Return promise and measurement of a step, and what a run of training showed."""
    statement = (
        f"One plain gradient step of {descent.step:g} on the mean cross entropy of {descent.rows} "
        f"rows, in {descent.parameters} parameters and float64. L is the larger of the top "
        "Hessian eigenvalue before the step and the change of the gradient per distance over it; "
        "it is measured, and a lower bound of the true constant. No certificate."
    )
    run = None
    if training is not None:
        run = {"improved": share_improved(training), "measurements": training}
    return descent.document() | {"statement": statement, "training": plain(run)}


def data_part(
    data: LoadedData | LoadedTokens, digest: str, held_out: bool = False
) -> dict[str, Any]:
    """Return what the data is: name, size, shape, range or longest row, and hash."""
    labels = torch.cat([labels for _, labels in data.batches])
    what = _sizes(data) if isinstance(data, LoadedData) else {"shape": [], "image": None}
    return {
        "name": data.name,
        "rows": len(labels),
        "held_out": held_out,
        "classes": int(labels.max()) + 1,
        "class_names": _class_names(data),
        **what,
        **data.treatment,
        "sha256": digest,
    }


def _class_names(data: LoadedData | LoadedTokens) -> list[str]:
    """Return the names of classes by number; empty where they do not have one each."""
    own = data.model_classes if isinstance(data, LoadedTokens) else {}
    by_number = {number: name for name, number in (data.classes or own).items()}
    known = sorted(by_number)
    return [by_number[number] for number in known] if known == [*range(len(known))] else []


def _sizes(data: LoadedData) -> dict[str, Any]:
    columns = {}
    if data.columns and data.image is None:
        spread = data.inputs.double().std(0, correction=0)
        columns = {"columns": list(data.columns), "spread": spread.flatten().tolist()}
    return columns | {
        "shape": list(data.inputs.shape[1:]),
        "image": None if data.image is None else list(data.image),
        "range": [float(data.inputs.min()), float(data.inputs.max())],
    }
