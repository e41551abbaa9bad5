"""One loss per row from a classifier's outputs: what knowledge continuity compares.

Losses are computed in float64 from the outputs as the model returns them, so that a change of loss
loses nothing of its own to cancellation. What the model has rounded away stays lost: how much of a
change that may be is told beside it (`loss_roundings`).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.arguments import check_targets, look_up
from holdfast.errors import InvalidInput
from holdfast.gradients import with_gradients
from holdfast.graph.forward import run_function
from holdfast.graph.single import two_logits
from holdfast.knowledge_continuity.pairs.distance import name_of

Loss = str | Callable[[Tensor, Tensor], Tensor]


def row_losses(loss: Loss, outputs: Tensor, labels: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the loss of each row.

    With logits z, label y and p = softmax(z), where one logit z counts as the two [0, z]:

    * `cross_entropy`: -log p_y, in nats;
    * `zero_one`: 0 if z_y is larger than every other logit, else 1 (a tie counts as wrong);
    * `brier`: the squared distance from p to the one-hot label, from 0 to 2 (Brier, 1950);
    * `margin`: max(0, 1 - (z_y - the largest other logit)), in logits (Crammer and Singer, 2001);
    * `mse`: the mean of (z - y)^2 over the outputs, for targets y.

    Args:
        loss: One of these names, or a callable `(outputs, labels) -> [N]`.
        outputs: Logits [N, classes], or one logit, [N] or [N, 1]; a callable gets them as they
            are, whatever their shape.
        labels: Class indices [N]; a callable gets them as they are.
        threshold: One logit means class 1 above this, for the losses `zero_one` and `margin`.

    Returns:
        Losses [N], float64.

    Raises:
        InvalidInput: For an unknown name, for outputs or labels that do not fit, or if there is
            not one finite loss per row.

    >>> row_losses("zero_one", torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
    tensor([0., 1.], dtype=torch.float64)
    """
    if callable(loss):
        losses = run_function("loss", loss, outputs, labels)
    else:
        named = look_up("loss", loss, LOSSES)
        if loss == "mse":
            flat = outputs.reshape(len(outputs), -1)
            losses = named(flat.double(), check_targets(labels, *flat.shape))
        else:
            logits = _logits(loss, outputs, threshold)
            _check_classes(logits, labels)
            losses = named(logits.double(), labels.long())
    return _checked(losses, len(outputs), name_of(loss))


def loss_roundings(loss: Loss, outputs: Tensor, labels: Tensor, threshold: float = 0.0) -> Tensor:
    """Return what the rounding of its outputs may change in the loss of each row.

    Each output is a number of its type, so it may be half a unit in the last place away from what
    the same model gives without rounding, and usually is by more. To first order that moves the
    loss of a row by u sum_c |dL/dz_c| |z_c|, with u the unit roundoff. It is an estimate from
    below.

    Args:
        loss: As for `row_losses`.
        outputs: As for `row_losses`, which has accepted them.
        labels: As for `row_losses`.
        threshold: As for `row_losses`.

    Returns:
        [N] float64, in units of loss. For a callable: the rounding of its own results, in the
        coarser of the types of the outputs and of what it returns. 0 for `zero_one` and for whole
        numbers.

    >>> logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    >>> float(loss_roundings("cross_entropy", logits, torch.tensor([0, 1]))[0] * 2**24)  # 1 - p_0
    0.7310585786300049
    """
    if callable(loss):
        losses = loss(outputs, labels).detach()
        kinds = [value.dtype for value in (outputs, losses) if value.is_floating_point()]
        unit = max((torch.finfo(kind).eps / 2 for kind in kinds), default=0.0)
        return unit * losses.double().abs()
    if loss == "zero_one" or not outputs.is_floating_point():
        return torch.zeros(len(outputs), dtype=torch.float64)
    moved = []
    # A thousand rows at a time: the gradient needs several matrices as large as the outputs.
    for logits, targets in zip(outputs.split(1024), labels.split(1024), strict=True):
        with with_gradients():
            z = logits.detach().to(torch.float64, copy=True).requires_grad_()
            if loss == "mse":
                total = _mse(z.reshape(len(z), -1), targets.double().reshape(len(z), -1)).sum()
            else:
                chosen = targets.to(torch.int64, copy=True)
                total = LOSSES[loss](_logits(loss, z, threshold), chosen).sum()
            (slopes,) = torch.autograd.grad(total, z)
        each = (slopes * z.detach()).nan_to_num(0.0, 0.0, 0.0).abs()  # a class at -inf weighs 0
        moved.append(each.reshape(len(each), -1).sum(1))
    return torch.finfo(outputs.dtype).eps / 2 * torch.cat(moved)


def _logits(loss: str, outputs: Tensor, threshold: float) -> Tensor:
    """Return one logit as two, moved by the threshold where the loss is about the answer alone."""
    return two_logits(outputs, threshold if loss in ("zero_one", "margin") else 0.0)


def _check_classes(outputs: Tensor, labels: Tensor) -> None:
    """Check that these are logits [N, classes] and class indices [N].

    Raises:
        InvalidInput: If they are not.
    """
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise InvalidInput("outputs", f"shape {tuple(outputs.shape)}", "[N, at least 2 classes]")
    if not outputs.is_floating_point():
        raise InvalidInput("outputs", f"{outputs.dtype} values", "logits, in floating point")
    if unknown := int(outputs.isnan().any(1).sum()):
        raise InvalidInput("outputs", f"NaN in {unknown} of {len(outputs)} rows", "no NaN")
    if labels.shape != outputs.shape[:1]:
        raise InvalidInput("labels", f"shape {tuple(labels.shape)}", f"[{len(outputs)}]")
    if labels.is_floating_point() or labels.is_complex():
        wanted = "integer class indices, or loss='mse' for targets"
        raise InvalidInput("labels", str(labels.dtype), wanted)
    classes = outputs.shape[1]
    if outside := int(((labels < 0) | (labels >= classes)).sum()):
        raise InvalidInput("labels", f"{outside} labels outside", f"0 to {classes - 1}")


def _checked(losses: Tensor, rows: int, name: str) -> Tensor:
    """Return the losses in float64.

    Raises:
        InvalidInput: If there is not one finite value per row.
    """
    if not isinstance(losses, Tensor) or losses.shape != (rows,):
        found = getattr(losses, "shape", type(losses).__name__)
        raise InvalidInput(
            "loss", f"{name} returning {found}", f"one loss per row, shape ({rows},)"
        )
    if bad := int((~losses.isfinite()).sum()):
        raise InvalidInput("loss", f"{name} not finite in {bad} of {rows} rows", "finite losses")
    return losses.detach().double()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _zero_one(logits: Tensor, labels: Tensor) -> Tensor:
    return (_lead(logits, labels) <= 0).double()


def _brier(logits: Tensor, labels: Tensor) -> Tensor:
    targets = functional.one_hot(labels, logits.shape[1])
    return (logits.softmax(1) - targets).square().sum(1)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    return (1 - _lead(logits, labels)).clamp(min=0)


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """Return by how much the label's logit exceeds the largest other one, [N]."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own.squeeze(1) - others.amax(1)


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.to(outputs)).square().mean(1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "zero_one": _zero_one,
    "brier": _brier,
    "margin": _margin,
    "mse": _mse,
}
