"""Inputs and labels as users hand them over, checked once for every verb."""

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor

from holdfast.arguments import check_inputs, check_labels, shown
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
        raise InvalidInput("data", shown(data), _PAIRS)
    pairs: list[Any] = [data] if _is_pair(data) else list(data)
    checked = [_checked(pair) for pair in pairs]
    if not checked:
        raise InvalidInput("data", "no batch", "at least one row")
    shapes = sorted({tuple(inputs.shape[1:]) for inputs, _ in checked})
    if len(shapes) > 1:
        raise InvalidInput("data", f"rows of shapes {shapes}", "rows of one shape")
    inputs = torch.cat([inputs.cpu() for inputs, _ in checked])
    labels = torch.cat([labels.cpu() for _, labels in checked])
    return inputs, labels


def _checked(pair: object) -> tuple[Tensor, Tensor]:
    """Return one batch.

    Raises:
        InvalidInput: When it is empty, or rows and labels do not belong together.
    """
    if not _is_pair(pair):
        raise InvalidInput("data", shown(pair), _PAIRS)
    inputs = check_inputs(pair[0])
    labels = check_labels(pair[1], len(inputs))
    if labels.dim() > 1:
        raise InvalidInput("labels", f"shape {tuple(labels.shape)}", f"[{len(inputs)}]")
    return inputs, labels


def _is_pair(item: object) -> TypeGuard[tuple[object, object]]:
    """Return whether something is inputs and labels, and not a list of two batches."""
    if not isinstance(item, list | tuple) or len(item) != 2:
        return False
    return isinstance(item[0], Tensor) or hasattr(item[0], "__array__")
