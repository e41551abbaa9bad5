"""Bounds from counts: against exact rational tails, simulations and what is known."""

import functools
import math
from fractions import Fraction

import pytest
import torch

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.binomial import binomial_upper, pairs_lower, pairs_upper


def tail(hits, trials, p):
    """Return P(Bin(trials, p) <= hits) exactly."""
    p = Fraction(p)
    return sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(hits + 1))


@pytest.mark.parametrize("trials", [1, 7, 60])
@pytest.mark.parametrize("alpha", [0.05, 1e-6])
def test_upper_bound_is_the_root_of_the_exact_tail(trials, alpha):
    for hits in range(0, trials, max(1, trials // 5)):
        bound = binomial_upper(hits, trials, alpha)
        assert tail(hits, trials, bound) <= Fraction(alpha)
        assert tail(hits, trials, bound * (1 - 1e-7)) > Fraction(alpha)
    assert binomial_upper(trials, trials, alpha) == 1.0
    assert binomial_upper(0, 0, alpha) == 1.0


def test_zero_events_and_the_published_example():
    """KNOWLEDGE.md 3b: U = .00078, m = 1000, alpha = .05 gives .0045."""
    assert pairs_upper(0.00078, 2000, 0.05) == pytest.approx(0.0045, abs=5e-6)
    assert pairs_upper(0.0, 2000, 0.05) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=1e-6)
    assert pairs_upper(0.3, 1, 0.05) == pairs_upper(1.0, 100, 0.05) == 1.0
    assert pairs_lower(0.0, 100, 0.05) == 0.0


@pytest.mark.parametrize(("mean", "rows"), [(0.0, 40), (0.01, 200), (0.3, 100), (0.9, 51)])
def test_pairs_bound_lies_between_binomial_and_hoeffding(mean, rows):
    m, alpha = rows // 2, 0.01
    bound = pairs_upper(mean, rows, alpha)
    assert binomial_upper(math.floor(mean * m), m, alpha) - 1e-9 <= bound
    assert bound <= mean + math.sqrt(math.log(1 / alpha) / (2 * m)) + 1e-9
    assert pairs_lower(1 - mean, rows, alpha) == pytest.approx(1 - bound, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan])
def test_alpha_is_a_probability(alpha):
    with pytest.raises(InvalidInput, match="alpha"):
        binomial_upper(1, 10, alpha)
    with pytest.raises(InvalidInput, match="alpha"):
        pairs_upper(0.5, 10, alpha)


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.003, 0.05, 0.4])
def test_binomial_bound_covers(p):
    generator = torch.Generator().manual_seed(0)
    hits = (torch.rand(2000, 150, generator=generator) < p).sum(1).tolist()
    covered = sum(binomial_upper(k, 150, 0.05) >= p for k in hits)
    assert covered >= 0.95 * 2000 - 4 * math.sqrt(2000 * 0.05 * 0.95)


KERNELS = {
    "sum": (lambda x, y: x + y > 1.9, 0.005),  # P = (2 - 1.9)^2 / 2
    "or": (lambda x, y: torch.maximum(x, y) > 0.97, 1 - 0.97**2),
    "near": (lambda x, y: (x - y).abs() < 0.02, 0.02 * 2 - 0.02**2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("n", [60, 81])
def test_pairs_bound_covers(name, n):
    """1500 samples: the mean over all pairs is dependent, the bound must hold all the same."""
    kernel, truth = KERNELS[name]
    generator = torch.Generator().manual_seed(1)
    upper, lower = functools.cache(pairs_upper), functools.cache(pairs_lower)
    upper_holds = lower_holds = 0
    for _ in range(1500):
        x = torch.rand(n, generator=generator, dtype=torch.float64)
        first, second = torch.triu_indices(n, n, 1)
        mean = float(kernel(x[first], x[second]).double().mean())
        upper_holds += upper(mean, n, 0.05) >= truth
        lower_holds += lower(mean, n, 0.05) <= truth
    least = 0.95 * 1500 - 4 * math.sqrt(1500 * 0.05 * 0.95)
    assert min(upper_holds, lower_holds) >= least
