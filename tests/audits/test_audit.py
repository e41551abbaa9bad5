"""The audit from end to end on a small model."""

import dataclasses
import json
import math
import os
import signal
import time

import pytest
import torch
from torch import nn

import holdfast
from holdfast.audits.audit import audit, audit_models
from holdfast.audits.study import AuditOptions, steps_of
from holdfast.certificates.certify import certify_graph
from holdfast.errors import HoldfastWarning, InternalError, InvalidInput, MissingExtra, Unsupported
from holdfast.files import plain
from holdfast.sources.data import checked
from holdfast.sources.models import LoadedModel


class Unknown(nn.Module):
    """Can be executed and measured, but nothing bounds it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return torch.logcumsumexp(self.left(x) + self.right(x), 1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows with the labels that the net gives them, but for the last one."""
    inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    labels = net()(inputs).argmax(1)
    labels[-1] = (labels[-1] + 1) % 3
    return inputs, labels


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    return audit(net(), rows(), folder, AuditOptions(seconds=0.2, epsilon=0.01))


def test_the_folder_holds_the_document_and_the_page_and_nothing_else(report):
    assert json.loads(report.json.read_text()) == report.document
    assert report.page.read_text().startswith("<!doctype html>")
    assert sorted(os.listdir(report.json.parent)) == ["audit.json", "report.html"]


def test_the_document_says_what_was_audited_and_with_what(report):
    document = report.document
    assert document["format"] == 1 and document["holdfast"] == holdfast.__version__
    assert document["norm"] == "l2" and document["epsilon"] == 0.01
    assert document["data"] | {"sha256": "", "range": []} == {
        "name": "given",
        "rows": 24,
        "held_out": False,
        "classes": 3,
        "class_names": [],
        "shape": [4],
        "image": None,
        "range": [],
        "scale": None,
        "uneven": None,
        "sha256": "",
    }
    assert document["versions"]["torch"] == torch.__version__
    assert {"key", "bibtex"} == set(document["citations"][0])


def test_every_part_agrees_with_its_own_verb(report):
    (subject,) = report.document["subjects"]
    inputs, labels = rows()
    certificates = holdfast.certify(net(), inputs, labels)
    part = subject["certificates"]
    assert part["clean_accuracy"] == subject["accuracy"] == certificates.clean_accuracy
    assert part["verified_accuracy"] == certificates.verified_accuracy(0.01)
    assert part["reasons"] == certificates.counts()
    assert part["constant"] == certificates.constant
    attacks = holdfast.attack(net(), inputs, labels)
    assert subject["attacks"]["reasons"] == attacks.counts()
    assert subject["attacks"]["accuracy"] == attacks.accuracy_under_attack(0.01)
    row = part["least"][0]
    assert row["attack"]["distance"] == float(attacks.distance[row["row"]]) > row["radius"]
    assert subject["conditions"]["median_radius"] == part["median_radius"]
    bracket = subject["lipschitz"]
    assert 0 < bracket["lower"] <= min(bracket["upper"], certificates.constant)
    assert [layer["path"] for layer in bracket["layers"]] == ["0", "1", "2"]
    knowledge = holdfast.knowledge(net(), (inputs, labels))
    assert subject["knowledge"]["rank"] == knowledge.rank()
    predicted = net()(inputs).argmax(1)
    for place, shown in subject["knowledge"]["rows"].items():
        assert shown == {"predicted": int(predicted[int(place)])}
    assert subject["fingerprint"] == certificates.fingerprint
    assert subject["parameters"] == 4 * 8 + 8 + 8 * 3 + 3


def test_what_is_refused_says_why_and_the_rest_goes_on(tmp_path):
    result = audit(Unknown().eval(), rows(), tmp_path, AuditOptions(seconds=0.1))
    (subject,) = result.document["subjects"]
    assert subject["conditions"]["bounded"] == "unbounded" and subject["attacks"]["curve"]
    for part in ("lipschitz", "certificates"):
        assert set(subject[part]) == {"refused"}
        assert "logcumsumexp" in subject[part]["refused"]
    assert set(subject["knowledge"]["rank"]) == {"left", "right"}
    page = result.page.read_text().split("<script")[0]
    assert "logcumsumexp" in page


