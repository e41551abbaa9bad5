"""Rows from tables: CSV and Parquet files, one column per feature and one for the label."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.errors import InvalidInput, MissingExtra
from holdfast.sources.files import open_file, reason

_LABELS = ("label", "labels", "y", "target", "class")
_MOST_ENTRIES = 2**28


def read_csv(
    path: Path, inputs: str | None, labels: str | None, rows: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Read features and labels from a CSV file.

    Args:
        path: The file; its first line may name the columns.
        inputs: Columns of the features, separated by commas; None for all but the label's.
        labels: Column of the label; None for one called label, y, target or class.
        rows: How many of the first rows to read; None for all.

    Returns:
        Inputs [N, features], int64 where all are whole and float64 otherwise, and labels [N].

    Raises:
        InvalidInput: When the file is not a table, a column is missing, or a field is no number.
        MemoryError: When the rows do not fit.
    """
    wanted = "a CSV file of numbers"
    with open_file(path, "data", wanted) as file:
        try:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            lines = (line for line in csv.reader(text, strict=True) if line)
            return _from_lines(lines, inputs, labels, rows)
        except (InvalidInput, MemoryError):
            raise
        except Exception as problem:  # a damaged file can break its reader anywhere
            raise InvalidInput("data", f"{str(path)!r} ({reason(problem)})", wanted) from problem


def _from_lines(
    lines: Any, inputs: str | None, labels: str | None, rows: int | None
) -> tuple[np.ndarray, np.ndarray]:
    first = next(lines, None)
    if first is None:
        raise InvalidInput("data", "an empty file", "at least one row")
    named = not all(map(_is_number, first))
    columns = [name.strip() for name in first] if named else [str(k) for k in range(len(first))]
    features, label = _columns(columns, inputs, labels)
    places = [columns.index(name) for name in (*features, label)]
    fields: list[list[str]] = [] if named else [[first[k] for k in places]]
    for line in lines:
        if rows is not None and len(fields) >= rows:
            break
        if len(line) != len(columns) or len(fields) * len(places) > _MOST_ENTRIES:
            raise ValueError(f"row {len(fields)} has {len(line)} fields, wanted {len(columns)}")
        fields.append([line[k] for k in places])
    table = [[_number(field, row) for field in line] for row, line in enumerate(fields)]
    found = np.array([line[:-1] for line in table]), np.array([line[-1] for line in table])
    if any(part.dtype.kind not in "if" for part in found):
        raise ValueError("a number beyond 64 bits, or no row")
    return found


def _is_number(text: str) -> bool:
    try:
        _number(text, 0)
    except ValueError:
        return False
    return True


def _number(text: str, row: int) -> int | float:
    """Return a field as a number.

    Raises:
        ValueError: When it is something else, with its row.
    """
    for kind in (int, float):
        try:
            return kind(text.replace("_", "no number"))  # 1_000 is one to Python alone
        except ValueError:
            continue
    raise ValueError(f"row {row} has the field {text[:40]!r}, which is no number")


def _columns(
    columns: Sequence[str], inputs: str | None, labels: str | None
) -> tuple[list[str], str]:
    """Return the columns of the features and of the label.

    Raises:
        InvalidInput: When a name comes twice, or one that is asked for does not exist.
    """
    if len({*columns}) < len(columns):
        raise InvalidInput("data", "a column name that comes twice", "different names")
    label = labels or next((name for name in columns if name.lower() in _LABELS), None)
    if label is None or label not in columns:
        shown = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
        asked = "" if labels is None else f"labels={labels} in "
        raise InvalidInput("data", f"{asked}columns {shown}", "?labels=COLUMN, one of these")
    features = inputs.split(",") if inputs else [name for name in columns if name != label]
    missing = [name for name in features if name not in columns]
    if missing or not features:
        raise InvalidInput("data", f"no column {', '.join(missing)}", "?inputs=COLUMN,COLUMN")
    return features, label


def read_parquet(
    path: Path, inputs: str | None, labels: str | None, rows: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Read features and labels from a Parquet file.

    Args:
        path: The file.
        inputs: Columns of the features, as in `read_csv`; a single column of lists, all of one
            length, will do as well.
        labels: Column of the label.
        rows: How many of the first rows to read; None for all.

    Returns:
        Inputs [N, features] and labels [N].

    Raises:
        MissingExtra: When `pyarrow` is not installed.
        InvalidInput: When the file is something else, or a column holds no numbers.
        MemoryError: When the rows do not fit.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet", "a Parquet file") from error
    wanted = "a Parquet file"
    with open_file(path, "data", wanted) as file:
        try:
            source = parquet.ParquetFile(file)
            features, label = _columns(source.schema_arrow.names, inputs, labels)
            taken = source.metadata.num_rows if rows is None else rows
            if taken * (len(features) + 1) > _MOST_ENTRIES:
                got = f"{taken} rows of {len(features)} columns"
                raise InvalidInput("data", got, "fewer: ?rows=...")
            found = _first_rows(source, [*features, label], taken)
            columns = [found[name] for name in features]
            lists = columns[0].dtype == object
            joined = np.array(columns[0].tolist()) if lists else np.stack(columns, 1)
        except (InvalidInput, MemoryError):
            raise
        except Exception as problem:  # a damaged file can break its reader anywhere
            raise InvalidInput("data", f"{str(path)!r} ({reason(problem)})", wanted) from problem
    return joined, found[label]


def _first_rows(source: Any, names: list[str], rows: int) -> dict[str, np.ndarray]:
    """Return columns of the first rows.

    Raises:
        InvalidInput: When one holds something else than numbers, or nothing in some row.
    """
    import pyarrow

    batches, count = [], 0
    for batch in source.iter_batches(columns=names):
        batches.append(batch)
        count += len(batch)
        if count >= rows:
            break
    table = pyarrow.Table.from_batches(batches)
    found = {}
    for name in names:
        column = table.column(name).slice(0, rows)
        kind = column.type
        if pyarrow.types.is_list(kind) or pyarrow.types.is_fixed_size_list(kind):
            alone, kind = len(names) == 2 and name == names[0], kind.value_type
        else:
            alone = True
        plain = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)
        if not plain or not alone or column.null_count:
            wanted = "columns of numbers without gaps (?inputs=COLUMN,COLUMN&labels=COLUMN)"
            raise InvalidInput("data", f"column {name} of type {column.type}", wanted)
        found[name] = np.array(column.to_numpy())
    return found
