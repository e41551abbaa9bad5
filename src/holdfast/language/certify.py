"""The verb: does any text within so many replaced words get another answer?"""

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.arguments import check_labels, check_number, check_whole, shown
from holdfast.brackets.lower.ascent import within
from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.graph.capture import weights_hash
from holdfast.language.answers import TextModel, TokenModel, text_model
from holdfast.language.neighbours import Neighbours
from holdfast.language.result import SubstitutionCertificates
from holdfast.language.search import Search
from holdfast.language.substitutions import Choices, Substitutions
from holdfast.types import Progress, Report, silent


def certify_substitutions(  # noqa: PLR0913 - the signature is the contract's
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    labels: Tensor | Sequence[int],
    substitutions: Substitutions,
    budget: int = 1,
    *,
    deletions: bool = False,
    seconds: float = math.inf,
    resume: SubstitutionCertificates | None = None,
    report: Report = silent,
) -> SubstitutionCertificates:
    """Find out, text by text, whether replacing at most `budget` words can change the answer.

    Every text within the budget is run: what is certified was tried, word by word, and nothing is
    said of other texts. A text's answer is the one that it gets alone, in the precision of the
    model; that it has a margin above the rounding of the batch it is run in is checked, and it is
    run alone where it has not.

    Args:
        model: A classifier in eval mode that takes what the tokenizer gives, by keyword; or any
            function from a list of texts to class numbers [N] or logits [N, classes].
        tokenizer: As those of Hugging Face transformers; None for a function.
        texts: N of them.
        labels: [N], class numbers.
        substitutions: Which words may stand for a word: a table, or a function of the word. A
            table is asked for the word as it is written, then in small letters, and its answer is
            written in capitals as the word is.
        budget: Words that may be replaced at once. With more than 2, a text with more than 100,000
            texts around it is refuted or stays unknown.
        deletions: Whether words may also be left out, all but one.
        seconds: Time for all texts; what is not decided then is unknown.
        resume: What an earlier call with the same arguments found; its answers are kept, and the
            search goes on where it stopped.
        report: Called with the progress.

    Returns:
        One outcome per text, in their order.

    Warns:
        HoldfastWarning: Where the model leaves out the end of a text, which is then not looked at;
            where the user interrupts: texts that were not reached are unknown.

    Raises:
        Unsupported: When a module is in training mode.
        InvalidInput: When an argument is not usable.

    >>> def answer(texts):
    ...     return [int("good" in text or "fine" in text) for text in texts]
    >>> texts, table = ["a good film", "a good plot"], {"good": ["fine", "dull"], "film": ["movie"]}
    >>> found = certify_substitutions(answer, None, texts, [1, 1], {"good": ["fine"]})
    >>> found.outcome, found.combinations.tolist()
    (('certified', 'certified'), [2, 2])
    >>> certify_substitutions(answer, None, texts, [1, 1], table).counterexample
    ('a dull film', 'a dull plot')
    """
    reader = text_model(model, tokenizer)
    texts, classes = check_texts(texts, labels)
    budget = check_whole("budget", budget, "a whole number, at least 0", least=0)
    seconds = check_number("seconds", seconds, lambda s: s >= 0, "a time, at least 0")
    warn_of_cuts(reader, texts)
    spent, choices = within(seconds), Choices(substitutions, deletions)
    around = [Neighbours.of(text, choices) for text in texts]
    same = {
        "budget": budget,
        "substitutions": _digest(around),
        "fingerprint": weights_hash(reader.model) if isinstance(reader, TokenModel) else "",
    }
    _check_resumed(resume, same | {"texts": texts, "labels": classes.tolist()})
    rows: list[dict[str, Any]] = []
    searches = [Search(reader, *each, spent) for each in zip(around, classes.tolist(), strict=True)]
    try:
        for row, search in enumerate(searches):
            report(Progress("substitutions", row, len(texts)))
            before = None if resume is None else _row_of(resume, row)
            if before is None or before["outcome"] == "unknown":
                rows.append(_row(search, _decided(search, budget, before), budget))
            else:
                rows.append(before)
    except KeyboardInterrupt:
        warnings.warn(f"stopped: {len(rows)} of {len(texts)} texts", HoldfastWarning, stacklevel=2)
        later = range(len(rows), len(texts))
        # What was found just before is found: a search that goes on from here would not run it.
        ends = ["unknown" if searches[row].found is None else "refuted" for row in later]
        rows += [_row(searches[row], end, budget) for row, end in zip(later, ends, strict=True)]
    columns: dict[str, Any] = {
        name: tuple(row[name] for row in rows) for name in SubstitutionCertificates.PER_ROW
    }
    for name in ("tried", "combinations", "predicted", "labels"):
        columns[name] = torch.tensor(columns[name], dtype=torch.int64)
    columns["margin"] = torch.tensor(columns["margin"], dtype=torch.float64)
    return SubstitutionCertificates(**columns, **same)


