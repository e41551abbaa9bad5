"""Rows from CSV and Parquet files: columns of numbers, or one of text, and one for the label."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from holdfast.errors import InvalidInput, MissingExtra
from holdfast.files import open_file, reason
from holdfast.sources.files import check_unpacked

_MOST_ENTRIES = 2**28
"""Numbers in a table: more than 2 GB of them are no set of rows to certify."""


@dataclass(frozen=True)
class TextColumns:
    """Which columns of a table hold sentences and labels.

    Attributes:
        text: Of the sentences; None for one called text or sentence.
        labels: Of the labels, as in `read_csv`.
        perturbed: Of sentences changed in a way that should not matter; None for no such column.
    """

    text: str | None = None
    labels: str | None = None
    perturbed: str | None = None

    def among(self, columns: Sequence[str]) -> list[str]:
        """Return the columns of sentences, labels and, where named, perturbed sentences.

        Raises:
            InvalidInput: When a name comes twice, one that is asked for does not exist, or two
                columns may be meant.
        """
        label = _label(columns, self.labels)
        text = self.text or _usual("text", columns, ("text", "sentence"))
        asked = {"text": text, "perturbed": self.perturbed}
        for option, name in asked.items():
            missing = name is None and option == "text"
            if missing or (name is not None and (name not in columns or name == label)):
                said = "" if name is None else f"{option}={name} in "
                wanted = f"?{option}=COLUMN, one of these"
                raise InvalidInput("data", f"{said}columns {_shown(columns)}", wanted)
        return [name for name in (text, label, self.perturbed) if name is not None]


@dataclass(frozen=True, eq=False)
class Sentences:
    """What a table of sentences holds.

    Attributes:
        texts: The sentences, [N].
        labels: [N], int64.
        perturbed: Perturbed sentences by the row that they were made from.
    """

    texts: list[str]
    labels: np.ndarray
    perturbed: dict[int, str]


@contextmanager
def _table(path: Path, wanted: str) -> Iterator[BinaryIO]:
    """Open a table; whatever breaks its reader is said to be wrong with the file.

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


