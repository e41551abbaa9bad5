"""Outward rounding and the constants of floating-point error analysis.

The model is the standard one (Higham, "Accuracy and Stability of Numerical Algorithms", 2002,
section 2.2): every float64 operation is exact up to a relative error of `UNIT`. Python's own
float arithmetic rounds to nearest, so one step outward with `nextafter` is a proved bound.
"""

import math

import torch
from torch import Tensor

UNIT = 2.0**-53
"""Unit roundoff of float64."""

TINY = 2.0**-1074
"""Smallest positive float64: the error of an operation that underflows is at most this."""


def up(value: float) -> float:
    """Return the next float64 above: an upper bound of the exact result of one operation."""
    return math.nextafter(value, math.inf)


def down(value: float) -> float:
    """Return the next float64 below: a lower bound of the exact result of one operation."""
    return math.nextafter(value, -math.inf)


def mul_up(*factors: float) -> float:
    """Return an upper bound of the product of numbers that are at least 0; 0 * inf is 0.

    A factor of 1 costs nothing.
    """
    if 0.0 in factors:
        return 0.0
    product = 1.0
    for factor in factors:
        if product == 1.0:
            product = factor
        elif factor != 1.0:
            product = up(product * factor)
    return product


def add_up(*terms: float) -> float:
    """Return an upper bound of the sum."""
    total = 0.0
    for term in terms:
        total = term if total == 0.0 else total if term == 0.0 else up(total + term)
    return total


def sqrt_up(value: float) -> float:
    """Return an upper bound of the square root; exact squares stay exact."""
    root = math.sqrt(value)
    return root if root * root == value and root.is_integer() else up(root)


def gamma(operations: int) -> float:
    """Return an upper bound of n u / (1 - n u), the relative error of n rounded operations.

    >>> 10 * UNIT < gamma(10) < 10.001 * UNIT
    True
    """
    nu = operations * UNIT
    return up(up(nu) / down(1.0 - nu))


def sum_up(values: Tensor) -> float:
    """Return an upper bound of the sum of non-negative float64 values, in any order."""
    return float(values.sum()) * (1.0 + 2.0 * gamma(values.numel() + 2))


def rows_up(values: Tensor, operations: int) -> Tensor:
    """Inflate non-negative results of `operations` rounded steps to upper bounds."""
    return values * (1.0 + 2.0 * gamma(operations + 2)) + (operations + 1) * TINY


def next_down(values: Tensor) -> Tensor:
    """Return the next float64 below, entry by entry."""
    return torch.nextafter(values, torch.full_like(values, -math.inf))


def coarse_down(values: Tensor, bits: int = 30) -> Tensor:
    """Return the values rounded down to so many significant bits.

    The last bits of a matrix product depend on the batch and on the number of threads; a result
    rounded to a coarser grid does not.
    """
    mantissa, exponent = torch.frexp(values)
    scaled = torch.floor(mantissa * 2.0**bits)
    return torch.where(torch.isfinite(values), torch.ldexp(scaled, exponent - bits), values)


def coarse_up(value: float, bits: int = 36) -> float:
    """Round one number up to so many significant bits."""
    if not math.isfinite(value):
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(mantissa * 2**bits), exponent - bits)
