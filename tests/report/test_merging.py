"""Several audits on one page: the numbers beside each other are about the same rows."""

import copy

import pytest

from holdfast.errors import InvalidInput
from holdfast.report import render
from holdfast.report.merging import merged


def apart(audit):
    """Return the audit of each model by itself."""
    return [copy.deepcopy(audit) | {"subjects": [one]} for one in audit["subjects"]]


def test_two_audits_make_the_page_of_both_models(audit):
    one, two = apart(audit)
    two |= {"seconds": 10.0, "command": "holdfast audit two", "stopped": "two: attacks"}
    found = merged([one, two])
    assert [subject["name"] for subject in found["subjects"]] == ["digits-plain", "digits-bounded"]
    assert found["seconds"] == pytest.approx(audit["seconds"] + 10)
    assert found["command"].splitlines() == [audit["command"], "holdfast audit two"]
    assert found["stopped"] == "two: attacks" and found["citations"] == audit["citations"]
    assert "gives up 1.39 points of clean accuracy" in render(found)
    assert merged([one]) == one


def test_a_model_audited_twice_has_two_names(audit):
    one, _ = apart(audit)
    names = [subject["name"] for subject in merged([one, one])["subjects"]]
    assert names == ["digits-plain (1)", "digits-plain (2)"]


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("norm", "linf", "norm"),
        ("epsilon", 0.5, "epsilon"),
        ("distances", [], "distances"),
        ("holdfast", "0.0.1", "version"),
    ],
)
def test_numbers_that_cannot_be_compared_do_not_stand_beside_each_other(audit, key, value, what):
    one, two = apart(audit)
    with pytest.raises(InvalidInput, match=f"runs: got audits with {what} "):
        merged([one, two | {key: value}])


def test_audits_of_different_rows_are_refused(audit):
    one, two = apart(audit)
    two["data"]["sha256"] = "0"
    with pytest.raises(InvalidInput, match="the same data in all of them"):
        merged([one, two])
