"""Along a training run: does the step improve the loss, and how far is it from too long?

The descent lemma for any move of an optimiser, in the metric of its steps, is in `metric.py`. Every
so many steps the loss of the step's batch is evaluated before and after the step; the two gradients
give the curvature along the move without the noise between batches, and one product with the
Hessian keeps an estimate of the sharpest direction up to date (`ritz.py`).
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import IO

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from holdfast.arguments import check_whole, shown
from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.files import StrPath, check_path, check_replaceable
from holdfast.results import ChartedResult
from holdfast.smoothness.metric import rule_of, scales
from holdfast.smoothness.move import BatchEvaluation, Move, measure_losses, measure_move
from holdfast.smoothness.records import Measurement, line_of, share_improved
from holdfast.smoothness.ritz import Sharpest
from holdfast.smoothness.twice import check_twice
from holdfast.smoothness.undisturbed import undisturbed

CURVATURE_EVERY = 4
"""Measurements from one look at the curvature to the next: it costs as much as four losses."""


@dataclass(frozen=True, eq=False)
class _OpenStep:
    """A step under measurement.

    Attributes:
        step: Its number.
        rate: Learning rate.
        parameters: What it moves.
        point: Their values before the step; empty where only the two losses are wanted.
        before: The loss there, and its rounding alone where only the losses are wanted; None until
            it is known.
        move: By how much the step moved them; None until it is taken.
    """

    step: int
    rate: float
    parameters: list[Tensor]
    point: Tensor
    before: BatchEvaluation | tuple[float, float] | None
    move: Move | None = None


class DescentMonitor(ChartedResult):
    """Measure along a run whether an optimiser's steps improve the loss as promised.

    With `loss`, every measured step costs two more evaluations of the loss; every fourth one also
    its gradients at both ends and one product with the Hessian, which keep the curvature up to
    date. Without `loss` only gradients that are there anyway are compared, those of the measured
    step and of the next one: this costs next to nothing, but holds the noise of both batches, and
    there is no sharpness. Parameters, gradients, optimiser state, buffers and random state stay
    exactly as they would be without a monitor.

    A `HoldfastWarning` comes once, when the curvature is looked at and the step is as long as the
    largest safe step, and once if loss or gradient are not finite. The very first step of an
    optimiser that builds its metric from gradients, such as Adam, is not warned of: it has seen a
    single one.

    Args:
        optimizer: Any torch optimiser. SGD, Adam, AdamW, RMSprop and Adagrad are measured in their
            own metric and against their own limit, all others in l2 and against 2 / L.
        every: Measure each so many steps, beginning with the first.
        loss: The loss of the present batch as a function without arguments, for example
            `lambda: criterion(model(x), y)`; it is called when the optimiser steps.
        out: A file for one line of JSON per measurement, written as the run goes.

    Raises:
        InvalidInput: When an argument is not usable.

    >>> import torch, holdfast
    >>> weight = torch.nn.Parameter(torch.tensor([3.0]))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> loss = lambda: weight.square().sum()
    >>> with holdfast.DescentMonitor(optimizer, every=5, loss=loss) as monitor:
    ...     for _ in range(10):
    ...         optimizer.zero_grad()
    ...         loss().backward()
    ...         optimizer.step()
    >>> [round(one.largest_safe_step, 4) for one in monitor.measurements]
    [1.0, 1.0]
    >>> monitor.improved
    1.0
    """

    def __init__(
        self,
        optimizer: Optimizer,
        every: int = 50,
        loss: Callable[[], Tensor] | None = None,
        out: StrPath | None = None,
    ) -> None:
        every = check_whole("every", every, "a whole number of steps, at least 1", 1)
        if not isinstance(optimizer, Optimizer):
            raise InvalidInput("optimizer", type(optimizer).__name__, "a torch.optim.Optimizer")
        if any(group.get("maximize") for group in optimizer.param_groups):
            raise InvalidInput("optimizer", "maximize=True", "one that minimises the loss")
        if loss is not None and not callable(loss):
            raise InvalidInput("loss", shown(loss), "a function that returns the loss, or None")
        if loss is None and isinstance(optimizer, LBFGS):
            raise InvalidInput("loss", "none, with LBFGS", "a function that returns the loss")
        self.measurements: list[Measurement] = []
        self._every, self._loss, self._rule = every, loss, rule_of(optimizer)
        self._count = 0
        self._open: _OpenStep | None = None
        self._curved: Measurement | None = None
        self._sharpest = Sharpest()
        self._twice = True
        self._warned: set[str] = set()
        self._file = None if out is None else _opened(out)
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    @property
    def improved(self) -> float | None:
        """Share of the measured steps that improved the loss; None before the first."""
        return share_improved(self.measurements)

    @property
    def ratio(self) -> float | None:
        """The last step over the largest safe step; None before there is one."""
        known = (one.ratio for one in reversed(self.measurements) if one.ratio is not None)
        return next(known, None)

    @property
    def sharpness(self) -> float | None:
        """The last sharpness; None before there is one."""
        return self._sharpest.value

    @property
    def edge_of_stability(self) -> bool:
        """Whether the last measured step was as long as the largest safe step, or longer."""
        return self.ratio is not None and self.ratio >= 1

    def close(self) -> None:
        """Stop measuring and close the file; the measurements stay."""
        for hook in self._hooks:
            hook.remove()
        self._open = None
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "DescentMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _before(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Take the point, and the loss there, before a step that is measured."""
        step, self._count = self._count, self._count + 1
        if step % self._every or self._open is not None:
            return
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.requires_grad]
        rate = float(groups[0]["lr"])
        if not (rate > 0 and parameters):
            return
        if self._loss is None:
            self._open = _OpenStep(step, rate, parameters, _flat(parameters), None)
        elif self._curved is None or step % (self._every * CURVATURE_EVERY) == 0:
            point = _flat(parameters)
            direction = self._sharpest.direction(point) if self._twice else None
            before = self._evaluate(self._loss, parameters, direction)
            self._open = _OpenStep(step, rate, parameters, point, before)
        else:
            before = self._value(self._loss, parameters)
            self._open = _OpenStep(step, rate, parameters, torch.empty(0), before)

    def _after(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Finish what `_before` began."""
        opened, self._open = self._open, None
        if opened is None:
            return
        if not isinstance(opened.before, tuple):
            self._look(optimizer, opened, opened.before)
        elif self._loss is not None and self._curved is not None:
            after = self._value(self._loss, opened.parameters)
            one = measure_losses(self._curved, opened.step, opened.rate, opened.before, after)
            self._keep(one)

    def _look(
        self, optimizer: Optimizer, opened: _OpenStep, before: BatchEvaluation | None
    ) -> None:
        """Measure a step with its curvature; without a loss, when the next step is taken."""
        move = opened.move
        if move is None:
            way = _flat(opened.parameters) - opened.point
            limit = self._rule.limit(optimizer.param_groups[0])
            scale = scales(optimizer, self._rule, opened.parameters)
            move = Move(opened.step, opened.rate, way, scale, limit, self._rule.metric)
        if self._loss is not None:
            after = self._evaluate(self._loss, opened.parameters)
        else:
            after = BatchEvaluation(None, _gradient(opened.parameters))
        if before is None:  # without a loss: this is the gradient before the move
            self._open = replace(opened, before=after, move=move)
            return
        if before.product is not None:
            turn = after.gradient - before.gradient
            self._sharpest.follow(before.product, move.way, turn, move.scale)
        self._curved = measure_move(before, after, move, self._sharpest.value)
        self._keep(self._curved)

    def _value(
        self, function: Callable[[], Tensor], parameters: list[Tensor]
    ) -> tuple[float, float]:
        """Return the loss of the present batch, and its rounding."""
        with undisturbed(parameters):
            loss = function().detach()
            return float(loss), _rounding(loss)

    def _evaluate(
        self,
        function: Callable[[], Tensor],
        parameters: list[Tensor],
        direction: Tensor | None = None,
    ) -> BatchEvaluation:
        """Return the loss of the present batch, and the Hessian's product with a direction.

        Raises:
            InvalidInput: When it is not one number that depends on the parameters.
        """
        with undisturbed(parameters):
            loss = function()
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss)
                raise InvalidInput("loss", got, "a function that returns one number to minimise")
            parts = torch.autograd.grad(
                loss, parameters, create_graph=direction is not None, materialize_grads=True
            )
            product = None if direction is None else self._product(parts, parameters, direction)
        return BatchEvaluation(loss.item(), _flat(parts), _rounding(loss), product)

    def _product(
        self, parts: tuple[Tensor, ...], parameters: list[Tensor], direction: Tensor
    ) -> Tensor | None:
        """Return the Hessian times a direction; None where PyTorch cannot differentiate twice."""
        pieces = direction.split([p.numel() for p in parameters])
        pairs = [
            (part, piece.view_as(p))
            for part, piece, p in zip(parts, pieces, parameters, strict=True)
            if part.requires_grad
        ]
        if not pairs:  # linear in every parameter
            return torch.zeros_like(direction)
        slopes, vectors = zip(*pairs, strict=True)
        try:
            check_twice(slopes)
            return _flat(torch.autograd.grad(slopes, parameters, vectors, materialize_grads=True))
        except (RuntimeError, NotImplementedError) as problem:
            self._twice = False
            self._warn("twice", f"no sharpness: {' '.join(str(problem).split())}")
            return None

    def _keep(self, one: Measurement) -> None:
        """Keep a measurement, write its line, and warn where there is reason to."""
        self.measurements.append(one)
        if self._file is not None:
            self._file.write(line_of(one))
            self._file.flush()
        if one.actual_change is None:
            self._warn("finite", f"loss or gradient are not finite at step {one.step}")
        elif one.along_step is None or (one.step == 0 and one.metric != "l2"):
            return  # no new curvature, or in the metric of a single gradient, far from settled
        elif one.ratio is not None and one.ratio >= 1:
            self._warn(
                "edge",
                f"edge of stability at step {one.step}: the learning rate {one.learning_rate:.3g} "
                f"is {one.ratio:.2f} of the largest safe step {one.largest_safe_step:.3g}",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, HoldfastWarning, stacklevel=2)


def _rounding(loss: Tensor) -> float:
    """Return half a unit in the last place of a loss, at most."""
    unit = torch.finfo(loss.dtype).eps / 2 if loss.is_floating_point() else 0.0
    return unit * abs(float(loss.detach()))


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([each.detach().reshape(-1) for each in tensors])


def _gradient(parameters: list[Tensor]) -> Tensor:
    """Return the gradients that the optimiser has just used."""
    return _flat(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)


def _opened(path: StrPath) -> IO[str]:
    """Return the file to write lines to.

    Raises:
        InvalidInput: When it cannot be written.
    """
    place = check_path(path, "out")
    check_replaceable(place, mark=b'"along_step"')
    try:
        return place.open("w", encoding="utf-8")
    except OSError as problem:
        got = f"{str(path)!r} ({problem.strerror})"
        raise InvalidInput("out", got, "a path that can be written") from problem
