"""Certified radii: from one global Lipschitz constant and the margin of each row, or local bounds.

Tsuzuku, Sato, Sugiyama, "Lipschitz-margin training" (2018), pair by pair of classes: where
f_y - f_j moves by at most K_yj r within distance r, the class holds within margin / K_yj.
"""

import contextlib
import math
from collections.abc import Iterator
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
    fit_inputs,
)
from holdfast.bounds.float32 import FLOAT32
from holdfast.bounds.interval import READING
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.rates import Rates
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.change import Changes
from holdfast.certificates.float32 import EXECUTION, check_float32, execution
from holdfast.certificates.local import Balls, executed_radii, local_radii
from holdfast.errors import Unsupported
from holdfast.graph.capture import capture, check_unchanged
from holdfast.graph.ir import Graph
from holdfast.graph.running import Approximate, evaluate
from holdfast.graph.walk import check_covered, uncovered
from holdfast.rounding import coarse_down, coarse_up, gamma, next_down
from holdfast.types import norm_name

METHODS = ("auto", "global", "local")
SEMANTICS = ("real", "float32")

_BATCH = 256
_CERTIFIED = "certified"


def certify(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    norm: float = 2,
    method: str = "auto",
    semantics: str = "real",
) -> Certificates:
    """Certify, row by row, how far an input can move before the predicted class may change.

    Args:
        model: A classifier in eval mode: [N, ...] to [N, classes]; or any model with one row of
            outputs, where labels are targets.
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

    Returns:
        One radius per row, in input order and input units, rounded down; 0 with its reason where
        nothing is certified. Radii do not depend on batch size, threads or row order.

    Raises:
        Unsupported: When the model cannot be captured or bounded, with all the reasons.
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
    model, norm = check_model(model), check_norm(norm)
    check_choice("method", method, METHODS)
    check_choice("semantics", semantics, SEMANTICS)
    inputs = fit_inputs(check_inputs(inputs), model)
    labels = check_labels(labels, len(inputs))
    if semantics == "float32":
        check_float32(model, inputs)
    graph = capture(model, inputs[:1].nan_to_num(0.0, 0.0, 0.0))
    certificates = certify_graph(graph, inputs, labels, Asked(norm, method, semantics))
    check_unchanged(graph, model)
    return certificates


@dataclass(frozen=True)
class Asked:
    """What the user asks of certificates.

    Attributes:
        norm: 1, 2 or inf.
        method: One of `METHODS`.
        semantics: One of `SEMANTICS`; `float32` for a model that `check_float32` lets pass.
    """

    norm: float
    method: str = "auto"
    semantics: str = "real"


def certify_graph(graph: Graph, inputs: Tensor, labels: Tensor, asked: Asked) -> Certificates:
    """Return certificates for rows of a captured model; see `certify`.

    Args:
        graph: The model.
        inputs: [N, ...].
        labels: [N] classes, or targets.
        asked: Norm, method and semantics.

    Returns:
        One certificate per row.

    Raises:
        Unsupported: When the output is not one row of outputs, or cannot be bounded.
        InvalidInput: When labels do not fit.
    """
    output = graph[graph.output]
    classes = output.shape[0] if len(output.shape) == 1 else 0
    if classes < (1 if labels.is_floating_point() else 2):
        why = f"an output of shape {output.shape} per row, wanted at least two logits"
        raise Unsupported("certification", [output.obstacle(why)])
    if labels.is_floating_point():
        labels = check_targets(labels, len(inputs), classes)
    else:
        labels = check_classes(labels, len(inputs), classes)
    if asked.semantics == "float32":
        check_covered(graph, FLOAT32)
    rates = None if labels.is_floating_point() else _rates(graph, asked)
    finite = torch.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    # Rows that are not finite are evaluated as zeros and reported apart.
    safe = torch.where(finite.reshape(-1, *[1] * (inputs.dim() - 1)), inputs, 0.0)
    logits = _evaluate(graph, safe)
    known = finite & torch.isfinite(logits.value).all(1)
    rows = _Rows(safe, labels, logits, known)
    found = _no_radii(graph, rows, asked) if rates is None else _radii(graph, rows, asked, rates)
    return Certificates(
        **found,
        labels=labels,
        norm=asked.norm,
        semantics=asked.semantics,
        guarantee=_guarantee(asked, labels),
        fingerprint=graph.fingerprint,
        classes=classes,
        changes=Changes(graph, inputs.detach().clone(), labels, logits, asked.norm),
    )


@dataclass(frozen=True)
class _Rows:
    """The rows to certify.

    Attributes:
        inputs: [N, ...], finite.
        labels: [N], or targets [N, outputs].
        logits: [N, outputs].
        known: [N] bool: whether inputs and logits were finite.
    """

    inputs: Tensor
    labels: Tensor
    logits: Approximate
    known: Tensor


def _radii(graph: Graph, rows: _Rows, asked: Asked, rates: Rates) -> dict[str, Any]:
    """Return radii, margins, predictions, reasons and methods of a classifier's rows."""
    gaps = _gaps(rows.logits, rows.labels)
    around = torch.zeros(len(gaps), dtype=torch.float64)
    if asked.method != "global":
        worth = (rows.known & (gaps.amin(1) > 0)).nonzero().flatten()
        try:
            around[worth] = local_radii(
                Balls(graph, rows.inputs[worth], rows.labels[worth], asked.norm)
            )
        except Unsupported:
            if asked.method == "local" or not math.isfinite(rates.constant):
                raise
    in_range = torch.ones_like(rows.known)
    if asked.semantics == "float32":
        around = executed_radii(Balls(graph, rows.inputs, rows.labels, asked.norm), around)
    everywhere = _everywhere(torch.where(rows.known[:, None], gaps, -1.0), rows, rates, around)
    if asked.semantics == "float32":
        executed = execution(graph, rows.inputs, everywhere, asked.norm)
        gaps = _gaps(executed.logits(rows.logits), rows.labels)
        pairs = executed.pairs(rates.pairs, asked.norm)
        everywhere = torch.minimum(_held(gaps, pairs[rows.labels]), executed.limit)
        in_range = executed.in_range
    margins = coarse_down(gaps.amin(1))
    radii = torch.maximum(everywhere, around)
    # A margin or radius that vanished in rounding, or is NaN, certifies nothing.
    safe = (margins > 0) & (radii > 0)
    leads = _leads(rows.logits, rows.labels)
    unbounded = asked.method != "local" and math.isinf(rates.constant)
    reason = tuple(_Causes(rows.known, leads, in_range, safe).reasons(unbounded))
    certified = torch.tensor([entry == _CERTIFIED for entry in reason])
    nearer = "local" if asked.method == "local" else "global"
    return {
        "radius": torch.where(certified, radii, 0.0),
        "margin": torch.where(rows.known, margins, 0.0),
        "predicted": torch.where(rows.known, rows.logits.value.argmax(1), -1),
        "reason": reason,
        "method": tuple("local" if win else nearer for win in (around > everywhere).tolist()),
        "constant": rates.constant,
    }


