"""The nearest adversarials of every row, with what exactly they show."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, overload

import torch
from torch import Tensor

from holdfast.arguments import NORMS, check_number
from holdfast.documents import Saved
from holdfast.files import plain_fields
from holdfast.results import ChartedResult
from holdfast.rows import RowResult, each, tally


@dataclass(frozen=True, eq=False, repr=False)
class Attacks(Saved, RowResult, ChartedResult):
    """One attack per input row, in input order; `attacks[:3]` are those of three rows.

    Attributes:
        distance: [N] float64, in input units: how far the adversarial is from its row as both are
            stored, rounded up, so that there is an adversarial within this distance; 0 for a row
            that is wrong to begin with, inf where none was found.
        adversarial: [N, ...], in the model's type: an input that the model, run on it, does not
            give the label; the row itself where there is none.
        predicted: [N] int64, the model's answer there; -1 where its logits are not finite.
        labels: [N] int64.
        reason: Per row: `found`, `misclassified` (nothing has to be moved), `none_found` (which
            does not show that there is none), `not_finite` (the row or its logits), or
            `not_attacked` (the time was spent, or the user interrupted, before).
        norm: 1, 2 or inf.
        epsilon: Distance within which adversarials were looked for; inf: the nearest ones.
        units: Units of the entries of a row, flattened, in which distances are measured; 0 where an
            entry keeps its value. Empty for ones.
        onehot: Groups of entries of the flattened row that hold one 1 among 0s in adversarials too.
        fingerprint: SHA-256 of the model's weights.
        seed: Of the random starts.
        stopped: Whether the user interrupted it: more might have been found.
    """

    FORMAT: ClassVar = "holdfast.attacks/1"
    PER_ROW: ClassVar = ("distance", "adversarial", "predicted", "labels", "reason")

    distance: Annotated[Tensor, torch.float64]
    adversarial: Tensor
    predicted: Annotated[Tensor, torch.int64]
    labels: Annotated[Tensor, torch.int64]
    reason: tuple[str, ...]
    norm: float
    epsilon: float
    units: Annotated[Tensor, torch.float64]
    onehot: tuple[tuple[int, ...], ...]
    fingerprint: str
    seed: int
    stopped: bool

    @property
    def success(self) -> Tensor:
        """[N] bool: whether an input that is not given the label is known, the row included."""
        return torch.isfinite(self.distance)

    @property
    def reached(self) -> int:
        """Number of rows that were attacked, or needed no attack."""
        return len(self) - self.reason.count("not_attacked")

    @overload
    def accuracy_under_attack(self, epsilon: float | str) -> float: ...
    @overload
    def accuracy_under_attack(
        self, epsilon: list[Any] | tuple[Any, ...] | Tensor
    ) -> list[float]: ...
    def accuracy_under_attack(self, epsilon: Any) -> float | list[float]:
        """Return the share of all rows that are right and for which no attack within `epsilon` won.

        It is an upper bound of the share that is right everywhere within `epsilon`, as the model
        is executed.

        Args:
            epsilon: Distance in input units, at least 0 and at most the one that was attacked, such
                as 0.1 or "2/255"; or several.

        Returns:
            The share; for several distances a list of shares.

        Raises:
            InvalidInput: When it is not.
        """
        return each(epsilon, self._right_within)

    def _right_within(self, epsilon: object) -> float:
        """Return the accuracy under attack at one distance."""
        wanted = f"a distance from 0 to {self.epsilon:g}"
        distance = check_number("epsilon", epsilon, lambda e: 0 <= e <= self.epsilon, wanted)
        return float((self._surviving() > distance).double().mean())

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return the accuracy under attack against the distance, as a step function.

        Returns:
            Distances, from 0, ascending, and the share of rows that survive them, both float64 of
            one length; the share holds from its distance to the next.
        """
        surviving = self._surviving()
        finite = surviving[torch.isfinite(surviving)]
        distances = torch.cat([torch.zeros(1, dtype=torch.float64), finite]).unique()
        larger = len(self) - torch.searchsorted(surviving.sort().values, distances, right=True)
        return distances, larger.double() / len(self)

    def _surviving(self) -> Tensor:
        """Return up to which distance each row survived; 0 where its logits are not finite."""
        unknown = torch.tensor([reason == "not_finite" for reason in self.reason])
        return torch.where(unknown, 0.0, self.distance)

    def counts(self) -> dict[str, int]:
        """Return how many rows have each reason, most first."""
        return tally(self.reason)

    def document(self) -> dict[str, Any]:
        """Return everything but the adversarials, as JSON knows it; None for infinity."""
        return plain_fields(self, "adversarial")

    def coherent(self) -> bool:
        """Return whether every row has all its entries, and they agree with its reason."""
        rows = len(self.distance)
        per_row = (getattr(self, name) for name in self.PER_ROW)
        if not self.adversarial.dim() or any(len(entries) != rows for entries in per_row):
            return False
        wrong = self.predicted != self.labels
        each = zip(self.distance.tolist(), wrong.tolist(), self.reason, strict=True)
        known = self.norm in NORMS and self.epsilon >= 0
        return known and all(_row_coherent(*row, self.epsilon) for row in each)


def _row_coherent(distance: float, wrong: bool, reason: str, epsilon: float) -> bool:
    if reason == "found":
        return wrong and 0 < distance <= epsilon and distance < math.inf
    if reason == "misclassified":
        return wrong and distance == 0
    return reason in ("none_found", "not_finite", "not_attacked") and distance == math.inf
