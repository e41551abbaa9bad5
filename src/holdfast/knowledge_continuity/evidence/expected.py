"""Certificates of the expected slope: how much the loss changes per unit of distance, on average.

The raw volatility E[change / distance] has no such bound, as 1 / distance may have any tail. What
is bounded is E[min(change, cap) / max(distance, floor)], over two independent examples.

With K a Lipschitz constant of the model up to the layer, d_layer <= K d_input, so that
max(d_layer, floor) <= K max(d_input, floor / K): the bound, times K, holds for the slope between
inputs with the floor divided by K, pairs that the layer maps to one point included.
"""

import math
from dataclasses import dataclass

from holdfast.arguments import check_share
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.binomial import mean_upper
from holdfast.knowledge_continuity.evidence.evidence import Evidence
from holdfast.knowledge_continuity.evidence.statements import (
    LIMITS,
    at_most,
    check_front,
    on_repeats,
)
from holdfast.results import Result
from holdfast.rounding import mul_up, up


@dataclass(frozen=True, repr=False)
class VolatilityCertificate(Result):
    """A bound on the expected slope between two fresh examples.

    Attributes:
        layer: Module path.
        upper: Upper bound of E[min(change, cap) / max(distance, floor)], in loss per unit of
            distance.
        observed: Its mean over the pairs of certification rows.
        floor: Distances below count as this one.
        cap: Loss changes above count as this one.
        rows: Certification rows, without repeats.
        confidence: Probability, over the certification rows, that the bounds of all layers hold.
        multiplicity: Number of layers among which 1 - confidence was shared.
        front_upper: Lipschitz constant of the model up to the layer, with which distances are those
            of inputs; None where they are those of the layer.
        vacuous: Whether the bound says nothing.
        why: Why it is vacuous; empty where it is not.
        statement: What exactly is claimed, in words.
    """

    layer: str
    upper: float
    observed: float
    floor: float
    cap: float
    rows: int
    confidence: float
    multiplicity: int
    front_upper: float | None
    vacuous: bool
    why: tuple[str, ...]
    statement: str


def certify_slope(
    evidence: Evidence, layer: str, confidence: float, layers: int, front_upper: float | None
) -> VolatilityCertificate:
    """Bound the expected slope of one layer.

    Args:
        evidence: Of this layer.
        layer: Module path.
        confidence: Probability with which the bounds of all layers hold.
        layers: How many they are.
        front_upper: As in `VolatilityCertificate`.

    Returns:
        The certificate.

    Raises:
        InvalidInput: If there are fewer than 2 certification rows, or an argument is out of range.
    """
    confidence = check_share("confidence", confidence)
    front_upper = None if front_upper is None else check_front(front_upper)
    if evidence.slopes is None or evidence.pairs is None:
        raise InvalidInput("data", "fewer than 2 certification rows", "at least 2")
    mean, square = evidence.slopes
    share = mean_upper(mean, square, evidence.pairs.rows, (1 - confidence) / layers)
    stretch = 1.0 if front_upper is None else front_upper
    ratio = evidence.ratio
    unit, floor = up(mul_up(stretch, ratio.cap) / ratio.floor), ratio.floor
    floor = floor if front_upper is None else up(floor / stretch)
    upper = mul_up(share, unit)
    why = () if share < 1 else ("the bound is cap / floor, which it never exceeds",)
    space = f"in layer {layer!r}" if front_upper is None else "as inputs"
    assumed = (
        "" if front_upper is None
        else f", if up to layer {layer!r} the model is Lipschitz with constant {front_upper:.6g}"
    )  # fmt: skip
    head = "VACUOUS: " + "; ".join(why) + ". " if why else ""
    statement = (
        f"{head}This certificate is about fresh random examples drawn from the same distribution "
        f"as the certification sample: with confidence {confidence:g} over that sample, the "
        f"expected change of loss between two fresh examples per unit of their distance {space} is "
        f"at most {at_most(upper)}{assumed}, where distances below {at_most(floor)} count as that "
        f"and changes above {ratio.cap:.6g} count as that. Certification rows: {evidence.rows}"
        f"{on_repeats(evidence.repeated)}; the confidence is shared by {layers} bounds. {LIMITS}"
    )
    return VolatilityCertificate(
        layer, upper, mean * unit, floor, ratio.cap, evidence.rows, confidence, layers,
        front_upper, bool(why) or not math.isfinite(upper), why, statement,
    )  # fmt: skip
