"""Certified radii, row by row, with what exactly they claim."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, overload

import torch
from torch import Tensor

from holdfast.arguments import NORMS, check_distance, check_number
from holdfast.certificates.change import Changes
from holdfast.certificates.files import PER_ROW, load_claimed, load_proved, save
from holdfast.documents import checked_result, encode, load_result, save_result
from holdfast.errors import InvalidInput
from holdfast.files import StrPath, check_path, plain_fields, read_json
from holdfast.results import ChartedResult
from holdfast.rounding import mul_up, sqrt_up
from holdfast.rows import RowResult, each, tally
from holdfast.smoothing.noise import EDITS
from holdfast.smoothing.votes import Votes

_SMOOTHED = "holdfast.smoothed/1"


@dataclass(frozen=True, eq=False, repr=False)
class Certificates(RowResult, ChartedResult):
    """One certificate per input row, in input order; `certificates[:3]` are those of three rows.

    Attributes:
        radius: [N] float64, in input units, rounded down: every input within this distance has
            the same predicted class, and it is the label's. 0 where nothing is certified, and
            for targets, which have no class.
        margin: [N] float64: lower bound of the label's logit minus the largest other one; for a
            smoothed model, of its probability minus that of all others.
        predicted: [N] int64, class of the largest logit; -1 where the logits are not finite.
        labels: [N] int64; [N, outputs] float64 for targets.
        reason: Per row: `certified`, `misclassified`, `tie`, `within_rounding`, `not_finite`,
            `unbounded_constant`, `not_bounded`, `may_overflow`, `no_class`, `not_proved`,
            `stopped`; of a smoothed model also `abstained` (no majority is shown) and
            `under_one_edit` (one is, for less than one edit); every radius of 0 has one.
        method: Per row: what gave the radius, `global` or `local`; `enumeration` where a change of
            categories alone ends it.
        norm: 1, 2 or inf; 0 for the edit distance of texts.
        semantics: What a radius is about. `real`: the exact real function of the stored weights;
            `float32`: the network as executed, in any order of summation; `smoothed`: the majority
            of its answers under noise, with a confidence.
        guarantee: What a radius claims, in one sentence.
        fingerprint: SHA-256 of the model's weights.
        constant: Upper bound of the Lipschitz constant from inputs to logits.
        classes: Number of classes.
        threshold: Of a model with one logit, which is class 1 above it; any other has no use of it.
        units: Units of the entries of a row, flattened, in which distances are measured; 0 where an
            entry keeps its value. Empty for ones.
        onehot: Groups of entries of the flattened row that hold one 1 among 0s in rows that moved.
        changes: The model and the rows, for bounds of change around each row and for the proof in a
            file; None once loaded from a file.
        smoothing: Noise, confidence, counts and seeds of a smoothed model; None for any other.
    """

    PER_ROW: ClassVar = (*PER_ROW, "changes", "smoothing")

    radius: Annotated[Tensor, torch.float64]
    margin: Annotated[Tensor, torch.float64]
    predicted: Annotated[Tensor, torch.int64]
    labels: Annotated[Tensor, torch.int64]
    reason: tuple[str, ...]
    method: tuple[str, ...]
    norm: float
    semantics: str
    guarantee: str
    fingerprint: str
    constant: float
    classes: int
    threshold: float
    units: Annotated[Tensor, torch.float64]
    onehot: tuple[tuple[int, ...], ...]
    changes: Changes | None = field(default=None, repr=False)
    smoothing: Votes | None = None

    @property
    def clean_accuracy(self) -> float:
        """Share of all rows whose predicted class is the label.

        Raises:
            InvalidInput: When labels are targets.
        """
        self._check_classes()
        return float((self.predicted == self.labels).double().mean())

    @overload
    def verified_accuracy(self, epsilon: float | str) -> float: ...
    @overload
    def verified_accuracy(self, epsilon: list | tuple | Tensor) -> list[float]: ...
    def verified_accuracy(self, epsilon: Any) -> float | list[float]:
        """Return the share of all rows that are correct with a radius above `epsilon`.

        Edits are whole numbers: it is the share of texts that are certified for `epsilon` edits or
        more, and for less than one edit that of texts whose label is shown to have the majority.

        Args:
            epsilon: Distance in input units, at least 0, such as 0.1 or "2/255"; or several.

        Returns:
            The share; for several distances a list of shares.

        Raises:
            InvalidInput: When epsilon is negative or NaN, or labels are targets.
        """
        self._check_classes()
        return each(epsilon, self._verified)

    def _verified(self, epsilon: object) -> float:
        """Return the verified accuracy at one distance."""
        wanted = "a distance, at least 0"
        distance = check_number("epsilon", epsilon, lambda number: number >= 0, wanted)
        if self.norm != EDITS:
            return float((self.radius > distance).double().mean())
        reached = self.radius >= distance if distance >= 1.0 else self.margin > 0.0
        return float(reached.double().mean())

    def curve(self) -> tuple[Tensor, Tensor]:
        """Return the verified accuracy against the distance, as a step function.

        Returns:
            Distances, from 0, ascending, and the share of rows with a larger radius, both
            float64 of one length; the share holds from its distance to the next.
        """
        if self.norm == EDITS:
            edits = torch.arange(int(self.radius.max()) + 2, dtype=torch.float64)
            shares = [self._verified(number) for number in edits.tolist()]
            return edits, torch.tensor(shares, dtype=torch.float64)
        finite = self.radius[torch.isfinite(self.radius)]
        distances = torch.cat([torch.zeros(1, dtype=torch.float64), finite]).unique()
        larger = len(self) - torch.searchsorted(self.radius.sort().values, distances, right=True)
        return distances, larger.double() / len(self)

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes; where not, they are the targets of a regression."""
        return not self.labels.is_floating_point()

    @property
    def reached(self) -> int:
        """Number of rows that were done with: all of them, unless the user stopped before."""
        return len(self) - self.reason.count("stopped")

    def _check_classes(self) -> None:
        """Refuse what needs classes.

        Raises:
            InvalidInput: When labels are targets.
        """
        if not self.has_classes:
            raise InvalidInput("labels", "targets", "classes; for targets use output_change")

    def output_change(self, epsilon: float) -> Tensor:
        """Return a proved bound of how far the outputs can move within `epsilon`, in the norm.

        It is about the exact real function of the stored weights, whatever the semantics.

        Args:
            epsilon: Distance in input units, at least 0.

        Returns:
            [N] float64: sup ||f(x') - f(x)|| over ||x' - x|| <= epsilon, bounded above by the
            global constant, and by bounds on the ball around each row where the model is at hand.

        Raises:
            InvalidInput: When epsilon is negative or NaN.
            Unsupported: When the process flushes subnormal numbers to zero.
        """
        epsilon = check_distance("epsilon", epsilon)
        everywhere = self.radius.new_full((len(self),), mul_up(self.constant, epsilon))
        return self._nearer(everywhere, self.changes and self.changes.output(epsilon))

    def loss_change(self, epsilon: float) -> Tensor:
        """Return a proved bound of how far the loss of each row can move within `epsilon`.

        The loss is the cross entropy, whose gradient in the logits is softmax minus one-hot: its
        l2 length is at most sqrt(2), its l1 length 2 and its largest entry 1. For targets it is
        the mean squared error over the outputs.

        Args:
            epsilon: Distance in input units, at least 0.

        Returns:
            [N] float64, in nats for the cross entropy.

        Raises:
            InvalidInput: When epsilon is negative or NaN, or labels are targets and the model is
                not at hand.
            Unsupported: When the process flushes subnormal numbers to zero.
        """
        epsilon = check_distance("epsilon", epsilon)
        around = None if self.changes is None else self.changes.loss(epsilon)
        if not self.has_classes:
            if around is None:
                raise InvalidInput("path", "certificates of targets from a file", "the model")
            return around
        steepest = {1.0: 1.0, 2.0: sqrt_up(2.0), math.inf: 2.0, EDITS: 2.0}[self.norm]
        change = mul_up(self.constant, epsilon, steepest)
        return self._nearer(self.radius.new_full((len(self),), change), around)

    def _nearer(self, everywhere: Tensor, around: Tensor | None) -> Tensor:
        """Return the smaller bound of each row; a row that is not finite has none."""
        known = torch.tensor([reason != "not_finite" for reason in self.reason])
        best = everywhere if around is None else torch.minimum(everywhere, around)
        return torch.where(known, best, math.inf)

    def counts(self) -> dict[str, int]:
        """Return how many rows have each reason, most first."""
        return tally(self.reason)

    def document(self) -> dict[str, Any]:
        """Return all fields, as JSON knows them; None for infinity."""
        return plain_fields(self)

    def save(self, path: StrPath) -> None:
        """Write a certificate file with its proof, for `holdfast check`; see `docs/check.md`.

        Of a smoothed model it holds the counts, from which every radius follows.

        Args:
            path: The JSON file; the arrays of the proof go beside it. Files that Holdfast wrote
                before are replaced.

        Raises:
            InvalidInput: When labels are targets, or the path cannot be written.
        """
        self._check_classes()
        if self.smoothing is not None:
            save_result(self, _SMOOTHED, path)
            return
        fields = {name: value for name, value in encode(self).items() if name != "smoothing"}
        save(fields, self.radius, self.changes, check_path(path, "path"))

    @classmethod
    def load(cls, path: StrPath, claimed: bool = False) -> "Certificates":
        """Return the certificates that a file of `save` proves, after checking its proof.

        Every radius is at most what was certified, and in full where the method was `global`, up to
        the accuracy of the proof. `not_proved` is the reason of rows without a proved radius, and
        no `constant` is known. Predicted classes, labels and other reasons are as the file says.
        Radii of a smoothed model are computed again, from counts that are as the file says.

        Args:
            path: The JSON file, with the arrays of its proof beside it.
            claimed: Return what the file says instead, as it was before `save`, and check nothing.
                Whoever wrote the file may have claimed anything: for files of your own.

        Raises:
            InvalidInput: When the file is not a certificate file of this version, was changed after
                it was written, or does not prove what it says it does.
            MissingExtra: When the checker is not installed.
        """
        place = check_path(path, "path")
        document = read_json(place, "path")
        if isinstance(document, dict) and document.get("format") == _SMOOTHED:
            return load_result(cls, _SMOOTHED, place)
        return checked_result(cls, (load_claimed if claimed else load_proved)(place), {}, path)

    def coherent(self) -> bool:
        """Return whether every row has all its entries, and radii and reasons agree."""
        rows = len(self.radius)
        per_row = (getattr(self, name) for name in PER_ROW)
        if any(len(entries) != rows for entries in per_row) or not self.constant >= 0:
            return False
        certified = torch.tensor([why == "certified" for why in self.reason], dtype=torch.bool)
        agree = torch.equal(self.radius > 0, certified) and not bool(
            (certified & (self.predicted != self.labels)).any()
        )
        numbers = bool((self.radius >= 0).all()) and not bool(self.margin.isnan().any())
        labels = bool(((self.labels >= 0) & (self.labels < self.classes)).all())
        if self.smoothing is not None:
            return agree and numbers and labels and self._recounted(self.smoothing)
        known = self.norm in NORMS and self.semantics in ("real", "float32")
        return agree and numbers and labels and known

    def _recounted(self, votes: Votes) -> bool:
        """Return whether radii and margins are those that the counts give."""
        if not votes.coherent(len(self.radius)) or self.norm != votes.options.noise.norm:
            return False
        same = self.semantics == "smoothed" and {*self.method} == {"smoothing"}
        smaller = bool((self.margin <= 2.0 * votes.p_lower - 1.0).all())
        return same and smaller and torch.equal(self.radius, votes.radius)
