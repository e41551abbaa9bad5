"""Which answers flip, counted again one sentence at a time."""

import pytest
import torch
from tests.tiny_text import save_classifier, sentences

from holdfast.audits.audit import audit_models
from holdfast.audits.flips import replaced
from holdfast.audits.study import AuditOptions
from holdfast.sources.models import load_model
from holdfast.sources.tokens import load_sentences, read_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that answers either class to about half of the sentences."""
    loaded = load_model(f"hf:{save_classifier(tmp_path_factory.mktemp('nets') / 'tiny')}")
    ids = read_tokenizer(loaded.folder)(sentences(90)[0], padding=True, return_tensors="pt")
    with torch.no_grad():
        lead = loaded.model(**ids).logits.diff().median()
        loaded.model.classifier.bias[1] -= lead
    return loaded


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    """Sentences of which every third has a version whose first word is another one."""
    lines = ["sentence,label,other"]
    for place, (text, label) in enumerate(zip(*sentences(90), strict=True)):
        first, *rest = text.split()
        other = " ".join(["poor" if first == "great" else "great", *rest])
        lines.append(f"{text},{('bad', 'good')[label]},{other if place % 3 == 0 else ''}")
    path = tmp_path_factory.mktemp("data") / "t.csv"
    path.write_text("\n".join(lines))
    return load_sentences(f"csv:{path}?perturbed=other&classes=bad,good", model)


@pytest.fixture(scope="module")
def report(model, data, tmp_path_factory):
    return audit_models([model], data, tmp_path_factory.mktemp("audit"), AuditOptions())


def one_by_one(model, ids):
    """Return the answer to each row by itself, without the padding of its batch."""
    found = []
    for place in range(len(ids["input_ids"])):
        kept = ids["attention_mask"][place].bool()
        row = {name: values[place : place + 1, kept] for name, values in ids.items()}
        found.append(int(model.model(**row).logits.argmax()))
    return found


def test_flips_are_those_of_one_sentence_at_a_time(report, model, data):
    before = [label for inputs, _ in data.batches for label in one_by_one(model, inputs)]
    ids, origin = data.perturbations
    after = one_by_one(model, ids)
    flipped = [row for row, now in zip(origin.tolist(), after, strict=True) if now != before[row]]
    part = report.document["subjects"][0]["flips"]
    assert part["tried"] == part["rows"] == 30 and 0 < len(flipped) < 30
    assert part["flipped"]["count"] == len(flipped)
    assert part["flipped"]["low"] < part["flipped"]["share"] < part["flipped"]["high"]
    for pair, row in zip(part["pairs"], flipped, strict=False):
        assert (pair["row"], pair["text"]) == (row, data.texts[row])
        assert pair["predicted"] == before[row] != pair["flipped_to"]
        assert next(replaced(pair["text"], pair["perturbed"]))[1] in ("great", "poor")
    words = part["words"]
    assert [word["flipped"] for word in words] == sorted(
        (word["flipped"] for word in words), reverse=True
    )
    assert all(0 < word["flipped"] <= word["tried"] for word in words)


def test_the_page_says_how_many_flip_and_with_which_words(report):
    part = report.document["subjects"][0]["flips"]
    page = report.page.read_text().split("<script")[0]
    assert f"{part['flipped']['count']} of 30 inputs change their answer with other words" in page
    assert "Which words change the answer?" in page and "Give versions of" not in page
    assert "<strong>bad → good</strong>" in page or "<strong>good → bad</strong>" in page
    assert page.index("30 versions were tried") < page.index("fresh inputs that land")


def test_only_the_first_rows_keep_their_versions(data):
    part = data.first(10)
    assert part.perturbations[1].tolist() == [0, 3, 6, 9]
    assert list(part.perturbed_texts) == list(data.perturbed_texts[:4])
    assert torch.equal(part.perturbations[0]["input_ids"], data.perturbations[0]["input_ids"][:4])


@pytest.mark.parametrize(
    ("text", "other", "changes"),
    [
        ("a b c", "a b c", []),
        ("a b c", "a c", [("b", "")]),
        ("a c", "a b c d", [("", "b"), ("", "d")]),
    ],
)
def test_words_that_were_replaced_left_out_or_added(text, other, changes):
    assert list(replaced(text, other)) == changes
