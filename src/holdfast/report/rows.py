"""What a reader sees of a row: names of classes, columns of a table with their values."""

from collections.abc import Sequence
from typing import Any

from holdfast.report.formats import number
from holdfast.report.reading import Record


def class_name(audit: Record, label: Any) -> str:
    """Return the name of a class, as the user's file or model has it; without one, its number.

    Args:
        audit: What `audit.json` holds.
        label: The number of the class.
    """
    names = audit["data"].get("class_names") or []
    known = isinstance(label, int) and 0 <= label < len(names)
    return str(names[label]) if known else str(label)


def values_of(audit: Record, row: Record, most: int = 6) -> list[tuple[str, str]]:
    """Return the first columns of a row of a table, with their values.

    Args:
        audit: What `audit.json` holds.
        row: One of its rows.
        most: How many columns.

    Returns:
        Name and value of each; empty where the row is none of a table.
    """
    values = row.get("values") or []
    pairs = zip(_columns(audit), map(_written, values), strict=False)
    return list(pairs)[:most]


def differences(
    audit: Record, row: Record, other: Record, most: int = 4
) -> list[tuple[str, str, str]]:
    """Return the columns in which two rows of a table differ most, by the spread of the column.

    Args:
        audit: What `audit.json` holds.
        row: One of its rows.
        other: Another one, or an attack.
        most: How many columns.

    Returns:
        Name, value of the row and value of the other, the largest difference first.
    """
    one, two = row.get("values") or [], other.get("values") or []
    columns = _columns(audit)
    if not one or len(one) != len(two) or len(one) != len(columns):
        return []
    spread = audit["data"].get("spread") or []
    units = [unit or 1.0 for unit in spread] if len(spread) == len(one) else [1.0] * len(one)
    by_size = sorted(range(len(one)), key=lambda k: -abs(two[k] - one[k]) / units[k])
    changed = [k for k in by_size if one[k] != two[k]][:most]
    return [(columns[k], *_apart(one[k], two[k])) for k in changed]


def _columns(audit: Record) -> Sequence[str]:
    return audit["data"].get("columns") or []


def _written(value: float, digits: int = 3) -> str:
    """Return a value of a column: whole numbers as they are."""
    whole = value == round(value) and abs(value) < 1e15
    return f"{value:,.0f}" if whole else number(value, digits=digits)


def _apart(one: float, two: float) -> tuple[str, str]:
    """Return two different numbers with as many digits as it takes to see that they differ."""
    for digits in range(3, 17):
        texts = _written(one, digits), _written(two, digits)
        if texts[0] != texts[1]:
            return texts
    return repr(one), repr(two)
