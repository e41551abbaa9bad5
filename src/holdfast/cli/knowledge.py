"""`holdfast knowledge`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import holdfast
from holdfast.cli.app import Answer, DataName, Json, Model, check_writable, load, verb


@verb
def knowledge(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    layer: Annotated[
        list[str] | None, Parameter(negative=(), help="module path; give it again for more")
    ] = None,
    loss: Annotated[str, Parameter(help="cross_entropy, zero_one, brier or margin")] = (
        "cross_entropy"
    ),
    distance: Annotated[str, Parameter(help="euclidean, manhattan, chebyshev or angular")] = (
        "euclidean"
    ),
    out: Annotated[Path | None, Parameter(help="file for all values, row by row")] = None,
    as_json: Json = False,
) -> Answer:
    """Measure how steady a model's knowledge is, layer by layer."""
    from holdfast.terminal import knowledge_table, working

    check_writable(out)
    (loaded,), rows = load([model], data)
    with working("knowledge continuity"):
        result = holdfast.knowledge(loaded.model, (rows.inputs, rows.labels), layer, loss, distance)
    if out is not None:
        result.save(out)
    document = {"model": model, "data": data, **result.summary()}
    return Answer(document, lambda: knowledge_table(result), as_json)
