"""The maps of the frontier: what a cell shows, what it says, and which one stands for all."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from holdfast.report import frontier, verdict
from holdfast.report.reading import finished


def test_a_map_has_every_cell_of_the_frontier(audit):
    found, _ = finished(audit, "knowledge")
    maps = frontier.maps(found)
    assert [one.layer for one in maps] == found.part["layers"]
    first = maps[0]
    assert first.etas == ("0", "0.125")
    assert [delta for delta, _ in first.rows] == ["1.25", "3.50", "any"]
    assert [[cell.short for cell in cells] for _, cells in first.rows] == [
        [("3.9", "100"), ("3.9", "100")],
        [("43", "100"), ("8.6", "23")],
        [("100", "100"), ("63", "63")],
    ]
    assert [[bool(cell.vacuous) for cell in cells] for _, cells in first.rows] == [
        [True, True], [False, False], [False, False],
    ]  # fmt: skip


def test_the_chosen_cell_says_most_and_is_told_in_full(audit):
    found, _ = finished(audit, "knowledge")
    one = frontier.maps(found)[0]
    assert one.chosen == (1, 1)
    assert one.said == "In layer '0': 3.5, 0.125, 8.520%, 22.77%, 60, 4."
    empty = frontier.fill(one.statement, one.rows[0][1][0])
    assert empty.startswith("Says nothing: nothing lies within delta. In layer '0': 1.25, 0,")
    anywhere = frontier.fill(one.statement, one.rows[-1][1][1])
    assert anywhere == "In layer '0': infinity, 0.125, 62.14%, 62.14%, 180, 90."


def test_the_promise_is_the_cell_that_says_most_of_all_layers(audit):
    found, _ = finished(audit, "knowledge")
    assert verdict.promise(found) == (
        "With 95% confidence, of fresh inputs that land within 4.00 of one of 180 anchors in layer "
        "4 (typical is 11.0), at most 15.2% have a loss that differs from the anchor's by more "
        "than 0.125. Of all inputs it is at most 62.2%."
    )
    for part in found.part["frontier"].values():
        part["conditional"] = [[1.0, 1.0], [0.9951, 0.63], [0.9931, 0.6214]]
    assert frontier.headline(found) is None
    assert verdict.promise(found).startswith("In no layer is anything proved")


def test_layers_without_a_frontier_have_no_map(audit):
    found, _ = finished(audit, "knowledge")
    del found.part["frontier"]["2"]
    assert [one.layer for one in frontier.maps(found)] == ["0", "1", "3", "4"]
    del found.part["frontier"]
    assert frontier.maps(found) == [] and frontier.headline(found) is None


@given(st.floats(0, 1))
def test_what_a_cell_shows_is_never_less_than_what_is_proved(share):
    part = {
        "deltas": [1.0], "etas": [0.0], "near": [1], "observed": [[0]], "why": [[[]]],
        "probability": [[share]], "conditional": [[share]],
    }  # fmt: skip
    cell = frontier._cell(part, 0, 0)
    assert len(cell.short[0]) <= 3 or share < 0.001
    for shown in (cell.short[0], cell.words["probability"].removesuffix("%")):
        number, _, power = shown.partition("\N{MULTIPLICATION SIGN}10")
        power = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)
        assert Decimal(number).scaleb(power) >= 100 * Decimal(str(share))
