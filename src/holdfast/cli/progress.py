"""Progress on stderr: a bar in a terminal, a line now and then anywhere else."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.live import Live

from holdfast.errors import one_line
from holdfast.terminal import empty_table
from holdfast.types import Improvement, Progress, Report


@contextlib.contextmanager
def progress_bar(part: str) -> Iterator[Report]:
    """Show the progress of a verb on stderr, with an estimate of what is left.

    In a terminal it is a bar; anywhere else a line now and then, for verbs that take long.

    Args:
        part: What is shown until the verb reports for the first time.

    Yields:
        What the verb reports to.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.fields[left]}"),
    )
    pace = _Pace()
    shown = bars.Progress(*columns, console=console, transient=True)
    task = shown.add_task(part, total=None, left="")

    def take(progress: Progress) -> None:
        said, total, left = one_line(progress.part), progress.total or None, pace.left(progress)
        shown.update(task, description=said, completed=progress.done, total=total, left=left)

    with shown:
        yield take


def _lines() -> Report:
    """Return what writes a line on stderr now and then: after ten seconds, then every minute."""
    pace, due = _Pace(), 10.0

    def take(progress: Progress) -> None:
        nonlocal due
        left, spent = pace.left(progress), pace.spent
        if spent >= due:
            due = spent + 60.0
            gained = progress.improvement
            best = f"{gained.side} {gained.value:.6g} by {gained.method}" if gained else ""
            words = ", ".join(filter(None, [str(progress), best, f"{spent:.0f} s", left]))
            print(f"holdfast: {one_line(words)}", file=sys.stderr, flush=True)

    return take


class _Pace:
    """How long a verb has run, and how long what it does now will take at its pace so far."""

    def __init__(self) -> None:
        self._begun = self._part_begun = time.perf_counter()
        self._part, self._first = "", 0

    @property
    def spent(self) -> float:
        """Seconds since the verb began."""
        return time.perf_counter() - self._begun

    def left(self, progress: Progress) -> str:
        """Say about how long is left of a part; nothing while there is no pace to tell it from."""
        progress = progress.within or progress
        if progress.part != self._part or progress.done < self._first:
            self._part, self._first = progress.part, progress.done
            self._part_begun = time.perf_counter()
        gained, rest = progress.done - self._first, progress.total - progress.done
        if gained <= 0 or rest <= 0:
            return ""
        return f"about {duration(rest / gained * (time.perf_counter() - self._part_begun))} left"


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(8.4), duration(200), duration(9000)
    ('9 s', '4 min', '2.5 h')
    """
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def closing_bracket() -> Iterator[Report]:
    """Show a bracket on stderr that closes while the user watches, or in a line now and then.

    Yields:
        What the verb reports to.
    """
    sides: dict[str, Improvement] = {}
    begun = time.perf_counter()

    def take(progress: Progress) -> None:
        if progress.improvement is not None:
            sides[progress.improvement.side] = progress.improvement

    def draw() -> RenderableType:
        table = empty_table("side", "bound", "method", "found at")
        for side in ("upper", "lower"):
            best = sides.get(side)
            if best is not None:
                table.add_row(side, f"{best.value:.6g}", best.method, f"{best.seconds:.1f} s")
        ratio = "-"
        if len(sides) == 2 and sides["lower"].value > 0:
            ratio = f"{sides['upper'].value / sides['lower'].value:.4f}"
        spent = time.perf_counter() - begun
        table.add_row("ratio", ratio, "Ctrl-C ends with the best so far", f"{spent:.1f} s")
        return table

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    live = Live(console=console, refresh_per_second=8, transient=True, get_renderable=draw)
    with live:
        yield take
