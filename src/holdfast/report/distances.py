"""The figures about distances: how far inputs can move, beside the scale of the data.

As in `figures`, field names are fixed and names given by users are only ever data.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.report import marks
from holdfast.report.formats import at_least, at_most, given, number, percent
from holdfast.report.reading import Finding, Record, finished
from holdfast.report.verdict import half_way


def conditions(audit: Record) -> marks.Spec | None:
    """Draw the distances that matter for the data, and how far each model is proved and attacked.

    Args:
        audit: What `audit.json` holds.

    Returns:
        One strip per model on a logarithmic axis, or None without data.
    """
    alt = marks.altair()
    found = finished(audit, "conditions")
    rows = [row for finding in found for row in _condition_rows(finding)]
    lines = _data_lines(found)
    values = [row["distance"] for row in (*rows, *lines)]
    if not rows or not values:
        return None
    scale, axis = marks.log_axis(values, below=0.12, above=0.12)
    x = alt.X("distance:Q", title=f"{audit['norm']} distance", scale=scale, axis=axis)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("series:N", title=None, axis=None),
        color=marks.colour(audit),
        tooltip=marks.tooltips(model="name", what="what", distance="text"),
    )
    points = base.encode(x=x)
    span = base.mark_rule(style="interval", aria=False).encode(
        x=alt.X("min(distance):Q", title=f"{audit['norm']} distance", scale=scale, axis=axis),
        x2="max(distance):Q",
        tooltip=alt.value(None),
    )
    text = {"proved": ("right", -12), "attacked": ("left", 12)}
    labels = [
        layer
        for kind, (align, dx) in text.items()
        for layer in marks.with_halo(
            points.transform_filter(f"datum.kind == '{kind}'")
            .mark_text(style="value", align=align, dx=dx)
            .encode(text="text:N")
        )
    ]
    tips = [
        points.transform_filter(f"datum.kind == '{kind}'")
        .mark_point(style=style)
        .encode(shape=marks.shape(audit))
        for kind, style in (("proved", "tip"), ("attacked", "open"))
    ]
    rule = alt.Chart(alt.Data(values=lines)).encode(x=x)
    notes = [
        rule.transform_filter(f"datum.side == '{side}'")
        .mark_text(style="note", align=side, baseline="bottom", dy=dy)
        .encode(y=alt.value(0), text="text:N")
        for side, dy in (("left", -4), ("right", -18))
    ]
    return marks.finish(
        alt.layer(
            rule.mark_rule(style="threshold"),
            *notes,
            span,
            *tips,
            *labels,
            height=28 + 34 * len(found),
        ),
        title="Distances on one scale",
        description="Does a distance certificate make sense here? Median distances. "
        + " ".join(f"{row['name']}: {row['what']} {row['text']}." for row in rows),
    )


def _condition_rows(finding: Finding) -> list[dict[str, Any]]:
    """Return the medians of one model that can stand on a logarithmic axis."""
    proved = finding.part.get("median_radius")
    attacked = (finding.subject.get("attacks") or {}).get("median_distance")
    kinds = (
        ("proved", "median certified radius", proved, f"≥ {at_least(proved)}"),
        ("attacked", "median attacked radius", attacked, f"≤ {at_most(attacked)}"),
    )
    return [
        {
            "series": finding.series,
            "name": finding.name,
            "kind": kind,
            "what": what,
            "distance": value,
            "text": text,
        }
        for kind, what, value, text in kinds
        if value
    ]


def _data_lines(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the distances of the data, which all models share, and where their names stand."""
    part = found[0].part if found else {}
    step, between = part.get("quantisation"), part.get("resolution")
    lines = [("quantisation step", "left", step)]
    if between != step:
        lines.append(("half way to a neighbour", "right", between))
    return [{"text": text, "side": side, "distance": value} for text, side, value in lines if value]


