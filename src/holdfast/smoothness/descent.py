"""One gradient step: what the descent lemma promises, and what the updated variables show.

Source: Nesterov, "Introductory Lectures on Convex Optimization" (2004), Lemma 1.2.3: if the
gradient g of f is L-Lipschitz between w and w - s g, then

    f(w - s g) - f(w) <= -(s - L s^2 / 2) |g|^2,

which is negative for s < 2 / L. Gradient descent with momentum beta (Polyak, "Some methods of
speeding up the convergence of iteration methods", 1964) settles on a quadratic for
s < 2 (1 + beta) / L.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from holdfast.arguments import (
    check_choice,
    check_classes,
    check_model,
    check_number,
    check_whole,
    look_up,
)
from holdfast.errors import InvalidInput
from holdfast.files import plain
from holdfast.gradients import with_gradients
from holdfast.graph.forward import logits_in
from holdfast.graph.single import two_logits
from holdfast.moves import check_nothing_moves
from holdfast.results import ChartedResult, Result
from holdfast.smoothness.eigen import top_eigenvalue
from holdfast.smoothness.objective import Evaluation, Loss, Objective


def _cross_entropy(outputs: object, labels: Tensor) -> Tensor:
    logits = two_logits(logits_in(outputs))
    if logits.ndim != 2:
        raise InvalidInput("model", f"outputs of shape {tuple(logits.shape)}", "[N, classes]")
    return functional.cross_entropy(logits, check_classes(labels, len(logits), logits.shape[1]))


def _mse(answer: object, targets: Tensor) -> Tensor:
    outputs = logits_in(answer)
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs.squeeze(-1)
    if targets.shape != outputs.shape:
        wanted = f"{tuple(outputs.shape)}, as the outputs"
        raise InvalidInput("labels", f"shape {tuple(targets.shape)}", wanted)
    return functional.mse_loss(outputs, targets.to(outputs))


LOSSES: dict[str, Loss] = {"cross_entropy": _cross_entropy, "mse": _mse}
"""Losses by name; each is a mean over rows."""


@dataclass(frozen=True, repr=False)
class Smoothness(Result):
    """How fast the gradient changes, in loss per squared unit of the parameters.

    Attributes:
        along_step: |g(w') - g(w)| / |w' - w| for the updated variables w'; 0 where nothing moves.
        top_eigenvalue: Largest eigenvalue of the Hessian at w; it may be negative.
    """

    along_step: float
    top_eigenvalue: float

    @property
    def constant(self) -> float:
        """The larger of the two: the L of the lemma, as far as it was seen."""
        return max(self.along_step, self.top_eigenvalue)

    def __float__(self) -> float:
        return self.constant


@dataclass(frozen=True)
class PathPoint:
    """Promise and measurement for one step along the gradient.

    Attributes:
        step: The step.
        predicted: -(step - L step^2 / 2) |g|^2.
        actual: Loss in the updated variables minus loss before.
    """

    step: float
    predicted: float
    actual: float


@dataclass(frozen=True, repr=False)
class Descent(ChartedResult):
    """What one gradient step does to the loss, promised and measured.

    Attributes:
        step: The step that was asked about.
        momentum: Heavy-ball momentum.
        effective_step: step / (1 - momentum): what a steady gradient is multiplied with in all.
        loss: Loss before the step.
        gradient_norm: l2 norm of the gradient.
        smoothness: Lipschitz constant of the gradient along the step, and top Hessian eigenvalue.
        largest_safe_step: 2 (1 + momentum) / the top eigenvalue, one number for a model and a loss;
            infinite where the Hessian bends upward nowhere.
        safe_along_step: The same for the change of the gradient over the step that was asked about.
        predicted_change: Change of the loss that the lemma promises not to exceed.
        actual_change: Change of the loss in the updated variables w - step g.
        holds: The lemma promises no increase, and the change is not above its promise.
        noise: Mean squared distance between a batch's gradient and that of all rows; None
            without `batch_size`.
        noise_cost: L step^2 noise / 2: what a step on one batch may lose on top of that.
        path: The same step made shorter and longer, from 0 to beyond the largest safe step.
        parameters: Number of trainable parameters.
        rows: Number of rows.
    """

    step: float
    momentum: float
    effective_step: float
    loss: float
    gradient_norm: float
    smoothness: Smoothness
    largest_safe_step: float
    safe_along_step: float
    predicted_change: float
    actual_change: float
    holds: bool
    noise: float | None
    noise_cost: float | None
    path: tuple[PathPoint, ...]
    parameters: int
    rows: int

    @property
    def improved(self) -> bool:
        """Whether the loss is lower in the updated variables."""
        return self.actual_change < 0

    def document(self) -> dict[str, Any]:
        """Return all fields and `improved`, ready for JSON; what is not finite is None."""
        return plain(self) | {"improved": self.improved}


@with_gradients()
def descent(  # noqa: PLR0913 - the signature is the contract's
    model: nn.Module,
    loss: str | Loss,
    inputs: Tensor,
    labels: Tensor,
    step: float = 0.01,
    momentum: float = 0.0,
    *,
    batch_size: int | None = None,
    **moves: object,
) -> Descent:
    """Measure whether a gradient step improves the loss as the descent lemma promises.

    The model is measured as it stands, in its own train or eval mode, on float64 copies of its
    weights; nothing of it, of its gradients or of the random state changes. Both promise and
    measurement are about one plain step w - step g; momentum only enters the safe steps and
    `effective_step`. The constant L is measured, not proved: it is a lower bound of the true one.

    Args:
        model: Any module with trainable parameters.
        loss: `cross_entropy`, `mse`, or a callable `(outputs, labels) -> scalar`.
        inputs: [N, ...].
        labels: [N, ...], whatever the loss takes.
        step: Learning rate, above 0.
        momentum: In [0, 1).
        batch_size: Stream the rows in batches of so many, for a loss that is a mean over rows,
            and estimate the noise of a batch's gradient; None takes all rows at once.
        moves: `free`, `scale` and `onehot` of other verbs: refused, as no input moves here.

    Returns:
        Promise, measurement and the largest safe step.

    Raises:
        InvalidInput: When an argument is not usable, there is nothing to train, the loss is not
            one number, or loss or gradient are not finite before or after the step.
        Unsupported: When an operation has no second derivative.

    >>> import torch, holdfast
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.constant_(model.weight, 3.0)
    >>> inputs, targets = torch.ones(4, 1), torch.zeros(4, 1)
    >>> result = holdfast.descent(model, "mse", inputs, targets, step=0.25)  # loss w^2, L = 2
    >>> result.largest_safe_step, result.predicted_change, result.actual_change
    (1.0, -6.75, -6.75)
    >>> result.holds
    True
    """
    for name in moves:
        check_choice("option", name, ("batch_size", "free", "scale", "onehot"))
    check_nothing_moves("descent", **moves)
    model, step = check_model(model), check_step(step)
    wanted = "a number from 0 to below 1"
    momentum = check_number("momentum", momentum, lambda share: 0 <= share < 1, wanted)
    if batch_size is not None:
        wanted = "a positive number of rows, or None for all"
        batch_size = check_whole("batch_size", batch_size, wanted, 1)
    function = loss if callable(loss) else look_up("loss", loss, LOSSES)
    objective = Objective(model, function, inputs, labels, batch_size)
    before = _finite(objective.evaluate(objective.point), "loss", "at the present parameters")
    moved = objective.point - step * before.gradient
    after = _finite(objective.evaluate(moved), "step", f"after a step of {step:g}")
    top = top_eigenvalue(objective.curvature(objective.point), objective.point)
    smoothness = Smoothness(_secant(before, after, moved - objective.point), top)
    square = float(before.gradient.square().sum())
    promise = promise_of(smoothness.constant, square)
    predicted, actual = promise(step), after.value - before.value
    # What may be wrong with the difference of two float64 losses that are sums over rows.
    error = 1e-12 * (abs(before.value) + abs(after.value))
    cost = None if before.noise is None else smoothness.constant * step**2 * before.noise / 2
    return Descent(
        step=step,
        momentum=momentum,
        effective_step=step / (1 - momentum),
        loss=before.value,
        gradient_norm=math.sqrt(square),
        smoothness=smoothness,
        largest_safe_step=_over(2 * (1 + momentum), top),
        safe_along_step=_over(2 * (1 + momentum), smoothness.along_step),
        predicted_change=predicted,
        actual_change=actual,
        holds=predicted <= 0 and actual <= predicted + error,
        noise=before.noise,
        noise_cost=cost,
        path=_path(objective, before, promise, step, _over(2.0, smoothness.constant)),
        parameters=len(objective.point),
        rows=objective.rows,
    )


def check_step(step: object) -> float:
    """Return a learning rate; see `check_number`."""
    return check_number("step", step, lambda s: 0 < s < math.inf, "a finite number above 0")


def promise_of(constant: float, square: float) -> Callable[[float], float]:
    """Return the change that the lemma promises not to exceed, as a function of the step."""
    return lambda step: -(step - constant * step**2 / 2) * square


def _over(part: float, constant: float) -> float:
    return part / constant if constant > 0 else math.inf


def _secant(before: Evaluation, after: Evaluation, move: Tensor) -> float:
    """Return the change of the gradient per distance moved."""
    distance = float(move.norm())
    return float((after.gradient - before.gradient).norm()) / distance if distance else 0.0


def _finite(found: Evaluation, argument: str, where: str) -> Evaluation:
    """Return the evaluation.

    Raises:
        InvalidInput: When it is not finite.
    """
    if not found.finite:
        got = f"a loss of {found.value:g} or a gradient that is not finite {where}"
        raise InvalidInput(argument, got, "finite loss and gradient")
    return found


def _path(
    objective: Objective,
    before: Evaluation,
    promise: Callable[[float], float],
    step: float,
    safe: float,
) -> tuple[PathPoint, ...]:
    """Return promise and measurement for steps from 0 to a little beyond what is safe."""
    end = 1.25 * (safe if math.isfinite(safe) else step)  # far enough to see the loss turn up
    steps = [end * place / 40 for place in range(41)]
    return tuple(
        PathPoint(
            each,
            promise(each),
            objective.value(objective.point - each * before.gradient) - before.value,
        )
        for each in steps
    )
