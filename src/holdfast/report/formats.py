"""Numbers as people read them: three significant digits, bounds rounded outward, units."""

import functools
import math
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

NBSP = "\N{NO-BREAK SPACE}"
DASH = "\N{EN DASH}"


def number(value: float | Decimal | None, rounding: str = ROUND_HALF_EVEN, digits: int = 3) -> str:
    """Return `value` with so many significant digits.

    Args:
        value: A finite number, or None where there is none.
        rounding: A rounding mode of the `decimal` module.
        digits: At least 1.

    Returns:
        The number, with a power of ten outside 0.0001 to 1 000 000; a dash for None.

    >>> number(27.0549), number(35213.0), number(0.00104), number(None)
    ('27.1', '35,200', '0.00104', '–')
    >>> number(3.5e7), number(0.9996)
    ('3.50×10⁷', '1.00')
    """
    if value is None:
        return DASH
    exact = Decimal(str(value))
    if exact == 0:
        return "0"
    short = exact.quantize(Decimal(1).scaleb(exact.adjusted() + 1 - digits), rounding=rounding)
    if short.adjusted() > exact.adjusted():  # 0.9996 has become 1.000, which has a digit too many
        short = short.quantize(Decimal(1).scaleb(short.adjusted() + 1 - digits))
    power = short.adjusted()
    if -4 <= power < 6:
        return f"{short:,f}"
    raised = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(d)] if d != "-" else "⁻" for d in str(power))
    return f"{short.scaleb(-power):.{digits - 1}f}\N{MULTIPLICATION SIGN}10{raised}"


def at_least(value: float | None, digits: int = 3) -> str:
    """Return a proved lower bound, rounded down so that what is shown stays proved.

    >>> at_least(27.19), at_least(-1.001)
    ('27.1', '-1.01')
    """
    return number(value, ROUND_FLOOR, digits)


def at_most(value: float | None, digits: int = 3) -> str:
    """Return a proved upper bound, rounded up so that what is shown stays proved.

    >>> at_most(35.21)
    '35.3'
    """
    return number(value, ROUND_CEILING, digits)


def percent_at_most(share: float, digits: int = 3) -> str:
    """Return a proved upper bound on a share of one as a percentage, rounded up.

    >>> percent_at_most(0.22761), percent_at_most(0.43, 2), percent_at_most(0.99991)
    ('22.8%', '43%', '100%')
    """
    text = number(Decimal(str(share)).scaleb(2), ROUND_CEILING, digits)
    return "100%" if text.startswith("100") else f"{text}%"


def amount(value: float | None, write: Callable[[float], str] = number) -> str:
    """Return what may be no number: words where it is none, or without end; else as `write` does.

    >>> amount(27.19, at_most), amount(math.inf), amount(None)
    ('27.2', 'unbounded', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    return "unbounded" if math.isinf(value) else write(value)


def span(lower: float, upper: float | None) -> str:
    """Return two bounds, each rounded outward; without an upper one, as in JSON, it is infinite.

    >>> span(27.17, 35.21), span(27.17, None)
    ('27.1 to 35.3', '27.1 to unbounded')
    """
    upper = math.inf if upper is None else upper
    digits = telling_digits(lower, upper)
    above = amount(upper, functools.partial(at_most, digits=digits))
    return f"{amount(lower, functools.partial(at_least, digits=digits))} to {above}"


def telling_digits(lower: float, upper: float) -> int:
    """Return how many digits two bounds need so that what is shown is about as close as they are.

    >>> telling_digits(27.17, 27.3), telling_digits(82.32498440, 82.32498441)
    (4, 11)
    """
    if not 0 < lower < upper < math.inf:
        return 3
    return min(max(1 - math.floor(math.log10(upper / lower - 1.0)), 3), 12)


def percent(share: float | None) -> str:
    """Return a share of one as a percentage that never claims all or nothing wrongly.

    >>> percent(0.6306), percent(1.0), percent(0.99999), percent(0.0001), percent(0.0)
    ('63.1%', '100%', '>99.9%', '<0.1%', '0%')
    """
    if share is None:
        return DASH
    if share in (0, 1):
        return f"{100 * share:.0f}%"
    text = f"{100 * share:.1f}%"
    return {"100.0%": ">99.9%", "0.0%": "<0.1%"}.get(text, text)


def count(value: int | None) -> str:
    """Return a whole number with thousands separators.

    >>> count(26122)
    '26,122'
    """
    return DASH if value is None else f"{value:,}"


def given(value: float | None) -> str:
    """Return a number that somebody chose, with the digits that they wrote.

    >>> given(0.25), given(1.0)
    ('0.25', '1')
    """
    return DASH if value is None else f"{value:g}"


def seconds(value: float | None) -> str:
    """Return a duration with its unit.

    >>> seconds(3.14159).split(NBSP)
    ['3.14', 's']
    """
    return DASH if value is None else f"{number(value)}{NBSP}s"


def listing(words: Iterable[str]) -> str:
    """Return words joined as in a sentence.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    *front, last = words
    return f"{', '.join(front)} and {last}" if front else last
