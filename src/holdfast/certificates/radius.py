"""Certified radii from one global Lipschitz constant and the margins of each row.

Tsuzuku, Sato, Sugiyama, "Lipschitz-margin training" (2018), pair by pair of classes: where
f_y - f_j moves by at most K_yj r within distance r, the class holds within margin / K_yj.
"""

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from holdfast.batches import check_inputs, check_labels
from holdfast.bounds.running import Approximate, evaluate
from holdfast.brackets.rates import rates_upper
from holdfast.certificates.certificate import Certificates, Evidence
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import capture, check_unchanged
from holdfast.graph.ir import Graph
from holdfast.rounding import coarse_down, gamma, next_down
from holdfast.types import check_norm, norm_name

METHODS = ("auto", "global")
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
        model: A classifier in eval mode: [N, ...] to [N, classes].
        inputs: [N, ...], floating point; each row is taken as the exact centre of its ball.
        labels: [N], class numbers.
        norm: Norm of the distance between inputs: 1, 2 or inf.
        method: `global` (one constant for all rows) or `auto`, the best that there is.
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
    certificates = certify_graph(graph, safe, labels, norm, finite)
    check_unchanged(graph, model)
    return dataclasses.replace(certificates, evidence=Evidence(graph, inputs.detach().clone()))


def certify_graph(
    graph: Graph, inputs: Tensor, labels: Tensor, norm: float, finite: Tensor
) -> Certificates:
    """Return certificates for rows of a captured classifier; see `certify`.

    Args:
        graph: The classifier.
        inputs: [N, ...], finite.
        labels: [N].
        norm: 1, 2 or inf.
        finite: [N] bool: False for rows that were replaced because they are not finite.

    Raises:
        Unsupported: When the output is not one row of at least two logits, or cannot be bounded.
    """
    output = graph[graph.output]
    if len(output.shape) != 1 or output.shape[0] < 2:
        why = f"an output of shape {output.shape} per row, wanted at least two logits"
        raise Unsupported("certification", [output.obstacle(why)])
    labels = check_labels(labels, len(inputs), output.shape[0])
    rates = rates_upper(graph, norm)
    logits = _evaluate(graph, inputs)
    margins, radii = _margins(logits, labels, rates.pairs)
    known = finite & torch.isfinite(logits.value).all(1)
    predicted = torch.where(known, logits.value.argmax(1), -1)
    # A margin or radius that vanished in rounding, or is NaN, certifies nothing.
    safe = (margins > 0) & (radii > 0)
    reason = tuple(_reasons(safe, _leads(logits, labels), known, math.isinf(rates.constant)))
    certified = torch.tensor([entry == _CERTIFIED for entry in reason])
    return Certificates(
        radius=torch.where(certified, radii, 0.0),
        margin=torch.where(known, margins, 0.0),
        predicted=predicted,
        labels=labels,
        reason=reason,
        method=("global",) * len(inputs),
        norm=norm,
        semantics="real",
        guarantee=_guarantee(norm),
        fingerprint=graph.fingerprint,
        constant=rates.constant,
        classes=output.shape[0],
    )


def _check_choice(argument: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInput(argument, repr(value), f"one of {', '.join(known)}")


def _guarantee(norm: float) -> str:
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


def _reasons(safe: Tensor, leads: Tensor, known: Tensor, unbounded: bool) -> Iterator[str]:
    """Say for every row whether its radius is certified, or why it is 0."""
    rows = zip(known.tolist(), leads.tolist(), safe.tolist(), strict=True)
    for is_known, lead, is_safe in rows:
        if not is_known:
            yield "not_finite"
        elif lead < 0:
            yield "misclassified"
        elif lead == 0:
            yield "tie"
        elif unbounded:
            yield "unbounded_constant"
        else:
            yield _CERTIFIED if is_safe else "within_rounding"
