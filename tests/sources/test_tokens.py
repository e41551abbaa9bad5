"""Sentences as data: what is read, what is cut, and what is refused."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny_text import save_classifier, sentences, write_csv

from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.sources.models import LoadedModel, load_model
from holdfast.sources.sentences import Sentences
from holdfast.sources.tokens import load_sentences, read_tokenizer, tokenized

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(f"hf:{save_classifier(tmp_path_factory.mktemp('nets') / 'tiny')}")


@pytest.fixture
def parquet(tmp_path):
    """Return a function that writes columns and returns how to name the file."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    def write(**columns) -> str:
        files.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        return f"parquet:{tmp_path}/t.parquet"

    return write


def test_a_checkpoint_without_its_head_is_refused(tmp_path):
    """Its head would be drawn at random, at every run another one."""
    transformers = pytest.importorskip("transformers")
    folder = save_classifier(tmp_path / "tiny")
    config = transformers.BertConfig.from_pretrained(folder)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    with pytest.raises(InvalidInput, match=r"the weights .*classifier.weight are missing"):
        load_model(f"hf:{folder}")


def test_sentences_and_labels_keep_their_order(model, tmp_path):
    texts, labels = sentences(150)
    data = load_sentences(f"csv:{write_csv(tmp_path / 't.csv', 150)}", model)
    assert list(data.texts) == texts and len(data) == 150
    assert torch.cat([part for _, part in data.batches]).tolist() == labels
    tokenizer, row = read_tokenizer(model.folder), 0
    for inputs, part in data.batches:
        assert len(part) <= 64 and bool(inputs["attention_mask"].any(0).all())  # no idle padding
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            assert tokenizer.decode(ids[mask.bool()], skip_special_tokens=True) == texts[row]
            row += 1
    assert data.shown(3) == {"text": texts[3]}


