"""The chart of an answer: a figure of the audit page, drawn from this one answer."""

import functools
import html
import json
import math
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from holdfast.audits.parts import bracket_part, conditions_part, curve_points
from holdfast.errors import MissingExtra, Obstacle, Unsupported, one_line
from holdfast.report import brittle, distances, figures, formats, marks, training
from holdfast.report.reading import Record, subjects, visible_words
from holdfast.types import norm_name
from holdfast.views.kinds import ByKind
from holdfast.views.summaries import run_of
from holdfast.views.text import shortened

if TYPE_CHECKING:
    from holdfast.attacks.result import Attacks
    from holdfast.audits.audit import AuditReport
    from holdfast.brackets.bracket import Bracket
    from holdfast.certificates.certificate import Certificates
    from holdfast.certificates.conditions import Conditions
    from holdfast.knowledge_continuity.evidence.certificate import Frontier
    from holdfast.knowledge_continuity.result import Knowledge
    from holdfast.smoothness.descent import Descent
    from holdfast.smoothness.monitor import DescentMonitor


def plot(result: object) -> Any:
    """Return the chart of an answer.

    Args:
        result: What a verb returned.

    Returns:
        An Altair chart in the light colours of the page.

    Raises:
        MissingExtra: When Altair is not installed.
        Unsupported: When there is nothing to draw.
    """
    found = _sized(result)
    if found is None:
        advice = "see its text, or to_pandas()"
        why = Obstacle("", type(result).__name__, "there is nothing to draw", advice)
        raise Unsupported("a chart", [why])
    light = palettes()[0]
    config = json.dumps(_theme() | {"background": light["card"]})
    colours = re.sub(r"var\(--([\w-]+)\)", lambda name: light[name[1]], config)
    for parameter in found.get("params", ()):
        parameter["bind"] = {"input": "select", "options": [*brittle.KINDS], "name": "volatility "}
    alt: Any = marks.altair()
    return alt.LayerChart.from_dict(found | {"config": json.loads(colours)})


def drawing(result: object) -> str:
    """Return the chart of an answer as an SVG, whose colours are the variables of `palettes`.

    Args:
        result: What a verb returned.

    Returns:
        The SVG; empty where there is nothing to draw.

    Raises:
        MissingExtra: When a library of the extra `report` is not installed.
    """
    found = _sized(result)
    if found is None:
        return ""
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtra("vl-convert-python", "report", "a chart") from error
    still = [layer for layer in found["layer"] if not _answers_pointer(layer)]
    svg = vl_convert.vegalite_to_svg(found | {"layer": still, "config": _theme()})
    words = html.escape(found["description"])
    return svg.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)


def _answers_pointer(layer: Record) -> bool:
    """Return whether a layer of a figure only shows where a pointer is."""
    return "params" in layer or "condition" in layer["encoding"].get("opacity", {})


