"""`holdfast knowledge`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import holdfast
from holdfast.cli.app import (
    Answer,
    DataName,
    Json,
    Model,
    Seed,
    Threshold,
    check_writable,
    load,
    verb,
)
from holdfast.cli.moves import NoFree, NoOnehot
from holdfast.errors import InvalidInput


@verb
def knowledge(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    layer: Annotated[
        list[str] | None, Parameter(negative=(), help="module path; give it again for more")
    ] = None,
    loss: Annotated[
        str | None,
        Parameter(help="cross_entropy, zero_one, brier or margin; mse, for targets alone"),
    ] = None,
    distance: Annotated[str, Parameter(help="euclidean, manhattan, chebyshev or angular")] = (
        "euclidean"
    ),
    delta: Annotated[
        float | None, Parameter(help="distance of a certificate, in the layer's units")
    ] = None,
    eta: Annotated[float | None, Parameter(help="loss change of a certificate")] = None,
    threshold: Threshold = 0.0,
    free: NoFree = None,
    scale: NoFree = None,
    onehot: NoOnehot = None,
    seed: Seed = 0,
    out: Annotated[Path | None, Parameter(help="file for all values, row by row")] = None,
    as_json: Json = False,
) -> Answer:
    """Measure how steady a model's knowledge is, layer by layer; --delta and --eta certify."""
    from holdfast.audits.parts import worst_part
    from holdfast.cli.spoken import said_by
    from holdfast.moves import check_nothing_moves
    from holdfast.progress import show_progress
    from holdfast.sources.data import LoadedData
    from holdfast.terminal import knowledge_table

    if (delta is None) != (eta is None):
        raise InvalidInput("delta, eta", (delta, eta), "both, or neither")
    check_writable(out)
    check_nothing_moves("knowledge", free=free, scale=scale, onehot=onehot)
    (loaded,), rows = load([model], data)
    with show_progress("knowledge continuity"):
        more = {"perturbations": rows.perturbations, "threshold": threshold, "seed": seed}
        batches = rows.batches
        usual = "mse" if batches[0][1].is_floating_point() else "cross_entropy"
        result = holdfast.knowledge(loaded.model, batches, layer, loss or usual, distance, **more)
    worst = worst_part(result, rows)
    rest = ("pointwise", "one_sided", "evidence", "neighbours", "stopped")
    found = said_by(result, *rest) | {"rank": result.rank()}
    document = {"model": model, "data": data, **rows.treatment, **found, **worst}
    if isinstance(rows, LoadedData):
        del document["rows"]  # pixels are for the page of an audit
    certificates = []
    if delta is not None and eta is not None:
        known = [name for name in result.layers if result.evidence[name] is not None]
        certificates = [result.certificate(name, delta, eta) for name in known]
        document["certificates"] = certificates
    if out is not None:
        result.save(out)
    return Answer(
        document,
        lambda: knowledge_table(result, worst, certificates),
        as_json,
        stopped=result.stopped,
    )
