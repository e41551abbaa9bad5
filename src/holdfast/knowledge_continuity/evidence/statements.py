"""What every certificate of knowledge continuity says, and what it must not be mistaken for."""

import math

from holdfast.errors import InvalidInput

LIMITS = (
    "It is not a statement about all inputs within delta. It says nothing about adversarial "
    "inputs, which an attacker chooses (an attack may have probability 0 under the data), about "
    "inputs in regions with no data, or about other distributions. Samples used for training or "
    "for choosing metric, scale or grid void it; layer, delta and eta may be chosen afterwards, as "
    "the confidence is shared by all of them."
)


def at_most(bound: float) -> str:
    """Return a bound with four digits, rounded up."""
    if not 0 < bound < math.inf:
        return f"{bound:g}"
    unit = 10.0 ** (math.floor(math.log10(bound)) - 3)
    return f"{math.ceil(bound / unit) * unit:.4g}"


def check_share(confidence: float) -> float:
    """Return a confidence.

    Raises:
        InvalidInput: Unless it is strictly between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InvalidInput("confidence", confidence, "a probability between 0 and 1")
    return confidence


def check_front(front_upper: float) -> float:
    """Return a Lipschitz constant.

    Raises:
        InvalidInput: Unless it is finite and above 0.
    """
    if not 0 < front_upper < math.inf:
        raise InvalidInput("front_upper", front_upper, "a finite Lipschitz constant above 0")
    return front_upper
