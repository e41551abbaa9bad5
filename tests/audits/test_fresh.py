"""Intervals for fresh inputs hold as often as they say, whatever the rows are drawn from."""

import fractions
import math

import pytest
import torch

from holdfast.audits.distances import distances_for
from holdfast.audits.fresh import LEVEL, median_interval, share_of, shares_at
from holdfast.moves import EVERYTHING
from holdfast.sources.data import checked


def tail(most: int, total: int, chance: fractions.Fraction) -> fractions.Fraction:
    """Return P(Bin(total, chance) <= most), exactly."""
    return sum(
        (
            math.comb(total, hits) * chance**hits * (1 - chance) ** (total - hits)
            for hits in range(most + 1)
        ),
        fractions.Fraction(0),
    )


@pytest.mark.parametrize(("count", "total"), [(0, 1), (0, 24), (3, 24), (24, 24), (271, 360)])
def test_each_end_of_a_share_leaves_a_fortieth_outside(count, total):
    found = share_of(count, total)
    half = (1 - fractions.Fraction(str(LEVEL))) / 2
    assert found["low"] <= found["share"] == count / total <= found["high"]
    if count < total:
        assert tail(count, total, fractions.Fraction(found["high"])) <= half
    if count > 0:
        above = 1 - fractions.Fraction(found["low"])
        assert tail(total - count, total, above) <= half


@pytest.mark.parametrize("total", [1, 5, 6, 24, 101])
def test_the_median_lies_between_two_rows_as_often_as_said(total):
    """Values 1..total stand for any: what matters is how many of them lie below the median."""
    low, high = median_interval(torch.arange(1.0, total + 1))
    half = (1 - fractions.Fraction(str(LEVEL))) / 2
    below = int(low)  # that many values are at most the lower end
    if high is None:
        assert low == 0 and tail(0, total, fractions.Fraction(1, 2)) > half
        return
    assert total + 1 - high == below
    assert tail(below - 1, total, fractions.Fraction(1, 2)) <= half
    assert tail(below, total, fractions.Fraction(1, 2)) > half


def test_shares_count_what_is_strictly_larger():
    values = torch.tensor([0.0, 1.0, 2.0, math.inf])
    assert [one["count"] for one in shares_at(values, [0.0, 1.0, 5.0])] == [3, 2, 1]


def found(half: float | None) -> list[dict]:
    return [{"conditions": {"resolution": half}}]


@pytest.mark.parametrize(
    ("norm", "usual"), [(2.0, ["36/255"]), (math.inf, ["2/255", "8/255"]), (1.0, [])]
)
def test_the_usual_distances_are_for_images_with_values_from_0_to_1(norm, usual):
    labels = torch.tensor([0, 1])
    images = checked(torch.rand(2, 4, 4), labels, "given")
    told = distances_for(images, norm, EVERYTHING, None, found(0.4))
    assert [why for _, why in told.usual if "/" in why] == usual
    assert told.every == sorted(told.every)
    bright = checked(2 * torch.ones(2, 4, 4), labels, "given")
    rows = checked(torch.rand(2, 4), labels, "given")
    for other in (bright, rows):
        told = distances_for(other, norm, EVERYTHING, 0.3, found(0.4))
        assert [why for _, why in told.usual] == ["1%", "5%", "10%", "25%", "asked"]


def test_rows_of_one_label_have_no_neighbours_to_be_held_against():
    rows = checked(torch.rand(2, 4), torch.tensor([1, 1]), "given")
    assert distances_for(rows, 2.0, EVERYTHING, None, found(0.1)).usual == ()
    assert distances_for(rows, 2.0, EVERYTHING, None, [{}]).usual == ()