def reach(audit: Record) -> marks.Spec | None:
    """Draw the shares of inputs that are proved right and that survive the attacks.

    Args:
        audit: What `audit.json` holds.

    Returns:
        Per model a solid line, a dashed one where it was attacked, and the undecided band between
        them; or None without data.
    """
    alt = marks.altair()
    found = [f for f in finished(audit, "certificates") if f.part.get("curve")]
    word = "certified" if any(map(_smoothed, found)) else "proved"
    rows = _reach_rows(audit, found)
    if not rows:
        return None
    base = alt.Chart().encode(
        x=alt.X("radius:Q", title=f"{audit['norm']} distance", scale=alt.Scale(nice=False)),
        color=marks.colour(audit),
        tooltip=marks.tooltips(
            model="name",
            distance="distance",
            **{word: "proved_text"},
            undecided="undecided_text",
            attacked="attacked_text",
        ),
    )
    axis = alt.Axis(format="%", tickCount=5)
    rows = [{word if name == "proved" else name: row[name] for name in row} for row in rows]
    proved = alt.Y(f"{word}:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=axis)
    surviving = alt.Y("surviving:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=axis)
    near = alt.selection_point(
        name="near", on="pointerover", clear="pointerout", fields=["series", "radius"], empty=False
    )
    dots = base.encode(y=proved, shape=marks.shape(audit))
    layers = [
        base.mark_area(interpolate="step-before", style="undecided", aria=False).encode(
            y=proved, y2="surviving:Q"
        ),
        base.transform_filter("datum.is_attacked")
        .mark_line(interpolate="step-after", style="attacked", aria=False)
        .encode(y=surviving),
        base.mark_line(interpolate="step-before", style="curve").encode(y=proved),
        dots.transform_filter("datum.marked").mark_point(style="tip", aria=False),
        dots.mark_point(style="tip", aria=False).encode(
            opacity=alt.condition(near, alt.value(1), alt.value(0))
        ),
        dots.mark_point(style="target", aria=False).add_params(near),
    ]
    return marks.finish(
        alt.layer(
            *layers,
            *_marked_distance(audit, max(row["radius"] for row in rows)),
            data=alt.Data(values=rows),
            height=320,
        ),
        title="Share of inputs that stay right",
        description=f"How far can an input move? Share {word} right against distance. "
        + " ".join(_told(audit, f) for f in found),
    )


def _smoothed(finding: Finding) -> bool:
    """Return whether certificates hold with a confidence only, which is never called proved."""
    return finding.part.get("semantics") == "smoothed"


def _told(audit: Record, finding: Finding) -> str:
    """Return what the curves of one model show, in words."""
    part, attacks = finding.part, finding.subject.get("attacks") or {}
    word = "certified" if _smoothed(finding) else "proved"
    if not audit.get("epsilon"):
        return f"{finding.name}: half {word} within {at_least(part.get('median_radius'))}."
    told = f"{percent(part.get('verified_accuracy'))} {word} within {given(audit['epsilon'])}"
    survive = attacks.get("accuracy")
    told += "" if survive is None else f", {percent(survive)} survive the attacks"
    return f"{finding.name}: {told}."


def _reach_rows(audit: Record, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the curves of all models on one range of distances."""
    widest = max([audit.get("epsilon") or 0.0, *(_end(finding) for finding in found)])
    return [row for finding in found for row in _model_rows(audit, finding, widest)]


def _end(finding: Finding) -> float:
    """Return where the curves of a model end: the few rows that survive longest are left out."""
    last = max(point["radius"] for point in finding.part["curve"])
    left = [p["radius"] for p in _attacked_curve(finding) if p["surviving"] > 0.01]
    return max([last, *left])


def _attacked_curve(finding: Finding) -> list[dict[str, Any]]:
    attacks = finding.subject.get("attacks") or {}
    return sorted(attacks.get("curve") or (), key=lambda point: point["radius"])


def _model_rows(audit: Record, finding: Finding, widest: float) -> list[dict[str, Any]]:
    """Return one model's shares at every distance where one of them changes."""
    total = audit["data"]["rows"]
    proved = sorted(
        [*finding.part["curve"], *_at_epsilon(audit, finding)], key=lambda point: point["radius"]
    )
    attacked = _attacked_curve(finding)
    clean = finding.part.get("clean_accuracy") or proved[0]["proved"]
    ends = {widest} if attacked or not proved[-1]["proved"] else set()
    radii = sorted({p["radius"] for p in (*proved, *attacked) if p["radius"] <= widest} | ends)
    radii = _thinned(radii, {point["radius"] for point in _at_epsilon(audit, finding)})
    every = max(1, len(radii) // 6)
    rows = []
    for place, radius in enumerate(radii):
        share = _proved_at(proved, radius)
        count = round(share * total)
        surviving = max(share, _surviving_at(attacked, radius, clean))
        rows.append(
            {
                "series": finding.series,
                "name": finding.name,
                "radius": radius,
                "distance": number(radius),
                "proved": share,
                "surviving": surviving,
                "is_attacked": bool(attacked),
                "proved_text": f"{count} of {total} ({percent(share)})",
                "undecided_text": percent(max(0.0, surviving - share)),
                "attacked_text": percent(max(0.0, clean - surviving)) if attacked else "not run",
                "marked": place % every == 0,
            }
        )
    return rows


def _thinned(radii: list[float], kept: set[float]) -> list[float]:
    """Return about as many distances as a line of the page can show apart, and those to be kept."""
    step = max(1, -(-len(radii) // 200))
    return sorted({*radii[::step], *radii[-1:], *kept})


def _proved_at(curve: Sequence[Mapping[str, Any]], radius: float) -> float:
    """Return what is proved at a distance, by the next point at or beyond it."""
    place = bisect_left(curve, radius, key=lambda point: point["radius"])
    return curve[place]["proved"] if place < len(curve) else 0.0


def _surviving_at(curve: Sequence[Mapping[str, Any]], radius: float, clean: float) -> float:
    """Return what survives at a distance, by the last point up to it."""
    place = bisect_right(curve, radius, key=lambda point: point["radius"])
    return min(clean, curve[place - 1]["surviving"]) if place else clean


def _at_epsilon(audit: Record, finding: Finding) -> list[dict[str, Any]]:
    """Return the point of the verdict where the curve does not already have it."""
    epsilon, proved = audit.get("epsilon"), finding.part.get("verified_accuracy")
    known = {point["radius"] for point in finding.part["curve"]}
    if not epsilon or proved is None or epsilon in known:
        return []
    rows = round(proved * audit["data"]["rows"])
    return [{"radius": epsilon, "proved": proved, "count": rows}]


def _marked_distance(audit: Record, widest: float) -> list[Any]:
    """Return the user's distance as a mark; where there is none, the data's, if it is in sight."""
    distance, text = audit.get("epsilon"), given(audit.get("epsilon"))
    if not distance:
        distance = half_way(audit)
        text = f"half way {number(distance)}"
    if distance is None or distance > widest:
        return []
    alt = marks.altair()
    data = alt.Data(values=[{"radius": distance, "text": text}])
    rule = alt.Chart(data).encode(x="radius:Q")
    side = ("left", 5) if distance < widest / 2 else ("right", -5)
    words = rule.mark_text(style="value", align=side[0], dx=side[1], baseline="top", y=2)
    return [rule.mark_rule(style="threshold"), *marks.with_halo(words.encode(text="text:N"))]
