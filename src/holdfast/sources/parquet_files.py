"""Parquet files: columns by the types that the file states."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.errors import InvalidInput, MissingExtra
from holdfast.sources.columns import MOST_ENTRIES, Choose, Column, Table, open_table, text_column
from holdfast.sources.files import check_unpacked


def read_parquet(
    path: Path, choose: Choose, options: Mapping[str, str], rows: int | None = None
) -> Table:
    """Read columns of a Parquet file.

    Args:
        path: The file.
        choose: Which columns to read, by their names.
        options: What the user wrote about the form of the file: nothing, as it states its own.
        rows: How many of the first rows to read; None for all.

    Returns:
        The columns.

    Raises:
        MissingExtra: When `pyarrow` is not installed.
        InvalidInput: When the file is something else, or such options are given.
        MemoryError: When the rows do not fit.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet", "a Parquet file") from error
    for key in options.keys() & {"separator", "header", "decimal", "quotes"}:
        raise InvalidInput("data", f"{key}={options[key]}", "a CSV file, where that is open")
    with open_table(path, "a Parquet file") as file:
        source = parquet.ParquetFile(file)
        names = choose(source.schema_arrow.names)
        taken = source.metadata.num_rows if rows is None else rows
        if taken * len(names) > MOST_ENTRIES:
            got = f"{taken} rows of {len(names)} columns"
            raise InvalidInput("data", got, "fewer: ?rows=...")
        table = _first_rows(source, names, taken, os.fstat(file.fileno()).st_size)
        return Table([_column(name, table.column(name)) for name in names])


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


def _column(name: str, column: Any) -> Column:
    """Return a column as every table has it."""
    from pyarrow import types

    kind = column.type
    missing = np.array(column.is_null())
    if types.is_dictionary(kind) or types.is_large_string(kind) or types.is_string(kind):
        return text_column(name, _words(column))
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        plain = types.is_integer(kind.value_type) or types.is_floating(kind.value_type)
        lists = np.array(column.to_pylist()) if plain and not missing.any() else None
        return Column(name, missing, lists, kind=str(kind))
    if types.is_decimal(kind):
        column = column.cast("float64")
    elif not (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    ):
        return Column(name, missing, None, kind=str(kind))
    if types.is_null(kind):
        return Column(name, missing, np.zeros(len(column)))
    numbers = np.array(column.fill_null(False if types.is_boolean(kind) else 0))
    if numbers.dtype.kind == "f":
        missing = missing | np.isnan(numbers)
        numbers = np.where(missing, numbers.dtype.type(0), numbers)
    if numbers.dtype == np.uint64:
        numbers = numbers.astype(np.int64 if numbers.max(initial=0) < 2**63 else np.float64)
    return Column(name, missing, numbers)


def _words(column: Any) -> list[str]:
    """Return the fields of a column of text or of categories, empty where there is none."""
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return [value or "" for value in column.to_pylist()]
    words: list[str] = []
    for chunk in column.chunks:  # rows share the text of their category
        known = [str(value) for value in chunk.dictionary.to_pylist()]
        words += ["" if k is None else known[k] for k in chunk.indices.to_pylist()]
    return words