def _decided(search: Search, budget: int, before: dict[str, Any] | None) -> str:
    """Return how a text turns out, having run what there is to run."""
    if before is not None:
        search.finished.update(before["finished"])
        search.before, search.margin = before["tried"], before["margin"]
    search.begin()
    if budget and search.found is None:
        search.replace_one()
    several = range(2, min(budget, len(search.around.open)) + 1)
    if budget <= 2 or search.around.count(budget) <= 100_000:
        for size in several:
            if search.found is None and not search.over:
                search.replace_several(size)
    elif search.found is None:
        search.climb(budget)
    if search.found is not None:
        return "refuted"
    return "certified" if search.all_run(budget) else "unknown"


def _row(search: Search, outcome: str, budget: int) -> dict[str, Any]:
    whole = (change for place, change in search.changes.items() if (place,) in search.finished)
    ranked = sorted(whole, key=lambda change: (-abs(change.loss_change), change.place))
    return {
        "outcome": outcome,
        "counterexample": search.counterexample,
        "tried": search.tried,
        "combinations": min(search.around.count(budget), 2**63 - 1),
        "predicted": search.predicted,
        "labels": search.label,
        "margin": search.margin,
        "brittle": tuple(ranked),
        "finished": tuple(sorted(search.finished)) if outcome == "unknown" else (),
        "texts": search.around.text.with_words({}),
    }


def _row_of(known: SubstitutionCertificates, row: int) -> dict[str, Any]:
    entries = {name: getattr(known, name)[row] for name in known.PER_ROW}
    return {k: v.item() if isinstance(v, Tensor) else v for k, v in entries.items()}


def _check_resumed(resume: SubstitutionCertificates | None, same: dict[str, Any]) -> None:
    """Refuse to go on from answers about something else.

    Raises:
        InvalidInput: When they are.
    """
    if resume is None:
        return
    if not isinstance(resume, SubstitutionCertificates):
        raise InvalidInput("resume", shown(resume), "what certify_substitutions returned")
    for name, value in same.items():
        known = getattr(resume, name)
        if (known.tolist() if isinstance(known, Tensor) else known) != value:
            got, wanted = f"answers with other {name}", "answers of the same call"
            raise InvalidInput("resume", got, wanted)


def _digest(around: Sequence[Neighbours]) -> str:
    """Return the SHA-256 of what may stand for each word of each text."""
    every = [[*zip(each.text.words, each.choices, strict=True)] for each in around]
    return hashlib.sha256(json.dumps(every).encode()).hexdigest()


def check_texts(texts: object, labels: object) -> tuple[tuple[str, ...], Tensor]:
    """Return texts and their labels [N], int64.

    Raises:
        InvalidInput: When they are something else, there are none, or not one label for each.
    """
    if not isinstance(texts, str | Sequence) and hasattr(texts, "tolist"):
        texts = texts.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not len(texts):
        raise InvalidInput("texts", shown(texts), "a list of texts, at least one")
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput("texts", f"{shown(text)} in row {row}", "a text in every row")
    classes = check_labels(labels, len(texts))
    if classes.is_floating_point():
        raise InvalidInput("labels", f"{classes.dtype} values", "integer class numbers")
    return tuple(texts), classes


def warn_of_cuts(reader: TextModel, texts: Sequence[str]) -> None:
    """Say how many texts the model does not read to their end."""
    if cut := sum(reader.is_cut(text) for text in texts):
        said = f"texts: the model leaves out the end of {cut} of {len(texts)}"
        warnings.warn(said, HoldfastWarning, stacklevel=3)
