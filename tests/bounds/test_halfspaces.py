"""Ranges in half-spaces of boxes: below every exact value, and as good as linear programs."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from holdfast.bounds.halfspaces import HalfSpaces


def drawn(seed: int, d: int, walls: int, scale: float) -> tuple[Tensor, ...]:
    """Return rows of half-spaces, boxes around points that lie inside, and slopes."""
    numbers = torch.Generator().manual_seed(seed)
    middle, radius = torch.randn(2, 6, d, generator=numbers, dtype=torch.float64) * scale
    radius = radius.abs()
    rows = torch.randn(6, walls, d + 1, generator=numbers, dtype=torch.float64)
    inside = torch.rand(6, d, generator=numbers, dtype=torch.float64) * 2.0 - 1.0
    place = middle + radius * inside
    rows[..., d] = -(rows[..., :d] * place[:, None]).sum(2) + 0.1 * scale * rows[..., d].abs()
    slope = torch.randn(6, d, generator=numbers, dtype=torch.float64)
    return rows, middle, radius, slope


def exactly(row: list[float], u: tuple[Fraction, ...], ends: list[tuple[float, float]]) -> Fraction:
    """Return a row's value where u says, in exact numbers."""
    places = [Fraction(m) + Fraction(r) * t for (m, r), t in zip(ends, u, strict=True)]
    return sum(Fraction(g) * x for g, x in zip(row, places, strict=False)) + Fraction(row[-1])


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 1e-3, 1e-200, 1e-310, 1e200]))
def test_no_point_of_the_half_spaces_is_below(seed: int, scale: float) -> None:
    rows, middle, radius, slope = drawn(seed, 2, 3, scale)
    least = HalfSpaces.of(rows, middle, radius).least(slope, torch.arange(6)).tolist()
    steps = [Fraction(k, 4) for k in range(-4, 5)]
    for k, bound in enumerate(least):
        ends = [*zip(middle[k].tolist(), radius[k].tolist(), strict=True)]
        for u in itertools.product(steps, repeat=2):
            if all(exactly(row, u, ends) >= 0 for row in rows[k].tolist()):
                value = sum(Fraction(s) * t for s, t in zip(slope[k].tolist(), u, strict=True))
                assert bound <= value


@pytest.mark.parametrize("walls", [1, 2, 5])
def test_bounds_are_those_of_linear_programs(walls: int) -> None:
    rows, middle, radius, slope = drawn(1, 3, walls, 1.0)
    found = HalfSpaces.of(rows, middle, radius)
    least = found.least(slope, torch.arange(6)).numpy()
    box = -slope.abs().sum(1).numpy()
    exact = []
    for k in range(6):
        tight = -found.slope[k].numpy(), found.offset[k].numpy()
        exact.append(linprog(slope[k].numpy(), *tight, bounds=[(-1.0, 1.0)] * 3).fun)
    assert (least >= box - 1e-9).all()
    assert (least <= np.array(exact) + 1e-9).all()
    # One multiplier after the other finds the best of one, and most of what several give.
    lost, gained = np.array(exact) - least, np.array(exact) - box
    assert lost.sum() <= (1e-9 if walls == 1 else 0.5 * gained.sum())


def test_what_is_not_finite_says_nothing() -> None:
    rows = torch.tensor([[[1.0, torch.inf], [torch.nan, 1.0]]]).double()
    found = HalfSpaces.of(rows, torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    slope = torch.tensor([[1.0], [torch.inf]]).double()
    least = found.least(slope, torch.zeros(2, dtype=torch.int64))
    assert float(least[0]) == pytest.approx(-1.0) and float(least[0]) <= -1.0
    assert not float(least[1]) > -1e300
