"""Rows from tables: which columns are features and label, and what becomes of words and gaps."""

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.columns import Choose, Column, Table, listed, short, split_names
from holdfast.sources.csv_files import read_csv
from holdfast.sources.features import categories, features_of
from holdfast.sources.gaps import without_gaps
from holdfast.sources.labels import Place
from holdfast.sources.parquet_files import read_parquet

Reader = Callable[[Path, Choose, Mapping[str, str], int | None], Table]
READERS: Mapping[str, Reader] = {"csv": read_csv, "parquet": read_parquet}
"""Readers of tables by the kind of file."""

FORM_OPTIONS = ("separator", "header", "decimal", "quotes")
TABLE_OPTIONS = ("onehot", "missing", *FORM_OPTIONS)
"""What the user may say about any table; the former about the form of a CSV file."""


@dataclass(frozen=True, eq=False)
class TableRows:
    """Features and label of a table, as arrays.

    Attributes:
        inputs: [N, features], int64 where all are whole and float64 otherwise.
        labels: [N], numbers, truth values or words; None without a column for them.
        place: Says where the label of a row stands.
        label: Name of the column of the labels.
        columns: Names of the features.
        groups: Which features say a category, by the name of its column in the file.
        missing: How many rows were dropped or fields filled, by column.
    """

    inputs: np.ndarray
    labels: np.ndarray | None
    place: Place
    label: str = "NAME"
    columns: tuple[str, ...] = ()
    groups: Mapping[str, range] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)


def read_table(
    kind: str, path: Path, options: Mapping[str, str], rows: int | None, labelled: bool
) -> TableRows:
    """Read features and labels from a table.

    Args:
        kind: "csv" or "parquet".
        path: The file.
        options: As the user wrote them: `inputs`, the columns of the features, else all but the
            label's; `labels` or `target`, that of the label, else the one called label, y, target
            or class; `onehot`, columns of categories, each as COLUMN or COLUMN:RED|GREEN, which
            become a column of 0 and 1 for every category; `missing`, "drop" or "median", what to
            do about fields without a value; and those of the reader.
        rows: How many of the first rows to read; None for all.
        labelled: Whether the label is read, and must be there.

    Returns:
        The rows.

    Raises:
        InvalidInput: When the file is not a table, a column is missing, or a field is no number.
        MissingExtra: When the library that reads the file is not installed.
        MemoryError: When the rows do not fit.

    Warns:
        HoldfastWarning: About columns left out or made, and rows dropped or filled.
    """
    onehot = categories(options.get("onehot"))
    asked = options.get("target", options.get("labels"))
    chosen: list[str | None] = []

    def choose(columns: Sequence[str]) -> list[str]:
        label = label_column(columns, asked, labelled)
        features = _feature_columns(columns, options.get("inputs"), label)
        label = label if labelled else None
        unknown = [name for name in onehot if name not in features]
        if unknown:
            raise InvalidInput("data", f"onehot={unknown[0]}", f"one of {listed(features)}")
        chosen[:] = [label, *features]
        return [name for name in chosen if name is not None]

    table = READERS[kind](path, choose, options, rows)
    label = chosen[0]
    if "inputs" not in options:
        table = _without_index(table, label)
    table, missing = without_gaps(table, options.get("missing"), onehot, label)
    columns = [column for column in table.columns if column.name != label]
    if not columns or not len(columns[0].missing):
        raise InvalidInput("data", "no row", "at least one row of numbers")
    inputs, names, groups = features_of(table, columns, onehot)
    if label is None:
        return TableRows(inputs, None, str, columns=names, groups=groups, missing=missing)
    (answers,) = [column for column in table.columns if column.name == label]
    if answers.kind:
        wanted = "class numbers, words, or ?target=COLUMN for numbers to be predicted"
        raise InvalidInput("data", f"column {short(label)} of type {answers.kind}", wanted)
    return TableRows(
        inputs, answers.values(), lambda row: table.place(row, label), label, names, groups, missing
    )


# --- columns by name --------------------------------------------------------------------------


