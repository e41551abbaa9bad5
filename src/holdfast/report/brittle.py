"""Where knowledge is brittle: volatility by layer, the layers and classes that the page shows.

As in `figures`, field names are fixed and names given by users are only ever data.
"""

from collections.abc import Sequence
from typing import Any

from holdfast.report import marks
from holdfast.report.formats import given, listing, number
from holdfast.report.reading import Finding, Record, finished

KINDS = {
    "normalised": "scale-free",
    "volatility": "raw",
    "near": "near pairs",
    "perturbed": "perturbations",
}


_ENDS = ("value", "low", "high")


def volatility(audit: Record) -> marks.Spec | None:
    """Draw the volatility of each layer with its interval, of the kind that the reader chooses.

    Args:
        audit: What `audit.json` holds.

    Returns:
        Intervals by layer; the parameter `scale` is one of `KINDS`; or None.
    """
    alt = marks.altair()
    found = finished(audit, "knowledge")
    rows = marks.in_order([row for finding in found for row in _volatility_rows(finding)])
    if not rows:
        return None
    scale = alt.param(name="scale", value="normalised")
    title = alt.ExprRef(
        "scale == 'normalised' ? 'Change of loss per typical distance'"
        " : 'Change of loss per unit of distance'"
    )
    base = (
        alt.Chart()
        .transform_filter("datum.kind == scale")
        .encode(
            y=marks.layer_axis(),
            yOffset=marks.model_offset(found),
            color=marks.colour(audit),
            tooltip=marks.tooltips(
                model="name", layer="layer", volatility="text", interval="interval"
            ),
        )
    )
    value = alt.X("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    spans = base.mark_rule(style="interval").encode(x="low:Q", x2="high:Q")
    tips = base.mark_point(style="tip").encode(x=value, shape=marks.shape(audit))
    height = marks.layers_height(rows, found)
    chart = alt.layer(spans, tips, data=alt.Data(values=rows), height=height)
    return marks.finish(
        chart.add_params(scale),
        title=title,
        description="Where is the model's knowledge brittle? Volatility by layer. "
        + " ".join(f"{f.name}: {brittle_sentence(f)}" for f in found),
    )


def kinds(found: Sequence[Finding]) -> list[tuple[str, str]]:
    """Return the kinds of volatility that some model has, with the words for them."""
    there = {row["kind"] for finding in found for row in _volatility_rows(finding)}
    return [(kind, words) for kind, words in KINDS.items() if kind in there]


def most_brittle(finding: Finding) -> str:
    """Return the layer with the largest scale-free volatility.

    Args:
        finding: The knowledge of one model.

    Returns:
        The layer's path as the audit writes it.
    """
    estimates = finding.part["normalised"]
    return max(finding.part["layers"], key=lambda layer: estimates[layer]["value"] or 0.0)


def brittle_sentence(finding: Finding) -> str:
    """Return where a model is brittle, in words that its intervals allow.

    Args:
        finding: The knowledge of one model.
    """
    first, *tied = leading(finding)
    one = finding.part["normalised"][first]
    ends = f"between {number(one['low'])} and {number(one['high'])}"
    told = f"{number(one['value'])}, {ends} with {given(100 * one['level'])}% confidence"
    if not tied:
        return f"most at layer {first or '(model)'}: {told}."
    if len(tied) + 1 == len(finding.part["layers"]):
        return (
            f"the intervals do not tell the layers apart. The largest value is that of layer "
            f"{first or '(model)'}: {told}."
        )
    named = listing(layer or "(model)" for layer in tied[:4])
    others = named if len(tied) < 5 else f"{len(tied)} others"
    return f"layer {first or '(model)'} has {told}; {others} cannot be told from it."


def brittle_words(subject: Record) -> str:
    """Return the most brittle layer in a few words, or that intervals do not tell it.

    Args:
        subject: One model of an audit, whose knowledge came to an end.
    """
    finding = Finding(0, subject, subject["knowledge"])
    first, *tied = leading(finding)
    if tied and len(tied) + 1 == len(finding.part["layers"]):
        return "not told apart"
    others = f" or {len(tied)} other{'s' * (len(tied) > 1)}" * bool(tied)
    return f"{first or '(model)'}{others}"


def leading(finding: Finding) -> list[str]:
    """Return the layers that may have the largest volatility, as far as intervals can tell.

    Args:
        finding: The knowledge of one model.

    Returns:
        `most_brittle` first, then those whose intervals reach up to its own, in their order.
    """
    first, estimates = most_brittle(finding), finding.part["normalised"]
    low = estimates[first]["low"]
    known = {layer: estimates[layer]["high"] for layer in finding.part["layers"]}
    tied = [layer for layer, high in known.items() if layer != first and _reaches(high, low)]
    return [first, *tied]


def _reaches(high: float | None, low: float | None) -> bool:
    """Return whether an upper end, None for infinity, is not below a lower one."""
    return high is None or low is None or high >= low


def typical(finding: Finding, layer: str) -> float | None:
    """Return the mean distance between states at a layer; None where it is not known or zero."""
    return (finding.part.get("scale") or {}).get(layer) or None


def _volatility_rows(finding: Finding) -> list[dict[str, Any]]:
    return [
        {
            "series": finding.series,
            "name": finding.name,
            "layer": layer or "(model)",
            "kind": kind,
            **{key: estimate[key] for key in _ENDS},
            "text": number(estimate["value"]),
            "interval": f"{number(estimate['low'])} to {number(estimate['high'])}",
        }
        for kind in KINDS
        for layer, estimate in (finding.part.get(kind) or {}).items()
        if estimate is not None and estimate["value"] is not None
    ]


def shown_layers(finding: Finding) -> list[str]:
    """Return the layers whose pairs and maps are shown, in order: the most volatile if many.

    Args:
        finding: The knowledge of one model.

    Returns:
        At most 24 paths.
    """
    estimates, layers = finding.part["normalised"], finding.part["layers"]
    ranked = sorted(layers, key=lambda layer: -(estimates[layer]["value"] or 0.0))
    kept = set(ranked[:24])  # each brings pairs, a map and a plot of its own
    return [layer for layer in layers if layer in kept]


def class_rows(finding: Finding, layer: str) -> list[dict[str, Any]]:
    """Return the mean volatility of each label at a layer, and where its mark stands in the plot.

    Means are per typical distance, as the scale-free volatility of the whole layer is.

    Args:
        finding: The knowledge of one model.
        layer: A path.

    Returns:
        At most 20 labels, those with the largest means, in the order of the audit; `left`, `width`
        and `place` are in percent of the largest value shown.
    """
    unit = typical(finding, layer) or 1.0
    means = {
        label: {key: None if mean[key] is None else unit * mean[key] for key in _ENDS}
        for label, mean in ((finding.part.get("by_class") or {}).get(layer) or {}).items()
    }
    ranked = sorted(means, key=lambda label: -(means[label]["value"] or 0.0))[:20]
    ends = [means[label]["high"] or means[label]["value"] or 0.0 for label in ranked]
    most = max(ends, default=0.0) or 1.0
    rows = []
    for label in (label for label in means if label in ranked):
        value, low, high = (means[label][key] for key in _ENDS)
        end = most if high is None else high
        rows.append(
            {
                "label": label,
                "text": number(value),
                "interval": f"{number(low)} to {'∞' if high is None else number(high)}",
                "left": round(100 * (low or 0.0) / most, 2),
                "width": round(100 * (end - (low or 0.0)) / most, 2),
                "place": round(100 * (value or 0.0) / most, 2),
            }
        )
    return rows
