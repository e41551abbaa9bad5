"""`holdfast certify`."""

import math
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import holdfast
from holdfast.cli.app import (
    Answer,
    DataName,
    Json,
    Model,
    NormName,
    check_writable,
    load,
    norm_of,
    verb,
)
from holdfast.errors import InvalidInput


@verb
def certify(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    norm: NormName = "2",
    method: Annotated[str, Parameter(help="global, local or auto")] = "auto",
    epsilon: Annotated[float, Parameter(help="distance to count certified rows at")] = 0.0,
    out: Annotated[Path | None, Parameter(help="file for the certificates")] = None,
    as_json: Json = False,
) -> Answer:
    """Certify how far each input can move before its class may change."""
    from holdfast.documents import plain
    from holdfast.terminal import certificates_table, working

    if not 0 <= epsilon < math.inf:
        raise InvalidInput("epsilon", epsilon, "a finite distance, at least 0")
    check_writable(out)
    (loaded,), rows = load([model], data)
    with working("certificates"):
        certificates = holdfast.certify(
            loaded.model, rows.inputs, rows.labels, norm_of(norm), method
        )
    if out is not None:
        certificates.save(out)
    document = {
        "model": model,
        "data": data,
        "epsilon": epsilon,
        "clean_accuracy": certificates.clean_accuracy,
        "verified_accuracy": certificates.verified_accuracy(epsilon),
        **plain(certificates),
    }
    return Answer(document, lambda: certificates_table(certificates, epsilon), as_json)
