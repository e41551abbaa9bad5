"""`holdfast conditions`."""

import holdfast
from holdfast.cli.app import Answer, DataName, Json, Model, NormName, Threshold, load, norm_of, verb


@verb
def conditions(
    model: Model,
    data: DataName,
    *,
    norm: NormName = "2",
    threshold: Threshold = 0.0,
    as_json: Json = False,
) -> Answer:
    """Say whether a certificate about distances makes sense for a model and its data."""
    from holdfast.files import plain
    from holdfast.terminal import conditions_table, progress_bar

    (loaded,), rows = load([model], data)
    with progress_bar("conditions") as report:
        asked = {"threshold": threshold, "report": report}
        found = holdfast.conditions(loaded.model, *rows.batches[0], norm_of(norm), **asked)
    document = {"model": model, "data": data, **plain(found)}
    return Answer(document, lambda: conditions_table(found), as_json)
