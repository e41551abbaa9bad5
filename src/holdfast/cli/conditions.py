"""`holdfast conditions`."""

import holdfast
from holdfast.cli.app import (
    Answer,
    DataName,
    Json,
    Model,
    NormName,
    Seed,
    Threshold,
    load,
    norm_of,
    verb,
)
from holdfast.cli.moves import Free, NoOnehot, Scale, moves_of


@verb
def conditions(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    norm: NormName = "2",
    threshold: Threshold = 0.0,
    free: Free = None,
    scale: Scale = None,
    onehot: NoOnehot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> Answer:
    """Say whether a certificate about distances makes sense for a model and its data."""
    from holdfast.cli.spoken import said_by
    from holdfast.progress import show_progress
    from holdfast.sources.data import LoadedData
    from holdfast.terminal import answer_table

    (loaded,), rows = load([model], data)
    with show_progress("conditions") as report:
        asked = {"threshold": threshold, "seed": seed, "report": report}
        if isinstance(rows, LoadedData):
            moves = moves_of(free, scale, rows, onehot)
            moves.check_no_groups("conditions")
            asked |= {"free": moves.free, "scale": moves.scale}
        found = holdfast.conditions(loaded.model, *rows.batches[0], norm_of(norm), **asked)
    document = {"model": model, "data": data, "seed": seed, **rows.treatment, **said_by(found)}
    return Answer(document, lambda: answer_table(found), as_json)