def _everywhere(gaps: Tensor, rows: _Rows, rates: Rates, around: Tensor) -> Tensor:
    """Return the radius of each row by global constants where it exceeds `around`, else 0.

    Constants are tightened only as far as that takes; the result is as if all of them were.
    """
    while True:
        slowest = _ratios(gaps, rates.final[rows.labels]).amin(1)
        reached, other = _ratios(gaps, rates.pairs[rows.labels]).min(1)
        unsure = (slowest > around) & (slowest > reached)
        if not bool(unsure.any()):
            return torch.where(slowest > around, _held(gaps, rates.pairs[rows.labels]), 0.0)
        asked = torch.stack([rows.labels, other], 1)[unsure]
        wanted, count = asked.sort(1).values.unique(dim=0, return_counts=True)
        i, j = wanted[count.argmax()].tolist()
        rates.tighten(i, j)


def _rates(graph: Graph, asked: Asked) -> Rates:
    """Return global constants; infinite ones where bounds around rows are all that there is."""
    unknown = Rates.unknown(graph[graph.output].shape[0])
    if asked.method == "local":
        return unknown
    try:
        return Rates(graph, asked.norm)
    except Unsupported:
        if asked.method == "global" or uncovered(graph, READING):
            raise
        return unknown


def _no_radii(graph: Graph, rows: _Rows, asked: Asked) -> dict[str, Any]:
    """Return what takes the place of radii where labels are targets: there is no class."""
    count = len(rows.inputs)
    constant = math.inf
    if asked.method != "local":
        with contextlib.suppress(Unsupported):
            constant = coarse_up(gain_upper(graph, asked.norm))
    nothing = torch.zeros(count, dtype=torch.float64)
    return {
        "radius": nothing,
        "margin": nothing,
        "predicted": torch.full((count,), -1),
        "reason": tuple("no_class" if known else "not_finite" for known in rows.known.tolist()),
        "method": (asked.method,) * count,
        "constant": constant,
    }


