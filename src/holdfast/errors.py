"""The errors and warnings that Holdfast raises; every one says how to go on."""

from collections.abc import Sequence
from dataclasses import dataclass


def visible(text: str) -> str:
    r"""Return text that only shows: what a file holds may be a terminal's commands.

    >>> visible("film\x1b[2J")
    'film�[2J'
    """
    # Letters that print as nothing could push forged words to the start of a terminal's line.
    blank = "\u115f\u1160\u2800\u3164\uffa0"
    odd = {each for each in set(text) if each in blank or not (each.isprintable() or each == "\n")}
    return text.translate(dict.fromkeys(map(ord, odd), "\N{REPLACEMENT CHARACTER}"))


def one_line(text: str) -> str:
    r"""Return text as one line that only shows, of bounded length.

    >>> one_line("a\n  film")
    'a film'
    """
    line = " ".join(text.split())
    return visible(line if len(line) <= 20_000 else f"{line[:20_000]} ...")


class HoldfastError(Exception):
    """Base of every error that Holdfast raises on purpose.

    Args:
        message: What is wrong and how to go on; names out of files may stand in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class HoldfastWarning(UserWarning):
    """Something the user should know before trusting or reading a result.

    Args:
        message: One sentence; names out of files may stand in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InvalidInput(HoldfastError):
    """An argument is not usable.

    Args:
        argument: Name of the argument as the user wrote it.
        got: What was given.
        wanted: What would have been accepted.
    """

    def __init__(self, argument: str, got: object, wanted: str) -> None:
        self.argument, self.got, self.wanted = argument, got, wanted
        super().__init__(f"{argument}: got {got}, wanted {wanted}")


@dataclass(frozen=True)
class Obstacle:
    """One reason why a model cannot be captured or certified.

    Attributes:
        path: Module path as in `named_modules()`; empty for the model itself.
        op: Operation or state that stands in the way.
        why: What is wrong with it.
        advice: How to go on.
        source: File and line in the user's code, where known.
    """

    path: str
    op: str
    why: str
    advice: str = ""
    source: str = ""

    def __str__(self) -> str:
        where = self.path or "(model)"
        line = f"{where}: {self.op}: {self.why}"
        if self.source:
            line += f" [{self.source}]"
        return one_line(f"{line}; {self.advice}" if self.advice else line)


class Unsupported(HoldfastError):
    """The model cannot be handled, with all the reasons at once.

    Args:
        what: What was attempted, for example "capture" or "Lipschitz gain (l2)".
        obstacles: Every reason found, in execution order; each is said once.
    """

    def __init__(self, what: str, obstacles: Sequence[Obstacle]) -> None:
        self.what, self.obstacles = what, tuple(dict.fromkeys(obstacles))
        reasons = "; ".join(f"({i}) {o}" for i, o in enumerate(self.obstacles, 1))
        super().__init__(f"{what} refused: {reasons}")


class MissingExtra(HoldfastError):
    """An optional library is needed for this part and is not installed.

    Args:
        library: The library that could not be imported.
        extra: The extra of Holdfast that brings it.
        purpose: What it is needed for.
    """

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed: pip install 'holdfast[{extra}]'"
        )


class InternalError(HoldfastError):
    """Two independent answers contradict each other: a bug in Holdfast.

    Args:
        what: What contradicts what.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; please report it")


class Stopped(BaseException):
    """Ctrl-C where a search must not take it as its own end and go on with the next step."""
