"""`--free`, `--scale` and `--onehot`: what may move, by number or name of the column, and how."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from holdfast.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.moves import Moves
    from holdfast.sources.data import LoadedData

Free = Annotated[
    str | None,
    Parameter(help="entries that may move, as 0,2,5-9 or by the names of columns; all by default"),
]
Scale = Annotated[
    str | None,
    Parameter(
        help="units of the entries: auto (their standard deviations over the rows), numbers "
        "separated by commas, or a .npy file"
    ),
]
Onehot = Annotated[
    list[str] | None,
    Parameter(
        negative=(),
        help="columns of one category, of which one is 1 and the others 0, as for --free: a moved "
        "row has another category or the same; give it again for each category",
    ),
]
NoOnehot = Annotated[list[str] | None, Parameter(negative=(), show=False)]
NoFree = Annotated[str | None, Parameter(show=False)]
"""Of verbs that refuse groups, or `free` and `scale` too, and say why."""


def moves_of(
    free: str | None,
    scale: str | None,
    rows: "LoadedData",
    onehot: Sequence[str] | None = None,
) -> "Moves":
    """Return what may move in rows, their units and groups, as they were typed.

    Raises:
        InvalidInput: When an entry or a unit is not there.
    """
    from holdfast.moves import Moves

    row = rows.inputs[0]
    moves = Moves(
        None if free is None else _entries("free", free, rows),
        None if scale is None else _units(scale, rows.inputs),
        [_entries("onehot", group, rows) for group in onehot or ()],
    )
    moves.units(row.shape)
    return moves


def _entries(argument: str, text: str, rows: "LoadedData") -> list[int]:
    """Return numbers of entries.

    Raises:
        InvalidInput: When a part is neither a column, a number nor a range.
    """
    entries: list[int] = []
    columns = rows.columns
    for part in (part.strip() for part in text.split(",")):
        span = re.fullmatch(r"(\d{1,9})-(\d{1,9})", part, re.ASCII)
        if part in columns:
            entries.append(columns.index(part))
        elif part in rows.groups:  # a column of categories, read with ?onehot=
            entries += rows.groups[part]
        elif re.fullmatch(r"\d{1,9}", part, re.ASCII):
            entries.append(int(part))
        elif span and int(span[1]) <= int(span[2]) < 2**24:
            entries += range(int(span[1]), int(span[2]) + 1)
        else:
            names = [*rows.groups, *columns][:12]
            names = f", or of {', '.join(names)}" if names else ""
            wanted = f"entries as 0,2,5-9{names}"
            raise InvalidInput(argument, repr(part), wanted)
    return sorted({*entries})


def _units(text: str, inputs: "Tensor") -> "Tensor":
    """Return units of a row's shape.

    Raises:
        InvalidInput: When they cannot be read, or are not as many as the entries of a row.
    """
    import numpy as np
    import torch

    if text == "auto":
        spread = inputs.double().std(0, correction=0)
        return torch.where(spread > 0, spread, 1.0)
    wanted = "auto, numbers separated by commas, or a .npy file of them"
    try:
        if text.endswith(".npy"):
            values = torch.from_numpy(np.load(Path(text), allow_pickle=False)).double()
        else:
            values = torch.tensor([float(part) for part in text.split(",")], dtype=torch.float64)
        return values.reshape(inputs.shape[1:])
    except (OSError, ValueError, TypeError, RuntimeError) as problem:
        got = f"{text[:60]!r} ({str(problem)[:100]})"
        raise InvalidInput("scale", got, f"{wanted}, {inputs[0].numel()} of them") from problem