def _guarantee(asked: Asked, labels: Tensor) -> str:
    norm = norm_name(asked.norm)
    if labels.is_floating_point():
        return (
            f"Within {norm} distance epsilon of a row no output moves further than "
            "`output_change(epsilon)`, for the exact real function of the stored weights."
        )
    inputs, meaning = {
        "real": ("input", "exact real function of the stored weights"),
        "float32": ("float32 input", f"network {EXECUTION}"),
    }[asked.semantics]
    return (
        f"Every {inputs} within {norm} distance `radius` of a certified row has the "
        f"same largest logit as the row, its label's, for the {meaning}."
    )


def _evaluate(graph: Graph, inputs: Tensor) -> Approximate:
    parts = [evaluate(graph, part) for part in inputs.split(_BATCH)]
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


def _held(gaps: Tensor, rates: Tensor) -> Tensor:
    """Return per row the smallest proved radius over the other classes."""
    ratios = _ratios(gaps, rates)
    below = torch.where(torch.isinf(ratios), ratios, next_down(ratios))
    return coarse_down(below.amin(1)).clamp(min=0.0)


def _leads(logits: Approximate, labels: Tensor) -> Tensor:
    """Return per row the label's logit minus the largest other one, as computed."""
    own = logits.value.gather(1, labels[:, None])
    others = logits.value.scatter(1, labels[:, None], -math.inf).amax(1, keepdim=True)
    return (own - others).squeeze(1)


@dataclass(frozen=True)
class _Causes:
    """What decides whether a row is certified.

    Attributes:
        known: [N] bool: the row and its logits are finite.
        leads: [N]: the label's logit minus the largest other one, as computed.
        in_range: [N] bool: nothing overflows at the row.
        safe: [N] bool: margin and radius are proved to be above 0.
    """

    known: Tensor
    leads: Tensor
    in_range: Tensor
    safe: Tensor

    def reasons(self, unbounded: bool) -> Iterator[str]:
        """Say for every row whether its radius is certified, or why it is 0.

        Args:
            unbounded: Whether no finite constant is known.

        Yields:
            One reason per row.
        """
        columns = (self.known, self.leads, self.in_range, self.safe)
        for known, lead, in_range, safe in zip(*(c.tolist() for c in columns), strict=True):
            if not known:
                yield "not_finite"
            elif lead < 0:
                yield "misclassified"
            elif lead == 0:
                yield "tie"
            elif not in_range:
                yield "may_overflow"
            elif safe:
                yield _CERTIFIED
            else:
                yield "unbounded_constant" if unbounded else "within_rounding"
