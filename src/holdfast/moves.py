"""What may move, and in which units: distances are ||(x' - x) / scale||, over what is free."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.arguments import check_tensor
from holdfast.errors import InvalidInput

Entries = Tensor | Sequence[int] | Sequence[bool] | None
Units = Tensor | Sequence[float] | None


@dataclass(frozen=True, eq=False)
class Moves:
    """What may move in one row of the inputs, and the units of distances.

    Attributes:
        free: Which entries may move: truth values of a row's shape, or numbers of entries of the
            flattened row; None for all of them. The others keep the value that they have.
        scale: Units, above 0, of a row's shape or one that broadcasts to it: a step of `scale` in
            one entry has length 1; None for ones.

    Raises:
        InvalidInput: When they are not that.
    """

    free: Entries = None
    scale: Units = None

    def __post_init__(self) -> None:
        if self.free is not None:
            wanted = "truth values for the entries of a row, or numbers of entries, each once"
            free = check_tensor("free", self.free, wanted)
            if free.dtype != torch.bool and (
                free.is_floating_point() or free.dim() != 1 or len(free.unique()) != len(free)
            ):
                got = f"{str(free.dtype).removeprefix('torch.')} values {free.tolist()!s:.80}"
                raise InvalidInput("free", got, wanted)
            if not len(free) or (free.dtype == torch.bool and not bool(free.any())):
                raise InvalidInput("free", "nothing that may move", wanted)
            object.__setattr__(self, "free", free)
        if self.scale is not None:
            # Products with these neither overflow nor vanish where weights are ordinary numbers.
            wanted = "units from 1e-30 to 1e30, one for every entry of a row"
            scale = check_tensor("scale", self.scale, wanted).double()
            if not bool(((scale >= 1e-30) & (scale <= 1e30)).all()):
                raise InvalidInput("scale", f"{scale.flatten().tolist()!s:.80}", wanted)
            object.__setattr__(self, "scale", scale)

    @property
    def meaning(self) -> str:
        """What it does to a claim about distances, to be read before another clause."""
        kept = "entries that are not free keep their values; " * (self.free is not None)
        return kept + "distances are ||(x' - x) / scale||; " * (self.scale is not None)

    def units(self, shape: Sequence[int]) -> Tensor | None:
        """Return the unit of every entry of a row.

        Args:
            shape: Of one row.

        Returns:
            Float64 of that shape, 0 where an entry keeps its value; None where all are 1.

        Raises:
            InvalidInput: When mask or units do not fit rows of that shape.
        """
        if self.free is None and self.scale is None:
            return None
        units = torch.ones(tuple(shape), dtype=torch.float64)
        if isinstance(self.scale, Tensor):
            units = units * _fitted("scale", self.scale, units)
        if isinstance(self.free, Tensor):
            units = units * _fitted("free", _mask(self.free, units), units)
        return None if bool((units == 1.0).all()) else units


EVERYTHING = Moves()
"""All entries are free, and distances are plain: the default of every verb."""


def _mask(free: Tensor, row: Tensor) -> Tensor:
    """Return a mask as it is, or made from numbers of entries.

    Raises:
        InvalidInput: When there is no entry of a number.
    """
    if free.dtype == torch.bool:
        return free
    count = row.numel()
    if not bool(((free >= 0) & (free < count)).all()):
        got = f"entries {free.tolist()!s:.80}"
        raise InvalidInput("free", got, f"numbers from 0 to {count - 1}, or truth values")
    return torch.zeros(count, dtype=torch.bool).scatter(0, free.long(), True).reshape(row.shape)


def recorded(units: Tensor | None) -> Tensor:
    """Return units as results keep them: flattened, and empty for ones."""
    return torch.zeros(0, dtype=torch.float64) if units is None else units.flatten()


def _fitted(argument: str, values: Tensor, row: Tensor) -> Tensor:
    """Return values that broadcast to one row.

    Raises:
        InvalidInput: When they do not.
    """
    try:
        return values.expand(row.shape)
    except RuntimeError as problem:
        got = f"shape {tuple(values.shape)}"
        raise InvalidInput(argument, got, f"{tuple(row.shape)}, that of a row") from problem
