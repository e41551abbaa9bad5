"""Names that users choose from, and names that they give."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from holdfast.errors import InvalidInput

Entry = TypeVar("Entry")


def look_up(argument: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Return the entry of `table` called `name`, or say which names there are.

    Args:
        argument: Name of the argument as the user wrote it, for the message.
        name: What the user asked for.
        table: The names that exist.

    Returns:
        The entry.

    Raises:
        InvalidInput: If there is no such name; the nearest ones come last in the message.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    raise InvalidInput(argument, repr(name), known_names(str(name), table))


def known_names(name: str, table: Iterable[str], most: int = 12) -> str:
    """Return "one of a, b, c", with the nearest to `name` singled out.

    >>> known_names("fc", ["conv", "fc1", "fc2"])
    "one of conv, fc1, fc2 (did you mean 'fc2' or 'fc1'?)"
    """
    every = list(table)
    close = difflib.get_close_matches(name, every, n=3)
    hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
    shown = ", ".join(every[:most]) + (", ..." if len(every) > most else "")
    return f"one of {shown}{hint}"


def check_new_name(path: str | os.PathLike[str], argument: str = "out") -> None:
    """Refuse to make a file or folder whose name another program could take for something else.

    Args:
        path: Where something is about to be written; what is there already keeps its name.
        argument: Name of the user's argument that chose the path, for the message.

    Raises:
        InvalidInput: When the name is not made of 1 to 80 letters, digits, dots, dashes and
            underscores, or starts with a dot or a dash.
    """
    path = Path(path)
    if not path.exists() and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", path.name):
        wanted = "a name of 1 to 80 letters, digits, '.', '-' and '_', not starting with '.' or '-'"
        raise InvalidInput(argument, repr(str(path)), wanted)
