"""Certified radii, row by row, with what exactly they claim."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from holdfast.documents import StrPath
from holdfast.errors import InvalidInput
from holdfast.graph.ir import Graph
from holdfast.rounding import mul_up, sqrt_up

PER_ROW = ("radius", "margin", "predicted", "labels", "reason", "method")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a proof in a file starts from.

    Attributes:
        graph: The classifier.
        inputs: [N, ...], the rows as they were given.
    """

    graph: Graph
    inputs: Tensor


@dataclass(frozen=True, eq=False)
class Certificates:
    """One certificate per input row, in input order.

    Attributes:
        radius: [N] float64, in input units, rounded down: every input within this distance has
            the same predicted class, and it is the label's. 0 where nothing is certified.
        margin: [N] float64: lower bound of the label's logit minus the largest other one.
        predicted: [N] int64, class of the largest logit; -1 where the logits are not finite.
        labels: [N] int64.
        reason: Per row: `certified`, `misclassified`, `tie`, `within_rounding`, `not_finite`,
            `unbounded_constant`; every radius of 0 has one that says why.
        method: Per row: what gave the radius.
        norm: 1, 2 or inf.
        semantics: `real`: the exact real function of the stored weights.
        guarantee: What a radius claims, in one sentence.
        fingerprint: SHA-256 of the model's weights.
        constant: Upper bound of the Lipschitz constant from inputs to logits.
        classes: Number of logits.
        evidence: What `save` makes a proof from; None once loaded from a file.
    """

    radius: Tensor
    margin: Tensor
    predicted: Tensor
    labels: Tensor
    reason: tuple[str, ...]
    method: tuple[str, ...]
    norm: float
    semantics: str
    guarantee: str
    fingerprint: str
    constant: float
    classes: int
    evidence: Evidence | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.radius)

    @property
    def clean_accuracy(self) -> float:
        """Share of all rows whose predicted class is the label."""
        return float((self.predicted == self.labels).double().mean())

    def verified_accuracy(self, epsilon: float) -> float:
        """Return the share of all rows that are correct with a radius above `epsilon`.

        Args:
            epsilon: Distance in input units, at least 0.

        Raises:
            InvalidInput: When epsilon is negative or NaN.
        """
        _check_epsilon(epsilon)
        return float((self.radius > epsilon).double().mean())

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return the verified accuracy against the distance, as a step function.

        Returns:
            Distances, from 0, ascending, and the share of rows with a larger radius, both
            float64 of one length; the share holds from its distance to the next.
        """
        finite = self.radius[torch.isfinite(self.radius)]
        distances = torch.cat([torch.zeros(1, dtype=torch.float64), finite]).unique()
        larger = len(self) - torch.searchsorted(self.radius.sort().values, distances, right=True)
        return distances, larger.double() / len(self)

    def output_change(self, epsilon: float) -> Tensor:
        """Return a proved bound of how far the logits can move within `epsilon`, in the norm.

        Returns:
            [N] float64: sup ||f(x') - f(x)|| over ||x' - x|| <= epsilon, bounded above.
        """
        _check_epsilon(epsilon)
        bound = mul_up(self.constant, epsilon)
        return torch.full((len(self),), bound, dtype=torch.float64)

    def loss_change(self, epsilon: float) -> Tensor:
        """Return a proved bound of how far the cross entropy can move within `epsilon`.

        The gradient of the cross entropy in the logits is softmax minus one-hot: its l2 length is
        at most sqrt(2), its l1 length 2 and its largest entry 1.

        Returns:
            [N] float64, in nats.
        """
        steepest = {1.0: 1.0, 2.0: sqrt_up(2.0), math.inf: 2.0}[self.norm]
        bound = self.output_change(epsilon)
        return torch.nextafter(bound * steepest, torch.full_like(bound, math.inf))

    def counts(self) -> dict[str, int]:
        """Return how many rows have each reason, most first."""
        every = sorted(set(self.reason), key=lambda reason: -self.reason.count(reason))
        return {reason: self.reason.count(reason) for reason in every}

    def save(self, path: StrPath) -> None:
        """Write a certificate file with its proof, for `holdfast check`; see `docs/check.md`.

        Args:
            path: The JSON file; the arrays of the proof go beside it. What is there is replaced.
        """
        from holdfast.certificates.file import save

        save(self, Path(path))

    @classmethod
    def load(cls, path: StrPath) -> "Certificates":
        """Return what `save` wrote, as it was before; this does not check the proof.

        Raises:
            InvalidInput: When the file is not a certificate file of this version.
        """
        from holdfast.certificates.file import load

        return load(Path(path))

    def coherent(self) -> bool:
        """Return whether every row has all its entries, and radii and reasons agree."""
        rows = len(self.radius)
        if any(len(getattr(self, name)) != rows for name in PER_ROW) or not self.constant >= 0:
            return False
        numbers = bool((self.radius >= 0).all()) and not bool(self.margin.isnan().any())
        labels = bool(((self.labels >= 0) & (self.labels < self.classes)).all())
        pairs = zip(self.radius.tolist(), self.reason, strict=True)
        return numbers and labels and all((r > 0) == (why == "certified") for r, why in pairs)


def _check_epsilon(epsilon: float) -> None:
    if not epsilon >= 0:
        raise InvalidInput("epsilon", epsilon, "a distance, at least 0")
