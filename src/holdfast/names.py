"""Names that users choose from, and what to say when there is no such name."""

import difflib
from collections.abc import Iterable, Mapping
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
