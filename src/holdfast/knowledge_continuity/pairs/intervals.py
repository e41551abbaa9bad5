"""Means over pairs of rows, with leave-one-row-out intervals.

Source: Arvesen, "Jackknifing U-statistics", Annals of Mathematical Statistics, 1969. The intervals
are asymptotic: they hold for many rows and a kernel of finite variance.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from holdfast.types import Estimate

LEVEL = 0.95
QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)


def mean(sums: Tensor, pairs: Tensor) -> float:
    """Return the mean over pairs from the sums and pair counts of each row."""
    return float(sums.sum() / pairs.sum())


def pair_mean(sums: Tensor, pairs: Tensor) -> Estimate | None:
    """Return the mean over pairs with its interval; None if there is no pair."""
    if not bool(pairs.any()):
        return None
    return with_interval(mean(sums, pairs), without_each(sums, pairs))


def without_each(sums: Tensor, pairs: Tensor) -> Tensor:
    """Return the mean over pairs without row i, for each i; not finite if no pair is left.

    A row takes part in its own pairs twice, once in each order, hence the factors 2.
    """
    return (sums.sum() - 2 * sums) / (pairs.sum() - 2 * pairs)


def with_interval(value: float, without: Tensor) -> Estimate:
    """Return the jackknife interval of a mean of what is never negative, cut at 0.

    Args:
        value: The mean.
        without: The mean without each row, [n]; not finite where nothing is left.
    """
    if len(without) < 2 or not bool(without.isfinite().all()):
        return Estimate(value, 0.0, math.inf, LEVEL)
    n = len(without)
    error = math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))
    return Estimate(value, max(0.0, value - QUANTILE * error), value + QUANTILE * error, LEVEL)


def grouped_mean(values: Tensor, groups: Tensor) -> Estimate:
    """Return the mean of values that come in groups, leaving out one group at a time.

    Args:
        values: What is averaged, [p], not negative.
        groups: Group of each value, [p], integers; values of different groups are independent.
    """
    _, places, sizes = groups.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, places, values.double())
    left = len(values) - sizes
    without = (sums.sum() - sums) / left
    return with_interval(float(sums.sum() / len(values)), without)
