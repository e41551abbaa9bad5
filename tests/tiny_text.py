"""A classifier of sentences as small as they come, saved as Hugging Face transformers saves one."""

import random
from pathlib import Path

import pytest

WORDS = ["good", "bad", "fine", "dull", "great", "poor", "film", "plot", "cast", "end"]


def save_classifier(folder: Path, tokenizer: bool = True) -> Path:
    """Save a BERT of two blocks with 12-wide states, and a tokenizer that knows ten words."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=15, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=24, num_labels=2,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    if tokenizer:
        vocabulary = {word: i for i, word in enumerate(_SPECIAL + WORDS)}
        transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def sentences(n: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Return sentences of known words, and a label each."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(n)]
    return texts, [draw.randint(0, 1) for _ in range(n)]


def write_csv(path: Path, n: int = 40) -> Path:
    """Write sentences as a table with the columns `sentence` and `label`."""
    lines = [f'"{text}",{label}' for text, label in zip(*sentences(n), strict=True)]
    path.write_text("\n".join(["sentence,label", *lines]))
    return path
