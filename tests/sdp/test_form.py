"""The normal form and its reductions."""

from fractions import Fraction

import numpy as np
import pytest
from tests.sdp.builders import Tape, feed_forward, residual

from holdfast.errors import InvalidInput
from holdfast.sdp.form import NormalForm, levels
from holdfast.sdp.reduction import reduce


def run(form: NormalForm, slopes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Propagate x with fixed slopes."""
    v = np.zeros(form.units)
    for i in range(form.units):
        v[i] = slopes[i] * (form.B[i] @ np.concatenate([x, v]))
    return form.C @ np.concatenate([x, v])


def test_feed_forward_levels_are_layers():
    rng = np.random.default_rng(0)
    shapes = [(5, 3), (4, 5), (2, 4)]
    form = feed_forward([rng.standard_normal(s) for s in shapes], [(0, 1)] * 2)
    assert levels(form.B, 3) == [(0, 5), (5, 9)]
    assert form.B_error is None
    assert form.C_error is None


def test_residual_is_a_residual():
    rng = np.random.default_rng(1)
    blocks = [(rng.standard_normal((4, 3)), rng.standard_normal((3, 4))) for _ in range(2)]
    last = rng.standard_normal((2, 3))
    form = residual(blocks, [(0, 1)] * 2, last)
    slopes, x = rng.uniform(size=8), rng.standard_normal(3)
    y = x
    for k, (W, V) in enumerate(blocks):
        y = y + V @ (slopes[4 * k : 4 * k + 4] * (W @ y))
    np.testing.assert_allclose(run(form, slopes, x), last @ y, rtol=1e-12)


def test_equal_slopes_are_eliminated_exactly_within_the_stated_error():
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal(s) for s in [(6, 3), (5, 6), (4, 5), (2, 4)]]
    tape = Tape(3)
    signal = tape.input
    low, high = [], []
    for k, weight in enumerate(weights[:-1]):
        fixed = rng.uniform(size=len(weight)) < 0.5
        lo = np.where(fixed, 0.3 + k, 0.0)
        hi = np.where(fixed, 0.3 + k, 1.0)
        low.append(lo)
        high.append(hi)
        signal = tape.activate(tape.linear(weight, signal), lo, hi)
    form = tape.normal_form(tape.linear(weights[-1], signal))
    small = reduce(form, rotate=False)
    free = np.concatenate(low) != np.concatenate(high)
    assert small.units == free.sum()
    slopes = np.where(free, rng.uniform(size=form.units), form.low)
    x = rng.standard_normal(3)
    np.testing.assert_allclose(run(small, slopes[free], x), run(form, slopes, x), rtol=1e-12)
    B, C = eliminate_exactly(form, free)
    for exact, rounded, bound in ((B, small.B, small.B_error), (C, small.C, small.C_error)):
        for row, near, error in zip(exact, rounded, bound, strict=True):
            off = [abs(e - Fraction(float(n))) for e, n in zip(row, near, strict=True)]
            assert sum(o * o for o in off[:3]) <= Fraction(float(error[0])) ** 2
            assert all(o <= Fraction(float(e)) for o, e in zip(off[3:], error[1:], strict=True))


def eliminate_exactly(form: NormalForm, free: np.ndarray) -> tuple[list, list]:
    """Eliminate the linear units in rational arithmetic."""
    d = form.inputs
    B = [[Fraction(float(e)) for e in row] for row in form.B]
    C = [[Fraction(float(e)) for e in row] for row in form.C]
    for unit in np.flatnonzero(~free):
        slope = Fraction(float(form.low[unit]))
        for row in [*B[unit + 1 :], *C]:
            weight = row[d + unit] * slope
            row[:] = [e + weight * f for e, f in zip(row, B[unit], strict=True)]
            row[d + unit] = Fraction(0)
    columns = [*range(d), *(d + np.flatnonzero(free))]
    cut = [[row[c] for c in columns] for row in B]
    return [cut[u] for u in np.flatnonzero(free)], [[row[c] for c in columns] for row in C]


def test_dead_units_leave():
    W1 = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0], [1.0, -1.0]])
    W2 = np.array([[1.0, 5.0, 0.0, 2.0], [0.0, 7.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]])
    form = feed_forward([W1, W2, np.array([[1.0, 1.0, 0.0]])], [(0, 1)] * 2)
    small = reduce(form, rotate=False)
    assert small.units == 3  # two of the first layer, one of the second
    np.testing.assert_array_equal(small.B[:2, :2], W1[[0, 3]])


def test_twins_merge_only_with_equal_columns():
    W1 = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [3.0, 1.0]])
    form = feed_forward([W1, np.array([[1.0, 1.0, -1.0, 2.0]])], [(0, 1)])
    small = reduce(form, rotate=False)
    assert small.units == 3
    np.testing.assert_array_equal(small.C[:, 2:], [[2.0, -1.0, 2.0]])


def test_inputs_shrink_to_the_rank():
    rng = np.random.default_rng(3)
    form = feed_forward([rng.standard_normal((4, 20)), rng.standard_normal((2, 4))], [(0, 1)])
    small = reduce(form)
    assert small.inputs == 4
    assert small.rotated
    np.testing.assert_allclose(
        small.B[:, :4] @ small.B[:, :4].T, form.B[:, :20] @ form.B[:, :20].T, rtol=1e-12
    )


@pytest.mark.parametrize(
    "change",
    [
        {"low": [1.0, 0.0], "high": [0.5, 1.0]},
        {"B": [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]},
        {"B": [[np.nan, 0.0, 0.0], [1.0, 1.0, 0.0]]},
        {"C": [[1.0, 0.0]]},
    ],
)
def test_bad_forms_are_refused(change):
    good = {
        "B": [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]],
        "C": [[0.0, 0.0, 1.0]],
        "low": [0.0, 0.0],
        "high": [1.0, 1.0],
        "inputs": 1,
    }
    good = {k: np.array(v) if isinstance(v, list) else v for k, v in good.items()}
    NormalForm(**good)
    with pytest.raises(InvalidInput):
        NormalForm(**{**good, **{k: np.array(v) for k, v in change.items()}})
