"""Measured distances against exact rationals; directions and projections against slow ones."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.arguments import NORMS
from holdfast.attacks.geometry import distance_up, into_ball, spread, steepest
from holdfast.types import dual

ENTRIES = st.floats(-1e200, 1e200, allow_subnormal=True)
PAIRS = st.lists(st.tuples(ENTRIES, ENTRIES), min_size=1, max_size=9)


@pytest.mark.parametrize("norm", NORMS)
@given(pairs=PAIRS)
def test_a_distance_is_never_below_the_exact_one_and_close_to_it(norm, pairs):
    left, right = (torch.tensor([side], dtype=torch.float64) for side in zip(*pairs, strict=True))
    measured = float(distance_up(left, right, norm))
    steps = [abs(Fraction(a) - Fraction(b)) for a, b in pairs]
    power = 2 if norm == 2 else 1
    exact = max(steps) if math.isinf(norm) else sum(step**power for step in steps)
    assert Fraction(measured) ** power >= exact
    slack = Fraction(1e-321) if exact else 0
    assert Fraction(measured) ** power <= exact * (1 + Fraction(1, 10**12)) + slack


def test_a_distance_that_overflows_or_is_no_number_is_infinite():
    far = torch.tensor([[1e308], [math.nan], [math.inf]], dtype=torch.float64)
    assert distance_up(far, -far, 2.0).tolist() == [math.inf] * 3


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 2**31))
def test_the_steepest_step_has_length_one_and_climbs_by_the_dual_norm(norm, seed):
    torch.manual_seed(seed)
    gradient = torch.randn(3, 7, dtype=torch.float64)
    step, slope = steepest(gradient, norm)
    size = torch.linalg.vector_norm(step, ord=norm, dim=1)
    torch.testing.assert_close(size, torch.ones_like(size))
    torch.testing.assert_close((step * gradient).sum(1), slope)
    torch.testing.assert_close(slope, torch.linalg.vector_norm(gradient, ord=dual(norm), dim=1))
    other = spread(gradient, norm)
    assert bool(((other * gradient).sum(1) > 0).all())
    assert bool((torch.linalg.vector_norm(other, ord=norm, dim=1) <= 1 + 1e-12).all())


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_gradient_is_zero_nothing_moves(norm):
    step, slope = steepest(torch.zeros(2, 3), norm)
    assert not bool(step.any()) and not bool(slope.any())


def nearest_by_bisection(step: torch.Tensor, radius: float) -> torch.Tensor:
    """Return the l1 projection of one row: soft thresholding at a level found by bisection."""
    low, high = 0.0, float(step.abs().max())
    for _ in range(200):
        level = (low + high) / 2
        length = float((step.abs() - level).clamp(min=0).sum())
        low, high = (level, high) if length > radius else (low, level)
    return step.sign() * (step.abs() - high).clamp(min=0)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 2**31), radius=st.floats(0, 10))
def test_a_projection_is_the_nearest_point_of_the_ball(norm, seed, radius):
    torch.manual_seed(seed)
    steps = torch.randn(2, 6, dtype=torch.float64)
    inside = into_ball(steps, torch.full((2,), radius, dtype=torch.float64), norm)
    lengths = torch.linalg.vector_norm(steps, ord=norm, dim=1)
    for step, length, projected in zip(steps, lengths.tolist(), inside, strict=True):
        if length <= radius:
            expected = step
        elif norm == 1:
            expected = nearest_by_bisection(step, radius)
        else:
            expected = step * radius / length if norm == 2 else step.clamp(-radius, radius)
        torch.testing.assert_close(projected, expected)
