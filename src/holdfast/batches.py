"""Inputs and labels as users hand them over, checked once for every verb."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import InvalidInput

Data = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]

_PAIRS = "(inputs, labels) tensors, or batches of them"


def gather(data: Data) -> tuple[Tensor, Tensor]:
    """Return all rows of a pair of tensors, or of an iterable of (inputs, labels) batches.

    Args:
        data: Inputs [N, ...] and labels [N], or batches of them.

    Returns:
        Inputs [N, ...] and labels [N] on the CPU.

    Raises:
        InvalidInput: When there are no rows, or a batch is not a pair of tensors.
    """
    if not isinstance(data, Iterable):
        raise InvalidInput("data", type(data).__name__, _PAIRS)
    pairs: list[Any] = [data] if _is_pair(data) else list(data)
    for pair in pairs:
        if not _is_pair(pair):
            raise InvalidInput("data", type(pair).__name__, _PAIRS)
        _check_pair(*pair)
    if not pairs:
        raise InvalidInput("data", "no batch", "at least one row")
    shapes = sorted({tuple(inputs.shape[1:]) for inputs, _ in pairs})
    if len(shapes) > 1:
        raise InvalidInput("data", f"rows of shapes {shapes}", "rows of one shape")
    inputs = torch.cat([inputs.detach().cpu() for inputs, _ in pairs])
    labels = torch.cat([labels.detach().cpu() for _, labels in pairs])
    return inputs, labels


def _check_pair(inputs: Tensor, labels: Tensor) -> None:
    """Check one batch.

    Raises:
        InvalidInput: When it is empty, or rows and labels do not belong together.
    """
    check_inputs(inputs)
    if labels.shape != (len(inputs),):
        raise InvalidInput("labels", f"shape {tuple(labels.shape)}", f"[{len(inputs)}]")


def _is_pair(item: object) -> bool:
    if not isinstance(item, list | tuple) or len(item) != 2:
        return False
    return all(isinstance(part, Tensor) for part in item)


def check_inputs(inputs: Tensor) -> None:
    """Check that inputs are rows of numbers, in the model's units.

    Raises:
        InvalidInput: When there is no row, or the numbers are pixels in bytes.
    """
    if not isinstance(inputs, Tensor):
        wanted = "one tensor with batch dimension"
        got = f"a mapping with {list(inputs)}" if isinstance(inputs, Mapping) else type(inputs)
        raise InvalidInput("inputs", got, wanted)
    if inputs.dim() == 0 or inputs.numel() == 0:
        raise InvalidInput("inputs", f"shape {tuple(inputs.shape)}", "at least one row of numbers")
    if inputs.dtype == torch.uint8:
        wanted = "floating-point values: divide by 255 (or what the model was trained with) first"
        raise InvalidInput("inputs", "uint8 values", wanted)


def check_labels(labels: Tensor, rows: int, classes: int) -> Tensor:
    """Return class labels as int64.

    Args:
        labels: [N].
        rows: Number of inputs.
        classes: Number of logits.

    Raises:
        InvalidInput: When they are not N whole numbers from 0 to classes - 1.
    """
    if labels.shape != (rows,):
        raise InvalidInput("labels", f"shape {tuple(labels.shape)}", f"[{rows}], one per input")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InvalidInput("labels", str(labels.dtype), "integer class numbers")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InvalidInput("labels", f"values from {low} to {high}", f"0 to {classes - 1}")
    return labels.long()


def check_targets(targets: Tensor, rows: int, outputs: int) -> Tensor:
    """Return the targets of a regression as float64, [N, outputs].

    Args:
        targets: [N, outputs], or [N] for one output.
        rows: Number of inputs.
        outputs: Number of outputs.

    Raises:
        InvalidInput: When their shape is another, or one is not finite.
    """
    wanted = f"[{rows}, {outputs}]" if outputs > 1 else f"[{rows}] or [{rows}, 1]"
    if targets.shape != (rows, outputs) and (outputs > 1 or targets.shape != (rows,)):
        got = f"targets (floating point) of shape {tuple(targets.shape)}"
        raise InvalidInput("labels", got, f"{wanted}; class numbers are integers")
    if not bool(torch.isfinite(targets).all()):
        raise InvalidInput("labels", "targets that are not finite", "finite targets")
    return targets.detach().cpu().double().reshape(rows, outputs)
