"""Scales, axes and finishing that the figures of the audit page share."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.errors import MissingExtra
from holdfast.report.reading import SHAPES, Finding, Record, subjects

Spec = dict[str, Any]
"""A figure as a Vega-Lite specification."""


def altair() -> Any:
    """Import altair where a figure is drawn.

    Returns:
        The module.

    Raises:
        MissingExtra: Altair is not installed.
    """
    try:
        import altair as module
    except ImportError as error:
        raise MissingExtra("altair", "report", "a chart") from error
    return module


def colour(audit: Record) -> Any:
    """Return the colour of each model; the palette is the theme's."""
    alt = altair()
    keys = [finding.series for finding in subjects(audit)]
    return alt.Color("series:N", scale=alt.Scale(domain=keys), legend=None)


def shape(audit: Record) -> Any:
    """Return the marker of each model, the same in every figure and legend."""
    alt = altair()
    keys = [finding.series for finding in subjects(audit)]
    return alt.Shape("series:N", scale=alt.Scale(domain=keys, range=list(SHAPES)), legend=None)


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the place of their layer: its depth in the first model that has it.

    Layers of different models at one depth stay beside each other. The order is a number in the
    data because a list of names would become part of an expression.
    """
    depth: Counter[str] = Counter()
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row["layer"], depth[row["series"]])
        depth[row["series"]] += 1
    place = {name: index for index, name in enumerate(sorted(first, key=first.__getitem__))}
    return [{**row, "order": place[row["layer"]]} for row in rows]


def layer_axis() -> Any:
    """Return the layers of rows `in_order` from top to bottom, long paths cut in the middle."""
    alt = altair()
    order = alt.EncodingSortField(field="order", op="min")
    name = "datum.label"
    cut = f"length({name}) > 22 ? slice({name}, 0, 10) + '…' + slice({name}, -11) : {name}"
    axis = alt.Axis(labelExpr=cut, grid=False, ticks=False)
    return alt.Y("layer:N", sort=order, title=None, axis=axis)


def model_offset(found: Sequence[Finding]) -> Any:
    """Return the place of each model within the band of a layer."""
    alt = altair()
    return alt.YOffset("series:N", scale=alt.Scale(domain=[f.series for f in found]))


def with_halo(text: Any) -> list[Any]:
    """Return a layer of text, and below it the same in the colour of the paper and wider.

    A line that crosses a label would make it hard to read.
    """
    alt = altair()
    halo = text.copy(deep=True)
    halo.mark.style = "halo"
    return [halo.encode(color=alt.Undefined, tooltip=alt.value(None)), text]


def layers_height(rows: Sequence[Mapping[str, Any]], found: Sequence[Finding]) -> int:
    """Return the height in pixels that gives every bar of every layer its room."""
    return len({row["layer"] for row in rows}) * (12 + 16 * len(found)) + 8


def tooltips(**fields: str) -> list[Any]:
    """Return the lines of a tooltip, title and field name each."""
    alt = altair()
    return [
        alt.Tooltip(f"{field}:N", title=title.replace("_", " ")) for title, field in fields.items()
    ]


def log_axis(values: Sequence[float], below: float, above: float) -> tuple[Any, Any]:
    """Return a logarithmic scale around positive values, and its axis.

    Args:
        values: Positive numbers.
        below: Share of the length left free under the values, for labels.
        above: Share of the length left free over the values.

    Returns:
        The altair scale and axis.
    """
    alt = altair()
    low, high = math.log10(min(values)), math.log10(max(values))
    stretch = max(0.0, 0.3 - (high - low)) / 2  # values that are nearly equal still need an axis
    low, high = low - stretch, high + stretch
    low, high = low - below * (high - low), high + above * (high - low)
    scale = alt.Scale(type="log", domain=[10**low, 10**high], nice=False)
    label = (
        "datum.value >= 1e6 || datum.value < 1e-3"
        " ? format(datum.value, '.0e') : format(datum.value, ',~r')"
    )
    return scale, alt.Axis(values=log_ticks(10**low, 10**high), labelExpr=label)


def log_ticks(low: float, high: float) -> list[float]:
    """Return at most six round numbers between two positive ones.

    >>> log_ticks(0.8, 45.0)
    [1.0, 2.0, 5.0, 10.0, 20.0]
    >>> log_ticks(0.5, 2e9)
    [1.0, 100.0, 10000.0, 1000000.0, 100000000.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    most = 6  # more labels than that run into each other on a narrow screen
    finest = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 8)
    for digits in (finest, (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        round_numbers = (float(f"{digit}e{power}") for power in powers for digit in digits)
        ticks = [tick for tick in round_numbers if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def finish(chart: Any, title: Any, description: str, subtitle: Sequence[str] = ()) -> Spec:
    """Return the specification of a chart that is as wide as the page allows.

    Args:
        chart: The altair chart.
        title: What the values are; it stands where the axis title would need a turned head.
        description: The figure in words, for readers who do not see it.
        subtitle: Lines below the title.

    Returns:
        A Vega-Lite specification.
    """
    alt = altair()
    heading = alt.TitleParams(text=title, **({"subtitle": list(subtitle)} if subtitle else {}))
    sized = chart.properties(
        width="container",
        title=heading,
        description=description,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )
    spec = sized.to_dict(validate=False)
    del spec["config"]
    return spec
