"""Sentences from a table, as the token ids of a model that brings its own tokenizer."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import HoldfastWarning, InvalidInput, MissingExtra
from holdfast.sources.labels import class_numbers
from holdfast.sources.models import LoadedModel, silently
from holdfast.sources.names import full_data_name
from holdfast.sources.query import split_query, whole
from holdfast.sources.sentences import Sentences, read_sentences
from holdfast.sources.tables import FORM_OPTIONS, READERS

BATCH = 64
"""Rows that are padded together: to the longest of so many, not to the longest of all."""

Batch = tuple[Mapping[str, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LoadedTokens:
    """Token ids and labels, and the sentences that they stand for.

    Attributes:
        batches: Keyword tensors [n, T] and labels [n], int64; T differs between batches.
        name: What the user wrote.
        texts: The sentences, [N]; empty where the data came as token ids.
        most: The largest number of tokens that a row may have; None where nobody set one.
        truncated: Number of sentences that were longer, and were cut.
        perturbations: Keyword tensors [p, T] of perturbed sentences, and the row [p] that each was
            made from; None where there are none.
        classes: Class numbers by the words that stand for them in the file.
        perturbed_texts: The perturbed sentences, [p]; empty where they came as token ids.
        model_classes: Numbers of the model's own classes by their names; empty where it has none.
    """

    batches: Sequence[Batch]
    name: str
    texts: Sequence[str] = field(default=(), repr=False)
    most: int | None = None
    truncated: int = 0
    perturbations: Batch | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    perturbed_texts: Sequence[str] = field(default=(), repr=False)
    model_classes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(labels) for _, labels in self.batches)

    @property
    def treatment(self) -> dict[str, Any]:
        """What was done to the rows when they were read."""
        read = {"read": {"classes": dict(self.classes)}} if self.classes else {}
        return {"tokens": self.most, "truncated": self.truncated, **read}

    def shown(self, row: int) -> dict[str, Any]:
        """Return what a reader may see of a row: its sentence."""
        return {"text": self.texts[row]} if self.texts else {}

    def first(self, rows: int) -> "LoadedTokens":
        """Return the first so many rows."""
        kept: list[Batch] = []
        for inputs, labels in self.batches:
            place = slice(max(0, rows - sum(len(known) for _, known in kept)))
            if place.stop:
                part = {name: values[place] for name, values in inputs.items()}
                kept.append((part, labels[place]))
        changed, texts = self.perturbations, self.perturbed_texts
        if changed is not None:
            inside = changed[1] < rows
            texts = [text for text, kept in zip(texts, inside.tolist(), strict=False) if kept]
            parts = {name: values[inside] for name, values in changed[0].items()}
            changed = (parts, changed[1][inside]) if bool(inside.any()) else None
        return dataclasses.replace(
            self, batches=tuple(kept), perturbations=changed, perturbed_texts=tuple(texts)
        )


def load_sentences(spec: str, loaded: LoadedModel) -> LoadedTokens:
    """Load sentences named on the command line, for a model from `hf:FOLDER`.

    Args:
        spec: `csv:PATH` or `parquet:PATH`, with a column for the sentences and one for the label;
            the options `text` and `labels` name them, `classes` lists the labels of class 0, 1,
            ..., `rows` takes the first so many, `tokens` cuts every sentence to so many tokens, and
            `perturbed` names a column of sentences changed in a way that should not matter, empty
            where there is none.
        loaded: The model; its tokenizer lies in the same folder.

    Returns:
        The rows. A warning says how many sentences were cut.

    Raises:
        InvalidInput: When the model brings no tokenizer, or the table is not usable.
        MissingExtra: When transformers or pyarrow is not installed.
    """
    kind, _, rest = full_data_name(spec).partition(":")
    if loaded.folder is None or kind not in READERS:
        raise InvalidInput("data", repr(spec), "csv:PATH or parquet:PATH, for a model hf:FOLDER")
    names, counts = ("text", "labels", "classes", "perturbed"), ("rows", "tokens")
    path, options = split_query("data", rest, (*names, *counts, *FORM_OPTIONS))
    rows, most = (whole("data", key, options[key]) if key in options else None for key in counts)
    tokenizer = read_tokenizer(loaded.folder)
    config = loaded.model.config
    places = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
    tokenizer.model_max_length = min(tokenizer.model_max_length, places)
    table = read_sentences(kind, Path(path), options, rows)
    own = getattr(config, "label2id", None)
    labels, classes = class_numbers(table.labels, table.place, options.get("classes"), known=own)
    tokens = tokenized(dataclasses.replace(table, labels=labels), tokenizer, most, spec)
    # A model without names of classes calls them LABEL_0, LABEL_1, ...
    named = own if own and not all(name.startswith("LABEL_") for name in own) else {}
    return dataclasses.replace(tokens, classes=classes, model_classes=named)


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer that lies beside a model.

    Raises:
        InvalidInput: When there is none, or it cannot pad.
        MissingExtra: When transformers is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtra("transformers", "hf", "sentences as data") from None
    wanted = "a tokenizer beside the model, as tokenizer.save_pretrained writes it"
    try:
        with silently():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as problem:  # a damaged file can break its reader anywhere
        got = f"{folder} ({' '.join(str(problem).split())[:300]})"
        raise InvalidInput("model", got, wanted) from problem
    # Without its files, transformers makes up a tokenizer that knows no word.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise InvalidInput("model", f"{folder}, without a vocabulary", wanted)
    if tokenizer.pad_token_id is None:
        raise InvalidInput("model", f"{folder}, whose tokenizer has no pad_token", "one that has")
    return tokenizer


def tokenized(table: Sentences, tokenizer: Any, most: int | None, name: str) -> LoadedTokens:
    """Return sentences as token ids.

    Args:
        table: The sentences.
        tokenizer: Of Hugging Face transformers.
        most: Longer sentences are cut to so many tokens; None for what the tokenizer allows.
        name: What to call the data.

    Returns:
        The rows in their order, padded batch by batch.

    Raises:
        InvalidInput: When the tokenizer does not allow so many, or makes no token of a sentence.
    """
    allowed = tokenizer.model_max_length
    if most is not None and not tokenizer.num_special_tokens_to_add() < most <= allowed:
        low = tokenizer.num_special_tokens_to_add() + 1
        raise InvalidInput("data", f"tokens={most}", f"{low} to {allowed}, as the model has it")
    limit = most or min(allowed, 512)  # some tokenizers name no limit of their model
    texts, labels = table.texts, torch.from_numpy(table.labels)
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    if 0 in lengths:
        got = f"row {lengths.index(0)}, of which the tokenizer makes nothing"
        raise InvalidInput("data", got, "a sentence in every row")
    truncated = sum(length > limit for length in lengths)
    if truncated:
        cut = f"data: {truncated} of {len(texts)} sentences were cut to {limit} tokens"
        warnings.warn(cut, HoldfastWarning, stacklevel=2)

    def ids(some: list[str]) -> dict[str, Tensor]:
        shape = {"padding": True, "truncation": True, "max_length": limit}
        return dict(tokenizer(some, **shape, return_tensors="pt"))

    parts = [slice(start, start + BATCH) for start in range(0, len(texts), BATCH)]
    batches = tuple((ids(texts[part]), labels[part]) for part in parts)
    changed = None
    if table.perturbed:
        changed = ids([*table.perturbed.values()]), torch.tensor([*table.perturbed])
    return LoadedTokens(
        batches, name, tuple(texts), limit, truncated, changed,
        perturbed_texts=tuple(table.perturbed.values()),
    )  # fmt: skip
