"""The figures and sentences about training steps: promised against measured, and along a run."""

from typing import Any

from holdfast.report import marks
from holdfast.report.formats import given, number, percent
from holdfast.report.reading import Finding, Record, finished


def descent_sentence(part: Record) -> str:
    """Return the answer about one step in words.

    Args:
        part: A `Descent` as `audit.json` holds it.
    """
    step, safe, along = (part[name] for name in ("step", "largest_safe_step", "safe_along_step"))
    step = given(step)
    if part["gradient_norm"] == 0:
        return "The gradient is zero: no step changes the loss."
    size = number(abs(part["actual_change"]))
    did = f"{'lowers' if part['improved'] else 'raises'} the loss by {size}"
    if part["actual_change"] == 0:
        did = "leaves the loss as it is"
    if safe is None and along is None:
        within = "The gradient does not change: every step is safe"
    elif safe is None:
        within = f"Nothing bends upward here; along this step {number(along)} is safe"
    else:
        share = number(part["step"] / safe)
        within = f"The step is {share} of the largest safe step, {number(safe)}"
        if along is not None and along < safe:
            within += f"; along this step the gradient changes faster, and {number(along)} is safe"
    if part["holds"]:
        promise = f"at least {number(-part['predicted_change'])}"
        return f"A step of {step} {did}; the descent lemma promised {promise}. {within}."
    if part["predicted_change"] > 0:
        return f"A step of {step} {did}; the descent lemma promises nothing beyond 2 ÷ L. {within}."
    return (
        f"A step of {step} {did}, where the descent lemma promised a fall of "
        f"{number(-part['predicted_change'])}: within the step the gradient changes faster than "
        "at its ends."
    )


def run_sentence(run: Record) -> str:
    """Return what a training run showed, in words.

    Args:
        run: The `training` of a descent part.
    """
    known = [one for one in run["measurements"] if one["ratio"] is not None]
    told = (
        f"{percent(run['improved'])} of {len(run['measurements'])} measured steps lowered the loss"
    )
    if not known:
        return f"{told}; no curvature was seen."
    last, over = known[-1]["ratio"], sum(one["ratio"] >= 1 for one in known)
    edge = (
        f"{over} of them were as long as the largest safe step or longer: the edge of stability"
        if over
        else "none was as long as the largest safe step"
    )
    return f"{told}; {edge}. The last one was {number(last)} of it."