@given(n=st.integers(1, 150), rows=st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_the_first_rows_are_those_of_the_whole(model, n, rows):
    texts, labels = sentences(n)
    changed = {row: "bad film" for row in range(0, n, 7)}
    table = Sentences(texts, np.array(labels), str, changed)
    whole = tokenized(table, read_tokenizer(model.folder), None, "given")
    part = whole.first(rows)
    kept, of = part.perturbations
    assert of.tolist() == [row for row in changed if row < rows] and len(kept["input_ids"]) == len(
        of
    )
    assert len(part) == min(n, rows)
    ids = [row for inputs, _ in part.batches for row in inputs["input_ids"]]
    expected = [row for inputs, _ in whole.batches for row in inputs["input_ids"]][:rows]
    assert all(map(torch.equal, ids, expected))
    assert [len(known) for _, known in part.batches].count(0) == 0


def test_parquet_and_csv_say_the_same(model, parquet, tmp_path):
    texts, labels = sentences(40)
    table = parquet(kind=labels, words=texts, other=[0.5] * 40)
    one = load_sentences(f"{table}?text=words&labels=kind&rows=30", model)
    other = load_sentences(f"csv:{write_csv(tmp_path / 't.csv')}?rows=30", model)
    assert one.texts == other.texts and len(one.texts) == 30
    for (inputs, own), (again, known) in zip(one.batches, other.batches, strict=True):
        assert torch.equal(own, known) and set(inputs) == set(again)
        assert all(torch.equal(inputs[name], again[name]) for name in inputs)


def test_perturbed_sentences_know_their_rows(model, parquet):
    spec = parquet(text=["a", "b", "c"], other=["good", None, "bad film"], label=[0, 1, 0])
    inputs, rows = load_sentences(f"{spec}?perturbed=other", model).perturbations
    assert rows.tolist() == [0, 2]
    decode = read_tokenizer(model.folder).batch_decode
    assert decode(inputs["input_ids"], skip_special_tokens=True) == ["good", "bad film"]
    assert load_sentences(spec, model).perturbations is None
    assert load_sentences(f"{spec}?perturbed=other&rows=2", model).perturbations[1].tolist() == [0]
    for name, said in (("no", "perturbed=no in columns"), ("label", "perturbed=label in columns")):
        with pytest.raises(InvalidInput, match=said):
            load_sentences(f"{spec}?perturbed={name}", model)


def test_perturbed_cells_may_be_empty_in_a_csv_file(model, tmp_path):
    (tmp_path / "t.csv").write_text("text,label,other\nfilm,0,\nplot,1,good plot\ncast,0,\n")
    data = load_sentences(f"csv:{tmp_path}/t.csv?perturbed=other", model)
    assert data.perturbations[1].tolist() == [1]


def test_long_sentences_are_cut_counted_and_said(model, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\nfilm,0\n" + "good " * 50 + ",1\n" + "bad " * 30 + ",0\n")
    with pytest.warns(HoldfastWarning, match="data: 2 of 3 sentences were cut to 24 tokens"):
        data = load_sentences(f"csv:{path}", model)
    assert data.treatment == {"tokens": 24, "truncated": 2}
    assert data.batches[0][0]["input_ids"].shape == (3, 24)
    with pytest.warns(HoldfastWarning, match="2 of 3 sentences were cut to 5 tokens"):
        assert (
            load_sentences(f"csv:{path}?tokens=5", model).batches[0][0]["input_ids"].shape[1] == 5
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_sentences(f"csv:{path}?rows=1", model).truncated == 0


BAD = {
    "text,label\n": "no row, wanted at least one sentence",
    "text,label\nfilm,0\n  ,1\n": "column text, line 3, whose text is empty",
    "text,label\nfilm,0.5\n": "the label 0.5 in column label, line 2, wanted whole class numbers",
    f"text,label\nfilm,{2**64}\n": r"the label 1.\d+e\+19 in column label, line 2",
    "words,label\nfilm,0\n": r"columns words, label, wanted \?text=COLUMN",
    "text,kind\nfilm,0\n": r"columns text, kind, wanted \?labels=COLUMN",
    "text,text,label\nfilm,film,0\n": "comes twice",
    "text,label\nfilm,0,1\n": "3 fields in line 2, wanted 2",
}


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=range(len(BAD)))
def test_tables_without_sentences_are_refused(model, tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InvalidInput, match=said):
        load_sentences(f"csv:{tmp_path}/t.csv", model)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a", None], "label": [0, 1]}, "column text, row 1, whose text is empty"),
        ({"text": ["a", ""], "label": [0, 1]}, "row 1, whose text is empty"),
        ({"text": [1.5, 2.0], "label": [0, 1]}, r"column text, row 0, whose text holds"),
        ({"text": [["a"], ["b"]], "label": [0, 1]}, "row 0, whose text holds"),
        ({"text": ["a", "b"], "label": [0, None]}, "no label in column label, row 1"),
        ({"words": ["a", "b"], "label": [0, 1]}, r"columns words, label, wanted \?text=COLUMN"),
    ],
)
def test_columns_without_sentences_are_refused(model, parquet, columns, said):
    with pytest.raises(InvalidInput, match=said):
        load_sentences(parquet(**columns), model)


@pytest.mark.parametrize(
    "query", ["text=no", "text=label", "labels=no", "rows=0", "tokens=2", "tokens=25", "scale=2"]
)
def test_options_that_do_not_fit_are_refused(model, tmp_path, query):
    with pytest.raises(InvalidInput, match=r"data: got"):
        load_sentences(f"csv:{write_csv(tmp_path / 't.csv')}?{query}", model)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    bare = load_model(f"hf:{save_classifier(tmp_path / 'bare', tokenizer=False)}")
    with pytest.raises(InvalidInput, match=r"model: got .*bare, without a vocabulary"):
        load_sentences(f"csv:{write_csv(tmp_path / 't.csv')}", bare)
    (bare.folder / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"model: got .*bare.*, wanted a tokenizer beside"):
        load_sentences(f"csv:{write_csv(tmp_path / 't.csv')}", bare)


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path):
    folder = save_classifier(tmp_path / "tiny")
    tokenizer = read_tokenizer(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(InvalidInput, match="has no pad_token"):
        read_tokenizer(folder)


def test_models_without_tokenizer_take_no_sentences(tmp_path):
    plain = LoadedModel(torch.nn.Linear(2, 2), "given", "given")
    with pytest.raises(InvalidInput, match=r"for a model hf:FOLDER"):
        load_sentences(f"csv:{write_csv(tmp_path / 't.csv')}", plain)
