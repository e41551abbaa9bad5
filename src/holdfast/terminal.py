"""What a person sees in the terminal: progress on stderr, tables on stdout."""

import math
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from holdfast.auditing.job import Report
from holdfast.brackets.solve import Bracket
from holdfast.certificates.certificate import Certificates
from holdfast.continuity.volatility import Knowledge
from holdfast.types import Estimate, norm_name


class Steps:
    """A progress bar on stderr over a known number of steps; silent where stderr is no terminal.

    Args:
        total: Number of steps.
    """

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._progress.add_task("starting", total=total)
        self._begun = 0

    def begin(self, step: str) -> None:
        """Show that a step begins, which ends the one before."""
        self._progress.update(self._task, description=step, completed=self._begun)
        self._begun += 1

    def __enter__(self) -> "Steps":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


def working(step: str) -> Steps:
    """Return the progress of work that is one step."""
    steps = Steps(1)
    steps.begin(step)
    return steps


def number(value: float | None) -> str:
    """Write a number with three significant digits."""
    if value is None or math.isnan(value):
        return "-"
    return "unbounded" if math.isinf(value) else f"{value:.3g}"


def percent(share: float | None) -> str:
    """Write a share as a percentage with one decimal."""
    return "-" if share is None else f"{100 * share:.1f} %"


def audit_summary(report: Report) -> RenderableType:
    """Return a table with one row per model, and where the files are."""
    document = report.document
    table = Table(box=None, pad_edge=False)
    for title in ("model", "accuracy", f"verified at {number(document['epsilon'])}"):
        table.add_column(title)
    table.add_column("median radius")
    table.add_column("Lipschitz constant")
    for subject in document["subjects"]:
        table.add_row(subject["name"], *_audit_row(subject))
    lines = [table, Text(f"results: {report.json}")]
    if report.page:
        lines.append(Text(f"page:    {report.page}"))
    return Group(*lines)


def _audit_row(subject: dict[str, Any]) -> tuple[str, ...]:
    certificates, bracket = subject["certificates"], subject["lipschitz"]
    if "refused" in certificates:
        certified = ("-", "refused", "-")
    else:
        certified = (
            percent(certificates["clean_accuracy"]),
            percent(certificates["verified_accuracy"]),
            number(certificates["median_radius"]),
        )
    constant = (
        "refused"
        if "refused" in bracket
        else f"{number(bracket['lower'])} to {number(bracket['upper'])}"
    )
    return (*certified, constant)


def bracket_table(bracket: Bracket) -> RenderableType:
    """Return the bracket and the gain of every operation."""
    head = Text(
        f"{bracket.lower:.6g} <= Lipschitz constant ({norm_name(bracket.norm)}) <= "
        f"{bracket.upper:.6g}   ratio {number(bracket.ratio)}\n"
        f"lower: {bracket.lower_by}; upper: {bracket.upper_by}; {bracket.seconds:.2f} s; "
        f"{bracket.outcome.value}"
    )
    table = Table(box=None, pad_edge=False)
    for title in ("module", "operation", "gain"):
        table.add_column(title)
    for layer in bracket.layers:
        table.add_row(layer.path or "(model)", layer.op, number(layer.gain))
    return Group(head, table)


def certificates_table(certificates: Certificates, epsilon: float) -> RenderableType:
    """Return accuracies, the spread of the radii and the reasons."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("what")
    table.add_column("value")
    quantiles = certificates.radius.quantile(certificates.radius.new_tensor([0.1, 0.5, 0.9]))
    table.add_row("rows", str(len(certificates)))
    table.add_row("clean accuracy", percent(certificates.clean_accuracy))
    verified = certificates.verified_accuracy(epsilon)
    table.add_row(f"verified at {number(epsilon)}", percent(verified))
    spread = ", ".join(number(value) for value in quantiles.tolist())
    table.add_row("radius (10 %, median, 90 %)", spread)
    for reason, count in certificates.counts().items():
        table.add_row(reason.replace("_", " "), str(count))
    return Group(table, Text(certificates.guarantee))


def knowledge_table(knowledge: Knowledge) -> RenderableType:
    """Return the volatility of every layer."""
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "scale-free volatility", "raw", "same label", "other label"):
        table.add_column(title)
    for layer in knowledge.layers:
        table.add_row(
            layer,
            format(knowledge.normalised[layer]),
            _value(knowledge.volatility[layer]),
            _value(knowledge.same_label[layer]),
            _value(knowledge.other_label[layer]),
        )
    notes = [Text(note) for note in knowledge.notes]
    head = Text(f"{knowledge.n} rows, {knowledge.loss}, {knowledge.distance} distance")
    return Group(head, table, *notes)


def _value(estimate: Estimate | None) -> str:
    return "-" if estimate is None else number(estimate.value)


def doctor_table(found: dict[str, Any]) -> RenderableType:
    """Return versions and what is missing for which part."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("what")
    table.add_column("value")
    table.add_row("python", found["python"])
    for name, version in found["versions"].items():
        table.add_row(name, version)
    table.add_row("machine", found["machine"])
    table.add_row("extras ready", ", ".join(found["ready"]) or "none")
    for name, modules in found["missing"].items():
        table.add_row(f"extra {name}", f"not installed ({', '.join(modules)})")
    ready = "yes" if found["main_job"] else "no: pip install 'holdfast[demo]'"
    table.add_row("holdfast audit would run", ready)
    return table
