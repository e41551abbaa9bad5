"""The figures of the audit page as Vega-Lite specifications; each answers one question.

Every model keeps its colour and its marker in all figures. Colours come from the page's theme
(`templates/theme.json`) through mark styles, so that light, dark and print need no second drawing.
Field names are fixed and names given by users are only ever data.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.report import brittle, marks, training
from holdfast.report.distances import conditions, reach
from holdfast.report.formats import NBSP, at_least, at_most, seconds
from holdfast.report.reading import Finding, Record, finished
from holdfast.report.verdict import rate


def figures(audit: Record) -> dict[str, marks.Spec]:
    """Return every figure that the audit has data for, by name.

    Args:
        audit: What `audit.json` holds.

    Returns:
        Vega-Lite specifications under `conditions`, `bracket`, `gains`, `reach`, `volatility`,
        `descent` and `stability`.
    """
    every: dict[str, Callable[[Record], marks.Spec | None]] = {
        "conditions": conditions,
        "bracket": bracket,
        "gains": gains,
        "reach": reach,
        "volatility": brittle.volatility,
        "descent": training.descent,
        "stability": training.stability,
    }
    # Checking them against the schema takes a third of the time of a page, and a test does it.
    with marks.altair().utils.schemapi.debug_mode(False):
        drawn = {name: draw(audit) for name, draw in every.items()}
    return {name: spec for name, spec in drawn.items() if spec is not None}


def bracket(audit: Record) -> marks.Spec | None:
    """Draw how the proved bounds on the rate of change closed in over time.

    Args:
        audit: What `audit.json` holds.

    Returns:
        Two step lines per model with the band between them, or None without data.
    """
    alt = marks.altair()
    found = finished(audit, "lipschitz")
    rows = [row for finding in found for row in _bracket_rows(finding)]
    values = [row[side] for row in rows for side in ("lower", "upper") if row[side]]
    if not values:
        return None
    scale, axis = marks.log_axis(values, below=0.12, above=0.12)
    # While one side is not known, the constant may lie anywhere beyond the other.
    low, high = scale.to_dict()["domain"]
    rows = [row | {"from": row["lower"] or low, "to": row["upper"] or high} for row in rows]
    base = alt.Chart().encode(
        x=alt.X("seconds:Q", title="seconds spent", scale=alt.Scale(nice=False, zero=True)),
        color=marks.colour(audit),
        tooltip=marks.tooltips(model="name", time="time", lower="at_least", upper="at_most"),
    )
    layers = []
    for side, text, dy in (("upper", "at_most", -11), ("lower", "at_least", 12)):
        known = base.transform_filter(f"datum.{side}").encode(
            y=alt.Y(f"{side}:Q", title=None, scale=scale, axis=axis)
        )
        end = known.transform_filter("datum.last")
        layers += [
            known.mark_line(interpolate="step-after", style="curve"),
            end.mark_point(style="tip").encode(shape=marks.shape(audit)),
            *marks.with_halo(
                end.mark_text(style="value", align="right", dx=5, dy=dy).encode(text=f"{text}:N")
            ),
        ]
    band = base.mark_area(interpolate="step-after", style="band", aria=False, clip=True).encode(
        y=alt.Y("from:Q", title=None, scale=scale, axis=axis), y2="to:Q"
    )
    ratios = [
        f"{_short(f.name)}: upper ÷ lower {at_most(f.part['ratio'])}"
        for f in found
        if f.part.get("ratio")
    ]
    known = (f"{f.name}: {rate(audit, f.part)}." for f in found)
    return marks.finish(
        alt.layer(band, *layers, data=alt.Data(values=rows), height=300),
        title=f"Output change per unit of input ({audit['norm']})",
        subtitle=ratios,
        description="How fast can the output change? Proved bounds over time. " + " ".join(known),
    )


def _short(name: str) -> str:
    """Return a name that fits beside a number on a narrow screen."""
    return name if len(name) <= 24 else name[:23] + "…"


def _bracket_rows(finding: Finding) -> list[dict[str, Any]]:
    """Return the best bounds after each step of the trace, and at the end."""
    best: dict[str, float | None] = {"lower": None, "upper": None}
    rows = []
    steps = sorted(finding.part.get("trace") or (), key=lambda step: step["seconds"])
    for step in steps:
        best[step["side"]] = step["value"]
        rows.append(_bracket_row(finding, step["seconds"], best))
    end = max([finding.part.get("seconds") or 0.0, *(step["seconds"] for step in steps)])
    final = {side: finding.part[side] for side in best}
    return [*rows, {**_bracket_row(finding, end, final), "last": True}]


def _bracket_row(finding: Finding, time: float, best: Mapping[str, float | None]) -> dict[str, Any]:
    lower, upper = best["lower"], best["upper"]
    return {
        "series": finding.series,
        "name": finding.name,
        "seconds": time,
        "time": seconds(time),
        "lower": lower or None,
        "upper": upper or None,
        "at_least": f"≥{NBSP}{at_least(lower)}",
        "at_most": f"≤{NBSP}{at_most(upper)}",
        "last": False,
    }


def gains(audit: Record) -> marks.Spec | None:
    """Draw the gain of each layer as a bar that starts at 1, on a logarithmic axis.

    Args:
        audit: What `audit.json` holds.

    Returns:
        Bars whose lengths add up to the product of the gains, or None without data. Where other
        gains are known, those of exactly 1 are left out: their bars have no length.
    """
    alt = marks.altair()
    found = [f for f in finished(audit, "lipschitz") if gain_rows(f)]
    every = [row for finding in found for row in gain_rows(finding) if row["gain"] > 0]
    rows = marks.in_order([row for row in every if row["gain"] != 1] or every)
    if not rows:
        return None
    values = [1.0, *(row["gain"] for row in rows)]
    scale, axis = marks.log_axis(values, below=0.16 if min(values) < 1 else 0.02, above=0.16)
    base = alt.Chart().encode(
        y=marks.layer_axis(),
        yOffset=marks.model_offset(found),
        x=alt.X("gain:Q", title=None, scale=scale, axis=axis),
        color=marks.colour(audit),
        tooltip=marks.tooltips(model="name", layer="path", operation="op", gain="text"),
    )
    bars = base.mark_rule(style="bar").encode(x2=alt.datum(1))
    tips = base.mark_point(style="tip", aria=False).encode(shape=marks.shape(audit))
    grow = base.transform_filter("datum.gain >= 1").mark_text(style="value", align="left", dx=9)
    shrink = base.transform_filter("datum.gain < 1").mark_text(style="value", align="right", dx=-9)
    one = alt.Chart(alt.Data(values=[{}])).mark_rule(style="reference").encode(x=alt.datum(1))
    labels = [mark.encode(text="text:N") for mark in (grow, shrink)]
    height = marks.layers_height(rows, found)
    return marks.finish(
        alt.layer(one, bars, tips, *labels, data=alt.Data(values=rows), height=height),
        title="Gain: above 1 stretches, below shrinks",
        description="Which layer stretches the most? Gain of each layer. "
        + " ".join(
            f"{f.name}: largest at {top['layer']} with {top['text']}."
            for f in found
            for top in [max(gain_rows(f), key=lambda row: row["gain"])]
        ),
    )


def gains_of_one(found: Sequence[Finding]) -> int:
    """Return how many gains the figure leaves out, as they are exactly 1 and others are not."""
    every = [row["gain"] for finding in found for row in gain_rows(finding)]
    return every.count(1) if any(gain not in (0, 1) for gain in every) else 0


def gain_rows(finding: Finding) -> list[dict[str, Any]]:
    """Return the layers of one model in order, those with the largest effect if there are many.

    Args:
        finding: The bracket of one model.

    Returns:
        One record per layer with its unique name, path, operation, gain and gain as text.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for layer in finding.part.get("layers") or ():
        label = f"{layer['path'] or '(model)'} · {layer['op']}"
        seen[label] = seen.get(label, 0) + 1
        gain = layer["gain"]
        if gain is None:
            continue
        rows.append(
            {
                "series": finding.series,
                "name": finding.name,
                "layer": label if seen[label] == 1 else f"{label} ({seen[label]})",
                "path": layer["path"] or "(model)",
                "op": layer["op"],
                "gain": gain,
                "text": at_most(gain),
            }
        )
    effect = sorted(rows, key=lambda row: -abs(math.log(row["gain"])) if row["gain"] else -math.inf)
    kept = {row["layer"] for row in effect[:40]}
    return [row for row in rows if row["layer"] in kept]
