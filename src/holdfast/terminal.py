"""What a person sees in the terminal: tables, on stdout."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from holdfast.errors import one_line
from holdfast.report import formats
from holdfast.report.brittle import brittle_words
from holdfast.report.formats import amount, span
from holdfast.report.training import descent_sentence
from holdfast.types import Estimate, norm_name
from holdfast.views.summaries import spread, summary

if TYPE_CHECKING:
    from holdfast.audits.audit import AuditReport
    from holdfast.brackets.bracket import Bracket
    from holdfast.certificates.certificate import Certificates
    from holdfast.knowledge_continuity.evidence.certificate import KnowledgeCertificate
    from holdfast.knowledge_continuity.result import Knowledge


class Records(Table):
    """A table; where a narrow terminal has no room for its columns, a list of its rows."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table as it is, or one small table of titles and values for each row."""
        wanted, width = (
            self.__rich_measure__(console, options.update_width(1000)),
            options.max_width,
        )
        # A column of whole words may still be too thin to read; a wide terminal rather splits one.
        thin = wanted.maximum > width and width < 60
        split = wanted.minimum > width and width < 80
        if len(self.columns) == 2 or not (thin or split):
            yield from super().__rich_console__(console, options)
            return
        for place, cells in enumerate(zip(*(column.cells for column in self.columns), strict=True)):
            record = empty_table("what", "value", header=False)
            for column, cell in zip(self.columns, cells, strict=True):
                if cell:
                    record.add_row(column.header, cell)
            yield from [Text()] * (place > 0)
            yield record


def empty_table(*titles: str, header: bool = True) -> Table:
    """Return an empty table that folds where the terminal is narrow, and cuts nothing off."""
    table = Records(box=None, pad_edge=False, show_header=header)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def audit_summary(report: "AuditReport") -> RenderableType:
    """Return a table with one row per model, what was refused, and where the files are."""
    document = report.document
    distances, epsilon = "norm" in document, document.get("epsilon")
    titles = ("median radius", "Lipschitz constant") if distances else ("most brittle",)
    if epsilon is not None:
        titles = (f"verified at {formats.given(epsilon)}", *titles)
    table = empty_table("model", "accuracy", *titles)
    lines = []
    for subject in document["subjects"]:
        accuracy = formats.percent(subject["accuracy"])
        cells = [_most_brittle(subject)]
        if distances:
            cells = _distance_cells(subject)[0 if epsilon is not None else 1 :]
        table.add_row(subject["name"], accuracy, *cells)
        names = ("lipschitz", "certificates", "attacks", "knowledge", "descent")
        parts = (subject[name] for name in names if name in subject)
        refusals = dict.fromkeys(part["refused"] for part in parts if "refused" in part)
        lines += [Text(f"{subject['name']}: {refusal}") for refusal in refusals]
    lines.append(Text(f"results: {report.json}"))
    if report.page:
        lines.append(Text(f"page:    {report.page}"))
    return Group(table, *lines)


def runs_table(runs: Sequence[Mapping[str, Any]], folder: object) -> RenderableType:
    """Return the audits below a folder, one row for each model."""
    if not runs:
        return Text(f"no audit lies below {folder}")
    table = empty_table("run", "created", "data", "model", "right", "median radius", "verified")
    for run in runs:
        stopped = f" (stopped: {run['stopped']})" if "stopped" in run else ""
        for place, model in enumerate(run["models"]):
            where = (run["run"] + stopped, run["created"][:16], run["data"])
            verified = formats.percent(model.get("verified_accuracy"))
            if "verified_accuracy" in model:
                verified += f" at {formats.given(run['epsilon'])}"
            table.add_row(
                *(Text(word) for word in (where if place == 0 else ("", "", ""))),
                Text(model["name"]),
                formats.percent(model.get("accuracy")),
                amount(model.get("median_radius"), formats.at_least),
                verified,
            )
    return table


def _distance_cells(subject: dict[str, Any]) -> list[str]:
    certificates, bracket = subject["certificates"], subject["lipschitz"]
    certified = ["refused", "-"]
    if "refused" not in certificates:
        radius = amount(certificates["median_radius"], formats.at_least)
        certified = [formats.percent(certificates["verified_accuracy"]), radius]
    constant = "refused" if "refused" in bracket else span(bracket["lower"], bracket["upper"])
    return [*certified, constant]


def _most_brittle(subject: dict[str, Any]) -> str:
    known = subject["knowledge"]
    return "refused" if "refused" in known else brittle_words(subject)


def bracket_table(bracket: "Bracket") -> RenderableType:
    """Return the bracket and the gain of every operation."""
    digits = formats.telling_digits(bracket.lower, bracket.upper)
    ratio = amount(bracket.ratio, functools.partial(formats.at_most, digits=digits))
    head = Text(
        f"Lipschitz constant ({norm_name(bracket.norm)}): "
        f"{span(bracket.lower, bracket.upper)}, ratio {ratio}\n"
        f"lower: {bracket.lower_by}; upper: {bracket.upper_by}; {bracket.seconds:.2f} s; "
        f"{bracket.outcome.value}"
    )
    for note in bracket.notes:
        head.append(f"\n{note}")
    table = empty_table("module", "operation", "gain")
    for layer in bracket.layers:
        table.add_row(layer.path or "(model)", layer.op, amount(layer.gain, formats.at_most))
    return Group(head, table)


