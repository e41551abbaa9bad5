"""Columns of a table, whatever file they came from: numbers, words, fields without a value."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from holdfast.errors import InvalidInput
from holdfast.files import open_file, reason

MOST_ENTRIES = 2**28
"""Numbers in a table: more than 2 GB of them are no set of rows to certify."""

Choose = Callable[[Sequence[str]], list[str]]
"""Returns which columns of a file to read, in order."""


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table.

    Attributes:
        name: Its name; its number where the file names no columns.
        missing: [N], where a field holds no value.
        numbers: [N], or [N, K] for lists of one length, with 0 where one is missing; None where
            some field is no number.
        words: The fields as they stand in the file, [N]; none for a column that is no text.
        kind: Its type as the file has it, where that is neither text nor numbers.
        decimal: "." or ",": what stands before the decimals of numbers.
    """

    name: str
    missing: np.ndarray
    numbers: np.ndarray | None
    words: Sequence[str] = ()
    kind: str = ""
    decimal: str = "."

    def at(self, rows: np.ndarray) -> "Column":
        """Return some rows of the column, by their numbers."""
        words = [self.words[int(row)] for row in rows] if self.words else []
        if self.numbers is None and words:  # what is left may be numbers alone
            return text_column(self.name, words, self.decimal)
        numbers = None if self.numbers is None else self.numbers[rows]
        return Column(self.name, self.missing[rows], numbers, words, self.kind, self.decimal)

    def values(self) -> np.ndarray:
        """Return numbers, or else stripped words, [N]."""
        if self.numbers is not None:
            return self.numbers
        return np.array([word.strip() for word in self.words], dtype=object)


@dataclass(frozen=True, eq=False)
class Table:
    """Some columns of a file.

    Attributes:
        columns: In the order that was asked for.
        lines: The line of the file where each row starts, the first being line 1; none for a file
            without lines, whose rows are counted from 0.
    """

    columns: Sequence[Column]
    lines: Sequence[int] = ()

    def place(self, row: int, name: str) -> str:
        """Return where a field stands, as an editor counts lines."""
        where = f"line {self.lines[row]}" if self.lines else f"row {row}"
        return f"column {short(name)}, {where}"

    def at(self, rows: np.ndarray) -> "Table":
        """Return some rows of the table, by their numbers."""
        lines = [self.lines[int(row)] for row in rows] if self.lines else ()
        return Table([column.at(rows) for column in self.columns], lines)


def short(name: str) -> str:
    """Return the name of a column as messages have it."""
    name = name if len(name) <= 40 else f"{name[:40]}..."
    return name if name.strip() else repr(name)


def listed(names: Sequence[str]) -> str:
    """Return the first few names, separated by commas."""
    return ", ".join(map(short, names[:12])) + (", ..." if len(names) > 12 else "")


def is_missing(field: str) -> bool:
    """Return whether a field stands for no value, as pandas reads it or as many data sets say."""
    # Longer than any of the words is what most fields of text are.
    return len(field) < 8 and field.strip().lower() in {
        *("", "na", "n/a", "#n/a", "<na>", "#na", "nan", "-nan", "null", "none", "?")
    }


def is_number(field: str, decimal: str = ".") -> bool:
    """Return whether a field is a number, with a point or a comma before its decimals."""
    return _as_numbers([field], decimal) is not None


def text_column(name: str, fields: Sequence[str], decimal: str = ".") -> Column:
    """Return a column of text, and its numbers where all of its fields are some.

    Args:
        name: Of the column.
        fields: As they stand in the file.
        decimal: "." or ",": what stands before the decimals.
    """
    none = np.zeros(len(fields), dtype=bool)
    numbers = _as_numbers(fields, decimal)
    if numbers is not None and not np.isnan(numbers).any():
        return Column(name, none, numbers, fields, decimal=decimal)
    missing = np.array([is_missing(field) for field in fields], dtype=bool)
    present = ["0" if gone else field for field, gone in zip(fields, missing, strict=True)]
    numbers = _as_numbers(present, decimal)
    if numbers is None:
        truth = np.array([field.strip().lower() for field in fields])
        if {*truth[~missing].tolist()} <= {"true", "false"}:
            numbers = truth == "true"
    return Column(name, missing, numbers, fields, decimal=decimal)


def _as_numbers(fields: Sequence[str], decimal: str = ".") -> np.ndarray | None:
    """Return fields as int64 or float64; None where one is no number."""
    if decimal == ",":
        if any("." in field for field in fields):  # thousands, or the other convention
            return None
        fields = [field.replace(",", ".") for field in fields]
    if any("_" in field for field in fields):  # 1_000 is a number to Python alone
        return None
    for kind in (int, float):
        try:
            numbers = np.array([*map(kind, fields)])
        except ValueError:
            continue
        if numbers.dtype.kind in "if":  # whole numbers beyond 64 bits are read as float64
            return numbers
    return None


def split_names(text: str) -> list[str]:
    """Return names separated by commas; one with a comma in it stands between quotes.

    >>> split_names('age,"weight, kg"')
    ['age', 'weight, kg']
    """
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]


@contextmanager
def open_table(path: Path, wanted: str) -> Iterator[BinaryIO]:
    """Open a table; whatever breaks its reader is said to be wrong with the file.

    Args:
        path: The file.
        wanted: What kind of file is wanted, for the message.

    Yields:
        The open file.

    Raises:
        InvalidInput: When it cannot be read.
        MemoryError: When it does not fit.
    """
    with open_file(path, "data", wanted) as file:
        try:
            yield file
        except (InvalidInput, MemoryError):
            raise
        except Exception as problem:  # a damaged file can break its reader anywhere
            raise InvalidInput("data", f"{str(path)!r} ({reason(problem)})", wanted) from problem
