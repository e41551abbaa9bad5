"""`holdfast certify`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import holdfast
from holdfast.cli.app import (
    Answer,
    DataName,
    Json,
    Model,
    NormName,
    check_writable,
    load_numbers,
    norm_of,
    verb,
)
from holdfast.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor, nn


@verb
def certify(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    norm: NormName = "2",
    method: Annotated[str, Parameter(help="global, local or auto")] = "auto",
    semantics: Annotated[str, Parameter(help="real, or float32: as executed")] = "real",
    epsilon: Annotated[float, Parameter(help="distance to count certified rows at")] = 0.0,
    out: Annotated[Path | None, Parameter(help="file for the certificates")] = None,
    attack: Annotated[
        bool, Parameter(negative=(), help="attack every row, and stop if a certificate is wrong")
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Certify how far each input can move before its class may change."""
    from holdfast.files import plain
    from holdfast.terminal import certificates_table, working

    if not 0 <= epsilon < math.inf:
        raise InvalidInput("epsilon", epsilon, "a finite distance, at least 0")
    check_writable(out)
    (loaded,), rows = load_numbers([model], data)
    with working("certificates"):
        certificates = holdfast.certify(
            loaded.model, rows.inputs, rows.labels, norm_of(norm), method, semantics
        )
    if attack:
        _attack(loaded.model, (rows.inputs, rows.labels), certificates)
    if out is not None:
        certificates.save(out)
    document = {
        "model": model,
        "data": data,
        "epsilon": epsilon,
        "clean_accuracy": certificates.clean_accuracy,
        "verified_accuracy": certificates.verified_accuracy(epsilon),
        "scale": rows.scale,
        "normalisation": dict(loaded.units),
        **plain(certificates),
    }
    return Answer(document, lambda: certificates_table(certificates, epsilon, rows.scale), as_json)


def _attack(
    model: "nn.Module", rows: "tuple[Tensor, Tensor]", certificates: "holdfast.Certificates"
) -> None:
    """Attack certified rows, and stop where that contradicts a certificate."""
    from holdfast.attacks.agreement import check_agreement
    from holdfast.terminal import working

    with working("attacks"):
        attacks = holdfast.attack(model, *rows, certificates.norm)
        check_agreement(holdfast.capture(model, rows[0][:1]), certificates, attacks)
