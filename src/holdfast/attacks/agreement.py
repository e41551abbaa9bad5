"""Certificates and attacks side by side: they must not contradict each other."""

import torch
from torch import Tensor

from holdfast.attacks.result import Attacks
from holdfast.certificates.certificate import Certificates
from holdfast.errors import InternalError, InvalidInput
from holdfast.graph.ir import Graph
from holdfast.graph.running import evaluate
from holdfast.graph.single import with_two_logits
from holdfast.types import norm_name


def check_agreement(graph: Graph, certificates: Certificates, attacks: Attacks) -> tuple[int, ...]:
    """Stop when an attack lies inside a certified ball.

    A certificate with semantics `real` is about the exact real function of the weights, while an
    attack is what the model answers when it is run. It is contradicted where another logit is
    proved to be larger than the label's at the adversarial, rounding included; a row that is
    attacked inside its ball without such a proof may owe that to the rounding of the run. A
    certificate about the model as executed is contradicted by the run itself.

    Args:
        graph: The captured model.
        certificates: Of some rows.
        attacks: Of the same rows, in the same norm.

    Returns:
        The rows that are attacked inside their ball by rounding alone.

    Raises:
        InternalError: When a certificate is contradicted.
        InvalidInput: When the two are not about the same model, labels and norm.
    """
    _check_same(graph, certificates, attacks)
    graph = with_two_logits(graph, certificates.threshold)
    # Distances are rounded up: an adversarial at most this far lies within the closed ball.
    inside = (attacks.distance <= certificates.radius) & (certificates.radius > 0)
    rows = (inside & attacks.success).nonzero().flatten()
    if not len(rows):
        return ()
    proved = torch.ones(len(rows), dtype=torch.bool)
    if certificates.semantics == "real":
        # So many rows at once keep the largest nodes of ordinary nets within a few hundred MB.
        parts = [
            _surely_lost(graph, attacks.adversarial[part], attacks.labels[part])
            for part in rows.split(256)
        ]
        proved = torch.cat(parts)
    for row in rows[proved].tolist():
        raise InternalError(_contradiction(row, certificates, attacks))
    return tuple(rows.tolist())


def _surely_lost(graph: Graph, points: Tensor, labels: Tensor) -> Tensor:
    """Return where another logit is proved to be larger than the label's [R] bool."""
    logits = evaluate(graph, points)
    lower, upper = logits.value - logits.error, logits.value + logits.error
    # One step outward covers the rounding of the sums.
    lower = torch.nextafter(lower, torch.full_like(lower, -torch.inf))
    upper = torch.nextafter(upper, torch.full_like(upper, torch.inf))
    own = upper.gather(1, labels[:, None])
    others = lower.scatter(1, labels[:, None], -torch.inf)
    return (others > own).any(1)


def _check_same(graph: Graph, certificates: Certificates, attacks: Attacks) -> None:
    if certificates.smoothing is not None:
        got = "those of a smoothed model, which is not the one that was attacked"
        raise InvalidInput("certificates", got, "certificates of the model itself")
    same = certificates.norm == attacks.norm and torch.equal(certificates.labels, attacks.labels)
    same = same and torch.equal(certificates.units, attacks.units)
    same = same and certificates.onehot == attacks.onehot
    hashes = {graph.fingerprint, certificates.fingerprint, attacks.fingerprint}
    if not same or len(hashes) > 1:
        got = "attacks on another model, with other labels, in another norm, other units or groups"
        raise InvalidInput("attacks", got, "those of the certificates")


def _contradiction(row: int, certificates: Certificates, attacks: Attacks) -> str:
    distance = f"{norm_name(attacks.norm)} distance {float(attacks.distance[row])!r}"
    return (
        f"row {row}: class {int(attacks.predicted[row])} instead of {int(attacks.labels[row])} at "
        f"{distance}, inside the certified radius {float(certificates.radius[row])!r} "
        f"({certificates.semantics} semantics, method {certificates.method[row]}, "
        f"model {attacks.fingerprint[:16]}): a certificate is wrong"
    )
