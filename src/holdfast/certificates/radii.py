"""Radii of rows: the larger of what global constants and what bounds on a ball prove."""

import math
from typing import Any

import torch
from torch import Tensor

from holdfast.bounds.interval import READING
from holdfast.brackets.rates import Rates
from holdfast.certificates.float32 import execution
from holdfast.certificates.local import Balls, executed_radii, local_radii
from holdfast.certificates.options import CertifyOptions
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph
from holdfast.graph.running import Approximate, evaluate
from holdfast.graph.walk import uncovered
from holdfast.rounding import coarse_down, gamma, next_down
from holdfast.types import Progress, Report


def radii_of(
    balls: Balls,
    seen: tuple[Approximate, Tensor],
    options: CertifyOptions,
    rates: Rates | None,
    report: Report,
) -> dict[str, Any]:
    """Return radii, margins, predictions, reasons and methods of a classifier's rows.

    Args:
        balls: The rows.
        seen: Their logits [N, classes], and whether rows and logits were finite, [N].
        options: Norm, method and semantics.
        rates: Global constants; None where every entry keeps its value.
        report: Called with the progress.

    Raises:
        Unsupported: When an op has no linear bounds and no global constant is finite.
    """
    if rates is None:
        return _fixed_radii(balls, seen, options)
    (logits, known), labels = seen, balls.labels
    gaps = _gaps(logits, labels)
    local, done = torch.zeros(len(gaps), dtype=torch.float64), torch.ones_like(known)
    if options.method != "global":
        worth = (known & (gaps.amin(1) > 0)).nonzero().flatten()
        # Where a global constant proves more, the local radius need not be known. As executed in
        # float32 the two lose different parts of their radii, so there it must.
        enough = _radius(gaps, rates.pairs[labels])[worth]
        if options.semantics == "float32":
            enough = torch.zeros_like(enough)
        try:
            local[worth], done[worth] = local_radii(balls.of(worth), enough, report)
        except Unsupported:
            if options.method == "local" or not math.isfinite(rates.constant):
                raise
    in_range = torch.ones_like(known)
    if options.semantics == "float32":
        if not bool(done.all()):  # stopped: no radius is yet one of the network as executed
            local, done = torch.zeros_like(local), ~(known & (gaps.amin(1) > 0))
        else:
            local, done = executed_radii(balls, local, report)
    known_gaps = torch.where((known & done)[:, None], gaps, -1.0)
    by_constant, sure = _global_radii(known_gaps, labels, rates, local, report)
    done &= sure
    if options.semantics == "float32":
        widest = 1.0 if balls.units is None else float(balls.units.max())
        executed = execution(balls.graph, balls.inputs, by_constant, options.norm, widest)
        gaps = _gaps(executed.logits(logits), labels)
        pairs = executed.pairs(rates.pairs, options.norm)
        by_constant = torch.minimum(_radius(gaps, pairs[labels]), executed.limit)
        in_range = executed.in_range
    margins = coarse_down(gaps.amin(1))
    radii = torch.maximum(by_constant, local)
    # A margin or radius that vanished in rounding, or is NaN, certifies nothing.
    safe = (margins > 0) & (radii > 0) & done
    unbounded = torch.full_like(safe, math.isinf(rates.constant))
    if options.method == "local":  # what a ball around the row says is all that there is
        unbounded = margins > 0
    why = "not_bounded" if options.method == "local" else "unbounded_constant"
    reason = _reasons(seen, labels, (in_range, safe, unbounded, done), why)
    nearer = "local" if options.method == "local" else "global"
    return {
        **_columns(seen, radii, margins, reason),
        "method": tuple("local" if win else nearer for win in (local > by_constant).tolist()),
        "constant": rates.constant,
    }


def _fixed_radii(
    balls: Balls, seen: tuple[Approximate, Tensor], options: CertifyOptions
) -> dict[str, Any]:
    """Return what `radii_of` does where no entry moves: a proved class is so at any distance."""
    (logits, known), labels = seen, balls.labels
    gaps, in_range = _gaps(logits, labels), torch.ones_like(known)
    if options.semantics == "float32":
        nowhere = torch.zeros(len(gaps), dtype=torch.float64)
        executed = execution(balls.graph, balls.inputs, nowhere, options.norm)
        gaps, in_range = _gaps(executed.logits(logits), labels), executed.in_range
    margins = coarse_down(gaps.amin(1))
    safe = margins > 0
    every = torch.ones_like(safe)
    reason = _reasons(seen, labels, (in_range, safe, ~every, every), "")
    return {
        **_columns(seen, torch.full_like(margins, math.inf), margins, reason),
        "method": ("enumeration",) * len(margins),
        "constant": 0.0,
    }


def _columns(
    seen: tuple[Approximate, Tensor], radii: Tensor, margins: Tensor, reason: tuple[str, ...]
) -> dict[str, Any]:
    """Return what is reported of rows, which have a radius where they are certified."""
    logits, known = seen
    certified = torch.tensor([entry == "certified" for entry in reason], dtype=torch.bool)
    return {
        "radius": torch.where(certified, radii, 0.0),
        "margin": torch.where(known, margins, 0.0),
        "predicted": torch.where(known, logits.value.argmax(1), -1),
        "reason": reason,
    }


