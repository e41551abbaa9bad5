"""The audit page of a sentence classifier: a small BERT, trained on SST-2 for a few minutes.

    HOLDFAST_SHARED=FOLDER make text-page

The model and the sentences that it was not trained on are left beside the page, so that
`holdfast audit` and `holdfast knowledge` can be run on them again.
"""

import sys
from pathlib import Path

import pyarrow
import torch
from benchmarks.text import batches, sentences, tokenizer, trained
from pyarrow import parquet

from holdfast import cli

TRAINED_ON = 5000


def main() -> None:
    """Train, save, and audit; OUT is the only argument."""
    torch.set_num_threads(1)
    out = Path(*sys.argv[1:2] or ["runs/text"])
    model, data = out / "minilm-sst2", out / "sst2-test.parquet"
    trained(list(batches("train", TRAINED_ON)), seed=0, weight=None).save_pretrained(model)
    tokenizer().save_pretrained(model)
    rows = [{key: row[key] for key in ("text", "label")} for row in sentences("test")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), data)
    cli.main(["audit", f"hf:{model}", f"parquet:{data}", "--out", str(out / "page")])


if __name__ == "__main__":
    main()
