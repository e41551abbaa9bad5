"""Words replaced, in an audit: counted again one sentence at a time."""

import json

import pytest
from tests.audits.test_flips import data, model  # noqa: F401 - fixtures

import holdfast
from holdfast.audits.audit import audit, audit_models
from holdfast.audits.study import AuditOptions
from holdfast.sources.demo import demo_data, demo_model
from holdfast.sources.tokens import read_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TABLE = {"good": ["fine", "great"], "film": ["plot"], "bad": ["poor", "good"]}


@pytest.fixture(scope="module")
def report(model, data, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("replaced")
    (folder / "words.json").write_text(json.dumps(TABLE))
    options = AuditOptions(substitutions=f"json:{folder / 'words.json'}", budget=2)
    return audit_models([model], data, folder / "out", options)


def test_the_part_says_what_the_verb_says(report, model, data):  # noqa: F811
    part = report.document["subjects"][0]["substitutions"]
    labels = [label for _, labels in data.batches for label in labels.tolist()]
    found = holdfast.certify_substitutions(
        model.model, read_tokenizer(model.folder), data.texts, labels, TABLE, 2
    )
    right = (found.predicted == found.labels).tolist()
    assert part["certified"]["count"] == found.outcome.count("certified")
    assert part["wrong"]["count"] == right.count(False)
    kinds = ("certified", "changed", "wrong", "unknown")
    assert sum(part[kind]["count"] for kind in kinds) == part["rows"] == 90
    assert part["tried"] == int(found.tried.sum())
    for pair in part["pairs"]:
        assert pair["changed"] == found.counterexample[pair["row"]] != pair["text"]
    for one in part["shown"]:
        assert "".join(piece["text"] for piece in one["pieces"]) == data.texts[one["row"]]


def test_the_page_says_it_first(report):
    page = report.page.read_text()
    part = report.document["subjects"][0]["substitutions"]
    said = (
        f"{part['certified']['count']} of 90 inputs provably keep their right answer when up to 2"
    )
    assert said in page
    assert "Which words may be replaced?" in page


def test_words_are_for_sentences(tmp_path):
    (tmp_path / "words.json").write_text("{}")
    options = AuditOptions(substitutions=f"json:{tmp_path / 'words.json'}")
    with pytest.raises(holdfast.InvalidInput, match=r"^substitutions"):
        audit(demo_model("digits-plain"), demo_data(), tmp_path / "out", options)
    with pytest.raises(holdfast.InvalidInput, match=r"^substitutions"):
        nowhere = AuditOptions(substitutions="json:nowhere")
        audit(demo_model("digits-plain"), demo_data(), tmp_path / "out", nowhere)
    assert not (tmp_path / "out").exists()