def read_csv(
    path: Path, inputs: str | None, labels: str | None, rows: int | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read features and labels from a CSV file.

    Args:
        path: The file; its first line may name the columns.
        inputs: Columns of the features, separated by commas; None for all but the label's.
        labels: Column of the label; None for one called label, y, target or class.
        rows: How many of the first rows to read; None for all.

    Returns:
        Inputs [N, features], int64 where all are whole and float64 otherwise, labels [N], and the
        names of the features.

    Raises:
        InvalidInput: When the file is not a table, a column is missing, or a field is no number.
        MemoryError: When the rows do not fit.
    """
    with _table(path, "a CSV file of numbers") as file:
        names: list[str] = []

        def choose(columns: Sequence[str]) -> list[str]:
            names.extend(_columns(columns, inputs, labels))
            return names

        fields = _fields(file, choose, rows)
        table = [[_number(field, row) for field in one] for row, one in enumerate(fields)]
        return *_arrays(table), tuple(names[:-1])


def _arrays(table: list[list[int | float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return all columns but the last, and the last.

    Raises:
        ValueError: When a number does not fit.
    """
    found = np.array([line[:-1] for line in table]), np.array([line[-1] for line in table])
    if any(part.dtype.kind not in "if" for part in found):
        raise ValueError("a number beyond 64 bits, or no row")
    return found


def read_csv_text(path: Path, columns: TextColumns, rows: int | None) -> Sentences:
    """Read sentences and labels from a CSV file whose first line names the columns.

    Args:
        path: The file.
        columns: Where sentences and labels stand.
        rows: How many of the first rows to read; None for all.

    Returns:
        Sentences, labels, and perturbed sentences where their column is named.

    Raises:
        InvalidInput: When the file is not a table, a column is missing, a sentence is empty, or a
            label is no whole number.
    """
    with _table(path, "a CSV file") as file:
        fields = _fields(file, columns.among, rows)
        numbers = [_number(label, row) for row, (_, label, *_) in enumerate(fields)]
    return _checked(
        [line[0] for line in fields], numbers, [word for line in fields for word in line[2:]]
    )


def _fields(
    file: BinaryIO, choose: Callable[[Sequence[str]], list[str]], rows: int | None
) -> list[list[str]]:
    """Return the fields of the chosen columns, line by line.

    Raises:
        InvalidInput: When the file is empty.
        ValueError: When lines differ in length, or there are too many.
    """
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        lines = (line for line in csv.reader(text, strict=True) if line)
        first = next(lines, None)
        if first is None:
            raise InvalidInput("data", "an empty file", "at least one row")
        named = not all(map(_is_number, first))
        columns = [name.strip() for name in first] if named else list(map(str, range(len(first))))
        places = [columns.index(name) for name in choose(columns)]
        fields: list[list[str]] = [] if named else [[first[k] for k in places]]
        for line in lines:
            if rows is not None and len(fields) >= rows:
                break
            if len(line) != len(columns) or len(fields) * len(places) > _MOST_ENTRIES:
                raise ValueError(f"row {len(fields)} has {len(line)} fields, wanted {len(columns)}")
            fields.append([line[k] for k in places])
    return fields


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


def _columns(columns: Sequence[str], inputs: str | None, labels: str | None) -> list[str]:
    """Return the columns of the features, and last the one of the label.

    Raises:
        InvalidInput: When a name comes twice, one that is asked for does not exist, several columns
            may be the label's, or one is no feature.
    """
    label = _label(columns, labels)
    features = inputs.split(",") if inputs else [name for name in columns if name != label]
    # Where pandas wrote a table with its index, the index has such a name.
    index = {"", "Unnamed: 0", "__index_level_0__"} & {*features}
    if index and not inputs:
        rest = ",".join(name for name in features if name not in index)
        got = f"a column {index.pop()!r}, which may be the index of the rows"
        raise InvalidInput("data", got, f"?inputs={rest}, or a table written without its index")
    missing = [name for name in features if name not in columns]
    if missing or not features:
        raise InvalidInput("data", f"no column {', '.join(missing)}", "?inputs=COLUMN,COLUMN")
    return [*features, label]


def _label(columns: Sequence[str], labels: str | None) -> str:
    """Return the column of the label.

    Raises:
        InvalidInput: When a name comes twice, there is no such column, or several may be meant.
    """
    if len({*columns}) < len(columns):
        raise InvalidInput("data", "a column name that comes twice", "different names")
    label = labels or _usual("labels", columns, ("label", "labels", "y", "target", "class"))
    if label is None or label not in columns:
        asked = "" if labels is None else f"labels={labels} in "
        wanted = "?labels=COLUMN, one of these"
        raise InvalidInput("data", f"{asked}columns {_shown(columns)}", wanted)
    return label


def _usual(option: str, columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the one column with a usual name; None where there is none.

    Raises:
        InvalidInput: When there are several.
    """
    found = [name for name in columns if name.lower() in names]
    if len(found) > 1:
        wanted = " or ".join(f"?{option}={name}" for name in found)
        raise InvalidInput("data", f"columns {_shown(found)}, each of which may be meant", wanted)
    return found[0] if found else None


def _shown(columns: Sequence[str]) -> str:
    names = (name if len(name) <= 40 else f"{name[:40]}..." for name in columns[:12])
    return ", ".join(names) + (", ..." if len(columns) > 12 else "")


def _checked(
    texts: Sequence[object], labels: Sequence[object], perturbed: Sequence[object]
) -> Sentences:
    """Return columns that hold what they should.

    Raises:
        InvalidInput: When one does not, or there is no row.
    """
    if not texts:
        raise InvalidInput("data", "no row", "at least one sentence")
    found = [_sentence(value, row) for row, value in enumerate(texts)]
    others = {row: _sentence(value, row) for row, value in enumerate(perturbed) if value}
    return Sentences(found, _whole(labels), others)


def _sentence(value: object, row: int) -> str:
    """Return a value that is a sentence.

    Raises:
        InvalidInput: When it is empty or no text.
    """
    if not isinstance(value, str) or not value.strip():
        got = "is empty" if isinstance(value, str | None) else f"holds {value!r:.40}"
        raise InvalidInput("data", f"row {row}, whose text {got}", "a sentence in every row")
    return value


def _whole(labels: Sequence[object]) -> np.ndarray:
    """Return labels that are all whole numbers.

    Raises:
        InvalidInput: When one is not.
    """
    for row, label in enumerate(labels):
        if not isinstance(label, int) or isinstance(label, bool) or abs(label) >= 2**63:
            got = f"row {row} with the label {label!r:.40}"
            raise InvalidInput("data", got, "whole class numbers (?labels=COLUMN)")
    return np.array(labels, dtype=np.int64)


def read_parquet(
    path: Path, inputs: str | None, labels: str | None, rows: int | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read features and labels from a Parquet file.

    Args:
        path: The file.
        inputs: Columns of the features, as in `read_csv`; a single column of lists, all of one
            length, will do as well.
        labels: Column of the label.
        rows: How many of the first rows to read; None for all.

    Returns:
        Inputs [N, features], labels [N], and the names of the features; no names for lists.

    Raises:
        MissingExtra: When `pyarrow` is not installed.
        InvalidInput: When the file is something else, or a column holds no numbers.
        MemoryError: When the rows do not fit.
    """
    parquet = _parquet()
    with _table(path, "a Parquet file") as file:
        source = parquet.ParquetFile(file)
        names = _columns(source.schema_arrow.names, inputs, labels)
        taken = source.metadata.num_rows if rows is None else rows
        if taken * len(names) > _MOST_ENTRIES:
            got = f"{taken} rows of {len(names) - 1} columns"
            raise InvalidInput("data", got, "fewer: ?rows=...")
        found = _numbers(_first_rows(source, names, taken, os.fstat(file.fileno()).st_size))
        *features, label = (found[name] for name in names)
        lists = features[0].dtype == object
        joined = np.array(features[0].tolist()) if lists else np.stack(features, 1)
    return joined, label, () if lists else tuple(names[:-1])


def read_parquet_text(path: Path, columns: TextColumns, rows: int | None) -> Sentences:
    """Read sentences and labels from a Parquet file; see `read_csv_text`.

    Returns:
        As `read_csv_text`.

    Raises:
        MissingExtra: When `pyarrow` is not installed.
        InvalidInput: As for `read_csv_text`.
    """
    parquet = _parquet()
    with _table(path, "a Parquet file") as file:
        source = parquet.ParquetFile(file)
        names = columns.among(source.schema_arrow.names)
        taken = source.metadata.num_rows if rows is None else rows
        table = _first_rows(source, names, taken, os.fstat(file.fileno()).st_size)
        words, numbers, *others = (table.column(k).to_pylist() for k in range(len(names)))
    return _checked(words, numbers, others[0] if others else ())


def _parquet() -> Any:
    """Import what reads Parquet files.

    Returns:
        The module.

    Raises:
        MissingExtra: When `pyarrow` is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet", "a Parquet file") from error
    return parquet


def _first_rows(source: Any, names: list[str], rows: int, packed: int) -> Any:
    """Return a table of the first rows, its columns in the order of the names.

    Raises:
        InvalidInput: When a few bytes stand for very many.
    """
    import pyarrow

    batches, count, held = [], 0, 0
    # Few rows at a time: a page may hold one value and say that it is repeated.
    for batch in source.iter_batches(2**10, columns=names):
        batches.append(batch)
        count, held = count + len(batch), held + batch.nbytes
        check_unpacked("a table", packed, held, "data")
        if count >= rows:
            break
    return pyarrow.Table.from_batches(batches).slice(0, rows).select(names)


def _numbers(table: Any) -> dict[str, np.ndarray]:
    """Return the columns of a table, the label last.

    Raises:
        InvalidInput: When one holds something else than numbers, or nothing in some row.
    """
    import pyarrow

    found, names = {}, table.column_names
    for name in names:
        column = table.column(name)
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
