"""Certified radii from one global Lipschitz constant and the margins of each row.

Tsuzuku, Sato, Sugiyama, "Lipschitz-margin training" (2018), pair by pair of classes: where
f_y - f_j moves by at most K_yj r within distance r, the class holds within margin / K_yj.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.batches import check_inputs, check_labels
from holdfast.bounds.executed import FLOAT32
from holdfast.bounds.running import Approximate, evaluate
from holdfast.brackets.rates import rates_upper
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.executed import EXECUTION, check_float32, execution
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import capture, check_unchanged
from holdfast.graph.ir import Graph
from holdfast.graph.walk import check_covered
from holdfast.rounding import coarse_down, gamma, next_down
from holdfast.types import check_norm, norm_name

METHODS = ("auto", "global")
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
        model: A classifier in eval mode: [N, ...] to [N, classes].
        inputs: [N, ...], floating point; each row is taken as the exact centre of its ball.
        labels: [N], class numbers.
        norm: Norm of the distance between inputs: 1, 2 or inf.
        method: `global` (one constant for all rows) or `auto`, the best that there is.
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
    norm = check_norm(norm)
    _check_choice("method", method, METHODS)
    _check_choice("semantics", semantics, SEMANTICS)
    check_inputs(inputs)
    if semantics == "float32":
        check_float32(model, inputs)
    finite = torch.isfinite(inputs.flatten(1)).all(1)
    # Rows that are not finite are evaluated as zeros and reported apart.
    safe = torch.where(finite.reshape(-1, *[1] * (inputs.dim() - 1)), inputs, 0.0)
    graph = capture(model, safe[:1])
    certificates = certify_graph(graph, safe, labels, norm, finite, semantics)
    check_unchanged(graph, model)
    return certificates


def certify_graph(
    graph: Graph,
    inputs: Tensor,
    labels: Tensor,
    norm: float,
    finite: Tensor,
    semantics: str = "real",
) -> Certificates:
    """Return certificates for rows of a captured classifier; see `certify`.

    Args:
        graph: The classifier.
        inputs: [N, ...], finite.
        labels: [N].
        norm: 1, 2 or inf.
        finite: [N] bool: False for rows that were replaced because they are not finite.
        semantics: `real`, or `float32` for a model that `check_float32` lets pass.

    Raises:
        Unsupported: When the output is not one row of at least two logits, or cannot be bounded.
    """
    output = graph[graph.output]
    if len(output.shape) != 1 or output.shape[0] < 2:
        why = f"an output of shape {output.shape} per row, wanted at least two logits"
        raise Unsupported("certification", [output.obstacle(why)])
    labels = check_labels(labels, len(inputs), output.shape[0])
    if semantics == "float32":
        check_covered(graph, FLOAT32)
    rates = rates_upper(graph, norm)
    logits = _evaluate(graph, inputs)
    margins, radii = _margins(logits, labels, rates.pairs)
    in_range = torch.ones(len(inputs), dtype=torch.bool)
    if semantics == "float32":
        executed = execution(graph, inputs, radii, norm)
        margins, radii = _margins(
            executed.logits(logits), labels, executed.pairs(rates.pairs, norm)
        )
        radii, in_range = torch.minimum(radii, executed.limit), executed.in_range
    known = finite & torch.isfinite(logits.value).all(1)
    predicted = torch.where(known, logits.value.argmax(1), -1)
    # A margin or radius that vanished in rounding, or is NaN, certifies nothing.
    safe = (margins > 0) & (radii > 0)
    causes = _Causes(known, _leads(logits, labels), math.isinf(rates.constant), in_range, safe)
    reason = tuple(causes.reasons())
    certified = torch.tensor([entry == _CERTIFIED for entry in reason])
    return Certificates(
        radius=torch.where(certified, radii, 0.0),
        margin=torch.where(known, margins, 0.0),
        predicted=predicted,
        labels=labels,
        reason=reason,
        method=("global",) * len(inputs),
        norm=norm,
        semantics=semantics,
        guarantee=_guarantee(norm, semantics),
        fingerprint=graph.fingerprint,
        constant=rates.constant,
        classes=output.shape[0],
    )


def _check_choice(argument: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidInput(argument, repr(value), f"one of {', '.join(known)}")


def _guarantee(norm: float, semantics: str) -> str:
    inputs, meaning = {
        "real": ("input", "exact real function of the stored weights"),
        "float32": ("float32 input", f"network {EXECUTION}"),
    }[semantics]
    return (
        f"Every {inputs} within {norm_name(norm)} distance `radius` of a certified row has the "
        f"same largest logit as the row, its label's, for the {meaning}."
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


@dataclass(frozen=True)
class _Causes:
    """What decides whether a row is certified; [N] bool but for `leads` and `unbounded`.

    Attributes:
        known: The row and its logits are finite.
        leads: [N]: the label's logit minus the largest other one, as computed.
        unbounded: No finite constant is known.
        in_range: Nothing overflows at the row.
        safe: Margin and radius are proved to be above 0.
    """

    known: Tensor
    leads: Tensor
    unbounded: bool
    in_range: Tensor
    safe: Tensor

    def reasons(self) -> Iterator[str]:
        """Say for every row whether its radius is certified, or why it is 0."""
        columns = (self.known, self.leads, self.in_range, self.safe)
        for known, lead, in_range, safe in zip(*(c.tolist() for c in columns), strict=True):
            if not known:
                yield "not_finite"
            elif lead < 0:
                yield "misclassified"
            elif lead == 0:
                yield "tie"
            elif self.unbounded:
                yield "unbounded_constant"
            elif not in_range:
                yield "may_overflow"
            else:
                yield _CERTIFIED if safe else "within_rounding"
