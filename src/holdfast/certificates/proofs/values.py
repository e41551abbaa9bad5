"""The values of a network as the checker reads it: operations that have been emitted, and picks."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Pick:
    """Entries of values, one after the other: wiring costs nothing until an operation reads it.

    Attributes:
        of: Numbers of the values.
        places: [entries], counted through all of them; -1 for a zero.
        number: Of the value that holds these entries, where one has been made.
    """

    of: tuple[int, ...]
    places: Tensor
    number: int | None = None

    def at(self, places: Tensor) -> "Pick":
        """Return some of the entries; -1 for a zero."""
        places = places.long().flatten()
        picked = self.places[places.clamp(min=0)]
        return Pick(self.of, torch.where(places < 0, -1, picked))


class Values:
    """What has been emitted of a network: its operations, and the sizes of their results.

    Args:
        inputs: Number of entries of an input row.

    Attributes:
        ops: As they stand in a certificate file.
        arrays: Matrices, offsets and places that they name.
        sizes: Of all values, the input first.
    """

    def __init__(self, inputs: int) -> None:
        self.ops: list[dict[str, Any]] = []
        self.arrays: dict[str, Tensor] = {}
        self.sizes = [inputs]

    def value(self, number: int) -> Pick:
        """Return all entries of a value."""
        return Pick((number,), torch.arange(self.sizes[number]), number)

    def number(self, pick: Pick) -> int:
        """Return the number of the value that holds a pick's entries; make one where needed."""
        if pick.number is None:
            pick = self.trimmed(pick)
            whole = len(pick.of) == 1 and torch.equal(
                pick.places, torch.arange(self.sizes[pick.of[0]])
            )
            pick.number = pick.of[0] if whole else self.take(pick, "places")
        return pick.number

    def trimmed(self, pick: Pick) -> Pick:
        """Leave out the values that no entry is from; `pick` itself where there are none."""
        ends = torch.tensor([self.sizes[k] for k in pick.of]).cumsum(0)
        held = torch.searchsorted(ends, pick.places.clamp(min=0), right=True)
        used = torch.unique(held[pick.places >= 0]).tolist() or [0]
        if len(used) == len(pick.of):
            return pick
        return self.gathered([pick], [pick.of[k] for k in used])[0]

    def gathered(self, picks: Sequence[Pick], of: Sequence[int]) -> list[Pick]:
        """Return the picks with places counted through the values `of`, where they are there."""
        sizes = [self.sizes[k] for k in of]
        starts = dict(zip(of, itertools.accumulate([0, *sizes]), strict=False))
        found = []
        for pick in picks:
            tables = [starts.get(k, -1) + torch.arange(self.sizes[k]) for k in pick.of]
            table = torch.cat(tables)
            places = torch.where(pick.places < 0, -1, table[pick.places.clamp(min=0)])
            found.append(Pick(tuple(of), places))
        return found

    def take(self, pick: Pick, name: str) -> int:
        """Emit the picking of entries and return its number."""
        places = [self.keep(name, pick.places)]
        return self.emit("take", [self.value(k) for k in pick.of], places, len(pick.places)).of[0]

    def emit(
        self, op: str, of: Sequence[Pick], arrays: Sequence[str], size: int, slope: float = 0.0
    ) -> Pick:
        """Add an operation and return its result."""
        numbers = [self.number(pick) for pick in of]
        operation = {"op": op, "of": numbers, "arrays": list(arrays), "slope": slope.hex()}
        self.ops.append(operation)
        self.sizes.append(size)
        return self.value(len(self.ops))

    def keep(self, name: str, tensor: Tensor) -> str:
        """Keep an array under a name of its own; one that is there already is not kept twice."""
        tensor = tensor.detach().contiguous()
        taken = self.arrays
        while name in taken and not (
            taken[name].dtype == tensor.dtype and torch.equal(taken[name], tensor)
        ):
            name += "'"
        taken[name] = tensor
        return name

    def apply(self, op: str, of: Pick, slope: float = 0.0) -> Pick:
        """Apply a scalar function."""
        return self.emit(op, [of], [], len(of.places), slope)

    def between(self, of: Pick, low: float, high: float) -> Pick:
        """Move what lies outside of two ends to the nearer one."""
        ends = self.keep("ends", torch.tensor([low, high], dtype=torch.float64))
        return self.emit("clamp", [of], [ends], len(of.places))

    def sum(self, *of: Pick) -> Pick:
        """Add picks of one length."""
        return self.emit("add", of, [], len(of[0].places))

    def minus(self, of: Pick) -> Pick:
        """Change all signs."""
        return self.by("diagonal", of, -1.0)

    def by(self, op: str, of: Pick, number: float) -> Pick:
        """Multiply by a number, or divide by it (`quotient`)."""
        if number == 1.0:
            return of
        named = {-1.0: "minus"} if op == "diagonal" else {number: f"count.{number:g}"}
        array = self.keep(named.get(number, "factor"), constant(number))
        return self.emit(op, [of], [array], len(of.places))

    def plus(self, of: Pick, offset: Tensor) -> Pick:
        """Add a number to every entry, or one to all."""
        return self.emit("diagonal", [of], ["", self.keep("offset", offset)], len(of.places))

    def joined(self, of: Sequence[Pick]) -> Pick:
        """Put picks one after the other."""
        values = [self.number(pick) for pick in of]
        return Pick(tuple(values), torch.arange(sum(self.sizes[k] for k in values)))


def constant(number: float) -> Tensor:
    """Return a number as an array of one entry."""
    return torch.tensor([number], dtype=torch.float64)
