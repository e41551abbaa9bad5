"""The text of every answer: ten lines of 80 columns at most, and bounds stay proved."""

import dataclasses
import math

import pytest
from rich.cells import cell_len
from tests.views.answers import answers, hostile_answers

from holdfast.errors import visible
from holdfast.results import ChartedResult, Result
from holdfast.types import Estimate
from holdfast.views import charts, summaries, tables

KINDS = [
    "loaded model", "graph", "bracket", "certificates", "one certificate",
    "certificates of targets", "attacks", "nearest attacks", "conditions", "no metric",
    "knowledge", "estimate", "frontier", "certificate of knowledge", "certificate of volatility",
    "descent", "smoothness", "monitor", "substitutions",
    "texts", "audit",
]  # fmt: skip


def test_there_is_an_answer_of_every_kind():
    assert [*answers()] == KINDS
    assert {type(answer) for answer in answers().values()} == leaves(Result)


def test_every_kind_has_words_and_no_view_is_of_a_kind_that_is_none():
    kinds = {kind.__name__ for kind in leaves(Result)}
    assert {*summaries.summary.kinds} == kinds
    assert {*tables.columns.kinds} <= kinds
    assert {*charts.figure.kinds} == {kind.__name__ for kind in leaves(ChartedResult)}


def leaves(kind):
    """Return the classes below a class that have none below them."""
    below = [one for one in kind.__subclasses__() if one.__module__.startswith("holdfast.")]
    return set().union(*map(leaves, below)) if below else {kind}


@pytest.mark.parametrize("kind", KINDS)
def test_a_repr_has_ten_lines_of_80_columns(kind):
    for answer in (answers()[kind], hostile_answers().get(kind)):
        if answer is not None:
            lines = repr(answer).split("\n")
            assert len(lines) <= 10 and max(map(cell_len, lines)) <= 80
            assert visible(repr(answer)) == repr(answer)
            assert all(line.isprintable() for line in lines)


def test_the_answer_stands_in_the_text():
    bracket = dataclasses.replace(answers()["bracket"], lower=27.0549, upper=35.2101)
    assert repr(bracket).startswith("Bracket: l2 Lipschitz constant 27.0 to 35.3\n  ratio ")
    endless = dataclasses.replace(bracket, upper=math.inf)
    assert "27.0 to unbounded" in repr(endless)
    tight = dataclasses.replace(bracket, lower=82.3249844, upper=82.32498441)
    assert "82.324984400 to 82.324984410" in repr(tight)
    certificates = answers()["certificates"]
    assert repr(certificates).startswith("Certificates of 20 rows: l2 radii, real semantics\n")
    assert f"{certificates.counts()['certified']} certified" in repr(certificates)
    assert "exact real function" in repr(certificates)
    one = answers()["one certificate"]
    assert f"predicted  {int(one.predicted)}, label {int(one.labels)}" in repr(one)
    known = answers()["knowledge"]
    assert repr(known).split("\n")[1].split()[0] == known.rank()[0]
    assert repr(Estimate(1.0, 0.12345, 2.0006, 0.9)) == "Estimate 1.00 [0.123, 2.01], 90% interval"


def test_shown_radii_are_certified():
    radius = answers()["certificates"].radius
    row = next(line for line in repr(answers()["certificates"]).split("\n") if "radius (" in line)
    shown = [float(word.strip(",")) for word in row.split("%)")[1].split()]
    for share, bound in zip((0.1, 0.5, 0.9), shown, strict=True):
        assert (radius >= bound).double().mean() >= 1 - share - 1 / len(radius)


def test_an_answer_without_words_of_its_own_shows_its_fields():
    @dataclasses.dataclass(frozen=True, repr=False)
    class Odd(Result):
        share: float
        names: tuple[str, ...]

    assert repr(Odd(0.25, ("a",) * 20)) == "Odd\n  share  0.250\n  names  20 entries"
