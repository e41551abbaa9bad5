"""Certificates of knowledge continuity: what a sample proves about fresh data, and what not.

The paper's Theorem 4.1 and its algorithm are not used, as printed they do not hold (docs, "Why
there is no certificate from the paper"). What is bounded here is the probability itself, from
counts on rows that chose nothing, by binomial bounds (`binomial_upper`) and their counterpart for
pairs (`pairs_upper`).
"""

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from holdfast.arguments import check_number, check_share, check_whole, look_up
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.binomial import binomial_upper, pairs_lower, pairs_upper
from holdfast.knowledge_continuity.evidence.evidence import Evidence, Tally
from holdfast.knowledge_continuity.evidence.statements import (
    LIMITS,
    at_most,
    check_front,
    on_repeats,
)
from holdfast.results import ChartedResult, Result
from holdfast.rounding import mul_up


@dataclass(frozen=True, repr=False)
class KnowledgeCertificate(Result):
    """A bound on how often fresh data lands near and yet has a different loss.

    Attributes:
        layer: Module path.
        delta: Distance of the grid, at least what was asked, in units of the layer's distance.
        eta: Loss change of the grid, at most what was asked.
        probability: Upper bound of P(within delta and loss change above eta).
        conditional: Upper bound of P(loss change above eta, given within delta).
        near: Certification rows (for `pairs`: pairs) within delta, without repeats.
        trials: Certification rows (for `pairs`: pairs), without repeats.
        observed: Those within delta whose loss changes by more than eta, repeats included.
        repeated: Certification rows that repeat an anchor or one another, which count only among
            `observed`; None where they are counted as separate draws.
        confidence: Probability, over the certification rows, that all certificates of this method
            and at this confidence hold at once.
        multiplicity: Number of bounds among which 1 - confidence was shared.
        vacuous: Whether the bound says nothing.
        why: Why it is vacuous; empty where it is not.
        method: `nearest`, `anchor` or `pairs`.
        radius: Distance between inputs that the bound is about; None where it is about the layer.
        front_upper: Lipschitz constant of the model up to the layer that this rests on, or None.
        statement: What exactly is claimed, in words.
    """

    layer: str
    delta: float
    eta: float
    probability: float
    conditional: float
    near: int
    trials: int
    observed: int
    repeated: int | None
    confidence: float
    multiplicity: int
    vacuous: bool
    why: tuple[str, ...]
    method: str
    radius: float | None
    front_upper: float | None
    statement: str


@dataclass(frozen=True, repr=False)
class Frontier(ChartedResult):
    """Every cell of a layer's grid, with one confidence for all.

    Attributes:
        layer: Module path.
        method: As in `KnowledgeCertificate`.
        confidence: As in `KnowledgeCertificate`.
        deltas: Distances, increasing; the last is infinity.
        etas: Loss changes, increasing; the first is 0.
        cells: Certificates, by delta, then by eta.
    """

    layer: str
    method: str
    confidence: float
    deltas: tuple[float, ...]
    etas: tuple[float, ...]
    cells: tuple[tuple[KnowledgeCertificate, ...], ...]

    def smallest_eta(self, delta: float, level: float) -> float | None:
        """Return the smallest loss change that is exceeded with conditional probability <= level.

        Args:
            delta: Distance; the next larger one of the grid is used.
            level: Probability, given within delta.

        Returns:
            A loss change of the grid; None where none is proved.

        Raises:
            InvalidInput: When an argument is out of range.
        """
        delta, level = _check_delta(delta), _check_level(level)
        row = self.cells[bisect.bisect_left(self.deltas, delta)]
        proved = (cell.eta for cell in row if cell.conditional <= level and not cell.vacuous)
        return next(proved, None)

    def largest_delta(self, eta: float, level: float) -> float | None:
        """Return the largest distance within which eta is exceeded with probability <= level.

        Args:
            eta: Loss change; the next smaller one of the grid is used.
            level: Probability, given within delta.

        Returns:
            A distance of the grid; None where none is proved.

        Raises:
            InvalidInput: When an argument is out of range.
        """
        eta, level = _check_eta(eta), _check_level(level)
        column = bisect.bisect_right(self.etas, eta) - 1
        cells = [row[column] for row in self.cells]
        proved = [c.delta for c in cells if c.conditional <= level and not c.vacuous]
        return max(proved, default=None)


def _check_delta(delta: object) -> float:
    return check_number("delta", delta, lambda distance: distance > 0, "a distance above 0")


