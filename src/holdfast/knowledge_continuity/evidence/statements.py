"""What every certificate of knowledge continuity says, and what it must not be mistaken for."""

import math

from holdfast.arguments import check_number

LIMITS = (
    "It is not a statement about all inputs within delta. It says nothing about adversarial "
    "inputs, which an attacker chooses (an attack may have probability 0 under the data), about "
    "inputs in regions with no data, or about other distributions. Samples used for training or "
    "for choosing anchors, metric, scale or grid void it; layer, delta and eta may be chosen "
    "afterwards, as the confidence is shared by all of them."
)


def at_most(bound: float) -> str:
    """Return a bound with four digits, rounded up."""
    if not 0 < bound < math.inf:
        return f"{bound:g}"
    bound = max(bound, 1e-300)  # whose digits are still normal numbers
    unit = 10.0 ** (math.floor(math.log10(bound)) - 3)
    return f"{math.ceil(bound / unit) * unit:.4g}"


def on_repeats(repeated: int | None) -> str:
    """Return how rows that repeat were counted, as a part of a statement; nothing without any.

    Args:
        repeated: As in `Evidence`.
    """
    if repeated is None:
        return "; rows that repeat are counted as separate draws, as the user says"
    if not repeated:
        return ""
    return (
        f"; {repeated} more repeat an anchor or another row, and are counted only where they count "
        "against the model"
    )


def check_front(front_upper: object) -> float:
    """Return a Lipschitz constant, finite and above 0; see `check_number`."""
    wanted = "a finite Lipschitz constant above 0"
    return check_number("front_upper", front_upper, lambda k: 0 < k < math.inf, wanted)
