"""`holdfast certify`."""

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from holdfast.cli.app import (
    BELOW,
    DISTANCE,
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
    check_writable,
    load_numbers,
    norm_of,
    verb,
)
from holdfast.cli.moves import Free, Onehot, Scale, moves_of
from holdfast.errors import HoldfastWarning, InvalidInput

if TYPE_CHECKING:
    from holdfast.certificates.certificate import Certificates


@verb
def certify(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    norm: NormName = "2",
    method: Annotated[str, Parameter(help="global, local or auto")] = "auto",
    semantics: Annotated[str, Parameter(help="real, or float32: as executed")] = "real",
    epsilon: Annotated[
        float, Parameter(help="distance to count certified rows at"), DISTANCE
    ] = 0.0,
    threshold: Threshold = 0.0,
    free: Free = None,
    scale: Scale = None,
    onehot: Onehot = None,
    out: Annotated[Path | None, Parameter(help="file for the certificates")] = None,
    fail_under: FailUnder = None,
    seed: Seed = 0,
    attack: Annotated[
        bool, Parameter(negative=(), help="attack every row, and stop if a certificate is wrong")
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Certify how far each input can move before its class may change."""
    from holdfast.attacks.agreement import check_agreement
    from holdfast.attacks.attack import AttackOptions, attack_graph
    from holdfast.certificates.certify import certify_graph
    from holdfast.certificates.files import missing_proof
    from holdfast.certificates.misleading import (
        few_rows,
        misleading,
        uneven,
        uneven_advice,
        warn_of,
    )
    from holdfast.certificates.options import CertifyOptions
    from holdfast.cli.spoken import said_by
    from holdfast.graph.capture import captured, example_row
    from holdfast.progress import show_progress
    from holdfast.terminal import certificates_table

    if not 0 <= epsilon < math.inf:
        raise InvalidInput("epsilon", epsilon, "a finite distance, at least 0")
    check_writable(out)
    check_share(fail_under)
    changes = "for targets, outputs and losses move by at most `output_change` and `loss_change`"
    if fail_under is not None:
        check_classes_asked(data, "fail-under", f"classes, which alone are verified; {changes}")
    if attack:
        check_classes_asked(data, "attack", f"classes, one of which an attack reaches; {changes}")
    (loaded,), rows = load_numbers([model], data)
    moves = moves_of(free, scale, rows, onehot)
    options = CertifyOptions(norm_of(norm), method, semantics, threshold, moves)
    options.check_execution(loaded.model, rows.inputs)
    example = example_row(rows.inputs)
    with show_progress("certificates") as report, captured(loaded.model, example) as graph:
        if out is not None and (why := missing_proof(graph, semantics, threshold, moves)):
            warnings.warn(HoldfastWarning(f"{out} will hold no proof: {why}"), stacklevel=1)
        certificates = certify_graph(graph, rows.inputs, rows.labels, options, report)
        warn_of(misleading(graph, (rows.inputs, rows.labels), threshold, moves))
        warn_of(uneven_advice(uneven(rows.inputs, moves)))
        if epsilon or fail_under is not None:
            warn_of(few_rows(len(rows.labels)))
        stopped = f"{certificates.reached} of {len(certificates)} rows"
        stopped *= certificates.reached < len(certificates)
        if attack and not stopped:
            how = AttackOptions(certificates.norm, threshold=threshold, moves=moves, seed=seed)
            pair = (rows.inputs, rows.labels)
            attacks = attack_graph(graph, loaded.model, pair, how, report)
            check_agreement(graph, certificates, attacks)
            stopped = f"{attacks.reached} of {len(attacks)} rows attacked" * attacks.stopped
    if out is not None:
        certificates.save(out)
    document = {
        "model": model,
        "data": data,
        "epsilon": epsilon,
        **_answers(certificates, epsilon),
        **rows.treatment,
        "normalisation": dict(loaded.units),
        **said_by(certificates),
    }
    verified = document.get("verified_accuracy", 1.0)
    code = BELOW if fail_under is not None and verified < fail_under else 0
    return Answer(
        document,
        lambda: certificates_table(certificates, epsilon, rows.scale),
        as_json,
        code,
        stopped,
    )


def _answers(certificates: "Certificates", epsilon: float) -> dict[str, object]:
    """Return what certificates say at a distance: about classes, or about numbers."""
    if certificates.has_classes:
        return {
            "clean_accuracy": certificates.clean_accuracy,
            "verified_accuracy": certificates.verified_accuracy(epsilon),
        }
    return {
        "output_change": certificates.output_change(epsilon).tolist(),
        "loss_change": certificates.loss_change(epsilon).tolist(),
    }
