"""Decimal arithmetic that rounds to one side, for bounds that no rounding may turn over.

The four operations of a decimal context are correctly rounded, in its direction; `exp` and `sqrt`
are correctly rounded to the nearest number, so that one step further is a bound. Its exponents do
not run out. Operators such as `a * b` and `-a` do not know it and round to 28 digits, to the
nearest: they have no place in a bound.
"""

from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, ROUND_FLOOR, Context, Decimal

UP = Context(prec=50, rounding=ROUND_CEILING, Emin=MIN_EMIN, Emax=MAX_EMAX)
DOWN = Context(prec=50, rounding=ROUND_FLOOR, Emin=MIN_EMIN, Emax=MAX_EMAX)


def power_up(base: Decimal, exponent: int) -> Decimal:
    """Return an upper bound of a power of a number that is at least 0.

    >>> power_up(Decimal("0.5"), 3)
    Decimal('0.125')
    """
    power = Decimal(1)
    while exponent:
        if exponent % 2:
            power = UP.multiply(power, base)
        base, exponent = UP.multiply(base, base), exponent // 2
    return power


def rest_up(term: Decimal, ratio: Decimal) -> Decimal:
    """Return an upper bound of what a series adds from a term on, where its ratios only fall.

    Args:
        term: At least 0.
        ratio: Upper bound of every later term by the one before it, below 1.
    """
    return UP.divide(term, DOWN.subtract(Decimal(1), ratio))