def palettes() -> tuple[dict[str, str], dict[str, str]]:
    """Return the light and the dark colours of the audit page, by the name of their variable."""
    sheet = (_folder() / "page.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)[:2]
    pairs = (re.findall(r"--([\w-]+): (#\w+);", block) for block in (light, dark))
    first, second = map(dict, pairs)
    return first, second


def _folder() -> Any:
    return resources.files("holdfast.report") / "templates"


@functools.cache
def _theme() -> dict[str, Any]:
    """Return the look of the page's figures, with colours as variables."""
    return json.loads((_folder() / "theme.json").read_text(encoding="utf-8"))


def _sized(result: object) -> marks.Spec | None:
    """Return the figure of an answer in a size for notebooks."""
    with marks.altair().utils.schemapi.debug_mode(False):
        found = figure(result)
    if found is None:
        return None
    return found | {"width": 560, "autosize": {"type": "pad", "contains": "padding"}}


@ByKind
def figure(result: object) -> marks.Spec | None:
    """Return the figure of an answer as a Vega-Lite specification, or None.

    Args:
        result: What a verb returned.
    """
    return None


@figure.of("Bracket")
def _(result: "Bracket") -> marks.Spec | None:
    return figures.bracket(_audit(result.norm, lipschitz=bracket_part(result)))


@figure.of("Certificates")
def _(result: "Certificates") -> marks.Spec | None:
    if not result.has_classes:
        return None
    found = {
        "curve": curve_points(*result.curve(), len(result), "proved"),
        "clean_accuracy": result.clean_accuracy,
        "semantics": result.semantics,
    }
    return distances.reach(_audit(result.norm, len(result), certificates=found))


@figure.of("Conditions")
def _(result: "Conditions") -> marks.Spec | None:
    return distances.conditions(_audit(result.norm, conditions=conditions_part(result)))


@figure.of("Knowledge")
def _(result: "Knowledge") -> marks.Spec | None:
    return brittle.volatility(_audit(2.0, result.n, knowledge=result.document()))


@figure.of("Descent")
def _(result: "Descent") -> marks.Spec | None:
    return training.descent(_audit(2.0, descent=result.document()))


@figure.of("DescentMonitor")
def _(result: "DescentMonitor") -> marks.Spec | None:
    return training.stability(_audit(2.0, descent={"training": run_of(result)}))


@figure.of("AuditReport")
def _(result: "AuditReport") -> marks.Spec | None:
    audit = visible_words(result.document)
    found = distances.reach(audit) or brittle.volatility(audit)
    if found is None or len(audit["subjects"]) == 1:
        return found
    names = (f"{one.shape}: {shortened(one.name, 30)}" for one in subjects(audit))
    return found | {"title": found["title"] | {"subtitle": [", ".join(names)]}}


@figure.of("Attacks")
def _(result: "Attacks") -> marks.Spec | None:
    """Draw how far the attack on each row is."""
    alt = marks.altair()
    every = math.ceil(len(result) / 300)  # more points than that lie on each other
    rows = [_attacked(result, row) for row in range(0, len(result), every)]
    most = max((row["distance"] for row in rows if row["found"]), default=1.0) or 1.0
    for row in rows:
        row["distance"] = row["distance"] if row["found"] else 1.08 * most
    base = alt.Chart().encode(
        x=alt.X("row:Q", title="row", scale=alt.Scale(nice=False)),
        y=alt.Y("distance:Q", title=None, scale=alt.Scale(zero=True)),
        color=marks.colour(_audit(result.norm)),
        tooltip=marks.tooltips(row="row", label="label", answer="answer", distance="text"),
    )
    known = base.transform_filter("datum.found")
    layers = [
        known.mark_rule(style="interval", aria=False).encode(y2=alt.datum(0)),
        known.mark_point(style="tip"),
        base.transform_filter("!datum.found").mark_point(style="open"),
    ]
    attack = "an attack" if math.isfinite(result.epsilon) else "the nearest attack"
    lost = sum(not row["found"] for row in rows)
    subtitle = [f"open circles: none found ({lost} rows)"] if lost else []
    if every > 1:
        subtitle.append(f"{len(rows)} of {formats.count(len(result))} rows")
    return marks.finish(
        alt.layer(*layers, data=alt.Data(values=rows), height=260),
        title=f"Distance of {attack} on each row ({norm_name(result.norm)})",
        subtitle=subtitle,
        description=f"How far is {attack} on each row, an input that is not given the label?",
    )


def _attacked(result: "Attacks", row: int) -> dict[str, Any]:
    """Return one row of attacks: a bound of the distance, and the answer there."""
    distance = float(result.distance[row])
    found = math.isfinite(distance)
    text = (
        f"≤ {formats.at_most(distance)}"
        if found
        else one_line(result.reason[row].replace("_", " "))
    )
    return {
        "series": "s0",
        "row": row,
        "found": found,
        "distance": distance if found else 0.0,
        "text": text,
        "label": int(result.labels[row]),
        "answer": int(result.predicted[row]),
    }


@figure.of("Frontier")
def _(result: "Frontier") -> marks.Spec | None:
    """Draw the bound of every cell of a frontier, given that a fresh row lands near."""
    alt = marks.altair()
    rows = [
        {
            "delta": formats.at_least(cell.delta) if math.isfinite(cell.delta) else "any",
            "eta": formats.at_most(cell.eta),
            "place": place,
            "column": column,
            "share": 0.0 if cell.vacuous else cell.conditional,
            "text": formats.DASH if cell.vacuous else formats.percent_at_most(cell.conditional, 2),
            "series": "s0",
        }
        for place, row in enumerate(result.cells)
        for column, cell in enumerate(row)
    ]
    base = alt.Chart().encode(
        x=alt.X("eta:N", title="loss changes by more than", sort=alt.SortField("column")),
        y=alt.Y("delta:N", title="within distance", sort=alt.SortField("place", "descending")),
        tooltip=marks.tooltips(within="delta", more_than="eta", at_most="text"),
    )
    opacity = alt.Opacity("share:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0.04, 0.6]))
    colour = marks.colour(_audit(2.0))
    layers = [
        base.mark_rect().encode(color=colour, opacity=opacity),
        base.mark_text(style="value").encode(text="text:N"),
    ]
    return marks.finish(
        alt.layer(*layers, data=alt.Data(values=rows), height=30 * len(result.cells)),
        title="Share of fresh rows with such a loss, of those that land near: at most",
        subtitle=[f"layer {shortened(one_line(result.layer) or '(model)', 60)}"],
        description="What is proved about fresh data? Each cell is an upper bound.",
    )


def _audit(norm: float, rows: int = 0, **parts: Any) -> Record:
    """Return answers about one model as an audit holds them, for the figures of its page."""
    subject = {"name": "this model", **visible_words(parts)}
    data = {"rows": rows}
    return {"norm": norm_name(norm), "epsilon": None, "data": data, "subjects": [subject]}
