"""The audit of a model of text: no distance between inputs, knowledge continuity instead."""

import pytest
import torch
from tests.tiny_text import save_classifier, write_csv

import holdfast
from holdfast.audits.audit import audit, audit_models
from holdfast.audits.study import AuditOptions
from holdfast.errors import InvalidInput
from holdfast.files import plain
from holdfast.graph.capture import weights_hash
from holdfast.sources.models import load_model
from holdfast.sources.tokens import load_sentences

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(f"hf:{save_classifier(tmp_path_factory.mktemp('nets') / 'tiny')}")


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    return load_sentences(f"csv:{write_csv(tmp_path_factory.mktemp('data') / 't.csv', 90)}", model)


@pytest.fixture(scope="module")
def report(model, data, tmp_path_factory):
    steps = []
    result = audit_models(
        [model], data, tmp_path_factory.mktemp("audit"), AuditOptions(), steps.append
    )
    assert [str(step) for step in steps] == ["tiny: knowledge continuity (0 of 2)", "page (1 of 2)"]
    return result


def test_parts_that_need_a_distance_are_absent_and_the_reason_is_said(report):
    (subject,) = report.document["subjects"]
    assert not {"lipschitz", "certificates", "attacks", "descent"} & set(subject)
    assert subject["conditions"]["metric"] == "none"
    assert not {"norm", "epsilon", "distances"} & set(report.document)
    assert "norm" not in subject["conditions"]
    assert [one["key"] for one in report.document["citations"]] == ["sun2024knowledge"]
    page = report.page.read_text().split("<script")[0]
    assert "Inputs are token ids: there is no distance between them" in page
    assert "What can be promised about fresh data?" in page
    assert "How fast can the output change?" not in page


def test_knowledge_is_that_of_its_own_verb_and_rows_are_sentences(report, model, data):
    (subject,) = report.document["subjects"]
    part, knowledge = subject["knowledge"], holdfast.knowledge(model.model, data.batches)
    assert part["layers"] == ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"]
    assert part["normalised"] == plain(knowledge.normalised)
    assert part["rank"] == knowledge.rank() and "links" not in part
    assert subject["accuracy"] == knowledge.accuracy and 0 < knowledge.accuracy < 1
    assert subject["fingerprint"] == weights_hash(model.model)
    answers = torch.cat([model.model(**inputs).logits.argmax(1) for inputs, _ in data.batches])
    for row, shown in part["rows"].items():
        assert shown == {"text": data.texts[int(row)], "predicted": int(answers[int(row)])}
    assert "flips" not in subject
    page = report.page.read_text()
    worst = part["worst"][part["rank"][0]][0]
    assert f"<q>{data.texts[worst['row']]}</q>" in page
    assert f"<q>{data.texts[worst['neighbour']]}</q>" in page


def test_the_data_is_described_with_what_was_cut(report):
    described = report.document["data"]
    assert described | {"name": "", "sha256": ""} == {
        "name": "", "rows": 90, "held_out": False, "classes": 2, "class_names": [],
        "shape": [], "image": None,
        "tokens": 24, "truncated": 0, "sha256": "",
    }  # fmt: skip


def test_token_ids_from_python_are_audited_without_sentences(model, data, report, tmp_path):
    batches = (batch for batch in data.batches)
    result = audit(model.model, batches, tmp_path)
    (subject,), (other,) = result.document["subjects"], report.document["subjects"]
    assert subject["knowledge"]["normalised"] == other["knowledge"]["normalised"]
    assert all(set(shown) == {"predicted"} for shown in subject["knowledge"]["rows"].values())
    assert result.document["data"]["sha256"] == report.document["data"]["sha256"]
    one = audit(model.model, data.batches[0], tmp_path / "one").document["data"]
    assert one["rows"] == 64 and one["sha256"] != report.document["data"]["sha256"]


def test_a_single_sentence_is_refused_and_the_page_says_so(model, data, tmp_path):
    result = audit_models([model], data.first(1), tmp_path, AuditOptions())
    (subject,) = result.document["subjects"]
    assert "wanted [N] with N at least 2" in subject["knowledge"]["refused"]
    assert "N at least 2" in result.page.read_text()


@pytest.mark.parametrize("asked", [{"epsilon": 0.5}, {"training": "run.jsonl"}])
def test_what_needs_a_distance_cannot_be_asked_for(model, data, tmp_path, asked):
    with pytest.raises(InvalidInput, match=r"epsilon: got 0.5, wanted none|training: got"):
        audit_models([model], data, tmp_path / "it", AuditOptions(**asked))
    assert not (tmp_path / "it").exists()
