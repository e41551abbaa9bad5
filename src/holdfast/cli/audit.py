"""`holdfast audit`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from holdfast.cli.app import (
    BELOW,
    DISTANCE,
    IN_PART,
    Answer,
    DataName,
    FailUnder,
    Json,
    Model,
    NormName,
    Seed,
    Threshold,
    check_classes_asked,
    check_share,
    load,
    norm_of,
    repeat_command,
    stopping_at_once,
    verb,
)
from holdfast.cli.moves import Free, NoOnehot, Scale, moves_of
from holdfast.errors import InvalidInput


@verb
def audit(  # noqa: PLR0913 - the options of the main job
    model: Model | None = None,
    data: DataName = "demo:digits",
    *,
    out: Annotated[Path, Parameter(help="folder for audit.json and report.html")] = Path(
        "runs/demo"
    ),
    norm: NormName = "2",
    epsilon: Annotated[float | None, Parameter(help="distance of the headline"), DISTANCE] = None,
    seconds: Annotated[float, Parameter(help="time for each bracket")] = 5.0,
    step: Annotated[float, Parameter(help="learning rate of the training step")] = 0.01,
    threshold: Threshold = 0.0,
    free: Free = None,
    scale: Scale = None,
    onehot: NoOnehot = None,
    training: Annotated[Path | None, Parameter(help="file of a DescentMonitor")] = None,
    held_out: Annotated[
        bool, Parameter(help="no row was trained on: call them test inputs", negative="")
    ] = False,
    substitutions: Annotated[
        str | None, Parameter(help="words of sentences that may be replaced: json:FILE")
    ] = None,
    budget: Annotated[int, Parameter(help="words that may be replaced at once")] = 1,
    fail_under: FailUnder = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> Answer:
    """Audit a model, or the two built-in ones: certificates, knowledge, descent and a page."""
    from holdfast.audits.audit import AuditOptions, audit_models
    from holdfast.certificates.misleading import warn_of
    from holdfast.moves import EVERYTHING
    from holdfast.progress import show_progress
    from holdfast.sources.data import LoadedData
    from holdfast.sources.demo import DEMO_MODELS
    from holdfast.terminal import audit_summary

    check_share(fail_under)
    if fail_under is not None and epsilon is None:
        raise InvalidInput("fail-under", f"{fail_under} without a distance", "--epsilon as well")
    wanted = "classes: an audit counts right answers; for targets use certify, knowledge, descent"
    check_classes_asked(data, "data", wanted)
    models, rows = load([model] if model else [f"demo:{name}" for name in DEMO_MODELS], data)
    asked = {"model": model, "data": data, "norm": norm, "epsilon": epsilon, "seconds": seconds}
    asked |= {"step": step, "threshold": threshold or None, "free": free, "scale": scale}
    asked |= {"training": training, "held-out": held_out or None, "seed": seed or None}
    asked |= {"substitutions": substitutions, "budget": budget if budget != 1 else None}
    asked |= {"out": out}
    command = repeat_command("audit", asked)
    moves = moves_of(free, scale, rows, onehot) if isinstance(rows, LoadedData) else EVERYTHING
    options = AuditOptions(
        norm_of(norm), epsilon, seconds, step, threshold, training, command, moves,
        # The built-in nets were not trained on the built-in rows.
        held_out=held_out or (model is None and data == "demo:digits"),
        seed=seed,
        substitutions=substitutions,
        budget=budget,
    )  # fmt: skip
    with stopping_at_once() as watching, show_progress("audit") as report:
        found = audit_models(models, rows, out, options, watching(report))
    warn_of(found.document.get("warnings", ()))
    code = _code(found.document["subjects"], fail_under)
    return Answer(found.document, lambda: audit_summary(found), as_json, code)


def _code(subjects: Sequence[Mapping[str, Any]], fail_under: float | None) -> int:
    """Return the exit code: whether every model is good enough, and nothing was refused."""
    parts = [part for subject in subjects for part in subject.values() if isinstance(part, Mapping)]
    verified = [part["verified_accuracy"] for part in parts if "verified_accuracy" in part]
    if fail_under is not None and min(verified, default=0.0) < fail_under:
        return BELOW
    return IN_PART if any("refused" in part for part in parts) else 0
