"""CSV files: which character separates fields, whether the first line names columns, the fields."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from holdfast.errors import InvalidInput
from holdfast.sources.columns import (
    MOST_ENTRIES,
    Choose,
    Table,
    is_missing,
    is_number,
    open_table,
    text_column,
)

_SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "blank": " "}
"""By their names in `?separator=NAME`."""

_YES_NO = {"yes": "yes", "no": "no"}
_OTHERS = {
    b"PK\x03\x04": "a spreadsheet or a zip archive (save as CSV UTF-8, or npz:PATH)",
    b"PAR1": "a Parquet file (parquet:PATH)",
    b"\x1f\x8b": "packed by gzip (unpack it first)",
}
"""Files that are often taken for CSV files, by their first bytes."""

Record = tuple[int, list[str]]
"""The line where a row starts, and its fields."""


def read_csv(
    path: Path, choose: Choose, options: Mapping[str, str], rows: int | None = None
) -> Table:
    """Read columns of a CSV file.

    Args:
        path: The file, in UTF-8.
        choose: Which columns to read, by their names; without names they are counted from 0.
        options: `separator` (comma, semicolon, tab, pipe or blank), `header` (yes or no),
            `decimal` (comma or point) and `quotes` (yes, or no where " is a letter like others),
            as the user wrote them; what is not said is read off the first rows.
        rows: How many of the first rows to read; None for all.

    Returns:
        The columns.

    Raises:
        InvalidInput: When the file is not such a table, or its form is open.
        MemoryError: When the rows do not fit.
    """
    decimal = _option(options, "decimal", {"point": ".", "comma": ","}) or "."
    with open_table(path, "a CSV file") as file:
        start = file.read(8)
        for mark, kind in _OTHERS.items():
            if start.startswith(mark):
                raise InvalidInput("data", f"{str(path)!r}, {kind}", "a CSV file")
        file.seek(0)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            lines, names, fields = _columns(text, choose, options, rows)
        except UnicodeDecodeError as problem:
            raise InvalidInput("data", *_wrong_encoding(text.buffer)) from problem
        finally:
            text.detach()  # the file is closed by whoever opened it
    parts = [text_column(name, column, decimal) for name, column in zip(names, fields, strict=True)]
    return Table(parts, lines)


def _columns(
    text: io.TextIOWrapper, choose: Choose, options: Mapping[str, str], rows: int | None
) -> tuple[list[int], list[str], list[list[str]]]:
    """Return the lines of all rows, the chosen names, and their columns.

    Raises:
        InvalidInput: When rows differ in length, or are too many.
    """
    quotes = _option(options, "quotes", _YES_NO)
    skipped, separator = _separator(text, _option(options, "separator", _SEPARATORS))
    head = [fields for _, fields in islice(_records(text, separator, quotes), skipped + 2)]
    if len(head) <= skipped:
        raise InvalidInput("data", "an empty file", "at least one row")
    text.seek(0)
    records = _records(text, separator, quotes)
    for _ in range(skipped):
        next(records)
    first, below = head[skipped], head[skipped + 1 :]
    stated = _option(options, "header", _YES_NO)
    named = stated == "yes" if stated else _names_columns(first, *below)
    # Where numpy wrote the names, they are a comment.
    first = [re.sub(r"^\s*#\s*(?=\w)", "", first[0]), *first[1:]] if named else first
    columns = [name.strip() for name in first] if named else [str(k) for k in range(len(first))]
    if named:
        next(records)
    names = choose(columns)
    places = [columns.index(name) for name in names]
    lines, found = [], [[] for _ in places]
    for line, fields in records:
        if rows is not None and len(lines) >= rows:
            break
        if len(fields) != len(columns):
            got = f"{len(fields)} fields in line {line}"
            raise InvalidInput("data", got, f"{len(columns)}, as in the first row")
        lines.append(line)
        for column, place in zip(found, places, strict=True):
            column.append(fields[place])
        if len(lines) * len(places) > MOST_ENTRIES:
            raise InvalidInput("data", f"over {MOST_ENTRIES} fields", "fewer rows: ?rows=...")
    return lines, names, found


def _records(text: io.TextIOBase, separator: str, quotes: str | None) -> Iterator[Record]:
    """Yield rows that hold anything.

    Raises:
        InvalidInput: When quotes do not fit together, or may be letters.
    """
    # A blank before a quoted field is no part of it; blanks around other fields do not matter.
    lines = (" ".join(line.split()) for line in text) if separator == " " else text
    quoting = csv.QUOTE_NONE if quotes == "no" else csv.QUOTE_MINIMAL
    reader = csv.reader(
        lines, delimiter=separator, strict=True, skipinitialspace=True, quoting=quoting
    )
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as problem:
            got = f"line {line}, where a quoted field goes wrong ({problem})"
            wanted = 'fields in a pair of ", and "" for one " in them, or ?quotes=no'
            raise InvalidInput("data", got, wanted) from problem
        if fields is None:
            return
        if separator == "\t" and not quotes and any("\t" in field for field in fields):
            # Such files often have no quotes, but letters ", which would join rows here.
            got = f"a quoted field with a tab in it, in line {line}"
            raise InvalidInput(
                "data", got, '?quotes=yes if that is meant, ?quotes=no if " is a letter'
            )
        if any(field.strip() for field in fields):
            yield line, fields


def _option(options: Mapping[str, str], key: str, values: Mapping[str, str]) -> str | None:
    """Return what an option stands for; None where it is not given.

    Raises:
        InvalidInput: When there is no such choice.
    """
    typed = options.get(key)
    if typed is None:
        return None
    if typed not in values and typed not in values.values():
        raise InvalidInput("data", f"{key}={typed}", " or ".join(values))
    return values.get(typed, typed)


def _separator(text: io.TextIOWrapper, stated: str | None) -> tuple[int, str]:
    """Return how many lines come before the table, and what separates fields.

    Raises:
        InvalidInput: When it may be either of two.
    """
    head = [text.readline(2**20) for _ in range(20)]  # enough to see rows of one length
    text.seek(0)
    declared = re.fullmatch(r"sep=(.)\s*", head[0])  # a line that spreadsheets write
    if stated or declared:
        return int(bool(declared)), stated or declared[1]  # pyright: ignore[reportOptionalSubscript]
    cut = "" not in head
    split = {sep: _split(head, sep, cut) for sep in _SEPARATORS.values()}
    blank = split.pop(" ")
    fitting = [sep for sep, rows in split.items() if rows and len(rows[0]) > 1]
    if not fitting and _holds_numbers(blank):
        return 0, " "
    if len(fitting) > 1:
        even = [sep for sep in fitting if len({len(row) for row in split[sep]}) == 1]
        fitting = even or fitting
    if len(fitting) > 1:  # 1,5;2,5 has commas too, but as numbers
        fitting = [sep for sep in fitting if _is_clean(split[sep], sep)] or fitting
    if len(fitting) > 1:
        names = [name for name, sep in _SEPARATORS.items() if sep in fitting]
        wanted = " or ".join(f"?separator={name}" for name in names)
        raise InvalidInput("data", f"fields separated by {' or '.join(names)}", wanted)
    return 0, (fitting or [","])[0]


def _split(lines: Sequence[str], separator: str, cut: bool) -> list[list[str]]:
    """Return the rows that lines would be, without the last where they may end within it."""
    if separator == " ":
        lines = [" ".join(line.split()) for line in lines]
    try:
        every = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        rows = [row for row in every if any(field.strip() for field in row)]
    except csv.Error:
        return []
    return rows[:-1] if cut and len(rows) > 1 else rows


def _holds_numbers(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether rows, the first aside, are numbers, as many in each."""
    even = len({len(row) for row in rows}) == 1 and len(rows[0]) > 1
    return even and all(is_number(field) for row in rows[1:] for field in row)


def _is_clean(rows: Sequence[Sequence[str]], separator: str) -> bool:
    """Return whether no field holds another separator, decimal commas aside."""
    others = {*_SEPARATORS.values()} - {separator, " "}
    fields = [field for row in rows for field in row if others & {*field}]
    return all(re.fullmatch(r"\s*[+-]?\d+,\d+\s*", field) for field in fields)


def _names_columns(first: Sequence[str], below: Sequence[str] = ()) -> bool:
    """Return whether the first row names the columns.

    Raises:
        InvalidInput: When it may be names, or the first row of values.
    """
    numbers = [is_number(field) or is_number(field, ",") for field in first]
    if not any(numbers):
        return True
    counting = len(first) > 1 and [field.strip() for field in first] == [
        str(k) for k in range(len(first))
    ]
    if all(numbers) and not counting:
        return False
    words = [k for k, field in enumerate(first) if not numbers[k] and not is_missing(field)]
    if words and len(below) == len(first) and all(is_number(below[k]) for k in words):
        return True  # a word above a number is a name
    shown = ",".join(first)
    got = f"{shown if len(shown) < 60 else shown[:60] + '...'} as the first row"
    raise InvalidInput("data", got, "?header=yes if these are names, ?header=no if they are values")


def _wrong_encoding(file: BinaryIO) -> tuple[str, str]:
    """Return what a file is that is not UTF-8, and what is wanted."""
    wanted = "a CSV file in UTF-8 (in a spreadsheet: save as CSV UTF-8)"
    file.seek(0)
    if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
        return "text in UTF-16", wanted
    file.seek(0)
    for number, line in enumerate(file, 1):
        try:
            line.decode()
        except UnicodeDecodeError as problem:
            got = f"line {number} with the byte 0x{line[problem.start]:02x}, which is not UTF-8"
            return got, wanted
    return "text in another encoding", wanted