def _global_radii(
    gaps: Tensor, labels: Tensor, rates: Rates, local: Tensor, report: Report
) -> tuple[Tensor, Tensor]:
    """Return the radius of each row by global constants where it exceeds the local one, else 0.

    Constants are tightened only as far as that takes; the result is as if all of them were. Beside
    it stands False for rows for which the user stopped this too early.
    """
    count = 0
    while True:
        slowest = _ratios(gaps, rates.final[labels]).amin(1)
        reached, other = _ratios(gaps, rates.pairs[labels]).min(1)
        unsure = (slowest > local) & (slowest > reached)
        if not bool(unsure.any()):
            return torch.where(slowest > local, _radius(gaps, rates.pairs[labels]), 0.0), ~unsure
        asked = torch.stack([labels, other], 1)[unsure]
        wanted, rows = asked.sort(1).values.unique(dim=0, return_counts=True)
        i, j = wanted[rows.argmax()].tolist()
        try:
            rates.tighten(i, j)
            count += 1
            report(Progress("certificates: constants of pairs of classes", count))
        except KeyboardInterrupt:
            return torch.where(slowest > local, _radius(gaps, rates.pairs[labels]), 0.0), ~unsure


def global_rates(graph: Graph, options: CertifyOptions) -> Rates:
    """Return global constants; infinite ones where bounds around rows are all that there is."""
    unknown = Rates.unknown(graph[graph.output].shape[0])
    if options.method == "local":
        return unknown
    try:
        return Rates(graph, options.norm)
    except Unsupported:
        if options.method == "global" or uncovered(graph, READING):
            raise
        return unknown


def evaluated(graph: Graph, inputs: Tensor) -> Approximate:
    """Return the logits of rows, with errors, [N, classes]."""
    # So many rows at once keep the largest nodes of ordinary nets within a few hundred MB.
    parts = [evaluate(graph, part) for part in inputs.split(256)]
    return Approximate(
        torch.cat([part.value for part in parts]), torch.cat([part.error for part in parts])
    )


def _gaps(logits: Approximate, labels: Tensor) -> Tensor:
    """Return how far each label's logit leads every other one, bounded below, [N, classes]."""
    value, error = logits.value, logits.error
    own, noise = (part.gather(1, labels[:, None]) for part in (value, error))
    noise = (noise + error) * (1.0 + 4.0 * gamma(2))
    gaps = next_down(next_down(own - value) - noise)
    return gaps.scatter(1, labels[:, None], math.inf)


def _ratios(gaps: Tensor, rates: Tensor) -> Tensor:
    """Return how far every gap lasts, [N, classes]; an equal logit everywhere never matters."""
    return torch.where(rates > 0, gaps / rates, math.inf * gaps.sign())


def _radius(gaps: Tensor, rates: Tensor) -> Tensor:
    """Return per row the smallest proved radius over the other classes."""
    ratios = _ratios(gaps, rates)
    # A quotient that overflowed is a number all the same: only a rate of 0 makes it infinite.
    below = torch.where(rates > 0, next_down(ratios), ratios)
    return coarse_down(below.amin(1)).clamp(min=0.0)


def _leads(logits: Approximate, labels: Tensor) -> Tensor:
    """Return per row the label's logit minus the largest other one, as computed."""
    own = logits.value.gather(1, labels[:, None])
    others = logits.value.scatter(1, labels[:, None], -math.inf).amax(1, keepdim=True)
    return (own - others).squeeze(1)


def _reasons(
    seen: tuple[Approximate, Tensor], labels: Tensor, proved: tuple[Tensor, ...], why: str
) -> tuple[str, ...]:
    """Return the reason of each row.

    Args:
        seen: Logits [N, classes], and whether rows and logits were finite, [N].
        labels: [N].
        proved: For each row whether nothing overflows there, whether margin and radius are above 0,
            whether that is for want of any bound, and whether the row was done with before the user
            stopped, [N] each.
        why: The reason of rows without any bound.
    """
    logits, known = seen
    columns = (known, _leads(logits, labels), *proved)
    each = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(
        _reason(row_known, lead, in_range, safe, (why if lost else "") if done else "stopped")
        for row_known, lead, in_range, safe, lost, done in each
    )


def _reason(known: bool, lead: float, in_range: bool, safe: bool, why: str) -> str:
    """Say why the radius of a row is 0, or that it is certified.

    Args:
        known: The row and its logits are finite.
        lead: The label's logit minus the largest other one, as computed.
        in_range: Nothing overflows at the row.
        safe: Margin and radius are proved to be above 0.
        why: That no finite constant is known, nothing on any ball around the row, or that the user
            stopped before the row was done with, by name; "" where something is known.

    Returns:
        One of the reasons of `Certificates`.
    """
    if not known:
        return "not_finite"
    if lead < 0:
        return "misclassified"
    if lead == 0:
        return "tie"
    if not in_range:
        return "may_overflow"
    if safe:
        return "certified"
    return why or "within_rounding"
