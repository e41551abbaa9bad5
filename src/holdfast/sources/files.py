"""Files that strangers wrote: opened with care, measured before they are read.

Nothing here unpickles, evaluates or imports what a file says.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from holdfast.errors import InvalidInput

MOST_BYTES = 8 * 2**30
"""The largest file, and the largest array in one, that is read."""


@contextmanager
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
    with _opened(path, 0, argument, wanted) as file:
        yield file


@contextmanager
def _opened(path: Path, flags: int, argument: str, wanted: str) -> Iterator[BinaryIO]:
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


def read_beside(folder: Path, name: str, argument: str, part: range) -> bytes:
    """Return a part of a file that another file names: it must lie in the same folder.

    No link leads out of the folder: the path is compared with what it resolves to, the last part
    is not followed, and a file with a second name elsewhere (a hard link) is refused.

    Args:
        folder: Folder of the file that names it.
        name: A relative path, as the naming file has it.
        argument: Name of the user's argument, for the message.
        part: Which of its bytes.

    Raises:
        InvalidInput: When it lies elsewhere, is a link, is too short, or cannot be read.
    """
    wanted = "a plain file inside the folder of the model"
    real = os.path.realpath(folder)
    path = os.path.join(real, name)
    inside = bool(name) and "\0" not in name and os.path.normpath(path).startswith(real + os.sep)
    if not inside or os.path.realpath(path) != os.path.normpath(path):
        raise InvalidInput(argument, f"data in {name!r}, which leads elsewhere", wanted)
    with _opened(Path(path), os.O_NOFOLLOW, argument, wanted) as file:
        status = os.fstat(file.fileno())
        if status.st_nlink != 1:
            raise InvalidInput(argument, f"{name!r}, which has a second name elsewhere", wanted)
        if not 0 <= part.start <= part.stop <= status.st_size:
            got = f"bytes {part.start} to {part.stop} of {name!r}, which has {status.st_size}"
            raise InvalidInput(argument, got, "a place in the file")
        file.seek(part.start)
        return file.read(len(part))


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


def check_unpacked(what: str, packed: int, unpacked: int, argument: str) -> None:
    """Refuse what unpacks to far more than it is.

    Args:
        what: What it is, for the message.
        packed: Bytes in the file.
        unpacked: Bytes that they stand for.
        argument: Name of the user's argument, for the message.

    Raises:
        InvalidInput: When it does.
    """
    # Arrays of few different numbers pack well; a small one may unpack to 16 MiB in any case.
    most = 200
    if unpacked > MOST_BYTES or (unpacked > 2**24 and unpacked > most * packed):
        got = f"{what}, which unpacks {packed} bytes to {unpacked}"
        raise InvalidInput(argument, got, f"at most {most} times as many, and {MOST_BYTES}")


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
        ValueError: When it is not JSON, or a key comes twice.
    """
    try:
        return json.loads(content, object_pairs_hook=_once)
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
