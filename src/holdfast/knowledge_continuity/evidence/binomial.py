"""Bounds on a probability or a mean: exact for independent trials, and for pairs of a sample.

Sources: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of
the binomial", Biometrika, 1934; Hoeffding, "Probability inequalities for sums of bounded random
variables", JASA, 1963, section 5 (an average over pairs is an average of averages over n/2
independent pairs) and theorem 4's argument by convex order; Bentkus, "On Hoeffding's inequalities",
Annals of Probability, 2004 (hinge functions).

Every bound is checked with the tail of the binomial distribution after it is computed, so that it
errs on its own side whatever the inversion lost to rounding.
"""

import math

import numpy as np
from scipy import special

from holdfast.arguments import check_share

# What the tails of the binomial distribution (incomplete beta functions) may be wrong by, of
# themselves; scipy's are right to about 1e-13.
TAIL_ERROR = 1e-9


def binomial_upper(hits: int, trials: int, alpha: float) -> float:
    """Return the Clopper-Pearson upper bound of a probability.

    With N ~ Bin(trials, p), the bound computed from N is at least p with probability at least
    1 - alpha, whatever p is.

    Args:
        hits: How often it happened.
        trials: Independent trials; with none, the bound is 1.
        alpha: Probability that the bound may fail.

    Returns:
        The bound, at most 1.

    >>> round(binomial_upper(0, 100, 0.05), 6)  # 1 - 0.05 ** (1 / 100)
    0.029513
    """
    check_share("alpha", alpha)
    if hits >= trials:
        return 1.0
    bound = float(special.betaincinv(hits + 1, trials - hits, 1 - alpha))
    while bound < 1 and not _at_most(hits, trials, bound) * (1 + TAIL_ERROR) <= alpha:
        bound = min(1.0, bound * (1 + TAIL_ERROR) + TAIL_ERROR * alpha / trials)
    return bound


def _at_most(hits: int, trials: int, p: float) -> float:
    """Return P(Bin(trials, p) <= hits)."""
    return float(special.bdtr(hits, trials, p))


def pairs_upper(mean: float, rows: int, alpha: float) -> float:
    """Return an upper bound of E g(z, z') from the mean of g over the pairs of a sample.

    For g with values in [0, 1], U its mean over all pairs of n independent rows (or over any
    perfect matchings that were chosen without looking at the rows) and m = floor(n / 2), U is an
    average of averages of m independent values, so E phi(m U) <= E phi(Bin(m, E g)) for every
    convex phi. With the hinges phi(t) = (c - t)_+, Markov's inequality gives
    P(m U <= x) <= min over c > x of E(c - Bin(m, q))_+ / (c - x) =: T(x, q) at q = E g, and T falls
    in q. The bound is the largest q with T(m U, q) >= alpha.

    Args:
        mean: U.
        rows: n; with fewer than 2, the bound is 1.
        alpha: Probability that the bound may fail.

    Returns:
        The bound, at most 1.

    >>> round(pairs_upper(0.0, 200, 0.05), 6) >= round(1 - 0.05 ** (1 / 100), 6)
    True
    """
    check_share("alpha", alpha)
    m = rows // 2
    if m == 0 or not mean < 1:
        return 1.0
    # U itself is a quotient of counts: one rounding, taken upward.
    x = m * math.nextafter(mean, 1.0) * (1 + 1e-15)
    first = math.floor(x) + 1
    # 64 of the hinges c > x: any set of them gives a valid bound, the best one lies near the count.
    steps = np.unique(np.geomspace(1, m + 2 - first, 64).astype(int))
    hinges = steps + first - 1

    def tail(q: float) -> float:
        """Return the bound of P(m U <= x) where E g = q."""
        # E(c - N)_+ is the sum of P(N <= k) over k < c.
        cdf = special.bdtr(np.arange(hinges[-1]), m, q)
        expected = np.cumsum(cdf)[hinges - 1]
        return float((expected / (hinges - x)).min())

    low, high = mean, 1.0
    for _ in range(60):  # as many halvings as there are digits
        middle = (low + high) / 2
        if tail(middle) * (1 + TAIL_ERROR) <= alpha:
            high = middle
        else:
            low = middle
    return high


def pairs_lower(mean: float, rows: int, alpha: float) -> float:
    """Return a lower bound of E g(z, z') from the mean of g over the pairs of a sample."""
    above = pairs_upper(min(1.0, math.nextafter(1 - mean, 2)), rows, alpha)
    return max(0.0, math.nextafter(1 - above, -1))


def mean_upper(mean: float, square: float, rows: int, alpha: float) -> float:
    """Return an upper bound of E g(z, z') from the means of g and g^2 over the pairs of a sample.

    For g with values in [0, 1], U and V the means of g and g^2 over pairs as in `pairs_upper`, m =
    floor(n / 2) and l = log(2 / alpha): E g <= U + sqrt(2 l / m (V + l / (2 m))) + l / m.

    As exp(-s g) <= 1 - s g + s^2 g^2 / 2 for g >= 0, the average of averages U is at least
    E g - sqrt(2 l E g^2 / m) but with probability exp(-l); likewise, with g^4 <= g^2,
    sqrt(E g^2) <= sqrt(V + l / (2 m)) + sqrt(l / (2 m)). Both fail with probability alpha at most.
    It is much tighter than `pairs_upper` where g is small everywhere, and not only rarely large.

    Args:
        mean: U, or more.
        square: V, or more.
        rows: n; with fewer than 2, the bound is 1.
        alpha: Probability that the bound may fail.

    Returns:
        The bound, at most 1.

    >>> round(mean_upper(0.1, 0.01, 2000, 0.05), 4), round(pairs_upper(0.1, 2000, 0.05), 4)
    (0.113, 0.1208)
    """
    check_share("alpha", alpha)
    m = rows // 2
    if m == 0:
        return 1.0
    share = math.log(2 / alpha) / m
    bound = mean + math.sqrt(2 * share * (square + share / 2)) + share
    return min(1.0, bound * (1 + TAIL_ERROR))
