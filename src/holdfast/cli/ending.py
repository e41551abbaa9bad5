"""How a command runs and ends: every way has its exit code and its line."""

import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import NoReturn

import cyclopts

from holdfast.cli.app import INTERRUPTED, Terminated, app
from holdfast.errors import HoldfastError, HoldfastWarning, InternalError, Stopped, one_line
from holdfast.runs.folder import FolderInUse

INTERNAL, BAD_INPUT, IN_USE, EXHAUSTED = 1, 2, 3, 5
BROKEN_PIPE, TERMINATED = (128 + each for each in (signal.SIGPIPE, signal.SIGTERM))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with the exit code that says how it ended."""
    with warnings.catch_warnings():
        # Our own warnings are one line each; those of libraries are not the user's business.
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HoldfastWarning)
        warnings.showwarning = _print_warning
        heard = []

        def terminate(*_: object) -> NoReturn:
            heard.append(TERMINATED)
            raise Terminated

        before = signal.signal(signal.SIGTERM, terminate)
        try:
            code = _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            signal.signal(signal.SIGTERM, before)
    sys.exit(TERMINATED if heard and code == INTERRUPTED else code)


def _run(arguments: list[str]) -> int:
    """Run one command; every way to end has its code, and one line says why."""
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs) or 0
    except (Exception, KeyboardInterrupt, SystemExit, Stopped) as problem:
        code, message = _ending(problem)
    if message:
        sys.stderr.write(f"holdfast: {one_line(message)}\n")
    return code


def _ending(problem: BaseException) -> tuple[int, str]:  # noqa: PLR0911 - one for every way
    """Return the exit code and the line for a way to end."""
    match problem:
        case cyclopts.CycloptsError():
            return BAD_INPUT, f"{str(problem).rstrip('.')}; see holdfast --help"
        case FolderInUse():
            return IN_USE, str(problem)
        case InternalError():
            return INTERNAL, str(problem)
        case HoldfastError():
            return BAD_INPUT, str(problem)
        case BrokenPipeError() | SystemExit(__context__=BrokenPipeError()):
            return BROKEN_PIPE, _abandon_stdout()
        case SystemExit():
            return BAD_INPUT, f"model: got code that ends Python ({problem.code}), wanted a model"
        case KeyboardInterrupt() | Stopped():
            how = "terminated" if isinstance(problem, Terminated) else "interrupted"
            return INTERRUPTED, f"{how}; {str(problem) or 'nothing half-written is left'}"
        case MemoryError():
            return EXHAUSTED, f"out of memory: {problem}"
        case RuntimeError() if "allocate memory" in str(problem):
            return EXHAUSTED, f"out of memory: {problem}"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = problem.filename or f"standard output{_abandon_stdout()}"
            return EXHAUSTED, f"the disk is full: {where}"
    place = traceback.extract_tb(problem.__traceback__)[-1]
    what = f"{type(problem).__name__}: {problem} ({place.filename}:{place.lineno})"
    return INTERNAL, f"a mistake in Holdfast, please report it: {what}"


def _abandon_stdout() -> str:
    """Give up on an output that takes nothing more, so that Python does not try again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ""


def _print_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print a warning as one line."""
    sys.stderr.write(f"holdfast: warning: {one_line(str(message))}\n")
