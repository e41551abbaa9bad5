"""Certified substitutions and text attacks on a classifier of sentences, beside their peers.

    python -m benchmarks.substitutions MODEL [SENTENCES] [--wordnet FOLDER] [--pairs SENTENCES]

MODEL is a folder as transformers saves it, with a tokenizer: `benchmarks.text` trains one. The
sentences are those of SST-2 (dev), the words the counter-fitted neighbours, both in the data of
HOLDFAST_SHARED; --wordnet takes those of WordNet, too. The peer of the attack is a greedy search by
saliency as Ren et al. (2019) describe it (PWWS), written here, with as many queries.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from benchmarks.reference import shared
from benchmarks.text import sentences
from rich.console import Console
from rich.table import Table

import holdfast
from holdfast.language.answers import TextModel, text_model
from holdfast.language.substitutions import Choices
from holdfast.language.words import Words

Answer = tuple[Any, float]


def spent(function: Callable[[], Any]) -> Answer:
    """Return a result with its CPU seconds."""
    start = time.process_time()
    return function(), time.process_time() - start


def main() -> None:
    """Print one table for each source of words."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("sentences", nargs="?", type=int, default=60)
    parser.add_argument("--wordnet")
    parser.add_argument("--pairs", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(given.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    rows = sentences("dev")[: given.sentences]
    texts, labels = [row["text"] for row in rows], [int(row["label"]) for row in rows]
    data = shared().parent / "data" / "counterfitted_neighbors.json.gz"
    sources = {"counter-fitted": f"json:{data}"}
    if given.wordnet:
        sources["WordNet"] = f"wordnet:{given.wordnet}"
    table = Table("words", "budget", "right", "certified", "refuted", "texts run", "CPU s")
    attacks = Table("words", "queries", "refuted by attack", "by greedy saliency", "CPU s")
    for name, spec in sources.items():
        words = holdfast.load_substitutions(spec)
        for budget, count in ((1, len(texts)), (2, given.pairs)):
            ask = (model, tokenizer, texts[:count], labels[:count], words, budget)
            found, cpu = spent(lambda ask=ask: holdfast.certify_substitutions(*ask))
            outcomes = found.counts()
            right = int((found.predicted == found.labels).sum())
            wrong = count - right
            table.add_row(
                name, str(budget), f"{right} of {count}", str(outcomes.get("certified", 0)),
                str(outcomes.get("refuted", 0) - wrong), str(int(found.tried.sum())), f"{cpu:.1f}",
            )  # fmt: skip
        for queries in (50, 100, 200):
            ask = (model, tokenizer, texts, labels, words)
            found, cpu = spent(lambda ask=ask, q=queries: holdfast.attack_texts(*ask, queries=q))
            reader, choices = text_model(model, tokenizer), Choices(words)
            greedy = sum(
                saliency_search(reader, choices, text, label, queries)
                for text, label in zip(texts, labels, strict=True)
            )
            attacks.add_row(
                name, str(queries), str(found.reason.count("found")), str(greedy), f"{cpu:.1f}"
            )
    console = Console()
    console.print(table)
    console.print(attacks)


def saliency_search(
    reader: TextModel, choices: Choices, text: str, label: int, queries: int
) -> bool:
    """Return whether greedy search by saliency turns a text that is right.

    The drop of the probability without each word weighs the best replacement of each word; they are
    then made one after another.
    """
    words = Words.of(text)

    def shares(texts: Sequence[str]) -> list[float]:
        return (-reader.answers(texts).losses(label)).exp().tolist()

    def wrong(some: str) -> bool:
        return int(reader.answers([some], alone=True).predicted[0]) != label

    if wrong(text):
        return False
    (base,) = shares([text])
    left, places = queries - 1, [k for k, word in enumerate(words.words) if choices.of_word(word)]
    saliency: Mapping[int, float] = {}
    if places and left >= len(places):
        without = shares([words.with_words({k: ""}) or "." for k in places])
        saliency = {k: base - share for k, share in zip(places, without, strict=True)}
        left -= len(places)
    total = sum(math.exp(value) for value in saliency.values()) or 1.0
    best: dict[int, tuple[float, str]] = {}
    for place in places:
        others = choices.of_word(words.words[place])[: max(0, left)]
        left -= len(others)
        if others:
            after = shares([words.with_words({place: other}) for other in others])
            drop, word = max((base - s, o) for s, o in zip(after, others, strict=True))
            best[place] = drop * math.exp(saliency.get(place, 0.0)) / total, word
    changes: dict[int, str] = {}
    for place in sorted(best, key=lambda k: -best[k][0])[: max(0, left)]:
        changes[place] = best[place][1]
        if wrong(words.with_words(changes)):
            return True
    return False


if __name__ == "__main__":
    main()
