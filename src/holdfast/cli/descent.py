"""`holdfast descent`."""

from typing import Annotated

from cyclopts import Parameter

import holdfast
from holdfast.cli.app import Answer, DataName, Json, Model, load_numbers, verb
from holdfast.cli.moves import NoFree, NoOnehot


@verb
def descent(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    step: Annotated[float, Parameter(help="learning rate")] = 0.01,
    momentum: Annotated[float, Parameter(help="heavy-ball momentum, from 0 to below 1")] = 0.0,
    batch: Annotated[
        int | None, Parameter(help="stream so many rows at once, and estimate their noise")
    ] = None,
    free: NoFree = None,
    scale: NoFree = None,
    onehot: NoOnehot = None,
    as_json: Json = False,
) -> Answer:
    """Measure whether a gradient step improves the loss as the descent lemma promises."""
    from holdfast.cli.spoken import said_by
    from holdfast.moves import check_nothing_moves
    from holdfast.progress import show_progress
    from holdfast.report.training import descent_sentence
    from holdfast.terminal import descent_table

    check_nothing_moves("descent", free=free, scale=scale, onehot=onehot)
    (loaded,), rows = load_numbers([model], data)
    loss = "mse" if rows.labels.is_floating_point() else "cross_entropy"
    with show_progress("descent"):
        result = holdfast.descent(
            loaded.model, loss, rows.inputs, rows.labels, step, momentum,
            batch_size=batch,
        )  # fmt: skip
    part = result.document()
    document = {
        "model": model,
        "data": data,
        **rows.treatment,
        "answer": descent_sentence(part),
        **said_by(result),
        "improved": result.improved,
    }
    return Answer(document, lambda: descent_table(part), as_json)
