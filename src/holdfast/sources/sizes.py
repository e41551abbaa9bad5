"""Sizes of what a file's operations would make, known before anything is made."""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Budget(TorchDispatchMode):
    """Counts the entries that operations make, those inside of other operations too.

    Inside of it tensors on the meta device, or fake ones, are measured without being made. A chain
    of concatenations, paddings, repetitions or enlargements ends where the sum is too large.

    Args:
        stored: Entries in the file, with those of one input row.
        most: Entries that may be made of one that is stored.
    """

    def __init__(self, stored: int, most: int) -> None:
        super().__init__()
        # Small nets need no ratio (2^22 float32 take 16 MiB), and no net needs more than 2^30.
        self.allowed = self.left = min(max(2**22, stored * most), 2**30)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation and count its results; a view counts for what it repeats.

        Returns:
            The results.

        Raises:
            ValueError: When they are too many.
        """
        results = func(*args, **(kwargs or {}))
        made = sum(_entries(results))
        if func.is_view:
            made -= max(_entries(args), default=0)
        self.left -= max(made, 0)
        if self.left < 0:
            raise ValueError(f"too large: more than {self.allowed} entries in all")
        return results


def _entries(values: Any) -> list[int]:
    return [each.numel() for each in tree_leaves(values) if isinstance(each, Tensor)]


def check_activations(module: nn.Module, row: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse a module whose values for one row are far more than what is stored of it.

    Args:
        module: Takes [N, *row].
        row: Shape of one input row.
        dtype: Of the input.

    Raises:
        ValueError: When there are too many.
    """
    stored = sum(map(torch.Tensor.numel, module.state_dict().values()))
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        inputs = torch.empty(1, *row, dtype=dtype)
        with activations(stored + inputs.numel()):
            module(inputs)


def activations(stored: int) -> Budget:
    """Return a budget for the values of one row; see `Budget`.

    Args:
        stored: As in `Budget`. A small convolution over a large image makes some thousands of
            values out of each stored one.
    """
    return Budget(stored, 2**12)
