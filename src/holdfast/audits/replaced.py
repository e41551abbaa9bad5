"""Whether replacing words changes the answers: every sentence within the budget is run."""

from pathlib import Path
from typing import Any

import torch

from holdfast.audits.fresh import LEVEL, share_of
from holdfast.errors import InvalidInput
from holdfast.language.certify import certify_substitutions
from holdfast.language.result import SubstitutionCertificates, WordChange
from holdfast.language.words import Words
from holdfast.sources.models import LoadedModel
from holdfast.sources.substitutions import load_substitutions
from holdfast.sources.tokens import LoadedTokens, read_tokenizer
from holdfast.types import Report


def substitutions_part(
    loaded: LoadedModel, data: LoadedTokens, words: str, budget: int, report: Report
) -> dict[str, Any]:
    """Return what replacing words does to the answers about sentences.

    Args:
        loaded: The model, with its tokenizer beside it.
        data: The rows; its first 200 are taken: each takes tens of runs.
        words: Which may stand for each other, as `load_substitutions` takes it.
        budget: Words that may be replaced at once.
        report: Called with the progress.

    Returns:
        How many of `rows` are `certified`, `changed` (right, and a version is not), `wrong` as they
        are, and `unknown`, as shares with an interval for fresh rows; the `brittle` words of all
        of them; the `pairs` whose answer changed; and `shown`, sentences with what each word does.

    Raises:
        InvalidInput: When the words are not usable, or the rows are no sentences.
        KeyboardInterrupt: When the user interrupts.
    """
    rows, folder = data.first(200), loaded.folder
    if folder is None or not rows.texts:
        raise InvalidInput("substitutions", repr(words), "none, where inputs are no sentences")
    tokenizer = read_tokenizer(folder)
    tokenizer.model_max_length = rows.most or tokenizer.model_max_length
    labels = torch.cat([labels for _, labels in rows.batches])
    texts, table = rows.texts[: len(labels)], load_substitutions(words)
    found = certify_substitutions(
        loaded.model, tokenizer, texts, labels, table, budget, report=report
    )
    if found.reached < len(found):
        raise KeyboardInterrupt  # some of the rows do not stand for all
    right = (found.predicted == found.labels).tolist()
    kinds = [_kind(*each) for each in zip(found.outcome, right, strict=True)]
    return {
        "words": words,
        "source": Path(words.partition(":")[2]).name,
        "budget": budget,
        "rows": len(found),
        "tried": int(found.tried.sum()),
        "level": LEVEL,
        **{
            kind: share_of(kinds.count(kind), len(kinds))
            for kind in ("certified", "changed", "wrong", "unknown")
        },
        "brittle": _brittle(found),
        "pairs": [_pair(found, row) for row, kind in enumerate(kinds) if kind == "changed"][:12],
        "shown": [_shown(found, row) for row in range(len(found)) if found.brittle[row]][:6],
    }


def _kind(outcome: str, right: bool) -> str:
    if not right:
        return "wrong"
    return "changed" if outcome == "refuted" else outcome


def _pair(found: SubstitutionCertificates, row: int) -> dict[str, Any]:
    return {
        "row": row,
        "label": int(found.labels[row]),
        "text": found.texts[row],
        "changed": found.counterexample[row],
    }


def _brittle(found: SubstitutionCertificates) -> list[dict[str, Any]]:
    """Return the replacements that move the loss most, each pair of words once."""
    every: dict[tuple[str, str], tuple[float, int]] = {}
    for row, changes in enumerate(found.brittle):
        for change in changes:
            pair = change.word.lower(), change.replacement.lower()
            if abs(change.loss_change) > abs(every.get(pair, (0.0, 0))[0]):
                every[pair] = change.loss_change, row
    ranked = sorted(every, key=lambda pair: (-abs(every[pair][0]), pair))
    return [
        {"from": old, "to": new, "loss_change": every[old, new][0], "row": every[old, new][1]}
        for old, new in ranked[:12]
    ]


def _shown(found: SubstitutionCertificates, row: int) -> dict[str, Any]:
    """Return a sentence in pieces, and what the most moving replacement of each word does."""
    words = Words.of(found.texts[row])
    change: dict[int, WordChange] = {one.place: one for one in found.brittle[row]}
    most = max(abs(one.loss_change) for one in change.values()) or 1.0
    pieces: list[dict[str, Any]] = []
    for place, word in enumerate(words.words):
        pieces.append({"text": words.between[place]})
        one = change.get(place)
        told = {} if one is None else {"to": one.replacement, "loss_change": one.loss_change}
        weight = {} if one is None else {"weight": abs(one.loss_change) / most}
        pieces.append({"text": word} | told | weight)
    pieces.append({"text": words.between[-1]})
    return {"row": row, "label": int(found.labels[row]), "pieces": pieces}
