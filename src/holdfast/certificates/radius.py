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

from holdfast.batches import check_inputs, check_labels, check_targets
from holdfast.bounds.running import Approximate, evaluate
from holdfast.brackets.gain import gain_upper
from holdfast.brackets.rates import Rates, rates_upper
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.change import Changes
from holdfast.certificates.local import local_radii
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import capture, check_unchanged
from holdfast.graph.ir import Graph
from holdfast.rounding import coarse_down, coarse_up, gamma, next_down
from holdfast.types import check_norm, norm_name

METHODS = ("auto", "global", "local")
SEMANTICS = ("real",)

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
        inputs: [N, ...], floating point; each row is taken as the exact centre of its ball.
        labels: [N], class numbers; or floating-point targets, [N] or [N, outputs], for which
            only `output_change` and `loss_change` promise something.
        norm: Norm of the distance between inputs: 1, 2 or inf.
        method: `global` (one constant for all rows), `local` (bounds on a ball around each row)
            or `auto`, the larger radius of the two, row by row.
        semantics: `real`: the claim is about the exact real function of the stored weights.

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
    norm = check_norm(norm)
    _check_choice("method", method, METHODS)
    _check_choice("semantics", semantics, SEMANTICS)
    check_inputs(inputs)
    finite = torch.isfinite(inputs.flatten(1)).all(1)
    # Rows that are not finite are evaluated as zeros and reported apart.
    safe = torch.where(finite.reshape(-1, *[1] * (inputs.dim() - 1)), inputs, 0.0)
    graph = capture(model, safe[:1])
    certificates = certify_graph(graph, safe, labels, finite, Asked(norm, method))
    check_unchanged(graph, model)
    return certificates


@dataclass(frozen=True)
class Asked:
    """What the user asks of certificates.

    Attributes:
        norm: 1, 2 or inf.
        method: One of `METHODS`.
    """

    norm: float
    method: str = "auto"


def certify_graph(
    graph: Graph, inputs: Tensor, labels: Tensor, finite: Tensor, asked: Asked
) -> Certificates:
    """Return certificates for rows of a captured model; see `certify`.

    Args:
        graph: The model.
        inputs: [N, ...], finite.
        labels: [N] classes, or targets.
        finite: [N] bool: False for rows that were replaced because they are not finite.
        asked: Norm and method.

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
        labels = check_labels(labels, len(inputs), classes)
    logits = _evaluate(graph, inputs)
    known = finite & torch.isfinite(logits.value).all(1)
    rows = _Rows(inputs, labels, logits, known)
    found = (
        _no_radii(graph, rows, asked) if labels.is_floating_point() else _radii(graph, rows, asked)
    )
    return Certificates(
        **found,
        labels=labels,
        norm=asked.norm,
        semantics="real",
        guarantee=_guarantee(asked.norm, rows.labels),
        fingerprint=graph.fingerprint,
        classes=classes,
        changes=Changes(graph, inputs, labels, logits, asked.norm),
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


def _radii(graph: Graph, rows: _Rows, asked: Asked) -> dict[str, Any]:
    """Return radii, margins, predictions, reasons and methods of a classifier's rows."""
    rates = _rates(graph, asked)
    margins, everywhere = _margins(rows.logits, rows.labels, rates.pairs)
    around = torch.zeros_like(everywhere)
    if asked.method != "global":
        worth = (rows.known & (margins > 0)).nonzero().flatten()
        try:
            around[worth] = local_radii(graph, rows.inputs[worth], rows.labels[worth], asked.norm)
        except Unsupported:
            if asked.method == "local" or not math.isfinite(rates.constant):
                raise
    radii = torch.maximum(everywhere, around)
    # A margin or radius that vanished in rounding, or is NaN, certifies nothing.
    safe = (margins > 0) & (radii > 0)
    unbounded = math.isinf(rates.constant)
    reason = tuple(_reasons(safe, margins, _leads(rows.logits, rows.labels), rows.known, unbounded))
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


def _rates(graph: Graph, asked: Asked) -> Rates:
    """Return global constants; infinite ones where only bounds around rows are asked for."""
    classes = graph[graph.output].shape[0]
    pairs = torch.full((classes, classes), math.inf, dtype=torch.float64).fill_diagonal_(0.0)
    unknown = Rates(math.inf, pairs)
    if asked.method == "local":
        return unknown
    try:
        return rates_upper(graph, asked.norm)
    except Unsupported:
        if asked.method == "global":
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


def _check_choice(argument: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInput(argument, repr(value), f"one of {', '.join(known)}")


def _guarantee(norm: float, labels: Tensor) -> str:
    if labels.is_floating_point():
        return (
            f"Within {norm_name(norm)} distance epsilon of a row no output moves further than "
            "`output_change(epsilon)`, for the exact real function of the stored weights."
        )
    return (
        f"Every input within {norm_name(norm)} distance `radius` of a certified row has the same "
        "largest logit as the row, its label's, for the exact real function of the stored weights."
    )


def _evaluate(graph: Graph, inputs: Tensor) -> Approximate:
    parts = [evaluate(graph, part) for part in inputs.split(_BATCH)]
    return Approximate(
        torch.cat([part.value for part in parts]), torch.cat([part.error for part in parts])
    )


def _margins(logits: Approximate, labels: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return per row the smallest proved margin and the smallest radius over the other classes."""
    rows = len(labels)
    margins = torch.empty(rows, dtype=torch.float64)
    radii = torch.empty(rows, dtype=torch.float64)
    for label in labels.unique().tolist():
        mine = labels == label
        value, error = logits.value[mine], logits.error[mine]
        gap = next_down(value[:, label, None] - value)
        noise = (error[:, label, None] + error) * (1.0 + 4.0 * gamma(2))
        gap = next_down(gap - noise)
        gap[:, label] = math.inf
        rates = pairs[label]
        ratio = torch.where(rates > 0, gap / rates, math.inf * gap.sign())
        margins[mine] = coarse_down(gap.amin(1))
        below = torch.where(torch.isinf(ratio), ratio, next_down(ratio))
        radii[mine] = coarse_down(below.amin(1)).clamp(min=0.0)
    return margins, radii


def _leads(logits: Approximate, labels: Tensor) -> Tensor:
    """Return per row the label's logit minus the largest other one, as computed."""
    own = logits.value.gather(1, labels[:, None])
    others = logits.value.scatter(1, labels[:, None], -math.inf).amax(1, keepdim=True)
    return (own - others).squeeze(1)


def _reasons(
    safe: Tensor, margins: Tensor, leads: Tensor, known: Tensor, unbounded: bool
) -> Iterator[str]:
    """Say for every row whether its radius is certified, or why it is 0."""
    rows = zip(known.tolist(), margins.tolist(), leads.tolist(), safe.tolist(), strict=True)
    for is_known, margin, lead, is_safe in rows:
        if not is_known:
            yield "not_finite"
        elif lead < 0:
            yield "misclassified"
        elif lead == 0:
            yield "tie"
        elif is_safe:
            yield _CERTIFIED
        else:
            yield "unbounded_constant" if unbounded and margin > 0 else "within_rounding"
