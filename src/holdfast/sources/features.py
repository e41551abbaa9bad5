"""Features from the columns of a table: numbers as they are, categories as columns of 0 and 1."""

import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.columns import Column, Table, is_number, listed, short, split_names
from holdfast.sources.labels import shown, text_of


def categories(text: str | None) -> dict[str, list[str] | None]:
    """Return the columns to encode, with their categories where the user listed them.

    Args:
        text: Columns as COLUMN or COLUMN:FIRST|SECOND, separated by commas; None for none.

    Raises:
        InvalidInput: When one comes twice.
    """
    found: dict[str, list[str] | None] = {}
    for part in split_names(text) if text else ():
        name, mark, words = part.rpartition(":")
        name, listing = (name, words.split("|")) if mark and "|" in words else (part, None)
        twice = name in found or (listing and len({*listing}) < len(listing))
        if twice or (listing and "" in listing):
            wanted = "COLUMN or COLUMN:FIRST|SECOND, separated by commas, each once"
            raise InvalidInput("data", f"onehot={text}", wanted)
        found[name] = listing
    return found


def features_of(
    table: Table, columns: Sequence[Column], onehot: Mapping[str, list[str] | None]
) -> tuple[np.ndarray, tuple[str, ...], dict[str, range]]:
    """Return features, their names, and which of them say a category.

    Args:
        table: The table.
        columns: Those of the features, without gaps.
        onehot: From `categories`.

    Raises:
        InvalidInput: When a field is no number, or not one of the categories.
    """
    if len(columns) == 1 and columns[0].numbers is not None and columns[0].numbers.ndim == 2:
        return columns[0].numbers, (), {}
    arrays: list[np.ndarray] = []
    names: list[str] = []
    groups: dict[str, range] = {}
    for column in columns:
        if column.name in onehot:
            encoded, words = _encoded(table, column, onehot[column.name])
            groups[column.name] = range(len(names), len(names) + len(words))
            names += [f"{column.name}={word}" for word in words]
            arrays += [*encoded.T]
        else:
            names.append(column.name)
            arrays.append(_numbers(table, column, [other.name for other in columns]))
    for name, places in groups.items():
        # Whoever trained the model must have had the same order.
        made = listed([names[k] for k in places])
        said = f"data: {short(name)} is given in entries {places[0]}-{places[-1]}: {made}"
        warnings.warn(said, HoldfastWarning, stacklevel=2)
    inputs = np.stack(arrays, 1)
    if inputs.dtype.kind in "iu" and inputs.max(initial=0) <= 1 and inputs.min(initial=0) >= 0:
        inputs = inputs.astype(np.float64)  # 0 and 1 alone are no pixels that wait for a scale
    return inputs, tuple(names), groups


def _encoded(
    table: Table, column: Column, categories: list[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Return a column of 0 and 1 for every category, [N, K], and the categories.

    Raises:
        InvalidInput: When there are too many, or a field is none of them.
    """
    fields = [text_of(value) for value in column.values().tolist()]
    if categories is None:
        found = {*fields}
        numeric = all(map(is_number, found))
        categories = sorted(found, key=lambda word: (float(word) if numeric else 0.0, word))
    if len(categories) > 1000 or len(categories) < 2:
        got = f"{len(categories)} categories in column {short(column.name)}"
        raise InvalidInput("data", got, "2 to 1000 of them, or ?inputs=... without this column")
    places = {word: k for k, word in enumerate(categories)}
    encoded = np.zeros((len(fields), len(categories)))
    for row, word in enumerate(fields):
        if word not in places:
            got = f"{shown(word)} in {table.place(row, column.name)}"
            raise InvalidInput("data", got, f"one of {listed(categories)} (?onehot=...)")
        encoded[row, places[word]] = 1.0
    return encoded, categories


def _numbers(table: Table, column: Column, every: Sequence[str]) -> np.ndarray:
    """Return a column of finite numbers.

    Raises:
        InvalidInput: Naming the first field that is none, and what to say.
    """
    rest = ",".join(name for name in every if name != column.name)
    leave_out = f"?inputs={rest} without it" if rest else "a table with columns of numbers"
    numbers = column.numbers
    if column.kind:
        got = f"column {short(column.name)} of type {column.kind}"
        raise InvalidInput("data", got, leave_out)
    if numbers is None:
        words = [word.strip() for word in column.words]
        odd = [row for row, word in enumerate(words) if not is_number(word, column.decimal)]
        got = f"{shown(words[odd[0]])} in {table.place(odd[0], column.name)}, which is no number"
        raise InvalidInput("data", got, _instead(column, words, odd, leave_out))
    if numbers.dtype == bool:
        return numbers.astype(np.float64)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(bad.argmax())
        raw = shown(column.words[row].strip()) if column.words else f"{numbers[row]}"
        got = f"{raw} in {table.place(row, column.name)}, which is not finite in 64 bits"
        raise InvalidInput("data", got, f"finite numbers, or {leave_out}")
    return numbers


def _instead(column: Column, words: Sequence[str], odd: Sequence[int], leave_out: str) -> str:
    """Return what to say of a column whose fields are not all numbers."""
    other = "." if column.decimal == "," else ","
    if all(is_number(words[row], other) for row in odd):
        if other == ".":
            return "numbers without points, as ?decimal=comma says"
        return "?decimal=comma if commas stand before decimals, else numbers without commas"
    kinds = len({*words})
    each = f"?onehot={column.name} (a column of 0 and 1 for each of its {kinds} words)"
    if 2 * len(odd) < len(words) and len(words) > 4:
        return f"a number there, as in the other rows, or {leave_out}"
    if kinds < 2:
        return leave_out
    if kinds > max(20, len(words) // 2):
        return f"{leave_out}: {kinds} different words are no categories"
    if all(re.match(r"\W?\d", words[row]) for row in odd):  # 5 %, $7, 1.234,5, a date
        each = f"plain numbers such as 1234.5, {each}"
    return f"{each}, or {leave_out}"
