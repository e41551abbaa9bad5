"""A run's folder: made when needed, and used by one run at a time."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.errors import HoldfastError, InvalidInput


class FolderInUse(HoldfastError):
    """Another run is writing to the same folder."""


@contextmanager
def claim(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder and keep other runs out of it.

    The lock belongs to the process, so one that was killed leaves nothing to clean up.

    Args:
        folder: Where the run writes its files.

    Yields:
        The folder.

    Raises:
        FolderInUse: When another run holds it.
        InvalidInput: When it cannot be made or written to.
        OSError: When the disk is full.
    """
    from holdfast.files import check_new_name, check_path

    path = check_path(folder, "out")
    check_new_name(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path / ".lock")
    except BlockingIOError as problem:
        raise FolderInUse(f"{path} is in use by another run; choose another --out") from problem
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        got = f"{str(path)!r} ({problem.strerror})"
        raise InvalidInput("out", got, "a folder that can be written to") from problem
    try:
        yield path
    finally:
        (path / ".lock").unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path) -> int:
    """Return the open file that holds the lock.

    A run that ends removes its lock file: one that was opened just before and is locked just after
    keeps nobody out, so it is opened anew.

    Raises:
        BlockingIOError: When another run holds the lock.
        OSError: When the file cannot be made or locked.
    """
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except OSError:
            os.close(lock)
            raise
        os.close(lock)