def certificates_table(
    certificates: "Certificates", epsilon: float, scale: float | None = None
) -> RenderableType:
    """Return accuracies, the spread of the radii and the reasons; for targets, bounds of change.

    Where the numbers in the data file were divided by a scale (pixels by 255), the radii are shown
    in those numbers as well.
    """
    more = []
    if not certificates.has_classes:
        for what in ("output", "loss"):
            change = spread(getattr(certificates, f"{what}_change")(epsilon), math.ceil)
            words = ", ".join(amount(value, formats.at_most) for value in change)
            more.append(
                (f"{what} moves by at most, within {epsilon:g} (10 %, median, 90 %)", words)
            )
        return answer_table(certificates, *more)
    verified = formats.percent(certificates.verified_accuracy(epsilon))
    more.append((f"verified at {epsilon:g}", verified))
    if scale not in (None, 1.0):
        radii = [math.nextafter(v * scale, 0.0) for v in spread(certificates.radius, math.floor)]
        words = ", ".join(amount(value, formats.at_least) for value in radii)
        more.append((f"radius x {scale:g}", words))
    return answer_table(certificates, *more)


def answer_table(result: object, *more: tuple[str, str]) -> RenderableType:
    """Return the title of an answer, its facts, some more of the kind, and what it claims."""
    said, table = summary(result), empty_table("what", "value", header=False)
    for name, value in (*said.facts, *more):
        table.add_row(one_line(name), one_line(value))
    return Group(Text(one_line(said.title)), table, Text(said.note))


def knowledge_table(
    knowledge: "Knowledge",
    worst: Mapping[str, Any],
    certificates: "Sequence[KnowledgeCertificate]" = (),
) -> RenderableType:
    """Return the volatility of every layer, the worst pairs of one, and what was certified."""
    perturbed = ["perturbed"] if knowledge.perturbed else []
    titles = ("layer", "scale-free volatility", "raw", "near", "same label", "other label")
    table = empty_table(*titles, *perturbed)
    for layer in knowledge.layers:
        table.add_row(
            layer,
            format(knowledge.normalised[layer]),
            _value(knowledge.volatility[layer]),
            _value(knowledge.near[layer]),
            _value(knowledge.same_label[layer]),
            _value(knowledge.other_label[layer]),
            *(_value(knowledge.perturbed[layer]) for _ in perturbed),
        )
    notes = [Text(note) for note in (*knowledge.notes, *(c.statement for c in certificates))]
    head = Text(f"{knowledge.n} rows, {knowledge.loss}, {knowledge.distance} distance")
    return Group(head, table, *_worst_pairs(worst, knowledge.rank()[0]), *notes)


def _worst_pairs(worst: Mapping[str, Any], layer: str) -> list[RenderableType]:
    """Return the worst pairs of a layer: the rows of each, and their sentences if they have any."""
    titles = ("row", "partner", "loss change", "distance")
    spoken = any("text" in row for row in worst["rows"].values())
    table = empty_table(*titles, *(["label and sentence of both"] if spoken else []))
    for pair in worst["worst"][layer]:
        rows, labels = (pair["row"], pair["neighbour"]), (pair["label"], pair["neighbour_label"])
        texts = [worst["rows"][str(row)].get("text", "") for row in rows] if spoken else []
        said = [f"{label}: {one_line(text)}" for label, text in zip(labels, texts, strict=False)]
        values = (amount(abs(pair["change"])), amount(pair["distance"]))
        table.add_row(*map(str, rows), *values, *(["\n".join(said)] if spoken else []))
    return [Text(f"\nworst pairs at layer {layer}"), table] if table.row_count else []


def descent_table(part: Mapping[str, Any]) -> RenderableType:
    """Return the answer about a training step, and its numbers."""
    table = empty_table("what", "value", header=False)
    smoothness = part["smoothness"]
    rows = {
        "loss before": part["loss"],
        "promised change": part["predicted_change"],
        "measured change": part["actual_change"],
        "largest safe step": part["largest_safe_step"],
        "safe along this step": part["safe_along_step"],
        "effective step": part["effective_step"],
        "gradient's change per distance": smoothness["along_step"],
        "top Hessian eigenvalue": smoothness["top_eigenvalue"],
        "gradient norm": part["gradient_norm"],
    }
    if part["noise"] is not None:
        rows |= {"gradient noise, squared": part["noise"], "cost of noise": part["noise_cost"]}
    for name, value in rows.items():
        table.add_row(name, amount(value))
    return Group(Text(descent_sentence(part)), table)


def _value(estimate: Estimate | None) -> str:
    return "-" if estimate is None else amount(estimate.value)


def doctor_table(found: dict[str, Any]) -> RenderableType:
    """Return versions and what is missing for which part."""
    table = empty_table("what", "value", header=False)
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
