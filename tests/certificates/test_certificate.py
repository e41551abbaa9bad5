"""Certificates as a document: what they say together, and what they say after a round trip."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.arguments import NORMS
from holdfast.certificates.certificate import Certificates
from holdfast.errors import InvalidInput
from holdfast_check.files import digest

RADII = st.one_of(
    st.just(0.0), st.just(math.inf), st.floats(0, 1e300, exclude_min=True), st.sampled_from([1, 2])
)


def certificates(radii=(0.0, 0.5, math.inf, 5e-324), norm=2.0, constant=1 / 3) -> Certificates:
    rows = len(radii)
    certified = [radius > 0 for radius in radii]
    return Certificates(
        radius=torch.tensor(radii, dtype=torch.float64),
        margin=torch.tensor([0.1 if good else -0.1 for good in certified], dtype=torch.float64),
        predicted=torch.tensor([1 if good else 0 for good in certified]),
        labels=torch.ones(rows, dtype=torch.int64),
        reason=tuple("certified" if good else "misclassified" for good in certified),
        method=("global",) * rows,
        norm=norm,
        semantics="real",
        guarantee="It holds.",
        fingerprint="ab" * 32,
        constant=constant,
        classes=3,
        threshold=0.0,
        units=torch.zeros(0, dtype=torch.float64),
        onehot=(),
    )


def same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    return left == right


@pytest.mark.parametrize("norm", NORMS)
def test_a_round_trip_is_exact(tmp_path, norm):
    before = certificates(norm=norm)
    before.save(tmp_path / "c.json")
    after = Certificates.load(tmp_path / "c.json", claimed=True)
    for field in dataclasses.fields(Certificates):
        assert same(getattr(before, field.name), getattr(after, field.name)), field.name


@given(st.lists(RADII, min_size=1, max_size=12), st.floats(0, 1e300))
def test_the_curve_and_the_verified_accuracy_agree(radii, epsilon):
    result = certificates([float(radius) for radius in radii])
    distances, shares = result.curve()
    assert distances[0] == 0.0
    assert bool((distances.diff() > 0).all()) and bool((shares.diff() < 0).all())
    for distance, share in zip(distances.tolist(), shares.tolist(), strict=True):
        assert result.verified_accuracy(distance) == share
    step = int(torch.searchsorted(distances, epsilon, right=True)) - 1
    assert result.verified_accuracy(epsilon) == float(shares[step])
    assert result.verified_accuracy(epsilon) == sum(r > epsilon for r in radii) / len(radii)
    assert result.verified_accuracy(0.0) <= result.clean_accuracy


@pytest.mark.parametrize("norm", NORMS)
@given(near=st.floats(0, 1e100), far=st.floats(0, 1e100), constant=st.floats(0, 1e100))
def test_changes_grow_with_the_distance_and_are_rounded_up(norm, near, far, constant):
    near, far = sorted((near, far))
    result = certificates(norm=norm, constant=constant)
    for change in (result.output_change, result.loss_change):
        assert bool((change(near) <= change(far)).all())
        assert change(near).shape == (len(result),)
    exact = constant * near
    assert bool((result.output_change(near) >= exact).all())
    assert bool((result.loss_change(near) >= result.output_change(near)).all())


@pytest.mark.parametrize("epsilon", [-1.0, -math.inf, math.nan])
def test_a_distance_is_not_negative(epsilon):
    result = certificates()
    for method in (result.verified_accuracy, result.output_change, result.loss_change):
        with pytest.raises(InvalidInput, match="epsilon: got"):
            method(epsilon)


def test_reasons_are_counted_most_first():
    assert certificates((0.0, 1.0, 2.0)).counts() == {"certified": 2, "misclassified": 1}


TAMPERED = [
    pytest.param({"format": "holdfast.certificates/1"}, id="format"),
    pytest.param({"more": 1}, id="unknown key"),
    pytest.param({"rows": []}, id="no rows"),
    pytest.param({"claimed": None}, id="no list"),
    pytest.param({"norm": "nan"}, id="norm NaN"),
    pytest.param({"norm": "0x1.8p+1"}, id="norm 3"),
    pytest.param({"labels": ["a", "b", "c", "d"]}, id="labels text"),
    pytest.param({"classes": "three"}, id="classes text"),
    pytest.param({"claimed": ["nan"] * 4}, id="radius NaN"),
    pytest.param({"claimed": ["-0x1.0000000000000p+0"] * 4}, id="radius negative"),
    pytest.param({"claimed": ["0x1.0000000000000p+0"]}, id="radius short"),
    pytest.param({"claimed": ["0x1.0000000000000p+0"] * 4}, id="radius of a wrong row"),
    pytest.param({"labels": [0.5] * 4}, id="labels floats"),
    pytest.param({"labels": [9] * 4}, id="labels outside"),
    pytest.param({"constant": "nan"}, id="constant NaN"),
    pytest.param({"constant": "0x1p+9999"}, id="constant too large"),
    pytest.param({"reason": "text"}, id="reason text"),
    pytest.param({"predicted": [0] * 4}, id="another class"),
    pytest.param({"semantics": "Real"}, id="semantics"),
    pytest.param({"guarantee": "It holds.\x1b[2K"}, id="a command in words"),
]


@pytest.mark.parametrize("change", TAMPERED)
def test_a_tampered_file_is_refused_even_where_its_digest_fits(tmp_path, change):
    path = tmp_path / "c.json"
    certificates().save(path)
    document = json.loads(path.read_text())
    for name, value in change.items():
        place = document["rows"] if name in document["rows"] else document
        place[name] = value
    document["digest"] = digest(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidInput, match=r"^path: got .*c\.json'"):
        Certificates.load(path, claimed=True)


@pytest.mark.parametrize("field", ["guarantee", "fingerprint"])
def test_a_changed_file_is_refused_by_its_digest(tmp_path, field):
    path = tmp_path / "c.json"
    certificates().save(path)
    document = json.loads(path.read_text())
    document[field] += "."
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidInput, match=r"c\.json', whose digest is not that of its content"):
        Certificates.load(path, claimed=True)


ENTRIES = ("norm", "constant", "classes", "proof", "digest", "rows")
COLUMNS = ("radius", "claimed", "margin", "predicted", "labels", "reason", "method", "inputs")


@pytest.mark.parametrize("name", ENTRIES + COLUMNS)
def test_a_missing_entry_is_refused_by_name(tmp_path, name):
    path = tmp_path / "c.json"
    certificates().save(path)
    document = json.loads(path.read_text())
    del (document["rows"] if name in COLUMNS else document)[name]
    if name != "digest":
        document["digest"] = digest(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidInput, match=f"missing or unknown entries .*{name}"):
        Certificates.load(path, claimed=True)


def test_without_evidence_a_file_says_that_it_proves_nothing(tmp_path):
    certificates().save(tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    assert "loaded from a file" in document["proof"]["missing"]
    assert set(document["rows"]["radius"]) == {"0x0.0p+0"}


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", "{"])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InvalidInput, match="path: got"):
        Certificates.load(tmp_path / "c.json", claimed=True)
