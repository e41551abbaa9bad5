"""`holdfast attack`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import holdfast
from holdfast.cli.app import (
    DISTANCE,
    Answer,
    DataName,
    Json,
    Model,
    NormName,
    Seed,
    Threshold,
    check_classes_asked,
    check_writable,
    load_numbers,
    norm_of,
    verb,
)
from holdfast.cli.moves import Free, Onehot, Scale, moves_of


@verb
def attack(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    norm: NormName = "2",
    epsilon: Annotated[
        float | None,
        Parameter(help="any attack within this distance; the nearest by default; 0.1 or 2/255"),
        DISTANCE,
    ] = None,
    threshold: Threshold = 0.0,
    free: Free = None,
    scale: Scale = None,
    onehot: Onehot = None,
    seed: Seed = 0,
    out: Annotated[Path | None, Parameter(help="file for the attacks and their inputs")] = None,
    as_json: Json = False,
) -> Answer:
    """Look for the nearest input around each row that gets another answer."""
    from holdfast.cli.spoken import said_by
    from holdfast.progress import show_progress
    from holdfast.terminal import answer_table

    check_writable(out)
    wanted = "classes, one of which an attack reaches; for targets use holdfast certify"
    check_classes_asked(data, "data", wanted)
    (loaded,), rows = load_numbers([model], data)
    with show_progress("attacks") as report:
        moves = moves_of(free, scale, rows, onehot)
        asked = {"threshold": threshold, "seed": seed, "report": report}
        asked |= {"free": moves.free, "scale": moves.scale, "onehot": moves.onehot}
        attacks = holdfast.attack(
            loaded.model, rows.inputs, rows.labels, norm_of(norm), epsilon, **asked
        )
    if out is not None:
        attacks.save(out)
    document = {"model": model, "data": data, **rows.treatment}
    document |= said_by(attacks, "adversarial", "stopped")
    stopped = f"{attacks.reached} of {len(attacks)} rows" * attacks.stopped
    if epsilon is not None:
        document["accuracy_under_attack"] = attacks.accuracy_under_attack(epsilon)
    return Answer(document, lambda: answer_table(attacks), as_json, stopped=stopped)
