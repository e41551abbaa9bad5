"""What is missing or particular in a measurement, a sentence for each."""

from collections.abc import Iterator, Mapping

import torch

from holdfast.knowledge_continuity.evidence.evidence import Evidence
from holdfast.knowledge_continuity.pairs.volatility import Volatility
from holdfast.knowledge_continuity.states.states import HiddenStates


def notes_on(
    rows: HiddenStates,
    measured: Mapping[str, Volatility],
    evidence: Mapping[str, Evidence | None],
) -> Iterator[str]:
    """Yield the sentences.

    Args:
        rows: What was measured.
        measured: The volatility of every layer.
        evidence: What certificates rest on, by layer.

    Yields:
        One sentence at a time.
    """
    for layer, result in measured.items():
        if result.collisions == 1:
            yield f"layer {layer!r}: every pair is at distance 0, so there is nothing to divide by"
        elif evidence[layer] is None:
            yield f"layer {layer!r}: no certificate, as no two anchors are apart"
    if len(rows.losses) == 2:
        yield "two rows make one pair, so the intervals are [0, inf)"
    some = next(iter(measured.values()))
    if some.same_label is None:
        yield "same_label is empty: no two rows have the same label"
    if some.other_label is None:
        yield "other_label is empty: all rows have the same label"
    ordered = rows.losses.double().sort().values
    n = len(ordered)
    ranks = torch.arange(1 - n, n, 2, dtype=torch.float64, device=ordered.device)
    mean = 2 * float((ranks * ordered).sum()) / (n * (n - 1))
    yield from rounding_note("all pairs", mean, 2 * float(rows.roundings.mean()))
    for layer, result in measured.items():
        if result.near is not None:
            change = result.near.value * result.near_radius
            yield from rounding_note(f"layer {layer!r}, near pairs", change, result.near_rounding)


def rounding_note(what: str, change: float, rounding: float) -> Iterator[str]:
    """Yield a sentence where rounding may be a hundredth or more of a mean change of loss.

    Args:
        what: Which pairs it is about.
        change: Their mean change of loss, or more.
        rounding: What rounding may add to it.

    Yields:
        One sentence, or none.
    """
    if change < 100 * rounding:
        yield (
            f"{what}: the loss changes by {change:.2g} on average or less, and rounding of the "
            f"outputs may add {rounding:.2g} to that; a model in a wider type (model.double()) "
            "would tell"
        )


def repeats_note(anchored: int, again: int, rows: int) -> Iterator[str]:
    """Yield what becomes of certification rows that repeat.

    Args:
        anchored: How many are anchors too.
        again: How many others repeat a row before them.
        rows: How many there are in all.

    Yields:
        One sentence, or none.
    """
    if anchored or again:
        yield (
            f"of {rows} certification rows, {anchored} are anchors too and {again} repeat another "
            "row, as far as rounding lets tell: certificates count them only where they count "
            "against the model (where they are separate draws: repeats='draws')"
        )
