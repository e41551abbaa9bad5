"""Lower bounds of a probability from counts: for a fixed number of trials, and at any time.

Sources: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of
the binomial", Biometrika, 1934; Robbins, "Statistical methods related to the law of the iterated
logarithm", 1970 (the mixture martingale), by Ville's inequality of 1939.

Both are found in floating point and then lowered until decimal arithmetic that rounds against them
proves them, so that rounding never makes one larger than the exact bound.
"""

import functools
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from scipy import special

from holdfast.smoothing.directed import DOWN, UP, power_up, rest_up


def alpha_of(confidence: float) -> Decimal:
    """Return 1 - confidence, exactly, of the confidence as it is written.

    >>> alpha_of(0.999)
    Decimal('0.001')
    """
    return DOWN.subtract(Decimal(1), Decimal(repr(confidence)))


@functools.lru_cache(maxsize=100_000)
def fixed_lower(hits: int, trials: int, alpha: Decimal) -> float:
    """Return the Clopper-Pearson lower bound of a probability, rounded down.

    With N ~ Bin(trials, p), the bound computed from N is at most p with probability at least
    1 - alpha, whatever p is, where the number of trials was fixed before looking at any.

    Args:
        hits: How often it happened.
        trials: Independent trials.
        alpha: Probability that the bound may fail.

    Returns:
        The largest p0 with P(Bin(trials, p0) >= hits) <= alpha, or at most 1e-9 of it less.

    >>> round(fixed_lower(100, 100, alpha_of(0.95)), 6)  # 0.05 ** (1 / 100)
    0.970487
    """
    if hits == 0:
        return 0.0
    guess = float(special.betaincinv(hits, trials - hits + 1, float(alpha)))
    return _proved(guess, lambda p: at_least_up(hits, trials, p) <= alpha)


@functools.lru_cache(maxsize=100_000)
def anytime_lower(hits: int, trials: int, alpha: Decimal) -> float:
    """Return a lower bound of a probability that holds at all times at once, rounded down.

    Let K_n be the hits among the first n trials. Under p, the ratio of the likelihood of the trials
    under a uniformly drawn probability to that under p,

        M_n = integral of q^K (1 - q)^(n - K) dq / (p^K (1 - p)^(n - K))
            = 1 / ((n + 1) P(Bin(n, p) = K_n)),

    is a martingale that starts at 1. By Ville's inequality the probability that it ever reaches
    1 / alpha is at most alpha. So with probability at least 1 - alpha the bound is at most p after
    every trial: one may stop whenever the counts look good.

    Args:
        hits: How often it happened.
        trials: Independent trials until now.
        alpha: Probability that a bound may fail at any time.

    Returns:
        The largest p0 <= hits / trials with (trials + 1) P(Bin(trials, p0) = hits) <= alpha, or at
        most 1e-9 of it less.

    >>> round(anytime_lower(100, 100, alpha_of(0.95)), 6)  # (0.05 / 101) ** (1 / 100)
    0.926716
    """
    if hits == 0:
        return 0.0
    low, high = 0.0, hits / trials
    for _ in range(100):  # as many halvings as float64 has digits, and more for small bounds
        middle = (low + high) / 2
        if excludes(hits, trials, middle, alpha):
            low = middle
        else:
            high = middle
    whole = Decimal(trials + 1)
    return _proved(low, lambda p: UP.multiply(whole, exactly_up(hits, trials, p)) <= alpha)


def excludes(hits: Any, trials: Any, p: Any, alpha: Decimal) -> Any:
    """Return whether counts show, at any time, that a probability is not `p`: about, unproved.

    Args:
        hits: One number or an array.
        trials: As many, at least 1.
        p: Strictly between 0 and 1.
        alpha: As for `anytime_lower`.
    """
    ways = special.gammaln(trials + 1.0) - special.gammaln(hits + 1.0)
    ways = ways - special.gammaln(trials - hits + 1.0)
    chance = ways + special.xlogy(hits, p) + special.xlog1py(trials - hits, -p)
    return np.log(trials + 1.0) + chance <= math.log(alpha)


def _proved(guess: float, holds: Callable[[float], bool]) -> float:
    """Return a number at most a guess for which something is proved that holds at 0.

    Args:
        guess: Right to a few units in its last places.
        holds: Whether it is proved for a number; where it is, also for all below.
    """
    step = 1e-14
    bound = min(max(guess, 0.0), 1.0)
    while bound > 0.0 and not holds(bound):
        bound = bound * (1.0 - step) if step < 1.0 else 0.0
        step *= 4.0
    return bound


def at_least_up(hits: int, trials: int, p: float) -> Decimal:
    """Return an upper bound of P(Bin(trials, p) >= hits)."""
    if p == 0.0:
        return Decimal(int(hits == 0))
    if hits <= p * trials:
        return Decimal(1)
    odds = _odds_up(p)
    total, term = Decimal(0), exactly_up(hits, trials, p)
    for k in range(hits, trials):
        total = UP.add(total, term)
        ratio = UP.multiply(UP.divide(Decimal(trials - k), Decimal(k + 1)), odds)
        term = UP.multiply(term, ratio)
        # Later ratios are smaller; the rest no longer shows in a float64 by then.
        if ratio < 1 and UP.scaleb(term, 20) < total:
            return UP.add(total, rest_up(term, ratio))
    return UP.add(total, term)


def exactly_up(hits: int, trials: int, p: float) -> Decimal:
    """Return an upper bound of P(Bin(trials, p) = hits), of which nothing but rounding is lost."""
    chance, other = UP.plus(Decimal(p)), UP.subtract(Decimal(1), Decimal(p))
    powers = UP.multiply(power_up(chance, hits), power_up(other, trials - hits))
    return UP.multiply(_ways_up(trials, min(hits, trials - hits)), powers)


def _odds_up(p: float) -> Decimal:
    return UP.divide(Decimal(p), DOWN.subtract(Decimal(1), Decimal(p)))


@functools.lru_cache(maxsize=1000)
def _ways_up(trials: int, hits: int) -> Decimal:
    """Return an upper bound of the number of ways to choose so many trials."""
    ways = Decimal(1)
    for k in range(1, hits + 1):
        ways = UP.divide(UP.multiply(ways, Decimal(trials - hits + k)), Decimal(k))
    return ways


def trials_needed(p: float, alpha: Decimal, lower: Callable[[int, int, Decimal], float]) -> int:
    """Return how many trials, all of them hits, show that a probability is above `p`.

    Args:
        p: From 0 to below 1.
        alpha: As for the bound.
        lower: The bound.
    """
    most = 1
    while lower(most, most, alpha) <= p and most < 2**40:
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if lower(middle, middle, alpha) > p else (middle, most)
    return most