def _check_eta(eta: object) -> float:
    return check_number("eta", eta, lambda e: 0 <= e < math.inf, "a loss change, at least 0")


def _check_level(level: object) -> float:
    return check_number("level", level, lambda p: 0 <= p <= 1, "a probability, from 0 to 1")


@dataclass(frozen=True)
class CertificateRequest:
    """Where a certificate looks and how sure it is to be.

    Attributes:
        layer: Module path.
        method: `nearest`, `anchor` or `pairs`.
        confidence: As in `KnowledgeCertificate`.
        layers: Number of layers among which the confidence is shared.
        anchor: Which anchor; for the method `anchor`.
        front_upper: Lipschitz constant K of the model up to the layer: distances are then those of
            inputs, as what is within r there is within K r in the layer.
    """

    layer: str
    method: str
    confidence: float
    layers: int
    anchor: int | None = None
    front_upper: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "confidence", check_share("confidence", self.confidence))
        if self.front_upper is not None:
            object.__setattr__(self, "front_upper", check_front(self.front_upper))


def certify_cell(
    evidence: Evidence, request: CertificateRequest, delta: float, eta: float
) -> KnowledgeCertificate:
    """Certify one distance and loss change from the counts of the grid.

    What is certified is the cell with the next larger distance and the next smaller loss change,
    which the certificate names. The joint event grows with delta and shrinks with eta, so its
    bound holds for what was asked as well; the conditional one does not, as a smaller ball may
    hold a larger share of loss changes. All cells of all layers share one confidence (Bonferroni),
    so the choice may be made after seeing them.

    Args:
        evidence: The counts.
        request: Layer, method and confidence.
        delta: Distance, above 0.
        eta: Loss change, at least 0.

    Returns:
        The certificate of that cell.

    Raises:
        InvalidInput: If the method has no counts, or an argument is out of range.
    """
    delta, eta = _check_delta(delta), _check_eta(eta)
    edges, front = evidence.edges, request.front_upper
    reach = delta if front is None else mul_up(front, delta)
    at = bisect.bisect_left(edges.deltas, reach), bisect.bisect_right(edges.etas, eta) - 1
    tally, bounds = _tally(evidence, request), _BOUNDS[request.method]
    multiplicity = 2 * request.layers * len(edges.deltas) * len(edges.etas)
    if request.method == "anchor":
        multiplicity *= len(evidence.anchors.bad)
    alpha = (1 - request.confidence) / multiplicity
    bad, extra, near = _events(tally, at, request.anchor)
    probability, conditional, near_upper = bounds(tally, (bad, extra, near), alpha)
    if front is not None:  # the layer's near rows are not those of the input
        conditional = 1.0
    why = _vacuities(near, probability, 0.0 if front is not None else conditional, near_upper)
    if not tally.trials:
        why = ("every certification row repeats an anchor or another row", *why)
    cell = edges.deltas[at[0]], edges.etas[at[1]]
    found = KnowledgeCertificate(
        request.layer, *cell, probability, conditional, near, tally.trials, bad, evidence.repeated,
        request.confidence, multiplicity, bool(why), why, request.method,
        None if front is None else delta, front,
        statement="",
    )  # fmt: skip
    return _stated(found, evidence)


def frontier(evidence: Evidence, request: CertificateRequest) -> Frontier:
    """Certify every cell of the grid; see `certify_cell`."""
    edges = evidence.edges
    rows = [
        tuple(certify_cell(evidence, request, delta, eta) for eta in edges.etas)
        for delta in edges.deltas
    ]
    return Frontier(
        request.layer, request.method, request.confidence, edges.deltas, edges.etas, tuple(rows)
    )


def _tally(evidence: Evidence, request: CertificateRequest) -> Tally:
    """Return the counts of a method.

    Raises:
        InvalidInput: If there are none.
    """
    look_up("method", request.method, _BOUNDS)
    tallies = {"nearest": evidence.nearest, "anchor": evidence.anchors, "pairs": evidence.pairs}
    tally = tallies[request.method]
    if tally is None:
        raise InvalidInput("method", "'pairs'", "at least 2 certification rows, or 'nearest'")
    if request.method == "anchor":
        known = len(tally.bad)
        wanted = f"one of the {known} anchors, from 0"
        check_whole("anchor", request.anchor, wanted, 0, known - 1)
    return tally


def _events(tally: Tally, at: tuple[int, int], anchor: int | None) -> tuple[int, int, int]:
    """Return how many trials are bad, how many of these are repeats, and how many are near."""
    found = tally.bad[..., *at], tally.repeated[..., *at], tally.near[..., at[0]]
    bad, extra, near = (
        each[anchor] if anchor is not None and each.ndim else each for each in found
    )
    return int(bad), int(extra), int(near)


