"""Certified radii: from one global Lipschitz constant and the margin of each row, or local bounds.

Tsuzuku, Sato, Sugiyama, "Lipschitz-margin training" (2018), pair by pair of classes: where
f_y - f_j moves by at most K_yj r within distance r, the class holds within margin / K_yj.
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.arguments import (
    check_choice,
    check_classes,
    check_inputs,
    check_labels,
    check_model,
    check_norm,
    check_targets,
    check_threshold,
    fit_inputs,
)
from holdfast.bounds.float32 import FLOAT32
from holdfast.bounds.interval import READING
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.rates import Rates
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.change import Changes
from holdfast.certificates.claim import guarantee
from holdfast.certificates.float32 import check_float32, execution
from holdfast.certificates.local import Balls, executed_radii, local_radii
from holdfast.errors import Unsupported
from holdfast.gradients import with_gradients
from holdfast.graph.capture import captured, example_row
from holdfast.graph.ir import Graph
from holdfast.graph.running import Approximate, evaluate
from holdfast.graph.single import with_two_logits
from holdfast.graph.units import in_units
from holdfast.graph.walk import check_covered, uncovered
from holdfast.moves import EVERYTHING, Entries, Moves, Units, recorded
from holdfast.rounding import coarse_down, coarse_up, gamma, next_down
from holdfast.types import Progress, Report, silent


def certify(  # noqa: PLR0913 - the signature is the contract's
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    norm: float = 2,
    method: str = "auto",
    semantics: str = "real",
    *,
    threshold: float = 0.0,
    free: Entries = None,
    scale: Units = None,
    report: Report = silent,
) -> Certificates:
    """Certify, row by row, how far an input can move before the predicted class may change.

    Args:
        model: A classifier in eval mode: [N, ...] to [N, classes], or to one logit, [N] or [N, 1];
            or any model with one row of outputs, where labels are targets.
        inputs: [N, ...], floating point; each row is taken as the exact centre of its ball. Rows
            in another precision than the weights are taken in that of the weights, with a warning
            where that rounds them.
        labels: [N] or [N, 1], class numbers, as a tensor, array or list; or floating-point targets,
            [N] or [N, outputs], for which only `output_change` and `loss_change` promise something.
        norm: Norm of the distance between inputs: 1, 2 or inf; or "l1", "l2", "linf".
        method: `global` (one constant for all rows), `local` (bounds on a ball around each row)
            or `auto`, the larger radius of the two, row by row.
        semantics: What the claim is about. `real`: the exact real function of the stored weights.
            `float32`: the network as executed in float32, on float32 inputs, in whatever order
            sums are taken.
        threshold: For a model of one logit: class 1 is where it is above this, class 0 below.
        free: Which entries of a row may move, as truth values of its shape or numbers of entries;
            the others are taken to keep their values.
        scale: Units of the entries, of a row's shape: distances are ||(x' - x) / scale||.
        report: Called with the progress.

    Returns:
        One radius per row, in input order and input units, rounded down; 0 with its reason where
        nothing is certified. Radii do not depend on batch size, threads or row order.

    Raises:
        Unsupported: When the model cannot be captured or bounded, with all the reasons, or its
            weights change meanwhile.
        InvalidInput: When an argument is not usable.

    >>> import torch, holdfast
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> inputs, labels = torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0])
    >>> certificates = holdfast.certify(model, inputs, labels)
    >>> [f"{radius:.5f}" for radius in certificates.radius.tolist()]  # 2 / sqrt(2), rounded down
    ['1.41421', '0.00000']
    >>> certificates.reason
    ('certified', 'tie')
    """
    model, moves = check_model(model), Moves(free, scale)
    options = CertifyOptions(norm, method, semantics, threshold, moves)
    with with_gradients():
        inputs = fit_inputs(check_inputs(inputs), model)
        labels = check_labels(labels, len(inputs))
        options.check_execution(model, inputs)
        with captured(model, example_row(inputs)) as graph:
            return certify_graph(graph, inputs, labels, options, report)


@dataclass(frozen=True)
class CertifyOptions:
    """How rows are certified.

    Attributes:
        norm: 1, 2 or inf.
        method: `auto`, `global` or `local`.
        semantics: `real` or `float32`.
        threshold: As for `certify`.
        moves: What may move, in which units.

    Raises:
        InvalidInput: When one of them is something else.
    """

    norm: float = 2.0
    method: str = "auto"
    semantics: str = "real"
    threshold: float = 0.0
    moves: Moves = EVERYTHING

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", check_threshold(self.threshold))
        object.__setattr__(self, "norm", check_norm(self.norm))
        check_choice("method", self.method, ("auto", "global", "local"))
        check_choice("semantics", self.semantics, ("real", "float32"))

    def check_execution(self, model: nn.Module, inputs: Tensor) -> None:
        """Refuse a model that is not executed in the way that the claim is about.

        Args:
            model: The model.
            inputs: [N, ...].

        Raises:
            Unsupported: With all the reasons.
            InvalidInput: When the inputs are not of the type that the claim is about.
        """
        if self.semantics == "float32":
            check_float32(model, inputs)


def certify_graph(
    graph: Graph,
    inputs: Tensor,
    labels: Tensor,
    options: CertifyOptions,
    report: Report = silent,
) -> Certificates:
    """Return certificates for rows of a captured model; see `certify`.

    Args:
        graph: The model, one that `CertifyOptions.check_execution` lets pass.
        inputs: [N, ...].
        labels: [N] classes, or targets.
        options: Norm, method and semantics.
        report: Called with the progress.

    Returns:
        One certificate per row.

    Raises:
        Unsupported: When the output is not one row of outputs, or cannot be bounded.
        InvalidInput: When labels do not fit.
    """
    graph, threshold = graph.with_row_output(), 0.0
    if not labels.is_floating_point() and graph[graph.output].shape == (1,):
        threshold = options.threshold
        graph = with_two_logits(graph, threshold)
    output = graph[graph.output]
    classes = output.shape[0] if len(output.shape) == 1 else 0
    if not classes:
        why = f"an output of shape {output.shape} per row, wanted one row of logits"
        raise Unsupported("certification", [output.obstacle(why)])
    if classes > 20_000 and not labels.is_floating_point():
        # There is a number for every pair of classes: 3 GB are enough.
        why = f"{classes} classes, wanted at most 20000: every pair of them has its own constant"
        raise Unsupported("certification", [output.obstacle(why, "certify some of the outputs")])
    if labels.is_floating_point():
        labels = check_targets(labels, len(inputs), classes)
    else:
        labels = check_classes(labels, len(inputs), classes)
    if options.semantics == "float32":
        check_covered(graph, FLOAT32)
    units = options.moves.units(inputs.shape[1:])
    scaled = in_units(graph, units)
    report(Progress("certificates"))
    rates = None if labels.is_floating_point() else _rates(scaled, options)
    finite = torch.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    # Rows that are not finite are evaluated as zeros and reported apart.
    safe = torch.where(finite.reshape(-1, *[1] * (inputs.dim() - 1)), inputs, 0.0)
    logits = _evaluate(graph, safe)
    known = finite & torch.isfinite(logits.value).all(1)
    if rates is None:
        fields = _no_radii(scaled, known, options)
    else:
        balls = Balls(graph, safe, labels, options.norm, units)
        fields = _radii(balls, (logits, known), options, rates, report)
    semantics = "" if labels.is_floating_point() else options.semantics
    return Certificates(
        **fields,
        labels=labels,
        norm=options.norm,
        semantics=options.semantics,
        guarantee=guarantee(options.norm, semantics, options.moves),
        fingerprint=graph.fingerprint,
        classes=classes,
        threshold=threshold,
        units=recorded(units),
        changes=Changes(graph, inputs.detach().clone(), labels, logits, options.norm, units),
    )


def _radii(
    balls: Balls,
    seen: tuple[Approximate, Tensor],
    options: CertifyOptions,
    rates: Rates,
    report: Report,
) -> dict[str, Any]:
    """Return radii, margins, predictions, reasons and methods of a classifier's rows.

    Args:
        balls: The rows.
        seen: Their logits [N, classes], and whether rows and logits were finite, [N].
        options: Norm, method and semantics.
        rates: Global constants.
        report: Called with the progress.

    Raises:
        Unsupported: When an op has no linear bounds and no global constant is finite.
    """
    (logits, known), labels = seen, balls.labels
    gaps = _gaps(logits, labels)
    local = torch.zeros(len(gaps), dtype=torch.float64)
    if options.method != "global":
        worth = (known & (gaps.amin(1) > 0)).nonzero().flatten()
        # Where a global constant proves more, the local radius need not be known. As executed in
        # float32 the two lose different parts of their radii, so there it must.
        enough = _radius(gaps, rates.pairs[labels])[worth]
        if options.semantics == "float32":
            enough = torch.zeros_like(enough)
        try:
            local[worth] = local_radii(balls.of(worth), enough, report)
        except Unsupported:
            if options.method == "local" or not math.isfinite(rates.constant):
                raise
    in_range = torch.ones_like(known)
    if options.semantics == "float32":
        local = executed_radii(balls, local, report)
    known_gaps = torch.where(known[:, None], gaps, -1.0)
    by_constant = _global_radii(known_gaps, labels, rates, local, report)
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
    safe = (margins > 0) & (radii > 0)
    leads = _leads(logits, labels)
    unbounded = math.isinf(rates.constant)
    if options.method == "local":  # what a ball around the row says is all that there is
        unbounded = margins > 0
    columns = (known, leads, in_range, safe, torch.as_tensor(unbounded).expand_as(safe))
    each = zip(*(column.tolist() for column in columns), strict=True)
    why = "not_bounded" if options.method == "local" else "unbounded_constant"
    reason = tuple(
        _reason(row_known, lead, row_in_range, row_safe, why if lost else "")
        for row_known, lead, row_in_range, row_safe, lost in each
    )
    certified = torch.tensor([entry == "certified" for entry in reason], dtype=torch.bool)
    nearer = "local" if options.method == "local" else "global"
    return {
        "radius": torch.where(certified, radii, 0.0),
        "margin": torch.where(known, margins, 0.0),
        "predicted": torch.where(known, logits.value.argmax(1), -1),
        "reason": reason,
        "method": tuple("local" if win else nearer for win in (local > by_constant).tolist()),
        "constant": rates.constant,
    }


def _global_radii(
    gaps: Tensor, labels: Tensor, rates: Rates, local: Tensor, report: Report
) -> Tensor:
    """Return the radius of each row by global constants where it exceeds the local one, else 0.

    Constants are tightened only as far as that takes; the result is as if all of them were.
    """
    count = 0
    while True:
        slowest = _ratios(gaps, rates.final[labels]).amin(1)
        reached, other = _ratios(gaps, rates.pairs[labels]).min(1)
        unsure = (slowest > local) & (slowest > reached)
        if not bool(unsure.any()):
            return torch.where(slowest > local, _radius(gaps, rates.pairs[labels]), 0.0)
        asked = torch.stack([labels, other], 1)[unsure]
        wanted, rows = asked.sort(1).values.unique(dim=0, return_counts=True)
        i, j = wanted[rows.argmax()].tolist()
        rates.tighten(i, j)
        count += 1
        report(Progress("certificates: constants of pairs of classes", count))


def _rates(graph: Graph, options: CertifyOptions) -> Rates:
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


def _no_radii(graph: Graph, known: Tensor, options: CertifyOptions) -> dict[str, Any]:
    """Return what takes the place of radii where labels are targets: there is no class.

    Args:
        graph: The model.
        known: Whether rows and outputs were finite, [N].
        options: Norm and method.
    """
    count = len(known)
    constant = math.inf
    if options.method != "local":
        with contextlib.suppress(Unsupported):
            constant = coarse_up(gain_upper(graph, options.norm))
    nothing = torch.zeros(count, dtype=torch.float64)
    return {
        "radius": nothing,
        "margin": nothing,
        "predicted": torch.full((count,), -1),
        "reason": tuple("no_class" if finite else "not_finite" for finite in known.tolist()),
        "method": (options.method,) * count,
        "constant": constant,
    }


def _evaluate(graph: Graph, inputs: Tensor) -> Approximate:
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


def _reason(known: bool, lead: float, in_range: bool, safe: bool, why: str) -> str:
    """Say why the radius of a row is 0, or that it is certified.

    Args:
        known: The row and its logits are finite.
        lead: The label's logit minus the largest other one, as computed.
        in_range: Nothing overflows at the row.
        safe: Margin and radius are proved to be above 0.
        why: That no finite constant is known, or nothing on any ball around the row, by name; ""
            where something is.

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
