"""The loss of a model on fixed rows as a function of its trainable parameters, in float64.

The function is evaluated beside the model (`torch.func.functional_call`) on float64 copies of its
parameters and buffers, so nothing of the user's is ever written to; every evaluation starts from
the same random state and the same buffers, so that dropout and batch statistics do not turn two
evaluations into two functions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.arguments import check_inputs, check_tensor, user_code
from holdfast.errors import InvalidInput, Obstacle, Unsupported
from holdfast.graph.capture import unreadable_weights
from holdfast.graph.forward import run_model
from holdfast.smoothness.twice import check_twice

Loss = Callable[[Any, Tensor], Tensor]
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The objective at one point.

    Attributes:
        value: Loss, mean over rows.
        gradient: [parameters] float64.
        noise: Estimated mean squared distance of a batch's gradient from that of all rows; None
            for a single batch.
    """

    value: float
    gradient: Tensor
    noise: float | None

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite."""
        return bool(torch.isfinite(self.gradient).all()) and abs(self.value) < float("inf")


class _Pair(nn.Module):
    """A model and its loss as one module, so that the tensors of both can be replaced."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        answer = run_model(self.model, inputs)
        with user_code("loss", "a function that fails", "one of outputs and labels"):
            return self.loss(answer, labels)


class Objective:
    """A model's loss on given rows, as a function of one flat vector of trainable parameters.

    Args:
        model: Any module, in the mode in which it is to be measured.
        loss: `(outputs, labels) -> scalar`; a mean over rows where `batch_size` is given.
        inputs: [N, ...].
        labels: [N, ...].
        batch_size: Rows in one pass; None for all.

    Raises:
        InvalidInput: When there is nothing to train, or the rows are not usable.
        Unsupported: When weights hold no numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Tensor,
        labels: Tensor,
        batch_size: int | None = None,
    ) -> None:
        if obstacles := unreadable_weights(model):
            raise Unsupported("descent", obstacles)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trained:
            wanted = "a model with a parameter that has requires_grad"
            raise InvalidInput("model", "no trainable parameter", wanted)
        if any(p.is_complex() for p in trained.values()):
            raise InvalidInput("model", "complex parameters", "real ones")
        self.names = list(trained)
        self._pair = _Pair(model, loss)
        self._shapes = [p.shape for p in trained.values()]
        self._sizes = [p.numel() for p in trained.values()]
        self._own = {f"model.{name}" for name in trained}
        device = next(iter(trained.values())).device
        self._cuda = [device] if device.type == "cuda" else []
        flat = [p.detach().double().reshape(-1) for p in trained.values()]
        self.point = torch.cat(flat)
        self._batches = _split(inputs, labels, batch_size, device)
        self.rows = sum(len(rows) for _, (rows, _) in self._batches)

    def value(self, point: Tensor) -> float:
        """Return the loss at a point."""
        with torch.no_grad():
            return float(sum(share * self._loss(point, rows) for share, rows in self._batches))

    def evaluate(self, point: Tensor) -> Evaluation:
        """Return loss, gradient and the noise of a batch's gradient at a point."""
        point = point.detach().requires_grad_()
        value, gradient, square = 0.0, torch.zeros_like(point), 0.0
        for share, rows in self._batches:
            loss = self._loss(point, rows)
            with _derivatives():
                (part,) = torch.autograd.grad(loss, point, materialize_grads=True)
            value += share * loss.item()
            gradient += share * part
            square += share * float(part.square().sum())
        count = len(self._batches)
        spread = max(square - float(gradient.square().sum()), 0.0)
        return Evaluation(value, gradient, spread * count / (count - 1) if count > 1 else None)

    def curvature(self, point: Tensor) -> Product:
        """Return the map from a direction to the Hessian at a point times that direction.

        The graph of a single batch is kept from one product to the next; streamed batches are
        computed again each time.

        Raises:
            Unsupported: When an operation of the model has no second derivative in PyTorch.
        """
        point = point.detach().requires_grad_()
        kept = None if len(self._batches) > 1 else self._slope(point, self._batches[0][1])

        def product(direction: Tensor) -> Tensor:
            total = torch.zeros_like(point)
            with _derivatives():
                for share, rows in self._batches:
                    slope = self._slope(point, rows) if kept is None else kept
                    if not slope.requires_grad:  # a loss that is linear in every parameter
                        continue
                    (part,) = torch.autograd.grad(
                        slope, point, direction, retain_graph=True, materialize_grads=True
                    )
                    total += share * part
            return total

        return product

    def _slope(self, point: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
        """Return the gradient on some rows, with its graph."""
        loss = self._loss(point, rows)
        with _derivatives():
            slopes = torch.autograd.grad(loss, point, create_graph=True)
            check_twice(slopes)
            return slopes[0]

    def _loss(self, point: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss on some rows, a float64 scalar.

        Raises:
            InvalidInput: When it is not one number, or no trainable parameter changes it.
            Unsupported: When the model does not compute in float64.
        """
        pieces = (
            piece.view(shape)
            for piece, shape in zip(point.split(self._sizes), self._shapes, strict=True)
        )
        tensors = self._fixed() | dict(zip((f"model.{n}" for n in self.names), pieces, strict=True))
        with torch.random.fork_rng(self._cuda), sdpa_kernel(SDPBackend.MATH):
            loss = _in_double(lambda: functional_call(self._pair, tensors, rows))
        if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InvalidInput("loss", got, "one real number, for example the mean over rows")
        if torch.is_grad_enabled() and not loss.requires_grad:
            wanted = "a loss that can be differentiated with respect to them"
            raise InvalidInput("loss", "a number that no trainable parameter changes", wanted)
        return loss.double().reshape(())

    def _fixed(self) -> dict[str, Tensor]:
        """Return fresh float64 copies of everything that is not trained."""
        state = [*self._pair.named_parameters(), *self._pair.named_buffers()]
        return {name: _double(value.detach()) for name, value in state if name not in self._own}


def _in_double(compute: Callable[[], Any]) -> Any:
    """Return a value; say so where a model insists on another type than float64.

    Raises:
        Unsupported: For a mixture of types.
        InvalidInput: When model or loss fail for other reasons.
    """
    try:
        return compute()
    except InvalidInput as refusal:
        problem = refusal.__cause__
        why = " ".join(str(problem).split())
        mixed = "dtype" in why or "scalar type" in why
        if not (isinstance(problem, RuntimeError) and mixed):
            raise
        advice = "create tensors in the type of the input"
        obstacle = Obstacle("", "evaluation in float64", why, advice)
        raise Unsupported("descent", [obstacle]) from problem


def _double(value: Tensor) -> Tensor:
    """Return a copy, in float64 if it has fractions."""
    kind = torch.float64 if value.is_floating_point() else value.dtype
    return value.to(kind, copy=True)


def _split(
    inputs: Tensor, labels: Tensor, size: int | None, device: torch.device
) -> list[tuple[float, tuple[Tensor, Tensor]]]:
    """Return batches in float64 with their share of all rows.

    Raises:
        InvalidInput: When rows and labels do not belong together, or the size is not positive.
    """
    inputs = check_inputs(inputs)
    wanted = f"a tensor of {len(inputs)} rows, one per input"
    labels = check_tensor("labels", labels, wanted)
    if labels.dim() == 0 or len(labels) != len(inputs):
        raise InvalidInput("labels", f"shape {tuple(labels.shape)}", wanted)
    inputs, labels = (_double(value).to(device) for value in (inputs, labels))
    size = min(size or len(inputs), len(inputs))
    pairs = zip(inputs.split(size), labels.split(size), strict=True)
    return [(len(rows) / len(inputs), (rows, targets)) for rows, targets in pairs]


@contextmanager
def _derivatives() -> Iterator[None]:
    """Say which operation has no second derivative, where PyTorch says so.

    Yields:
        Once.

    Raises:
        Unsupported: For such an operation.
        InvalidInput: When a derivative fails for other reasons.
    """
    try:
        with user_code("model", "a derivative that fails", "a model that can be differentiated"):
            yield
    except InvalidInput as refusal:
        problem = refusal.__cause__
        if "derivative" not in str(problem) and "double backward" not in str(problem):
            raise
        why = " ".join(str(problem).split())
        advice = "use operations that can be differentiated twice"
        obstacle = Obstacle("", "Hessian times vector", why, advice)
        raise Unsupported("curvature of the loss", [obstacle]) from problem
