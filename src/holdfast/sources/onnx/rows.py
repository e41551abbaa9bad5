"""A value of an ONNX graph, one for every row of a batch.

A file describes one run, often with the batch size fixed to one. Here every value carries a batch
of its own: what the file says of one row is done to each row alone, so no operation can mix rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowValue:
    """A value for every row.

    A leading axis of size one in the file is not stored: there the batch takes its place, so that
    an image stays [B, C, H, W]. `settle` decides that, always in the same way.

    Attributes:
        tensor: [B, ...].
        batched: Whether the batch stands for a leading axis of size one in the file.
    """

    tensor: Tensor
    batched: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the file sees, for one row."""
        rest = tuple(self.tensor.shape[1:])
        return (1, *rest) if self.batched else rest

    def free(self) -> Tensor:
        """Return [B, *shape]."""
        return self.tensor.unsqueeze(1) if self.batched else self.tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "RowValue":
        """Return what an elementwise function gives."""
        return RowValue(function(self.tensor), self.batched)


def settle(tensor: Tensor) -> RowValue:
    """Return the rows whose values are [B, *shape]."""
    if tensor.dim() >= 3 and tensor.shape[1] == 1:
        return RowValue(tensor.squeeze(1), True)
    return RowValue(tensor, False)


def stored_shape(shape: Sequence[int]) -> tuple[bool, tuple[int, ...]]:
    """Return whether the batch stands for the first axis, and the shape of one stored row."""
    batched = len(shape) >= 2 and shape[0] == 1
    return batched, tuple(shape[1:] if batched else shape)


def reshaped(x: RowValue, shape: Sequence[int]) -> RowValue:
    """Return rows that the file sees in another shape of the same size.

    Raises:
        ValueError: When the sizes differ.
    """
    if math.prod(shape) != math.prod(x.shape) or any(size < 0 for size in shape):
        raise ValueError(f"cannot reshape {list(x.shape)} to {list(shape)}")
    batched, row = stored_shape(shape)
    if tuple(x.tensor.shape[1:]) == row:
        return RowValue(x.tensor, batched)
    return RowValue(x.tensor.reshape(x.tensor.shape[0], *row), batched)


def counted(axes: Sequence[int], rank: int) -> list[int]:
    """Return axes counted from the front.

    Raises:
        ValueError: When there is no such axis, or one is named twice.
    """
    positive = [axis + rank if axis < 0 else axis for axis in axes]
    if not all(0 <= axis < rank for axis in positive) or len({*positive}) < len(positive):
        raise ValueError(f"axes {list(axes)} of a value with {rank}")
    return positive


def along(x: RowValue, axes: Sequence[int]) -> tuple[RowValue, list[int]]:
    """Return the rows stored so that the file's axes are dimensions of the tensor, and those."""
    positive = counted(axes, len(x.shape))
    if x.batched and 0 not in positive:
        return x, positive
    return RowValue(x.free(), False), [axis + 1 for axis in positive]


def renewed(x: RowValue, tensor: Tensor) -> RowValue:
    """Return rows computed from `x` along dimensions that `along` gave."""
    if not x.batched:
        return settle(tensor)
    return RowValue(tensor, True) if tensor.dim() > 1 else RowValue(tensor.unsqueeze(1), False)


Operand = RowValue | Tensor
Static = Annotated[Any, "known from the file alone"]


def shape_of(x: Operand) -> tuple[int, ...]:
    """Return the shape that the file sees."""
    return x.shape if isinstance(x, RowValue) else tuple(x.shape)


def listed(value: Static) -> list[Any]:
    """Return a static input as a list: a single number stands for a list of one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def combined(function: Callable[..., Any], *operands: Operand) -> RowValue:
    """Return what an elementwise function gives, shapes aligned at the right as in NumPy."""
    shape = torch.broadcast_shapes(*map(shape_of, operands))
    batched, _ = stored_shape(shape)
    return RowValue(function(*(_aligned(x, len(shape), batched) for x in operands)), batched)


def _aligned(x: Operand, rank: int, batched: bool) -> Tensor:
    """Return an operand that broadcasts against the tensor of a result of that rank."""
    skip = 1 if batched else 0
    if isinstance(x, Tensor):
        return x.reshape(x.shape[1:]) if x.dim() > rank - skip else x
    row = ((1,) * (rank - len(x.shape)) + x.shape)[skip:]
    if tuple(x.tensor.shape[1:]) == row:
        return x.tensor
    return x.tensor.reshape(x.tensor.shape[0], *row)


def per_image(function: Callable[[Tensor], Tensor], x: RowValue) -> RowValue:
    """Apply a layer that takes a batch of images of its own, [N, C, ...]."""
    if x.batched:
        return RowValue(function(x.tensor), True)
    result = function(x.tensor.flatten(0, 1))
    return settle(result.unflatten(0, (-1, x.shape[0])))
