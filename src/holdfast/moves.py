"""What may move, and in which units: distances are ||(x' - x) / scale||, over what is free."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.arguments import check_tensor, shown
from holdfast.errors import InvalidInput, Obstacle, Unsupported

Entries = Tensor | Sequence[int] | Sequence[bool] | None
Units = Tensor | Sequence[float] | None
Groups = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Moves:
    """What may move in one row of the inputs, and the units of distances.

    Attributes:
        free: Which entries may move: truth values of a row's shape, or numbers of entries of the
            flattened row; None for all of them. The others keep the value that they have.
        scale: Units, above 0, of a row's shape or one that broadcasts to it: a step of `scale` in
            one entry has length 1; None for ones.
        onehot: Groups of two or more entries of the flattened row, by their numbers, each of which
            says a category: one entry is 1 and the others are 0, in a moved row too.

    Raises:
        InvalidInput: When they are not that.
    """

    free: Entries = None
    scale: Units = None
    onehot: Groups = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "onehot", _groups(self.onehot))
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
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The groups of `onehot`."""
        return tuple(map(tuple, self.onehot))

    @property
    def meaning(self) -> str:
        """What it does to a claim about distances, to be read before another clause."""
        kept = "entries that are not free keep their values; " * (self.free is not None)
        groups = ", ".join(f"[{', '.join(map(str, group))}]" for group in self.groups)
        corners = f"the entries {groups} stay one 1 among 0s in each group; " * bool(groups)
        return kept + corners + "distances are ||(x' - x) / scale||; " * (self.scale is not None)

    def units(self, shape: Sequence[int]) -> Tensor | None:
        """Return the unit of every entry of a row.

        Args:
            shape: Of one row.

        Returns:
            Float64 of that shape, 0 where an entry keeps its value; None where all are 1 and there
            are no groups.

        Raises:
            InvalidInput: When mask, units or groups do not fit rows of that shape.
        """
        if self.free is None and self.scale is None and not self.groups:
            return None
        units = torch.ones(tuple(shape), dtype=torch.float64)
        if isinstance(self.scale, Tensor):
            units = units * _fitted("scale", self.scale, units)
        if isinstance(self.free, Tensor):
            units = units * _fitted("free", _mask(self.free, units), units)
        for group in self.groups:
            _check_group(group, units.flatten())
        return None if bool((units == 1.0).all()) and not self.groups else units

    def numeric_units(self, shape: Sequence[int]) -> Tensor | None:
        """Return `units` with 0 for the entries of groups: they do not move bit by bit."""
        units = self.units(shape)
        if units is None or not self.groups:
            return units
        entries = torch.tensor([entry for group in self.groups for entry in group])
        return units.flatten().index_fill(0, entries, 0.0).reshape(units.shape)

    def check_no_groups(self, verb: str) -> None:
        """Refuse groups where a verb is about constants.

        Raises:
            Unsupported: When there are groups.
        """
        if self.groups:
            why = "it bounds a Lipschitz constant, and between corners nothing moves by small steps"
            advice = "leave the groups out, which allows more moves, or use certify and attack"
            raise Unsupported(f"{verb} with one-hot groups", [Obstacle("", "onehot", why, advice)])

    def check_rows(self, inputs: Tensor) -> None:
        """Refuse rows that are not one 1 among 0s in every group.

        Args:
            inputs: [N, ...], of a shape that `units` takes.

        Raises:
            InvalidInput: Naming the first such row, and the group.
        """
        flat = inputs.flatten(1)
        for group in self.groups:
            part = flat[:, list(group)]
            odd = ((part != 0.0) & (part != 1.0)).any(1) | ((part == 1.0).sum(1) != 1)
            if bool(odd.any()):
                row = int(odd.nonzero()[0])
                got = f"row {row} with {part[row].tolist()!s:.80} in the group {[*group]!s:.80}"
                raise InvalidInput("onehot", got, "one 1 among 0s, in each group of each row")


_WHY_NOTHING_MOVES = {
    "knowledge": "knowledge compares the hidden states of rows as they are, and moves no input; "
    "for units of your own give a callable as `distance`, in Python",
    "descent": "a training step moves the weights, and no input",
}


def check_nothing_moves(verb: str, **given: object) -> None:
    """Refuse `free`, `scale` and `onehot` where a verb moves no input.

    Args:
        verb: `knowledge` or `descent`.
        given: What the user gave, by argument; None where nothing.

    Raises:
        InvalidInput: When one of them is given, with the reason.
    """
    for name, value in given.items():
        if value is not None:
            raise InvalidInput(name, shown(value), f"none: {_WHY_NOTHING_MOVES[verb]}")


def _groups(onehot: object) -> tuple[tuple[int, ...], ...]:
    """Return groups of entries as numbers.

    Raises:
        InvalidInput: When they are something else, too small, or overlap.
    """
    wanted = "groups of two or more entries, as [[0, 1, 2], [5, 6]], none of them in two"
    try:
        groups = tuple(tuple(map(operator.index, group)) for group in onehot)  # pyright: ignore
    except (TypeError, RuntimeError) as problem:
        got = shown(onehot) if isinstance(onehot, str) else f"{onehot!s:.80}"
        raise InvalidInput("onehot", got, wanted) from problem
    every = [entry for group in groups for entry in group]
    if min(map(len, groups), default=2) < 2 or len({*every}) < len(every):
        raise InvalidInput("onehot", f"{[list(group) for group in groups]!s:.80}", wanted)
    return groups


def _check_group(group: Sequence[int], units: Tensor) -> None:
    """Refuse a group that no row of some flat units has, or not all of which is free.

    Raises:
        InvalidInput: When it is that.
    """
    got, count = f"the group {[*group]!s:.80}", len(units)
    if not all(0 <= entry < count for entry in group):
        raise InvalidInput("onehot", got, f"numbers from 0 to {count - 1}")
    if not bool((units[list(group)] > 0).all()):
        got = f"{got}, not all of which is free"
        raise InvalidInput("onehot", got, "groups with all their entries in free, or no free")


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


EVERYTHING = Moves()
"""All entries are free, and distances are plain: the default of every verb."""