def descent(audit: Record) -> marks.Spec | None:
    """Draw the change of the loss against the length of the step, promised and measured.

    Args:
        audit: What `audit.json` holds.

    Returns:
        Two lines per model, the largest safe step and the step asked about marked, or None.
    """
    alt = marks.altair()
    found = finished(audit, "descent")
    rows = [row for finding in found for row in _path_rows(finding)]
    if not rows:
        return None
    base = alt.Chart().encode(
        x=alt.X("share:Q", title="step ÷ largest safe step", scale=alt.Scale(nice=False)),
        color=marks.colour(audit),
        tooltip=marks.tooltips(
            model="name", step="step_text", promised="predicted_text", measured="actual_text"
        ),
    )
    lows = [min(row["actual"], row["predicted"]) for row in rows]
    low = min(lows) * 1.15
    if not low < 0:
        return None
    scale = alt.Scale(domain=[low, -low], clamp=True, nice=False)

    def change(field: str) -> Any:
        return alt.Y(f"{field}:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5, format="%"))

    marked = base.transform_filter("datum.marked").encode(y=change("actual"))
    layers = [
        base.mark_line(style="promise", clip=True).encode(y=change("predicted")),
        base.mark_line(style="curve", clip=True).encode(y=change("actual")),
        marked.mark_point(style="tip", aria=False).encode(shape=marks.shape(audit)),
    ]
    safe = alt.Chart(alt.Data(values=[{"share": 1, "text": "safe up to here"}])).encode(x="share:Q")
    own = [row for finding in found for row in _own_step(finding)]
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(style="reference")
    layers += [
        zero.encode(y=alt.Y("zero:Q", scale=scale)),
        safe.mark_rule(style="threshold"),
        safe.mark_text(style="value", align="right", dx=-5, baseline="top", y=2).encode(
            text="text:N"
        ),
    ]
    if own:
        layers += _own_layers(audit, own, scale)
    return marks.finish(
        alt.layer(*layers, data=alt.Data(values=rows), height=300),
        title="Change of the loss, relative to it",
        description="Does a training step do what it should? Promised and measured change. "
        + " ".join(f"{f.name}: {descent_sentence(f.part)}" for f in found),
    )


def _path_rows(finding: Finding) -> list[dict[str, Any]]:
    """Return the path of one model, steps by the safe step and changes by the loss."""
    part, loss = finding.part, finding.part["loss"]
    safe, path = part["largest_safe_step"], part["path"]
    if safe is None or not loss:
        return []
    every, path = max(1, len(path) // 6), [point for point in path if point["step"] <= 1.25 * safe]
    return [
        {
            "series": finding.series,
            "name": finding.name,
            "share": point["step"] / safe,
            "predicted": point["predicted"] / abs(loss),
            "actual": point["actual"] / abs(loss),
            "step_text": number(point["step"]),
            "predicted_text": number(point["predicted"]),
            "actual_text": number(point["actual"]),
            "marked": place % every == 0,
        }
        for place, point in enumerate(path)
        if point["actual"] is not None
    ]


def _own_layers(audit: Record, own: list[dict[str, Any]], scale: Any) -> list[Any]:
    """Return rings around the steps that were asked about, and the name of the first."""
    alt = marks.altair()
    mine = alt.Chart(alt.Data(values=own)).encode(
        x="share:Q",
        y=alt.Y("actual:Q", scale=scale),
        color=marks.colour(audit),
        tooltip=marks.tooltips(model="name", step="step_text", measured="actual_text"),
    )
    told = mine.transform_filter("datum.told").mark_text(style="value", align="left", dx=6, dy=-18)
    return [mine.mark_point(style="own"), *marks.with_halo(told.encode(text="told:N"))]


def _own_step(finding: Finding) -> list[dict[str, Any]]:
    """Return the step that was asked about, where it lies in sight; the first one has its name."""
    part = finding.part
    safe, loss = part["largest_safe_step"], part["loss"]
    if safe is None or not loss or part["step"] > 1.25 * safe:
        return []
    return [
        {
            "series": finding.series,
            "name": finding.name,
            "share": part["step"] / safe,
            "actual": part["actual_change"] / abs(loss),
            "step_text": given(part["step"]),
            "actual_text": number(part["actual_change"]),
            "told": "" if finding.index else f"your step, {given(part['step'])}",
        }
    ]


def stability(audit: Record) -> marks.Spec | None:
    """Draw each measured step of a run over the largest safe step.

    Args:
        audit: What `audit.json` holds.

    Returns:
        Points on a logarithmic axis, with the edge of stability at 1, or None without a run.
    """
    alt = marks.altair()
    found = [f for f in finished(audit, "descent") if f.part.get("training")]
    rows = [row for finding in found for row in _run_rows(finding)]
    if not rows:
        return None
    scale, axis = marks.log_axis([1.0, *(row["ratio"] for row in rows)], below=0.08, above=0.12)
    base = alt.Chart().encode(
        x=alt.X("step:Q", title="training step", scale=alt.Scale(nice=False)),
        y=alt.Y("ratio:Q", title=None, scale=scale, axis=axis),
        color=marks.colour(audit),
        tooltip=marks.tooltips(
            model="name", step="step", ratio="ratio_text", sharpness="sharpness", loss="did"
        ),
    )
    edge = alt.Chart(alt.Data(values=[{"ratio": 1, "text": "edge of stability"}])).encode(
        y=alt.Y("ratio:Q", scale=scale)
    )
    layers = [
        edge.mark_rule(style="threshold"),
        edge.mark_text(style="value", align="left", dx=4, dy=-8, x=0).encode(text="text:N"),
        base.mark_line(style="curve"),
        base.mark_point(style="tip").encode(shape=marks.shape(audit)),
    ]
    return marks.finish(
        alt.layer(*layers, data=alt.Data(values=rows), height=260),
        title="Step ÷ largest safe step",
        description="Does training stay within the safe step? "
        + " ".join(f"{f.name}: {run_sentence(f.part['training'])}" for f in found),
    )


def _run_rows(finding: Finding) -> list[dict[str, Any]]:
    return [
        {
            "series": finding.series,
            "name": finding.name,
            "step": one["step"],
            "ratio": one["ratio"],
            "ratio_text": number(one["ratio"]),
            "sharpness": number(one["sharpness"]),
            "did": "lower afterwards" if one["actual_change"] < 0 else "not lower afterwards",
        }
        for one in finding.part["training"]["measurements"]
        if one["ratio"] and one["actual_change"] is not None
    ]
