"""Rows of exact numbers, beside fractions."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from holdfast.brackets.branching.rationals import RationalRow, null_vector

FLOATS = st.floats(-1e3, 1e3, allow_subnormal=True)


def fractions(row: RationalRow) -> list[Fraction]:
    return [Fraction(top, row.bottom) for top in row.integers]


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=4), FLOATS)
def test_sums_and_products_are_exact(pairs, factor):
    left, right = (RationalRow.of(side) for side in zip(*pairs, strict=True))
    wanted = [Fraction(a) + Fraction(factor) * Fraction(b) for a, b in pairs]
    assert fractions(left.plus(right.times(factor))) == wanted
    assert left.floats() == [a for a, _ in pairs]


SMALL = st.integers(-4, 4)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(SMALL, min_size=n, max_size=n), min_size=1, max_size=5)
    )
)
def test_a_null_vector_is_one_and_is_found_where_it_is_the_only_one(lines):
    rows = [np.array(line, dtype=object) for line in lines]
    found = null_vector(rows)
    rank = np.linalg.matrix_rank(np.array(lines, float))
    assert (found is not None) == (len(rows) - rank == 1)
    if found is not None:
        assert any(found)
        assert not sum(w * row for w, row in zip(found, rows, strict=True)).any()
