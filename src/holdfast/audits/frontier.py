"""The frontier of every layer: each cell of its grid with what is proved there about fresh data."""

from typing import Any

from holdfast.files import plain
from holdfast.knowledge_continuity.evidence.certificate import LIMITS, Frontier
from holdfast.knowledge_continuity.evidence.statements import on_repeats
from holdfast.knowledge_continuity.result import Knowledge


def frontier_part(knowledge: Knowledge) -> dict[str, Any]:
    """Return the frontier of every layer that has one, by layer, and what it does not say.

    Args:
        knowledge: As measured.

    Returns:
        `frontier`, by layer: the fields of `Frontier` and of its cells, by delta and then by eta,
        and a `statement` with the names of these fields in braces; and `limits`.
    """
    known = [layer for layer in knowledge.layers if knowledge.evidence[layer] is not None]
    found = {layer: _layer(knowledge, knowledge.frontier(layer)) for layer in known}
    return {"frontier": found, "limits": LIMITS}


def _layer(knowledge: Knowledge, frontier: Frontier) -> dict[str, Any]:
    evidence, first = knowledge.evidence[frontier.layer], frontier.cells[0][0]
    anchors = 0 if evidence is None else len(evidence.anchors.bad)
    statement = (
        f"With confidence {first.confidence:g} over {first.trials} certification rows, for all "
        "cells of all layers at once: the probability that a fresh random example, drawn from the "
        f"same distribution, lands within delta = {{delta}} of the nearest of {anchors} anchors in "
        f"layer {frontier.layer!r} AND its loss differs from that anchor's by more than "
        "eta = {eta} is at "
        "most {probability}; given that it lands within, at most {conditional}. Of the "
        f"{first.trials} rows, {{near}} lie within and {{observed}} of these have such a "
        f"loss{on_repeats(first.repeated)}. The confidence is shared by {first.multiplicity} "
        "bounds."
    )
    names = ("observed", "probability", "conditional", "vacuous", "why")
    cells = {
        name: [[getattr(cell, name) for cell in row] for row in frontier.cells] for name in names
    }
    return plain(
        {
            "method": frontier.method,
            "confidence": frontier.confidence,
            "deltas": frontier.deltas,
            "etas": frontier.etas,
            "anchors": anchors,
            "trials": first.trials,
            "multiplicity": first.multiplicity,
            "near": [row[0].near for row in frontier.cells],
            **cells,
            "statement": statement,
        }
    )