def test_every_layer_has_its_pairs_its_classes_and_its_frontier(report):
    (subject,) = report.document["subjects"]
    inputs, labels = rows()
    knowledge = holdfast.knowledge(net(), (inputs, labels))
    part = subject["knowledge"]
    for layer in knowledge.layers:
        pairs = [{one["row"], one["neighbour"]} for one in part["worst"][layer]]
        assert 0 < len(pairs) <= 6 and all(pairs.count(pair) == 1 for pair in pairs)
        assert part["worst"][layer][0] == plain(knowledge.neighbours[layer][0])
        assert all(str(row) in part["rows"] for pair in pairs for row in pair)
        assert part["by_class"][layer] == plain(knowledge.by_class[layer])
        frontier, shown = knowledge.frontier(layer), part["frontier"][layer]
        assert (shown["deltas"], shown["etas"]) == (plain(frontier.deltas), [*frontier.etas])
        for down, cells in enumerate(frontier.cells):
            assert shown["near"][down] == cells[0].near
            for name in ("observed", "probability", "conditional", "vacuous"):
                assert shown[name][down] == [getattr(cell, name) for cell in cells]
            assert shown["why"][down] == [list(cell.why) for cell in cells]
        cell = knowledge.certificate(layer, frontier.deltas[5], frontier.etas[3])
        said = shown["statement"].format(
            delta=f"{cell.delta:.6g}", eta=f"{cell.eta:.6g}", near=cell.near,
            observed=cell.observed, probability="P", conditional="C",
        )  # fmt: skip
        start, end = cell.statement.index("lands within"), cell.statement.index(", is at most")
        assert cell.statement[start:end] in said  # the same event in the same words
        assert f"shared by {cell.multiplicity} bounds" in said and part["limits"] in cell.statement
        assert f"{cell.near} lie within and {cell.observed} of these" in said


def test_a_training_run_is_shown_with_the_step(tmp_path):
    model, (inputs, labels) = net(), rows()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss():
        return nn.functional.cross_entropy(model(inputs), labels)

    path = tmp_path / "run.jsonl"
    with holdfast.DescentMonitor(optimizer, every=2, loss=loss, out=path) as monitor:
        for _ in range(8):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    options = AuditOptions(seconds=0.1, step=0.05, training=path)
    result = audit(model, (inputs, labels), tmp_path / "it", options)
    (subject,) = result.document["subjects"]
    expected = holdfast.descent(model, "cross_entropy", inputs, labels, step=0.05)
    assert subject["descent"]["smoothness"] == plain(expected.smoothness)
    assert subject["descent"]["training"]["measurements"] == plain(monitor.measurements)
    page = result.page.read_text().split("<script")[0]
    assert "Did training stay within the safe step?" in page
    assert "100% of 4 measured steps lowered the loss" in page


def test_a_model_without_anything_to_train_has_no_step(tmp_path):
    result = audit(net().requires_grad_(False), rows(), tmp_path, AuditOptions(seconds=0.1))
    (subject,) = result.document["subjects"]
    assert "no trainable parameter" in subject["descent"]["refused"]


def test_several_models_share_one_page_and_report_every_step(tmp_path):
    inputs, labels = rows()
    models = [LoadedModel(net(), "given", name) for name in ("one", "two")]
    data, taken = checked(inputs, labels, "given"), []
    result = audit_models(models, data, tmp_path, AuditOptions(seconds=0.1), taken.append)
    assert [subject["name"] for subject in result.document["subjects"]] == ["one", "two"]
    steps = [
        f"{name}: {step}" for name in ("one", "two") for step in steps_of(data, AuditOptions())
    ] + ["page"]
    assert list(dict.fromkeys(progress.part.split(",")[0] for progress in taken)) == steps
    assert [progress.done for progress in taken if progress.part in steps] == list(range(13))
    assert {progress.total for progress in taken} == {13}
    assert any(progress.improvement for progress in taken)
    assert "one: certificates, certificates (0 of 23)" in {progress.part for progress in taken}


def test_no_distance_of_an_audit_depends_on_what_was_found(tmp_path):
    """Two models, one of them as steep as one likes, are held against the same distances."""
    inputs, labels = rows()
    steep = net()
    steep[2].weight.data *= 50
    models = [LoadedModel(model, "given", name) for model, name in ((net(), "a"), (steep, "b"))]
    alone = [
        audit_models([one], checked(inputs, labels, "given"), tmp_path / one.name, options)
        for one, options in zip(models, [AuditOptions(seconds=0.1)] * 2, strict=True)
    ]
    first, second = (one.document for one in alone)
    assert first["epsilon"] is None and first["distances"] == second["distances"]
    half = first["subjects"][0]["conditions"]["resolution"]
    found = [(one["distance"], one["why"]) for one in first["distances"]]
    assert found == [(0.01 * part * half, f"{part}%") for part in (1, 5, 10, 25)]
    for document in (first, second):
        certificates = document["subjects"][0]["certificates"]
        low, high = certificates["median_interval"]
        assert low <= certificates["median_radius"] <= high
        assert certificates["verified_accuracy"] is None


def test_shares_are_those_of_the_verbs_and_come_with_an_interval(report):
    (subject,) = report.document["subjects"]
    inputs, labels = rows()
    certificates = holdfast.certify(net(), inputs, labels)
    attacks = holdfast.attack(net(), inputs, labels)
    distances = [one["distance"] for one in report.document["distances"]]
    assert 0.01 in distances and distances == sorted(distances)
    proved, right = subject["certificates"]["shares"], subject["attacks"]["shares"]
    assert [one["share"] for one in proved] == certificates.verified_accuracy(distances)
    assert [one["share"] for one in right] == attacks.accuracy_under_attack(distances)
    for one in (*proved, *right):
        assert one["low"] <= one["share"] <= one["high"] and one["count"] == one["share"] * 24


