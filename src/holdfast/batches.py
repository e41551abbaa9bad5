"""Inputs and labels as users hand them over, read in one way for every verb."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from holdfast.arguments import check_example, check_inputs, check_labels, shown, user_code
from holdfast.errors import InvalidInput

Inputs = Tensor | Mapping[str, Tensor]
Data = tuple[Inputs, Tensor] | Iterable[tuple[Inputs, Tensor]]


def read_batches(data: Data, size: int = 256) -> Iterator[tuple[Inputs, Tensor]]:
    """Yield the rows of a pair of inputs and labels, or of an iterable of such batches.

    Args:
        data: Inputs [N, ...], or a mapping of such, and labels [N]; or batches of them.
        size: Most rows of a batch.

    Yields:
        Inputs and labels, checked, at least one row.

    Raises:
        InvalidInput: When there are no rows, or inputs and labels do not belong together.
    """
    wanted = "(inputs, labels) or batches of them; inputs: a tensor or a mapping of tensors"
    if not isinstance(data, Iterable) or isinstance(data, Mapping | Tensor):
        raise InvalidInput("data", shown(data), wanted)
    found, end = False, object()
    with user_code("data", "batches that fail", wanted):
        batches = iter(cast(Iterable[object], [data] if _is_pair(data) else data))
    while True:
        with user_code("data", "batches that fail", wanted):
            batch = next(batches, end)
        if batch is end:
            break
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise InvalidInput("data", shown(batch), wanted)
        inputs, labels = _checked(*batch)
        for start in range(0, len(labels), size):
            found = True
            place = slice(start, start + size)
            yield rows_at(inputs, place), labels[place]
    if not found:
        raise InvalidInput("data", "no batch", "at least one row")


def rows_at(inputs: Inputs, place: slice) -> Inputs:
    """Return some rows of inputs."""
    if isinstance(inputs, Tensor):
        return inputs[place]
    return {name: value[place] for name, value in inputs.items()}


def join_batches(batches: Iterable[tuple[Inputs, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return all rows as one, on the CPU.

    Args:
        batches: From `read_batches`.

    Returns:
        Inputs [N, ...] and labels [N].

    Raises:
        InvalidInput: When rows have different shapes, or are mappings.
    """
    pairs = [(check_inputs(inputs).cpu(), labels.cpu()) for inputs, labels in batches]
    shapes = sorted({tuple(inputs.shape[1:]) for inputs, _ in pairs})
    if len(shapes) > 1:
        raise InvalidInput("data", f"rows of shapes {shapes}", "rows of one shape")
    inputs, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return inputs, labels


def _checked(inputs: object, labels: object) -> tuple[Inputs, Tensor]:
    """Return one batch.

    Raises:
        InvalidInput: When it is empty, or rows and labels do not belong together.
    """
    rows = check_example(inputs) if isinstance(inputs, Mapping) else check_inputs(inputs)
    count = len(rows if isinstance(rows, Tensor) else next(iter(rows.values())))
    targets = check_labels(labels, count)
    if targets.dim() > 1:
        raise InvalidInput("labels", f"shape {tuple(targets.shape)}", f"[{count}]")
    return rows, targets


def _is_pair(item: object) -> bool:
    """Return whether something is inputs and labels, and not a list of two batches."""
    if not isinstance(item, list | tuple) or len(item) != 2:
        return False
    return isinstance(item[0], Mapping) or any(hasattr(part, "__array__") for part in item)


def flat_rows(values: Tensor, first: int = 1) -> Tensor:
    """Return all that follows the first dimensions as one, of size 1 where a row is one number."""
    return values.unsqueeze(-1).flatten(first)


def groups_last(values: Tensor, dims: Sequence[int]) -> Tensor:
    """Lay some dimensions of [R, ...], counted from the rows, along one last dimension."""
    ends = tuple(range(values.dim() - len(dims), values.dim()))
    return values.movedim(tuple(dims), ends).flatten(ends[0])
