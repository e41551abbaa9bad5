"""Attacks as a document: what they say together, and what they say after a round trip."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.arguments import NORMS
from holdfast.attacks.result import Attacks
from holdfast.errors import InvalidInput

DISTANCES = st.one_of(st.just(0.0), st.just(math.inf), st.floats(1e-300, 1e300))


def attacks(distances=(0.0, 0.5, math.inf), norm=2.0, epsilon=math.inf) -> Attacks:
    rows = len(distances)
    reasons = {0.0: "misclassified", math.inf: "none_found"}
    return Attacks(
        distance=torch.tensor(distances, dtype=torch.float64),
        adversarial=torch.arange(4.0 * rows).reshape(rows, 2, 2) / 3,
        predicted=torch.tensor([1 if math.isinf(d) else 0 for d in distances]),
        labels=torch.ones(rows, dtype=torch.int64),
        reason=tuple(reasons.get(d, "found") for d in distances),
        norm=norm,
        epsilon=epsilon,
        units=torch.zeros(0, dtype=torch.float64),
        onehot=(),
        fingerprint="ab" * 32,
        seed=3,
        stopped=False,
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_round_trip_is_exact(tmp_path, norm, dtype):
    before = attacks(norm=norm)
    before = dataclasses.replace(before, adversarial=before.adversarial.to(dtype))
    before.save(tmp_path / "a.json")
    after = Attacks.load(tmp_path / "a.json")
    for field in dataclasses.fields(Attacks):
        left, right = (getattr(each, field.name) for each in (before, after))
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype and torch.equal(left, right), field.name
        else:
            assert left == right, field.name


@given(st.lists(DISTANCES, min_size=1, max_size=12), st.floats(0, 1e300))
def test_the_curve_and_the_accuracy_agree(distances, epsilon):
    result = attacks(distances)
    steps, shares = result.curve()
    assert steps[0] == 0.0 and bool((steps.diff() > 0).all()) and bool((shares.diff() < 0).all())
    for step, share in zip(steps.tolist(), shares.tolist(), strict=True):
        assert result.accuracy_under_attack(step) == share
    expected = sum(distance > epsilon for distance in distances) / len(distances)
    assert result.accuracy_under_attack(epsilon) == expected


def test_success_counts_and_summary():
    result = attacks((0.0, 0.5, 0.25, math.inf))
    assert result.success.tolist() == [True, True, True, False]
    assert result.counts() == {"found": 2, "misclassified": 1, "none_found": 1}
    assert "adversarial" not in result.document() and len(result) == 4


@pytest.mark.parametrize("epsilon", [-1.0, math.nan, 0.6])
def test_an_accuracy_is_only_told_for_what_was_attacked(epsilon):
    with pytest.raises(InvalidInput, match="epsilon: got"):
        attacks((0.0, 0.5), epsilon=0.5).accuracy_under_attack(epsilon)


TAMPERED = [
    pytest.param({"format": "holdfast.attacks/2"}, id="format"),
    pytest.param({"more": 1}, id="unknown key"),
    pytest.param({"distance": None}, id="no list"),
    pytest.param({"distance": ["nan"] * 3}, id="distance NaN"),
    pytest.param({"distance": ["-0x1.0000000000000p+0"] * 3}, id="distance negative"),
    pytest.param({"distance": ["0x1.0000000000000p+0"]}, id="distance short"),
    pytest.param({"epsilon": "0x1.0000000000000p-9"}, id="farther than epsilon"),
    pytest.param({"epsilon": "nan"}, id="epsilon NaN"),
    pytest.param({"norm": "0x1.8000000000000p+1"}, id="norm 3"),
    pytest.param({"labels": ["a"] * 3}, id="labels text"),
    pytest.param({"labels": [0, 0, 0]}, id="labels as predicted"),
    pytest.param({"reason": "text"}, id="reason text"),
    pytest.param({"reason": ["odd"] * 3}, id="reason unknown"),
    pytest.param({"adversarial": {}}, id="no adversarials"),
    pytest.param(
        {"adversarial": {"dtype": "int8", "shape": [3], "base64": "AAAA"}}, id="adversarial type"
    ),
    pytest.param(
        {"adversarial": {"dtype": "float32", "shape": [3, 9], "base64": "AAAA"}},
        id="adversarial shape",
    ),
    pytest.param(
        {"adversarial": {"dtype": "float32", "shape": [], "base64": "AAAAAA=="}}, id="one number"
    ),
    pytest.param(
        {"adversarial": {"dtype": "float32", "shape": [1], "base64": "AAAA****"}},
        id="adversarial text",
    ),
]


@pytest.mark.parametrize("change", TAMPERED)
def test_a_tampered_file_is_refused(tmp_path, change):
    path = tmp_path / "a.json"
    attacks().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInput, match=r"^path: got .*a\.json'"):
        Attacks.load(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", "{"])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InvalidInput, match="path: got"):
        Attacks.load(tmp_path / "a.json")
