"""Files: opened with care, read strictly, and written whole or not at all; JSON among them."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from torch import Tensor

from holdfast.arguments import shown
from holdfast.errors import InvalidInput

StrPath = str | os.PathLike[str]

MOST_BYTES = 8 * 2**30
"""The largest file, and the largest array in one, that is read."""


def check_path(path: object, argument: str) -> Path:
    """Return the path of a file or folder.

    Raises:
        InvalidInput: When it is no path.
    """
    wanted = "a path, as text or pathlib.Path"
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise InvalidInput(argument, shown(path), wanted)
    if "\0" in os.fspath(path):
        raise InvalidInput(argument, shown(os.fspath(path)), wanted)
    return Path(path)  # pyright: ignore[reportArgumentType]


# --- writing ----------------------------------------------------------------------------------


def write_whole(path: StrPath, text: str, argument: str = "out") -> None:
    """Write text to a draft in the same folder, then put it in place in one step.

    Args:
        path: The file to write; one that Holdfast wrote before is replaced.
        text: Its content, written as UTF-8.
        argument: Name of the user's argument that chose the path, for the message.

    Raises:
        InvalidInput: When the path cannot be written.
        OSError: When the disk is full.
    """
    write_together({check_path(path, argument): text.encode(errors="replace")}, argument)


def write_together(files: Mapping[Path, bytes], argument: str = "out") -> None:
    """Write all files to drafts beside them, and put them in place once all are complete.

    Args:
        files: Content by path; files that Holdfast wrote are replaced, behind links too.
        argument: Name of the user's argument that chose the paths, for the message.

    Raises:
        InvalidInput: When a path cannot be written, or holds what Holdfast did not write.
        OSError: When the disk is full.
    """
    for path in files:
        if not path.name:
            raise InvalidInput(argument, repr(str(path)), "a path that can be written")
        check_replaceable(path, argument)
    files = {Path(os.path.realpath(path)): content for path, content in files.items()}
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
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink()


def check_replaceable(path: Path, argument: str = "out", mark: bytes = b"holdfast") -> None:
    """Refuse to write over anything but a file that Holdfast wrote, or an empty one.

    Args:
        path: Where something is about to be written.
        argument: Name of the user's argument that chose the path, for the message.
        mark: What the beginning of such a file holds, in small letters.

    Raises:
        InvalidInput: When something else is there: data, weights, a device.
    """
    wanted = "a new name, or a file that Holdfast wrote before"
    try:
        kind = path.stat().st_mode
    except OSError:  # nothing is there, or it cannot be written either
        return
    if stat.S_ISDIR(kind):  # the write itself says so
        return
    if not stat.S_ISREG(kind):
        raise InvalidInput(argument, f"{str(path)!r}, which is no regular file", wanted)
    if not os.access(path, os.R_OK):
        return
    with path.open("rb") as file:
        head = file.read(4096)
    # Documents and pages alone: a script that imports holdfast has the word too.
    document = head.lstrip()[:1] in (b"{", b"<") and mark in head.lower()
    ours = document or path.name.endswith(".witness.safetensors")
    if head and not ours:
        raise InvalidInput(argument, f"{str(path)!r}, which holds something else", wanted)


def check_new_name(path: StrPath, argument: str = "out") -> None:
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


# --- reading ----------------------------------------------------------------------------------


@contextlib.contextmanager
def open_file(path: Path, argument: str, wanted: str) -> Iterator[BinaryIO]:
    """Open a regular file of at most `MOST_BYTES` for reading.

    Args:
        path: The file, as the user named it.
        argument: Name of the user's argument, for the message.
        wanted: What kind of file is wanted, for the message.

    Yields:
        The open file.

    Raises:
        InvalidInput: When it cannot be read, or is a device, a pipe or too large.
    """
    with opened(path, 0, argument, wanted) as file:
        yield file


@contextlib.contextmanager
def opened(path: Path, flags: int, argument: str, wanted: str) -> Iterator[BinaryIO]:
    """Open a file once it is seen to be a plain one.

    Raises:
        InvalidInput: When it is not.
    """
    try:
        # A pipe without a writer would otherwise wait for one.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except (OSError, ValueError) as problem:
        raise InvalidInput(argument, f"{str(path)!r} ({reason(problem)})", wanted) from problem
    try:
        _check_plain(descriptor, path, argument, wanted)
    except InvalidInput:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_file(path: Path, argument: str, wanted: str) -> bytes:
    """Return the content of a regular file; see `open_file`."""
    with open_file(path, argument, wanted) as file:
        return file.read()


def _check_plain(descriptor: int, path: Path, argument: str, wanted: str) -> None:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise InvalidInput(argument, f"{str(path)!r} (Is a directory)", wanted)
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput(argument, f"{str(path)!r}, which is not a plain file", wanted)
    if status.st_size > MOST_BYTES:
        got = f"{str(path)!r} of {status.st_size} bytes"
        raise InvalidInput(argument, got, f"at most {MOST_BYTES} bytes")


def reason(problem: BaseException) -> str:
    """Return why a file could not be read, in one line of bounded length."""
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return " ".join(str(text).split())[:300]


def check_once(kind: str, names: Iterable[str]) -> None:
    """Refuse names of which one is given twice: readers differ in which one they take.

    Args:
        kind: What the names are of, for the message.
        names: As a file gives them.

    Raises:
        ValueError: When one comes twice.
    """
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise ValueError(f"{kind} {name!r} comes twice")


def strict_json(content: bytes) -> Any:
    """Return what JSON says, as every reader would understand it.

    Raises:
        ValueError: When it is not JSON, a key comes twice, or a number is NaN or infinite.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        return json.loads(content, object_pairs_hook=_once, parse_constant=refuse)
    except RecursionError as problem:
        raise ValueError("nested too deeply") from problem


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: When a key comes twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        check_once("key", [key for key, _ in pairs])
    return found


def read_json(path: StrPath, argument: str) -> Any:
    """Return the content of a JSON file; see `strict_json`.

    Raises:
        InvalidInput: When it is missing, no plain file or not JSON.
    """
    try:
        return strict_json(
            read_file(check_path(path, argument), argument, "a file that can be read")
        )
    except ValueError as problem:
        got = f"{str(path)!r} ({reason(problem)})"
        raise InvalidInput(argument, got, "a JSON file") from problem


# --- documents --------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a value made of what JSON knows; floats that are not finite become None.

    Of dataclasses, fields that their repr leaves out are no data.

    >>> plain({"radius": (1.5, float("inf"))})
    {'radius': [1.5, None]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain_fields(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def plain_fields(result: Any, *left_out: str) -> dict[str, Any]:
    """Return the fields of a dataclass as `plain` does, without some of them."""
    fields = [field.name for field in dataclasses.fields(result) if field.repr]
    return {name: plain(getattr(result, name)) for name in fields if name not in left_out}


def to_json(document: Any) -> str:
    """Return the document as JSON text, without NaN, infinity or letters that do not print."""
    text = json.dumps(plain(document), indent=1, allow_nan=False, ensure_ascii=False)
    odd = {letter for letter in set(text) if not letter.isprintable() and letter != "\n"}
    return text.translate({ord(letter): json.dumps(letter)[1:-1] for letter in odd}) + "\n"
