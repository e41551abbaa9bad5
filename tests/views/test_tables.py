"""Answers as tables of pandas: the numbers as they are, one line each."""

import pytest
from tests.views.answers import answers
from tests.views.test_text import KINDS

from holdfast.views.tables import columns


@pytest.mark.parametrize("kind", KINDS)
def test_columns_have_one_length(kind):
    table = columns(answers()[kind])
    assert table and len({len(column) for column in table.values()}) == 1


def test_tables_hold_the_numbers_themselves():
    pytest.importorskip("pandas")
    certificates = answers()["certificates"]
    frame = certificates.to_pandas()
    assert frame["radius"].tolist() == certificates.radius.tolist()
    assert (frame["reason"] == "certified").sum() == certificates.counts()["certified"]
    known = answers()["knowledge"]
    assert known.to_pandas()["layer"].tolist() == [*known.layers]
    assert known.to_pandas()["scale"].tolist() == [*known.scale.values()]
    bracket = answers()["bracket"]
    assert bracket.to_pandas()["gain"].tolist() == [layer.gain for layer in bracket.layers]
    assert len(answers()["frontier"].to_pandas()) == 13 * 9
    assert answers()["audit"].to_pandas()["name"].tolist() == ["digits-plain", "digits-bounded"]
    assert answers()["certificates of targets"].to_pandas()["target"].dtype == float
