"""Sentences from tables: which columns hold them, and what a row must have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holdfast.errors import InvalidInput
from holdfast.sources.columns import Column, Table, listed
from holdfast.sources.labels import Place
from holdfast.sources.tables import READERS, label_column, usual_column


@dataclass(frozen=True, eq=False)
class Sentences:
    """What a table of sentences holds.

    Attributes:
        texts: The sentences, [N].
        labels: [N], numbers, truth values or words.
        place: Says where the label of a row stands.
        perturbed: Perturbed sentences by the row that they were made from.
    """

    texts: list[str]
    labels: np.ndarray
    place: Place
    perturbed: dict[int, str]


def read_sentences(
    kind: str, path: Path, options: Mapping[str, str], rows: int | None
) -> Sentences:
    """Read sentences and labels from a table.

    Args:
        kind: "csv" or "parquet".
        path: The file; its first line names the columns.
        options: As the user wrote them: `text`, the column of the sentences, else the one called
            text or sentence; `labels`, as in `read_table`; `perturbed`, that of sentences changed
            in a way that should not matter; and those of the reader.
        rows: How many of the first rows to read; None for all.

    Returns:
        Sentences, labels, and perturbed sentences where their column is named.

    Raises:
        InvalidInput: When the file is not a table, a column is missing, or a sentence is empty.
        MissingExtra: When the library that reads the file is not installed.
    """
    table = READERS[kind](path, lambda columns: _chosen(columns, options), options, rows)
    text, label, *changed = table.columns
    if not len(text.missing):
        raise InvalidInput("data", "no row", "at least one sentence")
    texts = [_sentence(table, text, row) for row in range(len(text.missing))]
    if label.missing.any() or label.kind:
        row = int(label.missing.argmax())
        got = f"no label in {table.place(row, label.name)}"
        raise InvalidInput("data", got, "whole class numbers or words (?labels=COLUMN)")
    others = {
        row: _sentence(table, column, row)
        for column in changed
        for row in range(len(texts))
        if (column.words[row] if column.words else not column.missing[row])
    }
    return Sentences(texts, label.values(), lambda row: table.place(row, label.name), others)


def _chosen(columns: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """Return the columns of sentences, labels and, where named, perturbed sentences.

    Raises:
        InvalidInput: When a name comes twice, one that is asked for does not exist, or two
            columns may be meant.
    """
    label = label_column(columns, options.get("labels"))
    text = options.get("text") or usual_column("text", columns, ("text", "sentence"))
    perturbed = options.get("perturbed")
    for option, name in {"text": text, "perturbed": perturbed}.items():
        missing = name is None and option == "text"
        if missing or (name is not None and (name not in columns or name == label)):
            said = "" if name is None else f"{option}={name} in "
            wanted = f"?{option}=COLUMN, one of these"
            raise InvalidInput("data", f"{said}columns {listed(columns)}", wanted)
    return [name for name in (text, label, perturbed) if name is not None]


def _sentence(table: Table, column: Column, row: int) -> str:
    """Return a field that is a sentence.

    Raises:
        InvalidInput: When it is empty or no text.
    """
    word = column.words[row] if column.words else ""
    if not word.strip():
        holds = "is empty" if column.missing[row] or column.words else "holds a number"
        got = f"{table.place(row, column.name)}, whose text {holds}"
        raise InvalidInput("data", got, "a sentence in every row")
    return word
