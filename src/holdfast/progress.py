"""Progress of a verb: a bar in a terminal or a notebook, a line now and then anywhere else."""

import contextlib
import html
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.live import Live

from holdfast.errors import one_line
from holdfast.terminal import empty_table
from holdfast.types import Improvement, Progress, Report


@contextlib.contextmanager
def show_progress(part: str = "") -> Iterator[Report]:
    """Show how far a verb is, and about how long it will take.

    In a notebook it is a bar below the cell and in a terminal one on stderr, both gone at the end;
    anywhere else it is a line on stderr now and then, for verbs that take long.

    Args:
        part: What is shown until the verb reports for the first time.

    Yields:
        What to hand to a verb as its `report`.

    >>> import torch, holdfast
    >>> model, rows = torch.nn.Linear(2, 2), torch.zeros(3, 2)
    >>> with holdfast.show_progress() as report:
    ...     bracket = holdfast.lipschitz(model, rows, report=report)
    """
    console = Console(stderr=True)
    if console.is_jupyter:
        with _in_notebook(part) as report:
            yield report
        return
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
        said, total = one_line(progress.part), progress.total or None
        left = _listed(_best(progress), pace.left(progress))
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
            words = _listed(str(progress), _best(progress), f"{spent:.0f} s", left)
            print(f"holdfast: {words}", file=sys.stderr, flush=True)

    return take


@contextlib.contextmanager
def _in_notebook(part: str) -> Iterator[Report]:
    """Show a bar below a cell, without widgets: HTML that is replaced as the verb goes on.

    Yields:
        What the verb reports to.
    """
    from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

    pace, due = _Pace(), 0.0
    shown: Any = display(HTML(_bar(part, Progress(part))), display_id=True)

    def take(progress: Progress) -> None:
        nonlocal due
        left, spent = pace.left(progress), pace.spent
        if spent >= due:
            due = spent + 0.25  # seconds: as often as one reads, and few messages to the browser
            words = _listed(str(progress), _best(progress), f"{spent:.0f} s", left)
            shown.update(HTML(_bar(words, progress)))

    try:
        yield take
    finally:
        shown.update(HTML(""))


def _bar(words: str, progress: Progress) -> str:
    """Return a bar with words beside it, as HTML."""
    share = f' value="{progress.done}" max="{progress.total}"' if progress.total else ""
    return f"<progress{share}></progress> {html.escape(words)}"


def _best(progress: Progress) -> str:
    """Return what a bracket has just gained, in words."""
    gained = progress.improvement
    return f"{gained.side} {gained.value:.6g} by {gained.method}" if gained else ""


def _listed(*words: str) -> str:
    """Return those words that there are, on one line."""
    return one_line(", ".join(filter(None, words)))


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
