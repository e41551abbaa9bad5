"""Certified edits of texts: small models trained with deletions, smoothed, and attacked.

    python -m benchmarks.edits [TEXTS [SEEDS [SAMPLES [ATTACKED]]]]

TEXTS test sentences of SST-2 and of AG News (`data/` of the folder HOLDFAST_SHARED), for each of so
many SEEDS, with so many SAMPLES of every text: accuracy without noise, of the smoothed model, and
certified for 1, 2 and 3 edits of words, for several probabilities of deletion. A last part of each
line tells how many certified texts were attacked inside their certified distance, ATTACKED in all
for each data set, and how many got another answer from the smoothed model, as estimated.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from benchmarks.reference import shared
from rich.console import Console
from torch import Generator, Tensor, nn
from torch.nn import functional

import holdfast
from holdfast.train import NoiseAugmentation


class Bag(nn.Module):
    """The mean of learned vectors of the words of a text, and two layers."""

    def __init__(self, texts: Sequence[str], classes: int) -> None:
        super().__init__()
        counts = Counter(word for text in texts for word in text.lower().split())
        words = [word for word, count in counts.most_common() if count > 1]
        self.places = {word: place for place, word in enumerate(words, 1)}
        self.vectors = nn.EmbeddingBag(len(words) + 1, 64, mode="mean")
        self.head = nn.Sequential(nn.Dropout(0.3), nn.ReLU(), nn.Linear(64, classes))

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return logits [n, classes]."""
        rows = [[self.places.get(word, 0) for word in text.lower().split()] for text in texts]
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        flat = torch.tensor([place for row in rows for place in row], dtype=torch.int64)
        return self.head(self.vectors(flat, lengths.cumsum(0)[:-1]))


def trained(
    texts: Sequence[str], labels: Tensor, noise: holdfast.Deletion | None, seed: int
) -> Bag:
    """Return a model that was trained with noise, or without."""
    torch.manual_seed(seed)
    model = Bag(texts, int(labels.max()) + 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    fresh = NoiseAugmentation(noise) if noise else lambda text: text
    for _ in range(12):
        for part in torch.randperm(len(texts)).split(64):
            some = [fresh(texts[k]) for k in part.tolist()]
            loss = functional.cross_entropy(model(some), labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def data(name: str) -> dict[str, tuple[list[str], Tensor]]:
    """Return texts and labels of the two splits."""
    from pyarrow import parquet

    rows = parquet.read_table(shared().parent / "data" / name).to_pylist()
    found = {}
    for split in ("train", "test"):
        some = [row for row in rows if row["split"] == split]
        found[split] = [row["text"] for row in some], torch.tensor([row["label"] for row in some])
    return found


def attacked(model: Bag, text: str, label: int, edits: int) -> str:
    """Return a text in which the words that speak most for its label speak most against it."""
    words, known = text.split(), [*model.places]
    with torch.no_grad():
        without = [" ".join(words[:k] + words[k + 1 :]) for k in range(len(words))]
        support = model(without).log_softmax(1)[:, label]
        worst = known[int(model(known).log_softmax(1)[:, label].argmin())]
    for place in support.argsort()[:edits].tolist():
        words[place] = worst
    return " ".join(words)


def majority(model: Bag, text: str, noise: holdfast.Deletion, generator: Generator) -> int:
    """Return the answer of the smoothed model, as estimated; again with more where it is close."""
    for samples in (200, 5000):
        with torch.no_grad():
            answers = model([noise.draw(text, generator) for _ in range(samples)]).argmax(1)
        votes = answers.bincount()
        if int(votes.max()) > 0.6 * samples:
            break
    return int(votes.argmax())


def measured(
    splits: dict[str, Any], p: float, seed: int, sizes: Sequence[int]
) -> tuple[list[float], int, int]:
    """Return accuracies, and how many texts were attacked and changed."""
    texts, labels = splits["test"]
    count, samples, most = sizes
    texts, labels = texts[:count], labels[:count]
    noise = holdfast.Deletion(p)
    model = trained(*splits["train"], noise, seed)
    with torch.no_grad():
        plain = float((model(texts).argmax(1) == labels).double().mean())
    found = holdfast.certify(
        model, texts, labels, method="smoothing", noise=noise, samples=samples, seed=seed
    )
    rows = [k for k in range(len(texts)) if found.radius[k] > 0][:most]
    generator, changed = Generator().manual_seed(seed), 0
    for k in rows:
        other = attacked(model, texts[k], int(labels[k]), int(found.radius[k]))
        changed += majority(model, other, noise, generator) != int(labels[k])
    shares = found.verified_accuracy([0, 1, 2, 3])
    return [plain, found.clean_accuracy, *shares], len(rows), changed


def main() -> None:
    """Measure what is asked for."""
    torch.set_num_threads(1)
    given = [int(each) for each in sys.argv[1:]]
    count, seeds, samples, attacks = [*given, *(200, 3, 1000, 1000)[len(given) :]]
    console, start = Console(width=130, highlight=False), time.perf_counter()
    for name in ("sst2.parquet", "ag_news_7600.parquet"):
        splits, left = data(name), attacks
        lengths = [len(text.split()) for text in splits["test"][0]]
        console.print(f"{name}: {sum(lengths) / len(lengths):.1f} words on average")
        model = trained(*splits["train"], None, 0)
        texts, labels = (column[:count] for column in splits["test"])
        with torch.no_grad():
            right = float((model(texts).argmax(1) == labels).double().mean())
        console.print(f"  trained without noise, not smoothed: {right:.3f} right")
        for p in (0.6, 0.8, 0.9):
            shares, tried, changed = [], 0, 0
            for seed in range(seeds):
                part, some, lost = measured(splits, p, seed, (count, samples, left))
                shares.append(part)
                tried, changed, left = tried + some, changed + lost, left - some
            table = torch.tensor(shares)
            names = ("no noise", "smoothed", "shown", "1 edit", "2 edits", "3 edits")
            said = ", ".join(
                f"{what} {float(mean):.3f} ({float(low):.3f} to {float(high):.3f})"
                for what, mean, low, high in zip(
                    names, table.mean(0), table.amin(0), table.amax(0), strict=True
                )
            )
            spent = time.perf_counter() - start
            console.print(f"  p={p}: {said}; attacked {tried}, changed {changed}; {spent:.0f} s")


if __name__ == "__main__":
    main()