def _binomial(
    tally: Tally, events: tuple[int, int, int], alpha: float
) -> tuple[float, float, float]:
    """Return the bounds of the joint and the conditional event, and of being near."""
    bad, extra, near = events
    return (
        binomial_upper(bad, tally.trials + extra, alpha),
        binomial_upper(bad, near + extra, alpha),
        binomial_upper(near + extra, tally.trials + extra, alpha),
    )


def _paired(tally: Tally, events: tuple[int, int, int], alpha: float) -> tuple[float, float, float]:
    """Return the same for pairs of rows; the conditional bound is a quotient of two bounds."""
    bad, extra, near = events
    trials = max(tally.trials + extra, 1)
    joint = pairs_upper(bad / trials, tally.rows, alpha)
    share = pairs_lower(near / tally.pairs, tally.rows, alpha)
    conditional = min(1.0, math.nextafter(joint / share, 2)) if share > 0 else 1.0
    return joint, conditional, pairs_upper((near + extra) / trials, tally.rows, alpha)


_BOUNDS = {"nearest": _binomial, "anchor": _binomial, "pairs": _paired}


def _vacuities(near: int, joint: float, conditional: float, near_upper: float) -> tuple[str, ...]:
    """Return every reason why a certificate says nothing."""
    reasons = []
    if near == 0:
        reasons.append("no certification data lies within delta")
    if joint >= 1:
        reasons.append("the bound on the probability is 1")
    elif joint >= near_upper:
        reasons.append("the bound is no better than the bound on being within delta at all")
    if conditional >= 1 and near:
        reasons.append("too few certification rows lie within delta for a conditional bound")
    return tuple(reasons)


_EVENTS: Mapping[str, str] = {
    "nearest": "a fresh example lands within delta = {delta:.6g} of the nearest of {anchors} "
    "anchors in layer {layer!r} AND its loss differs from that anchor's by more than eta = "
    "{eta:.6g}",
    "anchor": "a fresh example lands within delta = {delta:.6g} of this anchor (one of {anchors}) "
    "in layer {layer!r} AND its loss differs from the anchor's by more than eta = {eta:.6g}",
    "pairs": "two fresh examples lie within delta = {delta:.6g} of each other in layer {layer!r} "
    "AND their losses differ by more than eta = {eta:.6g}",
}

_INPUT_EVENTS: Mapping[str, str] = {
    "nearest": "a fresh example lies, as an input, within delta = {radius:.6g} of any of {anchors} "
    "anchors AND its loss differs by more than eta = {eta:.6g} from that of the anchor nearest in "
    "layer {layer!r}",
    "anchor": "a fresh example lies, as an input, within delta = {radius:.6g} of this anchor (one "
    "of {anchors}) AND its loss differs from the anchor's by more than eta = {eta:.6g}",
    "pairs": "two fresh examples lie, as inputs, within delta = {radius:.6g} of each other AND "
    "their losses differ by more than eta = {eta:.6g}",
}


def _stated(found: KnowledgeCertificate, evidence: Evidence) -> KnowledgeCertificate:
    """Return the certificate with what it claims, in words."""
    events = _EVENTS if found.radius is None else _INPUT_EVENTS
    event = events[found.method].format(
        delta=found.delta, eta=found.eta, layer=found.layer, radius=found.radius,
        anchors=len(evidence.anchors.bad),
    )  # fmt: skip
    head = "VACUOUS: " + "; ".join(found.why) + ". " if found.vacuous else ""
    tail = f"; given that it lands within delta, at most {at_most(found.conditional)}"
    if found.front_upper is not None:
        tail = (
            f", if up to layer {found.layer!r} the model is Lipschitz with constant "
            f"{found.front_upper:.6g}, so that it lands within {found.delta:.6g} there"
        )
    return replace(
        found,
        statement=f"{head}This certificate is about fresh random examples drawn from the same "
        f"distribution as the certification sample: with confidence {found.confidence:g} over "
        f"that sample, the probability that {event}, is at most {at_most(found.probability)}{tail}"
        f". Certification rows: {evidence.rows}; within delta: {found.near} of {found.trials}; of "
        f"these with such a loss: {found.observed}{on_repeats(evidence.repeated)}; the confidence "
        f"is shared by {found.multiplicity} bounds. {LIMITS}",
    )
