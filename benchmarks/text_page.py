"""The audit page of a sentence classifier: a small BERT, trained on SST-2 for a few minutes.

    HOLDFAST_SHARED=FOLDER make text-page

The model and the sentences that it was not trained on are left beside the page, so that
`holdfast audit` and `holdfast knowledge` can be run on them again. Each sentence comes with itself
again, one word replaced by its nearest counter-fitted synonym.
"""

import gzip
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow
import torch
from benchmarks.reference import shared
from benchmarks.text import batches, sentences, tokenizer, trained
from pyarrow import parquet

from holdfast import cli

TRAINED_ON = 5000


def synonyms() -> Mapping[str, Sequence[str]]:
    """Return the counter-fitted neighbours of words, nearest first."""
    with gzip.open(shared().parent / "data" / "counterfitted_neighbors.json.gz") as file:
        return json.load(file)


def reworded(text: str, known: Mapping[str, Sequence[str]], draw: random.Random) -> str | None:
    """Return a sentence with one word replaced; None where no word has a synonym."""
    words = text.split()
    places = [place for place, word in enumerate(words) if known.get(word)]
    if not places:
        return None
    place = draw.choice(places)
    return " ".join([*words[:place], known[words[place]][0], *words[place + 1 :]])


def main() -> None:
    """Train, save, and audit; OUT is the only argument."""
    torch.set_num_threads(1)
    out = Path(*sys.argv[1:2] or ["runs/text"])
    model, data = out / "minilm-sst2", out / "sst2-test.parquet"
    trained(list(batches("train", TRAINED_ON)), seed=0, weight=None).save_pretrained(model)
    tokenizer().save_pretrained(model)
    known, draw = synonyms(), random.Random(0)
    rows = [
        {"text": row["text"], "label": row["label"], "reworded": reworded(row["text"], known, draw)}
        for row in sentences("test")
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), data)
    spec = f"parquet:{data}?perturbed=reworded"
    cli.main(["audit", f"hf:{model}", spec, "--out", str(out / "page")])


if __name__ == "__main__":
    main()
