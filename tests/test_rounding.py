"""Outward rounding, against exact rationals, from one end of float64 to the other."""

import math
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast.rounding import (
    coarse_up,
    exponent_of,
    frobenius_up,
    hypot_up,
    ldexp_up,
    lengths_down,
    lengths_up,
    powers_of_two,
    scaled,
    sqrt_up,
)

LARGEST = math.nextafter(math.inf, 0.0)
SIZES = st.floats(min_value=0.0, allow_infinity=False)
VECTORS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4)


def power(vector: list[float], norm: float) -> Fraction:
    """Return the norm, squared for l2."""
    sizes = [abs(Fraction(entry)) for entry in vector]
    if norm == 2.0:
        return sum((size * size for size in sizes), Fraction(0))
    return sum(sizes, Fraction(0)) if norm == 1.0 else max(sizes)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@given(VECTORS)
def test_lengths_enclose_the_norm_at_any_size(norm: float, vector: list[float]) -> None:
    values = torch.tensor([vector], dtype=torch.float64)
    upper, lower = float(lengths_up(values, norm)), float(lengths_down(values, norm))
    exponent = 2 if norm == 2.0 else 1
    assert math.isinf(upper) or Fraction(upper) ** exponent >= power(vector, norm)
    assert math.isinf(lower) or Fraction(lower) ** exponent <= power(vector, norm)
    if 1e-300 < upper < math.inf:
        assert upper <= lower * (1.0 + 1e-13)


def test_lengths_of_what_is_no_number_are_infinite() -> None:
    vectors = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [0.0, 0.0]], dtype=torch.float64)
    for norm in (1.0, 2.0, math.inf):
        assert lengths_up(vectors, norm).tolist() == [math.inf, math.inf, 0.0]
    assert frobenius_up(torch.zeros(0, 3)) == 0.0


@given(st.lists(SIZES, min_size=1, max_size=3))
def test_hypot_is_an_upper_bound(values: list[float]) -> None:
    bound = hypot_up(*values)
    assert math.isinf(bound) or Fraction(bound) ** 2 >= power(values, 2.0)


@given(SIZES, st.integers(-2100, 2100))
def test_ldexp_is_an_upper_bound(value: float, exponent: int) -> None:
    bound = ldexp_up(value, exponent)
    true = Fraction(value) * Fraction(2) ** exponent
    assert math.isinf(bound) or Fraction(bound) >= true
    assert not math.isinf(bound) or true > LARGEST


@given(SIZES)
def test_square_roots_and_coarse_numbers_are_upper_bounds(value: float) -> None:
    assert Fraction(sqrt_up(value)) ** 2 >= Fraction(value)
    assert coarse_up(value) >= value


def test_a_rounded_square_of_a_whole_number_is_not_taken_for_an_exact_one() -> None:
    wholes = range(2**27 + 1, 2**27 + 2001, 2)
    assert all(Fraction(sqrt_up(float(n * n))) ** 2 >= Fraction(float(n * n)) for n in wholes)


def test_powers_of_two_are_exact() -> None:
    exponents = torch.arange(-1022, 1024)
    assert powers_of_two(exponents).tolist() == [math.ldexp(1.0, int(e)) for e in exponents]


@given(VECTORS)
def test_scaling_brings_the_largest_entry_near_one(vector: list[float]) -> None:
    values = torch.tensor(vector, dtype=torch.float64)
    exponent = exponent_of(values)
    near = scaled(values, -exponent)
    assert float(near.abs().max()) < 1.0
    for entry, small in zip(vector, near.tolist(), strict=True):
        off = abs(Fraction(small) - Fraction(entry) / Fraction(2) ** exponent)
        assert off <= Fraction(2) ** -1074


def test_infinite_bounds_stay_infinite() -> None:
    """Alone, `nan_to_num(inf)` takes infinity for the largest number: a bound that is false."""
    for path in Path(holdfast.__file__).parent.rglob("*.py"):
        for found in re.findall(r"nan_to_num\(([^()]*)\)", path.read_text()):
            nan, *others = found.split(",")
            if "inf" in nan:
                assert len(others) >= (2 if "-" in nan else 1), f"{path}: nan_to_num({found})"
                assert "inf" in others[0], f"{path}: nan_to_num({found})"