def _feature_columns(columns: Sequence[str], inputs: str | None, label: str | None) -> list[str]:
    """Return the columns of the features.

    Raises:
        InvalidInput: When one that is asked for does not exist, or is no feature.
    """
    features = split_names(inputs) if inputs else [name for name in columns if name != label]
    missing = [name for name in features if name not in columns]
    if missing or not features:
        what = f"no column {', '.join(missing)}" if missing else "no column beside the label"
        raise InvalidInput("data", what, f"?inputs=COLUMN,COLUMN of {listed(columns)}")
    if label in features or len({*features}) < len(features):
        wanted = "features once each, without the label"
        raise InvalidInput("data", f"inputs={inputs} and the label {label}", wanted)
    return features


def label_column(columns: Sequence[str], labels: str | None, labelled: bool = True) -> str | None:
    """Return the column of the label; None where there is none and none is needed.

    Raises:
        InvalidInput: When a name comes twice, there is no such column, or several may be meant.
    """
    twice = [name for k, name in enumerate(columns) if name in columns[:k]]
    if twice:
        got = f"two columns called {short(twice[0])}, a name that comes twice"
        raise InvalidInput("data", got, "different names (?header=no if they are values)")
    label = labels or usual_column("labels", columns, ("label", "labels", "y", "target", "class"))
    if label is None and not labelled:
        return None
    if label is None or label not in columns:
        asked = "" if labels is None else f"labels={labels} in "
        near = difflib.get_close_matches(str(labels), columns, 1, 0.5) if labels else []
        meant = f"; did you mean {near[0]}?" if near else ""
        if len(columns) == 1 and not columns[0].isidentifier():
            meant = ", or ?separator=comma, semicolon, tab, pipe or blank if this is several"
        wanted = f"?labels=COLUMN, one of these (?target=COLUMN for numbers to be predicted){meant}"
        raise InvalidInput("data", f"{asked}columns {listed(columns)}", wanted)
    return label


def usual_column(option: str, columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the one column with a usual name; None where there is none.

    Raises:
        InvalidInput: When there are several.
    """
    found = [name for name in columns if name.lower() in names]
    if len(found) > 1:
        wanted = " or ".join(f"?{option}={name}" for name in found)
        raise InvalidInput("data", f"columns {listed(found)}, each of which may be meant", wanted)
    return found[0] if found else None


def _without_index(table: Table, label: str | None) -> Table:
    """Return a table without the numbers of its rows, where they stand in a column of their own.

    Raises:
        InvalidInput: When a column may be that and may be something else.
    """
    kept, names = [], [column.name for column in table.columns if column.name != label]
    for column in table.columns:
        rest = ",".join(name for name in names if name != column.name)
        if column.name == label or not rest:
            kept.append(column)
        elif column.name not in ("", "Unnamed: 0", "__index_level_0__"):  # those that pandas writes
            kept.append(column)
            if _counts_rows(column):
                said = f"data: the column {short(column.name)} counts the rows"
                _warn(f"{said}; if it is no feature, say ?inputs={rest}")
        elif not column.name and column.missing.all():
            continue  # lines that end in a separator
        elif _differs(column):
            _warn(f"data: the column {column.name!r} numbers the rows and was left out")
        else:
            got = f"a column {column.name!r}, which may be the index of the rows"
            raise InvalidInput("data", got, f"?inputs={rest}, or a table without its index")
    return Table(kept, table.lines)


def _differs(column: Column) -> bool:
    """Return whether a column holds whole numbers, none of them twice."""
    numbers = column.numbers
    if numbers is None or numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        return False
    return not column.missing.any() and len(np.unique(numbers)) == len(numbers)


def _counts_rows(column: Column) -> bool:
    """Return whether a column holds 0, 1, 2, ... or 1, 2, 3, ..., for long enough to tell."""
    if not _differs(column) or len(column.missing) < 5 or column.numbers is None:
        return False
    return bool((np.diff(column.numbers) == 1).all()) and column.numbers[0] in (0, 1)


def _warn(text: str) -> None:
    warnings.warn(text, HoldfastWarning, stacklevel=2)
