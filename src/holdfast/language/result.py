"""What is known of every text whose words may be replaced."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from holdfast.documents import AnyText, Saved
from holdfast.files import plain_fields
from holdfast.rows import RowResult, tally


@dataclass(frozen=True)
class WordChange:
    """What a replacement of one word does.

    Attributes:
        place: Number of the word in its text, from 0.
        word: As it is written.
        replacement: What stands for it; empty where it is left out.
        loss_change: Loss of the changed text less that of the text, in nats; for a function that
            answers classes alone, 1.0 where the answer is wrong then, and 0.0 elsewhere.
    """

    place: int
    word: AnyText
    replacement: AnyText
    loss_change: float


@dataclass(frozen=True, eq=False, repr=False)
class SubstitutionCertificates(Saved, RowResult):
    """One answer for every text, in their order; `result[:3]` are those of three texts.

    Attributes:
        outcome: Per text: `certified` (every text within the budget was run and gets the label),
            `refuted` (one that does not is known), or `unknown`.
        counterexample: Per text: one that gets another answer, the text itself where it is wrong
            without a change; None where none is known.
        tried: [N] int64, distinct texts that were run, itself included.
        combinations: [N] int64, texts within the budget, itself included; at most 2^63 - 1.
        predicted: [N] int64, the answer to the text itself; -1 where two classes tie, or it was
            not reached.
        labels: [N] int64.
        margin: [N] float64, the smallest margin among the texts that were run, in logits; inf
            where the model answers classes alone.
        brittle: Per text, for each of its words that was replaced by all that may stand for it: the
            replacement that moves the loss most; most moved first.
        finished: Per text without a decision: the sets of words all of whose replacements were run.
        texts: [N].
        budget: Words that may be replaced at once.
        substitutions: SHA-256 of what may stand for the words of the texts.
        fingerprint: SHA-256 of the model's weights; empty for a function.
    """

    FORMAT: ClassVar = "holdfast.language.substitutions/1"
    PER_ROW: ClassVar = (
        "outcome", "counterexample", "tried", "combinations", "predicted", "labels", "margin",
        "brittle", "finished", "texts",
    )  # fmt: skip

    outcome: tuple[str, ...]
    counterexample: tuple[AnyText | None, ...]
    tried: Annotated[Tensor, torch.int64]
    combinations: Annotated[Tensor, torch.int64]
    predicted: Annotated[Tensor, torch.int64]
    labels: Annotated[Tensor, torch.int64]
    margin: Annotated[Tensor, torch.float64]
    brittle: tuple[tuple[WordChange, ...], ...]
    finished: tuple[tuple[tuple[int, ...], ...], ...]
    texts: tuple[AnyText, ...]
    budget: int
    substitutions: str
    fingerprint: str

    @property
    def certified_accuracy(self) -> float:
        """The share of all texts that are certified."""
        return self.outcome.count("certified") / len(self)

    @property
    def clean_accuracy(self) -> float:
        """The share of all texts that get their label as they are."""
        return float((self.predicted == self.labels).double().mean())

    @property
    def reached(self) -> int:
        """How many texts were looked at before the user stopped the search."""
        return int((self.tried > 0).sum())

    def counts(self) -> dict[str, int]:
        """Return how many texts have each outcome, most first."""
        return tally(self.outcome)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON knows it; None for infinity."""
        return plain_fields(self, "finished")

    def coherent(self) -> bool:
        """Return whether every text has all its entries, and they agree with its outcome."""
        columns = [getattr(self, name) for name in self.PER_ROW]
        if any(len(column) != len(self.outcome) for column in columns) or self.budget < 0:
            return False
        right = (self.predicted == self.labels).tolist()
        rows = zip(self.outcome, self.counterexample, right, self.margin.tolist(), strict=True)
        return all(_coherent(*row) for row in rows)


def _coherent(outcome: str, counterexample: str | None, right: bool, margin: float) -> bool:
    if outcome == "refuted":
        return counterexample is not None
    return (
        outcome in ("certified", "unknown")
        and counterexample is None
        and (outcome == "unknown" or (right and margin > 0))
    )
