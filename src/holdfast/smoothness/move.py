"""One move of an optimiser: the descent lemma in its metric, promised and measured."""

import math
from dataclasses import dataclass, replace

from torch import Tensor

from holdfast.smoothness.records import Measurement


@dataclass(frozen=True, eq=False)
class BatchEvaluation:
    """The loss of a batch at one point.

    Attributes:
        value: The loss; None where only gradients are known.
        gradient: [parameters].
        rounding: What the loss may be wrong by for its type alone.
        product: The Hessian times the sharpest direction so far; None where it was not asked for.
    """

    value: float | None
    gradient: Tensor
    rounding: float = 0.0
    product: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Move:
    """What an optimiser did.

    Attributes:
        step: Number of the step.
        rate: Learning rate of the first group.
        way: By how much the parameters changed, [parameters].
        scale: Diagonal of the metric P, [parameters]; None for ones.
        limit: The c of the largest stable step c / L.
        metric: Name of the metric.
    """

    step: int
    rate: float
    way: Tensor
    scale: Tensor | None
    limit: float
    metric: str


def measure_move(
    before: BatchEvaluation, after: BatchEvaluation, move: Move, sharpness: float | None
) -> Measurement:
    """Return what a move shows, once the loss is known on both ends.

    With gradients alone, the curvature is that along the move, (g' - g).d / |d|_P^2, and the change
    of the loss (g + g').d / 2, exact to third order where both gradients are of the same batch.

    Args:
        before: The loss before the move.
        after: The loss after the move.
        move: The move.
        sharpness: Largest curvature seen in any direction; None where it was not looked for.
    """
    turn = after.gradient - before.gradient
    square = _dot(move.way, move.way if move.scale is None else move.way * move.scale)
    slope = _dot(before.gradient, move.way)
    if before.value is None or after.value is None:
        bend = _dot(turn, move.way)
        along = bend / square if square else 0.0
        actual, predicted = slope + bend / 2, None
        constant = max(along, 0.0)
    else:
        turned = _dot(turn, turn if move.scale is None else turn / move.scale)
        along = math.sqrt(turned / square) if square else 0.0
        actual = after.value - before.value
        constant = along if sharpness is None else max(along, sharpness)
        predicted = slope + constant * square / 2
    safe = move.limit / constant if constant > 0 else None
    return Measurement(
        step=move.step,
        learning_rate=move.rate,
        loss=_known(before.value),
        actual_change=_known(actual),
        predicted_change=_known(predicted),
        along_step=_known(along),
        sharpness=_known(sharpness),
        largest_safe_step=_known(safe),
        ratio=None if safe is None else _known(move.rate / safe),
        metric=move.metric,
        same_batch=before.value is not None,
        rounding=_known(before.rounding + after.rounding),
    )


def measure_losses(
    curved: Measurement,
    step: int,
    rate: float,
    before: tuple[float, float],
    after: tuple[float, float],
) -> Measurement:
    """Return a measurement of two losses, held against the safe step of an earlier one.

    Args:
        curved: The earlier one.
        step: Number of the step.
        rate: Its learning rate.
        before: The loss before it, and its rounding.
        after: The loss after it, and its rounding.
    """
    safe = curved.largest_safe_step
    return replace(
        curved,
        step=step,
        learning_rate=rate,
        loss=_known(before[0]),
        actual_change=_known(after[0] - before[0]),
        rounding=_known(before[1] + after[1]),
        predicted_change=None,
        along_step=None,
        sharpness=None,
        ratio=None if safe is None else rate / safe,
    )


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a @ b)


def _known(value: float | None) -> float | None:
    """Return a finite number as it is and everything else as None."""
    return value if value is not None and math.isfinite(value) else None
