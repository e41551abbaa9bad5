"""JSON documents and files that appear whole or not at all."""

import dataclasses
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast.errors import InvalidInput

StrPath = str | os.PathLike[str]


def plain(value: Any) -> Any:
    """Return a value made of what JSON knows; floats that are not finite become None.

    Of dataclasses, fields that their repr leaves out are no data.

    >>> plain({"radius": (1.5, float("inf"))})
    {'radius': [1.5, None]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.repr]
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(document: Any) -> str:
    """Return the document as JSON text, without NaN, infinity or letters that do not print."""
    text = json.dumps(plain(document), indent=1, allow_nan=False, ensure_ascii=False)
    odd = {letter for letter in set(text) if not letter.isprintable() and letter != "\n"}
    return text.translate({ord(letter): json.dumps(letter)[1:-1] for letter in odd}) + "\n"


def write_whole(path: StrPath, text: str, argument: str = "out") -> None:
    """Write text to a draft in the same folder, then put it in place in one step.

    Args:
        path: The file to write; a file that is there is replaced.
        text: Its content, written as UTF-8.
        argument: Name of the user's argument that chose the path, for the message.

    Raises:
        InvalidInput: When the path cannot be written.
        OSError: When the disk is full.
    """
    write_together({Path(path): text.encode(errors="replace")}, argument)


def write_together(files: Mapping[Path, bytes], argument: str = "out") -> None:
    """Write all files to drafts beside them, and put them in place once all are complete.

    Args:
        files: Content by path; files that are there are replaced.
        argument: Name of the user's argument that chose the paths, for the message.

    Raises:
        InvalidInput: When a path cannot be written.
        OSError: When the disk is full.
    """
    drafts = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    path = None
    try:
        for path, draft in drafts.items():
            draft.write_bytes(files[path])
        for path, draft in drafts.items():
            os.replace(draft, path)
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        got = f"{str(path)!r} ({problem.strerror})"
        raise InvalidInput(argument, got, "a path that can be written") from problem
    finally:
        for draft in filter(Path.exists, drafts.values()):
            draft.unlink()


def read_json(path: StrPath, argument: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        InvalidInput: When it is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        got = f"{str(path)!r} ({problem.strerror})"
        raise InvalidInput(argument, got, "a file that can be read") from problem
    except ValueError as problem:
        raise InvalidInput(argument, f"{str(path)!r} ({problem})", "a JSON file") from problem
