"""The verb that refutes: texts with few words changed that get another answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from holdfast.arguments import check_whole
from holdfast.documents import AnyText, Saved
from holdfast.errors import InvalidInput
from holdfast.files import plain_fields
from holdfast.language.answers import text_model
from holdfast.language.certify import check_texts, warn_of_cuts
from holdfast.language.edits import mistyped
from holdfast.language.neighbours import Neighbours
from holdfast.language.search import Search
from holdfast.language.substitutions import Choices, Substitutions
from holdfast.rows import RowResult, tally
from holdfast.types import Progress, Report, silent


@dataclass(frozen=True, eq=False, repr=False)
class TextAttacks(Saved, RowResult):
    """One attack for every text, in their order; `attacks[:3]` are those of three texts.

    Attributes:
        adversarial: Per text: one that does not get the label; None where none was found.
        changed: [N] int64, how many words differ there; 0 where the text itself is wrong or none
            was found.
        queries: [N] int64, texts that were run, itself included.
        predicted: [N] int64, the answer to the text itself; -1 where two classes tie.
        labels: [N] int64.
        reason: Per text: `found`, `misclassified` or `none_found`, which shows nothing.
        texts: [N].
        budget: Words that may be changed at once.
    """

    FORMAT: ClassVar = "holdfast.language.attacks/1"
    PER_ROW: ClassVar = (
        "reason", "adversarial", "changed", "queries", "predicted", "labels", "texts",
    )  # fmt: skip

    adversarial: tuple[AnyText | None, ...]
    changed: Annotated[Tensor, torch.int64]
    queries: Annotated[Tensor, torch.int64]
    predicted: Annotated[Tensor, torch.int64]
    labels: Annotated[Tensor, torch.int64]
    reason: tuple[str, ...]
    texts: tuple[AnyText, ...]
    budget: int

    @property
    def accuracy_under_attack(self) -> float:
        """The share of all texts that are right and for which no attack won."""
        return self.reason.count("none_found") / len(self)

    def counts(self) -> dict[str, int]:
        """Return how many texts have each reason, most first."""
        return tally(self.reason)

    def document(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return plain_fields(self)

    def coherent(self) -> bool:
        """Return whether every text has all its entries, and they agree with its reason."""
        columns = [getattr(self, name) for name in self.PER_ROW]
        if any(len(column) != len(self.reason) for column in columns):
            return False
        won = ("found", "misclassified")
        known = all(reason in (*won, "none_found") for reason in self.reason)
        each = zip(self.reason, self.adversarial, strict=True)
        return known and all((text is not None) == (reason in won) for reason, text in each)


def attack_texts(  # noqa: PLR0913 - as for the other verbs
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    labels: Tensor | Sequence[int],
    substitutions: Substitutions | None = None,
    budget: int | None = None,
    *,
    typos: bool = False,
    queries: int = 1000,
    width: int = 4,
    report: Report = silent,
) -> TextAttacks:
    """Look, text by text, for one with few words changed that does not get the label.

    Every change of one word is tried first: the drop of the margin tells which words matter. Then
    the best changes are put together, word after word, and the best texts are changed further (a
    beam search). What is found was run and gets another answer; that nothing is found shows
    nothing: `holdfast.certify_substitutions` tries all.

    Args:
        model: As for `certify_substitutions`.
        tokenizer: As for `certify_substitutions`.
        texts: N of them.
        labels: [N], class numbers.
        substitutions: Which words may stand for a word; None for typing mistakes alone.
        budget: Words that may be changed at once; None for all.
        typos: Whether words may also be mistyped: two letters swapped, one left out, doubled, or
            struck beside its key; the first and the last letter stay.
        queries: Most texts that are run around each text.
        width: How many texts are kept from step to step.
        report: Called with the progress.

    Returns:
        One attack per text, in their order. The same call gives the same result.

    Warns:
        HoldfastWarning: Where the model leaves out the end of a text.

    Raises:
        Unsupported: When a module is in training mode.
        InvalidInput: When an argument is not usable.

    >>> def answer(texts):
    ...     return [int(text.count("good") > 1) for text in texts]
    >>> attacks = attack_texts(answer, None, ["good film, good cast"], [1], typos=True)
    >>> attacks.reason, attacks.adversarial
    (('found',), ('god film, good cast',))
    """
    reader = text_model(model, tokenizer)
    texts, classes = check_texts(texts, labels)
    if substitutions is None and not typos:
        raise InvalidInput("substitutions", "None", "a table of words, or typos=True")
    wanted = "a whole number, at least 1"
    most = check_whole("queries", queries, wanted, least=1)
    width = check_whole("width", width, wanted, least=1)
    budget = None if budget is None else check_whole("budget", budget, wanted, least=1)
    warn_of_cuts(reader, texts)
    choices = _choices(substitutions, typos)
    found = []
    for row, (text, label) in enumerate(zip(texts, classes.tolist(), strict=True)):
        report(Progress("texts", row, len(texts)))
        search = Search(reader, Neighbours.of(text, choices), label, lambda: False, most=most)
        search.begin()
        if search.found is None:
            search.replace_one(until_found=True)
            search.climb(budget or len(search.around.open), width)
        found.append(search)
    return TextAttacks(
        adversarial=tuple(search.counterexample for search in found),
        changed=torch.tensor([len(search.found or ()) for search in found]),
        queries=torch.tensor([search.tried for search in found]),
        predicted=torch.tensor([search.predicted for search in found]),
        labels=classes,
        reason=tuple(_reason(search) for search in found),
        texts=texts,
        budget=budget or max(len(search.around.text.words) for search in found),
    )


def _choices(substitutions: Substitutions | None, typos: bool) -> Choices:
    """Return what may stand for a word: what the user says, then mistakes."""
    table = Choices({} if substitutions is None else substitutions)
    return Choices(lambda word: (*table.of_word(word), *mistyped(word))) if typos else table


def _reason(search: Search) -> str:
    if search.found is None:
        return "none_found"
    return "found" if search.predicted == search.label else "misclassified"
