"""Answers row by row: some of the rows alone, and answers to one number or to several."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from holdfast.arguments import check_tensor, shown
from holdfast.errors import InvalidInput
from holdfast.results import Result


class RowResult(Result):
    """An answer with one entry for every row, in input order.

    `result[5]`, `result[-1]`, `result[:3]`, `result[[4, 0]]` and `result[mask]` are answers of the
    same kind about these rows alone; what holds for all rows stays as it is.
    """

    PER_ROW: ClassVar[tuple[str, ...]]
    """Fields with one entry for every row."""

    def __len__(self) -> int:
        return len(getattr(self, self.PER_ROW[0]))

    def __getitem__(self, rows: object) -> Self:
        place, this = rows_at(rows, len(self)), self
        some = {name: _entries(getattr(self, name), place) for name in self.PER_ROW}
        return dataclasses.replace(this, **some)  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[Self]:
        return (self[row] for row in range(len(self)))


def _entries(column: Any, place: Tensor) -> Any:
    """Return some entries of a field: of a tensor, of a tuple, or of what has rows itself."""
    if isinstance(column, tuple):
        return tuple(column[row] for row in place.tolist())
    return None if column is None else column[place]


def tally(words: Iterable[str]) -> dict[str, int]:
    """Return how often each word is there, the most frequent first.

    >>> tally(["a", "b", "b"])
    {'b': 2, 'a': 1}
    """
    return dict(Counter(words).most_common())


def rows_at(rows: object, count: int) -> Tensor:
    """Return the numbers of the rows that an index means, [k] int64.

    Args:
        rows: One number, several in any order, a slice, or a truth value for every row.
        count: How many rows there are.

    Raises:
        InvalidInput: When it is nothing of this, leads beyond the rows, or means none of them.

    >>> rows_at(-1, 5), rows_at(slice(0, 2), 5), rows_at([True, False, True], 3)
    (tensor([4]), tensor([0, 1]), tensor([0, 2]))
    """
    wanted = f"rows from 0 to {count - 1}: a number, several, a slice, or {count} truth values"
    if isinstance(rows, slice):
        found = _slice(rows, count, wanted)
    else:
        typed = [rows] if isinstance(rows, int) and not isinstance(rows, bool) else rows
        tensor = check_tensor("rows", typed, wanted)
        found = tensor.reshape(1) if tensor.dim() == 0 and tensor.dtype != torch.bool else tensor
    if found.dtype == torch.bool and found.shape == (count,):
        found = found.nonzero().flatten()
    if found.dim() != 1 or found.is_floating_point() or found.dtype == torch.bool:
        raise InvalidInput("rows", shown(rows), wanted)
    if not len(found) or int(found.min()) < -count or int(found.max()) >= count:
        got = shown(rows) if len(found) else "no row"
        raise InvalidInput("rows", got, wanted)
    return found.long() % count


def _slice(rows: slice, count: int, wanted: str) -> Tensor:
    """Return the numbers of the rows in a slice.

    Raises:
        InvalidInput: When its ends are no whole numbers.
    """
    try:
        return torch.tensor(range(count)[rows], dtype=torch.int64)
    except (TypeError, ValueError) as problem:
        raise InvalidInput("rows", str(rows), wanted) from problem


def each(value: object, answer: Callable[[object], float]) -> Any:
    """Return the answer about a number, or a list of answers about each of several.

    >>> each(2, lambda number: number + 1), each([2, 3], lambda number: number + 1)
    (3, [3, 4])
    """
    plain: Any = value
    several = plain.tolist() if getattr(plain, "ndim", 0) == 1 else plain
    if isinstance(several, list | tuple | range):
        return [answer(one) for one in several]
    return answer(value)
