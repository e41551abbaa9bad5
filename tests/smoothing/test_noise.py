"""What a noise certifies, against every text of few letters and exact arithmetic."""

import itertools
import math
from fractions import Fraction
from functools import cache

import mpmath
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast import Deletion, Gaussian, InvalidInput, Uniform
from holdfast.rounding import up
from holdfast.smoothing.noise import normal_up

PROBABILITIES = st.floats(0.5, 1.0, exclude_min=True, exclude_max=True)
P = Fraction(3, 5)


def words(letters, most):
    """Return every text of at most so many letters."""
    return ["".join(each) for n in range(most + 1) for each in itertools.product(letters, repeat=n)]


@cache
def distribution(text):
    """Return what is left of a text, with its exact probability."""
    found = {}
    for kept in itertools.product((False, True), repeat=len(text)):
        left = "".join(itertools.compress(text, kept))
        chance = math.prod((1 - P if keep else P) for keep in kept)
        found[left] = found.get(left, 0) + chance
    return found


@cache
def edits(a, b):
    """Return the edit distance of two texts."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0])
    )  # fmt: skip


def least(x, other, level):
    """Return the least probability under `other` of a set that has `level` under `x`.

    The worst set takes the outputs in the order of their ratios, the last one in part.
    """
    p, q = distribution(x), distribution(other)
    spent = found = Fraction(0)
    for out in sorted(p, key=lambda out: q.get(out, 0) / p[out]):
        part = min(p[out], level - spent)
        found, spent = found + q.get(out, 0) * part / p[out], spent + part
    return found


@pytest.mark.parametrize(("letters", "most"), [("ab", 5), ("abc", 3)])
def test_no_set_of_outputs_breaks_the_bound_of_deletions_and_one_attains_it(letters, most):
    attained = set()
    for x, other in itertools.product(words(letters, most), repeat=2):
        p, q, k = distribution(x), distribution(other), edits(x, other)
        # The largest P_x(A) - P_x'(A) over all sets A.
        change = sum((max(chance - q.get(out, 0), 0) for out, chance in p.items()), Fraction(0))
        assert change <= 1 - P**k
        attained |= {k} if change == 1 - P**k else set()
    assert attained >= {0, 1, 2}


@pytest.mark.parametrize("level", [Fraction(7, 10), Fraction(19, 20), Fraction(1)])
def test_deletions_alone_and_insertions_alone_hold_further(level):
    for x, other in itertools.product(words("ab", 4), repeat=2):
        k = edits(x, other)
        if k == len(x) - len(other):
            assert least(x, other, level) >= (level - 1 + P**k) / P**k
        if k == len(other) - len(x):
            assert least(x, other, level) >= P**k * level
        assert least(x, other, level) >= level - 1 + P**k


@settings(deadline=None)
@given(st.floats(0.01, 0.99), PROBABILITIES)
def test_radii_of_deletions_are_the_largest_by_exact_arithmetic(p, p_lower):
    noise, exact, level = Deletion(p), Fraction(p), Fraction(p_lower)
    half = Fraction(1, 2)
    for radius, holds in (
        (noise.radius(p_lower), lambda k: level - 1 + exact**k > half),
        (noise.deletions(p_lower), lambda k: (level - 1 + exact**k) / exact**k > half),
        (noise.insertions(p_lower), lambda k: exact**k * level > half),
    ):
        assert holds(radius) and not holds(radius + 1)
    assert noise.radius(p_lower) <= min(noise.deletions(p_lower), noise.insertions(p_lower))
    assert noise.radius(p_lower) <= noise.radius(min(up(p_lower), 1 - 2**-53))


def test_the_numbers_of_the_documentation():
    assert [Deletion(p).radius(1 - 1e-9) for p in (0.6, 0.8, 0.9, 0.95)] == [1, 3, 6, 13]
    assert [round(Deletion(p).needed(1), 12) for p in (0.6, 0.8, 0.9)] == [0.9, 0.7, 0.6]
    # At the number itself the radius is not reached: the bound is strict.
    assert (Deletion(0.75).radius(0.75), Deletion(0.75).radius(up(0.75))) == (0, 1)
    assert Deletion(0.5).radius(1 - 2**-53) == 0


@settings(deadline=None)
@example(0.375, 1 - 2**-52)
@given(st.floats(1e-3, 1e3), PROBABILITIES)
def test_radii_of_numbers_never_exceed_the_exact_ones_and_come_near(size, p_lower):
    with mpmath.workprec(200):
        exact = mpmath.mpf(p_lower)
        quantile = mpmath.sqrt(2) * mpmath.erfinv(2 * exact - 1)
        for noise, truth in (
            (Gaussian(size), size * quantile),
            (Uniform(size), 2 * size * (exact - mpmath.mpf(1) / 2)),
        ):
            radius = noise.radius(p_lower)
            assert 0 <= radius < truth
            assert truth * (1 - mpmath.mpf("1e-9")) - 1e-300 <= radius
            assert radius <= noise.radius(1 - (1 - p_lower) * (1 - 1e-6))
            assert noise.needed(radius) == pytest.approx(p_lower, rel=1e-9)


def test_a_text_keeps_its_order_and_loses_its_share():
    text, generator = " ".join(str(k) for k in range(1000)), torch.Generator().manual_seed(0)
    left = [int(word) for word in Deletion(0.7).draw(text, generator).split()]
    assert left == sorted(set(left)) and 240 < len(left) < 360
    letters = Deletion(0.5, unit="characters").draw("a b c d e f g h", generator)
    assert letters and {*letters} < {*"a b c d e f g h"}
    halves = Deletion(0.4, unit=lambda text: [text[:4], text[4:]])
    assert {halves.draw("goodfilm", generator) for _ in range(40)} == {
        "", "good", "film", "goodfilm",
    }  # fmt: skip
    assert Deletion(0.5).draw("  \n ", generator) == ""


def test_noise_is_added_in_float64_and_keeps_the_type_of_the_row():
    row, generator = torch.zeros(20_000), torch.Generator().manual_seed(0)
    normal, flat = (each.draw(row, generator) for each in (Gaussian(0.5), Uniform(0.5)))
    assert normal.dtype == flat.dtype == torch.float32
    assert float(normal.std()) == pytest.approx(0.5, rel=0.03)
    assert float(flat.abs().max()) <= 0.5 and float(flat.std()) == pytest.approx(0.2887, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "value", "name"),
    [
        (Deletion, 0.0, "p"), (Deletion, 1.0, "p"), (Deletion, "half", "p"),
        (Gaussian, 0.0, "sigma"), (Gaussian, -1, "sigma"), (Gaussian, math.inf, "sigma"),
        (Uniform, 0.0, "lam"), (Uniform, math.nan, "lam"),
    ],
)  # fmt: skip
def test_what_is_no_noise_is_refused_by_name(kind, value, name):
    with pytest.raises(InvalidInput, match=f"^{name}: got"):
        kind(value)


def test_other_units_and_what_is_no_text_are_refused():
    with pytest.raises(InvalidInput, match="unit: got 'lines', wanted"):
        Deletion(0.5, unit="lines")
    with pytest.raises(InvalidInput, match="inputs: got 3"):
        Deletion(0.5).draw(3)
    with pytest.raises(InvalidInput, match="unit: got a function that fails"):
        Deletion(0.5, unit=lambda text: text.nothing).draw("a film")
    with pytest.raises(InvalidInput, match="noise: got pieces without a function"):
        Deletion(0.5, unit="pieces").draw("a film")


@pytest.mark.parametrize("z", [1e-9, 0.1, 1.0, 2.3263478740408408, 5.0, 8.125890664701908, 8.9])
def test_the_bound_of_the_normal_law_is_above_it_to_its_last_digits(z):
    with mpmath.workprec(400):
        found, truth = mpmath.mpf(str(normal_up(z))), mpmath.ncdf(z)
        assert truth < found < truth + mpmath.mpf("1e-38")
