"""Bounds of a probability: against exact rational tails, and where stopping tries to cheat."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from holdfast.smoothing.confidence import (
    alpha_of,
    anytime_lower,
    excludes,
    fixed_lower,
    trials_needed,
)

COUNTS = st.integers(1, 70).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CONFIDENCES = st.sampled_from([0.5, 0.95, 0.999, 1 - 1e-9])


def exactly(hits, trials, p):
    """Return P(Bin(trials, p) = hits) exactly."""
    return math.comb(trials, hits) * p**hits * (1 - p) ** (trials - hits)


def at_least(hits, trials, p):
    """Return P(Bin(trials, p) >= hits) exactly."""
    return sum(exactly(k, trials, p) for k in range(hits, trials + 1))


def mixture(hits, trials, p):
    """Return the inverse of the martingale exactly."""
    return (trials + 1) * exactly(hits, trials, p)


@settings(deadline=None, max_examples=60)
@given(COUNTS, CONFIDENCES)
def test_bounds_never_exceed_the_exact_ones_and_come_near(counts, confidence):
    (hits, trials), alpha = counts, alpha_of(confidence)
    for lower, chance in ((fixed_lower, at_least), (anytime_lower, mixture)):
        bound = lower(hits, trials, alpha)
        if hits == 0:
            assert bound == 0.0
            continue
        assert 0.0 < bound <= hits / trials
        assert chance(hits, trials, Fraction(bound)) <= Fraction(alpha)
        above = Fraction(bound) * (1 + Fraction(1, 10**9))
        assert chance(hits, trials, above) > Fraction(alpha)
        assert lower(hits - 1, trials, alpha) < bound


@pytest.mark.parametrize(("hits", "trials"), [(99_990, 100_000), (70_001, 100_000), (1, 100_000)])
def test_many_trials_give_what_the_inverse_of_the_beta_distribution_gives(hits, trials):
    alpha = alpha_of(0.999)
    bound = fixed_lower(hits, trials, alpha)
    assert bound == pytest.approx(special.betaincinv(hits, trials - hits + 1, 0.001), rel=1e-9)
    assert anytime_lower(hits, trials, alpha) < bound


def test_alpha_is_that_of_the_confidence_as_written():
    assert alpha_of(0.999) == Decimal("0.001")
    assert alpha_of(0.95) == Decimal("0.05")


@pytest.mark.parametrize("lower", [fixed_lower, anytime_lower])
def test_the_trials_needed_are_enough_and_no_fewer_are(lower):
    alpha = alpha_of(0.999)
    for p in (0.5, 0.9, 0.9973):
        least = trials_needed(p, alpha, lower)
        assert lower(least, least, alpha) > p >= lower(least - 1, least - 1, alpha)


def cheated(rows, trials, p, alpha, seed):
    """Return how many of so many rows find a time when their bound is above the truth."""
    generator = np.random.default_rng(seed)
    hits = (generator.random((rows, trials)) < p).cumsum(1)
    n = np.arange(1, trials + 1)
    above = (hits > n * p) & excludes(hits, n, p, alpha)
    return int(above.any(1).sum())


def naive(rows, trials, p, alpha, seed):
    """Return the same for the bound that is valid at one time alone."""
    generator = np.random.default_rng(seed)
    hits = (generator.random((rows, trials)) < p).cumsum(1)
    tails = special.bdtrc(hits - 1, np.arange(1, trials + 1), p)
    return int(((hits > 0) & (tails <= float(alpha))).any(1).sum())


def covers(failures, rows, alpha):
    """Return whether so many failures are to be expected at a rate of at most alpha."""
    return stats.binomtest(failures, rows, float(alpha), "greater").pvalue > 1e-6


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_stopping_at_the_best_moment_does_not_cheat(p):
    alpha = alpha_of(0.95)
    assert covers(cheated(2000, 400, p, alpha, 0), 2000, alpha)
    assert not covers(naive(2000, 400, p, alpha, 0), 2000, alpha)  # the test can fail


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.5, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("confidence", [0.9, 0.999])
def test_coverage_of_ten_thousand_rows_at_the_boundary(p, confidence):
    alpha = alpha_of(confidence)
    failures = sum(cheated(1000, 5000, p, alpha, seed) for seed in range(10))
    assert covers(failures, 10_000, alpha)
    generator = np.random.default_rng(0)
    hits = generator.binomial(1000, p, 10_000)
    wrong = {k: fixed_lower(k, 1000, alpha) > p for k in set(hits.tolist())}
    assert covers(sum(wrong[k] for k in hits.tolist()), 10_000, alpha)
