"""Fields without a value: refused by their place, dropped with their rows, or set to a median."""

import warnings
from collections.abc import Iterable

import numpy as np

from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.columns import Column, Table, short
from holdfast.sources.labels import shown


def without_gaps(
    table: Table, treatment: str | None, onehot: Iterable[str], label: str | None
) -> tuple[Table, dict[str, int]]:
    """Return a table with a value in every field, and how many were missing, by column.

    Args:
        table: The table.
        treatment: "drop" or "median", as the user wrote it; None where nothing is said.
        onehot: Columns of categories, which have no median.
        label: The column of the label, which is not made up either.

    Raises:
        InvalidInput: When a value is missing, and nothing is said about it or can be done.
    """
    if treatment not in (None, "drop", "median"):
        raise InvalidInput("data", f"missing={treatment}", "missing=drop or missing=median")
    counts = {column.name: int(column.missing.sum()) for column in table.columns}
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        return table, {}
    anywhere = np.any([column.missing for column in table.columns], axis=0)
    parts = ", ".join(f"{short(name)} ({count})" for name, count in counts.items())
    if treatment == "drop":
        if anywhere.all():
            got = f"a missing value in every row: {parts}"
            raise InvalidInput("data", got, "?inputs=COLUMN,COLUMN without such columns")
        _warn(
            f"data: {anywhere.sum()} of {len(anywhere)} rows were dropped: no value in {parts}; "
            "the results are about the others, and rows are counted without them"
        )
        return table.at((~anywhere).nonzero()[0]), counts
    filled = [_filled(column) if treatment else column for column in table.columns]
    kept = {*onehot, label}
    for before, column in zip(table.columns, filled, strict=True):
        if column.missing.any() or (treatment and before.name in kept and before.missing.any()):
            _refuse_gap(table, before, int(anywhere.sum()), before.name in kept, treatment)
    medians = ", ".join(
        f"{short(after.name)} ({counts[after.name]} of {len(anywhere)} rows, {median:g})"
        for before, after in zip(table.columns, filled, strict=True)
        if after.name in counts and after.numbers is not None
        for median in after.numbers[before.missing][:1]
    )
    _warn(f"data: fields without a value were set to the median of their column: {medians}")
    return Table(filled, table.lines), counts


def _filled(column: Column) -> Column:
    """Return a column of numbers with its median where a value is missing."""
    present = ~column.missing
    if column.numbers is None or present.all() or not present.any():
        return column
    median = np.median(column.numbers[present].astype(float))
    numbers = np.where(column.missing, median, column.numbers)
    return Column(column.name, np.zeros_like(column.missing), numbers, column.words)


def _refuse_gap(
    table: Table, column: Column, rows: int, words: bool, treatment: str | None
) -> None:
    """Refuse a field without a value.

    Raises:
        InvalidInput: Always, with the first such field of the column.
    """
    row = int(column.missing.argmax())
    raw = column.words[row].strip() if column.words else ""
    what = f"{shown(raw)} for no value" if raw else "no value"
    got = f"{what} in {table.place(row, column.name)} ({rows} of {len(column.missing)} rows)"
    drop = "?missing=drop (leaves such rows out)"
    numbers = column.numbers is not None and not words and not column.missing.all()
    if column.missing.all():
        wanted = "?inputs=COLUMN,COLUMN or ?labels=COLUMN without this column, which holds nothing"
    elif numbers and treatment is None:
        wanted = f"{drop} or ?missing=median (puts the median of the column there)"
    else:
        wanted = f"{drop}, as there is no median here"
    raise InvalidInput("data", got, wanted)


def _warn(text: str) -> None:
    warnings.warn(text, HoldfastWarning, stacklevel=2)
