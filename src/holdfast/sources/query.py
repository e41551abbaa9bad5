"""`PATH?key=value&key=value`: a file and how it is to be read."""

import difflib
import math
from collections.abc import Collection

from holdfast.errors import InvalidInput


def split_query(argument: str, text: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """Split a path from its options.

    >>> split_query("data", "rows.npz?rows=20&scale=255", ["rows", "scale"])
    ('rows.npz', {'rows': '20', 'scale': '255'})

    Args:
        argument: Name of the user's argument, for the message.
        text: What the user wrote after `npz:`, `onnx:`, ...
        known: The options that there are.

    Returns:
        What comes before the question mark, and the options.

    Raises:
        InvalidInput: For an option that is unknown, empty or given twice.
    """
    path, mark, query = text.partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if mark else []:
        key, _, value = part.partition("=")
        if key not in known or key in options or not value:
            near = difflib.get_close_matches(key, known, 1) if key not in known else []
            meant = f" (did you mean {near[0]}=...?)" if near else ""
            wanted = "&".join(f"{name}=..." for name in known) + f", each at most once{meant}"
            raise InvalidInput(argument, f"?{query}", f"?{wanted}")
        options[key] = value
    return path, options


def numbers(argument: str, key: str, text: str) -> list[float]:
    """Return numbers separated by commas.

    Raises:
        InvalidInput: When one is not a finite number.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise InvalidInput(argument, f"{key}={text}", "finite numbers separated by commas")
    return values


def whole(argument: str, key: str, text: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        InvalidInput: When it is something else.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 16 and int(text) > 0):
        raise InvalidInput(argument, f"{key}={text}", "a whole number, at least 1")
    return int(text)
