"""How rows are smoothed: the noise, the distance in question, the samples and the confidence."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from holdfast.arguments import check_number, check_seed, check_share, check_whole, shown
from holdfast.errors import InvalidInput
from holdfast.smoothing.confidence import (
    alpha_of,
    anytime_lower,
    excludes,
    fixed_lower,
    trials_needed,
)
from holdfast.smoothing.noise import Deletion, Gaussian, Noise, Uniform


@dataclass(frozen=True)
class SmoothingOptions:
    """How rows are smoothed; see `holdfast.certify`.

    Attributes:
        noise: What disturbs them.
        epsilon: The distance that is asked about: a row is done when its counts say whether it is
            certified there; None for all samples of every row.
        samples: Counted at most, of a row.
        confidence: Of the claim about each row.
        seed: Of the draws.

    Raises:
        InvalidInput: When one of them is something else, the noise cannot certify epsilon, or there
            are too few samples for it even where all of them agree.
    """

    noise: Noise
    epsilon: float | None = None
    samples: int = 100_000
    confidence: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.noise, Deletion | Gaussian | Uniform):
            wanted = "holdfast.Deletion(p), holdfast.Gaussian(sigma) or holdfast.Uniform(lam)"
            raise InvalidInput("noise", shown(self.noise), wanted)
        if self.epsilon is not None:
            wanted = "a distance above 0, or None for all samples of every row"
            valid = check_number("epsilon", self.epsilon, lambda e: 0 < e < math.inf, wanted)
            object.__setattr__(self, "epsilon", valid)
        check_whole("samples", self.samples, "a whole number, at least 1", 1, 10**8)
        object.__setattr__(self, "confidence", check_share("confidence", self.confidence))
        check_seed(self.seed)
        self._check_enough()

    def _check_enough(self) -> None:
        """Refuse what cannot be certified of any row."""
        if self.needed >= 1.0:
            got = f"{self.epsilon:g}, more than any row can have with {self.noise}"
            raise InvalidInput("epsilon", got, "a smaller one, or more noise")
        least = trials_needed(self.needed, self.alpha, self.lower)
        if self.samples < least:
            wanted = f"at least {least}, with which a row is certified if all of them agree"
            raise InvalidInput("samples", self.samples, wanted)

    @property
    def alpha(self) -> Decimal:
        """Probability that the claim about a row may fail."""
        return alpha_of(self.confidence)

    @property
    def lower(self) -> Callable[[int, int, Decimal], float]:
        """The bound of a probability: the looser one is valid whenever a row is done."""
        return fixed_lower if self.epsilon is None else anytime_lower

    @property
    def needed(self) -> float:
        """The probability, about, above which a row is certified, at epsilon where it is asked."""
        return 0.5 if self.epsilon is None else self.noise.needed(self.epsilon)

    def decided(self, votes: int, drawn: int) -> bool:
        """Return whether counts say if a row is certified at epsilon, by a little more than so."""
        # A thousandth less than alpha: what rounding may take from the proved bound is far smaller.
        return bool(excludes(votes, drawn, self.needed, self.alpha * Decimal("0.999")))