def test_rows_of_a_table_are_shown_by_its_columns_and_names_of_classes(tmp_path):
    inputs, labels = rows()
    names = {"setosa": 0, "virginica": 2, "versicolor": 1}
    table = dataclasses.replace(
        checked(inputs, labels, "csv:t.csv"), columns=("a", "b", "c", "d"), classes=names
    )
    models = [LoadedModel(net(), "given", "one")]
    result = audit_models(models, table, tmp_path, AuditOptions(seconds=0.1))
    data, (subject,) = result.document["data"], result.document["subjects"]
    assert data["class_names"] == ["setosa", "versicolor", "virginica"]
    assert data["columns"] == ["a", "b", "c", "d"] and len(data["spread"]) == 4
    first = subject["certificates"]["least"][0]
    assert first["values"] == inputs[first["row"]].tolist()
    assert len(first["attack"]["values"]) == 4 and first["attack"]["change"] is None
    page = result.page.read_text().split("<script")[0]
    assert "answers versicolor" in page and "<i>a</i>" in page and " → " in page
    assert "grey is no change" not in page and "<img" not in page


def test_without_the_extra_there_is_a_warning_and_no_page(tmp_path, monkeypatch):
    def missing(*_):
        raise MissingExtra("altair", "report", "the audit page")

    monkeypatch.setattr("holdfast.audits.audit.write_page", missing)
    with pytest.warns(HoldfastWarning, match="no page written: the audit page needs altair"):
        result = audit(net(), rows(), tmp_path, AuditOptions(seconds=0.1))
    assert result.page is None
    assert os.listdir(tmp_path) == ["audit.json"]


def test_an_attack_inside_a_certified_ball_stops_everything(tmp_path, monkeypatch):
    def forged(*arguments):
        honest = certify_graph(*arguments)
        return dataclasses.replace(honest, radius=1e3 * honest.radius)

    monkeypatch.setattr("holdfast.audits.study.certify_graph", forged)
    with pytest.raises(InternalError, match=r"^row \d+: class .* a certificate is wrong; please"):
        audit(net(), rows(), tmp_path, AuditOptions(seconds=0.5))
    assert os.listdir(tmp_path) == []


BAD = {
    "norm": (rows, {"norm": 3.0}, "norm: got 3.0"),
    "seconds": (rows, {"seconds": math.nan}, "seconds: got nan"),
    "epsilon": (rows, {"epsilon": 0.0}, "epsilon: got 0.0"),
    "step": (rows, {"step": -1.0}, "step: got -1.0"),
    "no data": (lambda: 5, {}, "data: got 5, wanted (inputs, labels)"),
    "no pair": (lambda: [()], {}, "data: got tuple, wanted (inputs, labels)"),
    "no rows": (list, {}, "data: got no batch"),
    "NaN": (lambda: (rows()[0] * math.nan, rows()[1]), {}, "NaN or infinity in 24"),
    "labels": (lambda: (rows()[0], rows()[1] + 1), {}, "labels: got values from"),
}


@pytest.mark.parametrize(("data", "options", "said"), BAD.values(), ids=BAD)
def test_bad_input_leaves_no_file(tmp_path, data, options, said):
    with pytest.raises(InvalidInput) as refusal:
        audit(net(), data(), tmp_path / "it", AuditOptions(**{"seconds": 0.1, **options}))
    assert said in str(refusal.value)
    assert not (tmp_path / "it").exists() or os.listdir(tmp_path / "it") == []


def test_a_model_that_cannot_be_captured_is_refused_as_a_whole(tmp_path):
    with pytest.raises(Unsupported, match=r"Dropout: training mode"):
        audit(nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train(), rows(), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("case", ["one row", "one layer"])
def test_a_part_that_has_nothing_to_measure_does_not_end_the_audit(tmp_path, case):
    inputs, labels = rows()
    if case == "one row":
        audit(net(), (inputs[:1], labels[:1]), tmp_path, AuditOptions(seconds=0.1))
    else:
        audit(nn.Linear(4, 3).eval(), (inputs, labels), tmp_path, AuditOptions(seconds=0.1))


def test_ctrl_c_in_the_bracket_ends_the_audit(tmp_path, monkeypatch):
    def interrupted(*_):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.01)  # where another thread runs, Python 3.11 may look at signals only later
        yield

    monkeypatch.setattr("holdfast.brackets.search.steepest_pairs", interrupted)
    # Where tests run in the background of a shell, Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            audit(net(), rows(), tmp_path, AuditOptions(seconds=10.0))
    finally:
        signal.signal(signal.SIGINT, before)
