"""Which answers about sentences flip when words are replaced, and which words do it."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.audits.fresh import LEVEL, share_of
from holdfast.graph.forward import logits_in, run_model
from holdfast.graph.single import two_logits
from holdfast.sources.tokens import LoadedTokens


def answers(model: nn.Module, batches: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> Tensor:
    """Return the class that a model answers to each row, [N].

    Args:
        model: In eval mode.
        batches: Keyword tensors [n, T], and something that is not looked at.
    """
    with torch.no_grad():
        logits = [two_logits(logits_in(run_model(model, inputs))) for inputs, _ in batches]
    return torch.cat([one.argmax(-1) for one in logits]).cpu()


def flips_part(data: LoadedTokens, predicted: Tensor, model: nn.Module) -> dict[str, Any] | None:
    """Return how many answers flip between sentences and their perturbed versions.

    Args:
        data: The rows, with their perturbations.
        predicted: What the model answers to the rows, [N].
        model: In eval mode.

    Returns:
        `tried` pairs of `rows` rows; `flipped`, the rows of which some version has another answer,
        as a share with an interval for fresh rows; the `words` that were replaced, by how often
        the answer flipped with them; and the `pairs` whose answer flipped. None where there are
        no perturbations.
    """
    if data.perturbations is None:
        return None
    inputs, origin = data.perturbations
    parts = range(0, len(origin), 64)  # as many at once as rows of the data
    after = answers(model, [({k: v[s : s + 64] for k, v in inputs.items()}, origin) for s in parts])
    rows = origin.tolist()
    before = predicted[origin]
    flipped = (before != after).tolist()
    tried, changed = set(rows), {row for row, flip in zip(rows, flipped, strict=True) if flip}
    labels = torch.cat([labels for _, labels in data.batches])
    pairs = [
        {
            "row": row,
            "label": int(labels[row]),
            "predicted": int(before[place]),
            "flipped_to": int(after[place]),
            **_texts(data, row, place),
        }
        for place, row in enumerate(rows)
        if flipped[place]
    ]
    return {
        "tried": len(rows),
        "rows": len(tried),
        "flipped": share_of(len(changed), len(tried)),
        "level": LEVEL,
        "words": _words(data, rows, flipped),
        "pairs": pairs[:12],  # a screen of them
    }


def _texts(data: LoadedTokens, row: int, place: int) -> dict[str, str]:
    if not data.texts or not data.perturbed_texts:
        return {}
    return {"text": data.texts[row], "perturbed": data.perturbed_texts[place]}


def _words(data: LoadedTokens, rows: Sequence[int], flipped: Sequence[bool]) -> list[dict]:
    """Return the replacements, those with which most answers flipped first."""
    tried: Counter[tuple[str, str]] = Counter()
    did: Counter[tuple[str, str]] = Counter()
    if data.texts and data.perturbed_texts:
        for place, row in enumerate(rows):
            for change in set(replaced(data.texts[row], data.perturbed_texts[place])):
                tried[change] += 1
                did[change] += flipped[place]
    ranked = sorted(did, key=lambda change: (-did[change], tried[change], change))
    return [
        {"from": old, "to": new, "flipped": did[old, new], "tried": tried[old, new]}
        for old, new in ranked
        if did[old, new]
    ][:12]


def replaced(text: str, other: str) -> Iterator[tuple[str, str]]:
    """Yield the runs of words of one sentence that stand otherwise in another.

    >>> list(replaced("a good film", "a fine old film"))
    [('good', 'fine old')]
    """
    old, new = text.split(), other.split()
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        if kind != "equal":
            yield " ".join(old[a:b]), " ".join(new[c:d])
