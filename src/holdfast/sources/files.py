"""Files that strangers wrote: what they name beside them, and what they unpack to.

Nothing here unpickles, evaluates or imports what a file says.
"""

import os
from pathlib import Path

from holdfast.errors import InvalidInput
from holdfast.files import MOST_BYTES, opened


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
    with opened(Path(path), os.O_NOFOLLOW, argument, wanted) as file:
        status = os.fstat(file.fileno())
        if status.st_nlink != 1:
            raise InvalidInput(argument, f"{name!r}, which has a second name elsewhere", wanted)
        if not 0 <= part.start <= part.stop <= status.st_size:
            got = f"bytes {part.start} to {part.stop} of {name!r}, which has {status.st_size}"
            raise InvalidInput(argument, got, "a place in the file")
        file.seek(part.start)
        return file.read(len(part))


def check_count(kind: str, count: int) -> None:
    """Refuse more parts than any model or data set has: readers take long even over empty ones.

    Args:
        kind: What the parts are, for the message.
        count: How many a file holds.

    Raises:
        ValueError: When there are too many.
    """
    if count > 2**16:
        raise ValueError(f"{count} {kind}, more than {2**16}")


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
