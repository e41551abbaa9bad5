"""Outward rounding and the constants of floating-point error analysis.

The model is the standard one (Higham, "Accuracy and Stability of Numerical Algorithms", 2002,
section 2.2): every float64 operation is exact up to a relative error of `UNIT`. Python's own
float arithmetic rounds to nearest, so one step outward with `nextafter` is a proved bound.

Below the smallest normal number a product, quotient or square errs absolutely instead, by at most
`TINY` (sums and differences are exact there), and a relative bound says nothing. So every proved
bound either scales its numbers by powers of two first, which is exact (`scaled`, `lengths_up`), or
adds a `TINY` for each operation (`rows_up`). A process that flushes such numbers to zero
(`torch.set_flush_denormal(True)`) keeps neither promise: `check_subnormals` refuses it.
"""

import math

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import Obstacle, Unsupported

UNIT = 2.0**-53
"""Unit roundoff of float64."""

TINY = 2.0**-1074
"""Smallest positive float64: the error of an operation that underflows is at most this."""

SMALLEST = 2.0**-1022
"""Smallest normal float64."""


def check_subnormals(what: str) -> None:
    """Refuse to prove anything where numbers below the smallest normal one are flushed to zero.

    It is a setting of each thread of the processor, which new threads inherit, and which libraries
    built with -ffast-math change when they are loaded: so all of torch's threads are asked.

    Args:
        what: What was attempted.

    Raises:
        Unsupported: When this thread, or one that torch computes on, flushes them.
    """
    # Torch divides work among its threads by 2^15 entries each.
    shared = torch.full((torch.get_num_threads() * 2**15,), SMALLEST, dtype=torch.float64)
    alone = np.full(8, SMALLEST)
    kept = bool((shared / 4.0 * 4.0 == shared).all()) and bool((alone / 4.0 * 4.0 == alone).all())
    if not kept:
        why = "this process flushes them to zero, and every bound rests on gradual underflow"
        advice = "call torch.set_flush_denormal(False) at the start of the process"
        raise Unsupported(what, [Obstacle("", "subnormal numbers", why, advice)])


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


def add_down(first: float, second: float) -> float:
    """Return the largest float64 at most the sum of two numbers far from both ends of float64.

    Knuth's TwoSum says on which side of the exact sum the rounded one lies.

    >>> add_down(1.0, 2.0**-60) == 1.0 and add_down(1.0, -(2.0**-60)) == down(1.0)
    True
    """
    total = first + second
    part = total - first
    error = (first - (total - part)) + (second - part)
    return down(total) if error < 0.0 else total


def sqrt_up(value: float) -> float:
    """Return an upper bound of the square root; squares of small whole numbers stay exact."""
    root = math.sqrt(value)
    exact = root < 2.0**26 and root.is_integer() and root * root == value
    return root if exact else up(root)


def hypot_up(*values: float) -> float:
    """Return an upper bound of the root of the sum of squares of numbers that are at least 0."""
    exponent = math.frexp(max(values))[1]
    if abs(exponent) < 400:  # the squares are far from both ends of float64
        exponent = 0
    small = [ldexp_up(value, -exponent) for value in values]
    return ldexp_up(sqrt_up(add_up(*[mul_up(value, value) for value in small])), exponent)


def ldexp_up(value: float, exponent: int) -> float:
    """Return an upper bound of value * 2^exponent: the number itself where float64 holds it."""
    try:
        product = math.ldexp(value, exponent)
        return product if math.ldexp(product, -exponent) == value else up(product)
    except OverflowError:
        return math.inf


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


def exponent_of(values: Tensor) -> int:
    """Return the e for which the largest absolute value is in [2^(e - 1), 2^e); 0 if it is 0."""
    return math.frexp(float(values.abs().max()))[1] if values.numel() else 0


def scaled(values: Tensor, exponent: int) -> Tensor:
    """Return values * 2^exponent, exact but for what overflows, or underflows by at most `TINY`."""
    exponent = min(max(exponent, -2100), 2100)  # beyond nothing is left, or everything overflows
    step = exponent // 3  # in three steps, so that the factors themselves stay in range
    return values * 2.0**step * 2.0**step * 2.0 ** (exponent - 2 * step)


def powers_of_two(exponents: Tensor) -> Tensor:
    """Return 2^e, exactly, for whole numbers e between -1022 and 1023: library powers may round."""
    return ((exponents.long() + 1023) << 52).view(torch.float64)


def _lengths(vectors: Tensor, norm: float) -> Tensor:
    """Return the norms of vectors along the last dimension, rounded, whatever their size.

    They are correct to `gamma(n + 6)`, and to `TINY` below the smallest normal number.
    """
    sizes = vectors.abs()
    if not sizes.shape[-1] or norm == 1.0:
        return sizes.sum(-1)
    largest = sizes.amax(-1)
    if math.isinf(norm):
        return largest
    # Scaled by a power of two, squares do not overflow, and none that matters vanishes.
    exponents = torch.frexp(largest).exponent.clamp(-1022, 1022)
    squares = (sizes * powers_of_two(-exponents)[..., None]).square()
    return squares.sum(-1).sqrt() * powers_of_two(exponents)


def lengths_up(vectors: Tensor, norm: float = 2.0) -> Tensor:
    """Return upper bounds of the norms of vectors, whatever their size.

    Args:
        vectors: [..., n], float64 or complex128.
        norm: 1, 2 or inf.

    Returns:
        [...]: 0 where a vector is 0, infinity where an entry is not finite.
    """
    found = _lengths(vectors, norm)
    if math.isinf(norm):
        return found.nan_to_num(math.inf, math.inf)
    above = found * (1.0 + 2.0 * gamma(vectors.shape[-1] + 8)) + TINY
    return torch.where(found == 0.0, 0.0, above).nan_to_num(math.inf, math.inf)


def lengths_down(vectors: Tensor, norm: float = 2.0) -> Tensor:
    """Return lower bounds of the norms of vectors; NaN or infinity prove nothing."""
    below = _lengths(vectors, norm) * (1.0 - 2.0 * gamma(vectors.shape[-1] + 8)) - TINY
    return below.clamp(min=0.0)


def frobenius_up(matrix: Tensor) -> float:
    """Return an upper bound of the Frobenius norm, whatever its size."""
    return float(lengths_up(matrix.flatten()))


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
    return ldexp_up(math.ceil(mantissa * 2**bits), exponent - bits)
