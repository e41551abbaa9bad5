"""Random disturbances of an input, and how far a majority under them holds: one class for each.

`g(x)` is the answer that a model gives most often to disturbed copies of x. A noise says how far x
may move before `g` may answer something else, from a lower bound of the probability of its answer.
It knows no model and no counts. Every radius is computed so that rounding never enlarges it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar

import torch
from scipy import special
from torch import Generator, Tensor

from holdfast.arguments import check_choice, check_number, check_share, shown, user_code
from holdfast.errors import InvalidInput
from holdfast.rounding import down
from holdfast.smoothing.directed import DOWN, UP, rest_up

EDITS = 0.0
"""Stands for the edit distance where a norm is expected."""


def _size(name: str, value: object) -> float:
    return check_number(name, value, lambda size: 0 < size < math.inf, "a finite size above 0")


@dataclass(frozen=True)
class Deletion:
    """Deletes every unit of a text independently: for texts, and distances in edits.

    An edit inserts, deletes or substitutes one unit, any one by any other. For texts x and x' that
    are k edits apart and any set A of outputs of a model,

        P_x'(A) >= P_x(A) - 1 + p^k.

    Proof (Huang et al., "RS-Del: Edit distance robustness certificates for sequence classifiers via
    randomized deletion", NeurIPS 2023, has it for sequences of bytes): align x and x'; let E and E'
    be the units of x and of x' that are edited. Given that all of E are deleted, what is left of x
    is distributed as what is left of x' given that all of E' are; call the probability of A there
    q. So P_x(A) <= p^|E| q + 1 - p^|E| and P_x'(A) >= p^|E'| q, hence

        P_x'(A) >= p^(|E'| - |E|) (P_x(A) - 1 + p^|E|).

    With s substitutions, d deletions and i insertions |E| = s + d and |E'| = s + i. Where
    s + d + i <= k and P_x(A) - 1 + p^k >= 0 the right side is least for k substitutions.

    Where the answer of g has a probability of at least p_lower, the answer is the same within every
    k for which that is above 1/2. That needs p above 1/2: the largest radius that any text can have
    is below log(1/2) / log(p), which is 1 edit at p = 0.6, 3 at 0.8 and 6 at 0.9.

    Args:
        p: Probability with which a unit is deleted, strictly between 0 and 1.
        unit: `words` (what stands between white space; those that are left are joined by single
            spaces), `characters`, or a function from a text to its pieces, which are joined as
            they are.

    Raises:
        InvalidInput: When p is no such probability, or the unit is something else.

    >>> import torch, holdfast
    >>> noise = holdfast.Deletion(0.8)
    >>> noise.draw("a film that one would like to see again", torch.Generator().manual_seed(7))
    'that would like'
    >>> noise.radius(0.8), noise.deletions(0.8), noise.insertions(0.8)
    (1, 4, 2)
    """

    norm: ClassVar[float] = EDITS

    p: float
    unit: str | Callable[[str], Iterable[str]] = "words"
    cut: Callable[[str], Iterable[str]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", check_share("p", self.p))
        if callable(self.unit):
            object.__setattr__(self, "cut", self.unit)
            object.__setattr__(self, "unit", "pieces")
        check_choice("unit", self.unit, ("words", "characters", "pieces"))

    @property
    def within(self) -> str:
        """Which texts a radius is about."""
        one = {"words": "word", "characters": "character", "pieces": "piece"}[str(self.unit)]
        return (
            f"text within `radius` edits of a text (each inserts, deletes or substitutes a {one})"
        )

    def draw(self, x: str, generator: Generator | None = None) -> str:
        """Return what is left of a text.

        Args:
            x: The text.
            generator: Source of the chance; that of torch where it is None.

        Raises:
            InvalidInput: When it is no text, or the function that cuts it into pieces fails, or is
                not at hand because this was read from a file.
        """
        if not isinstance(x, str):
            raise InvalidInput("inputs", shown(x), "texts, for holdfast.Deletion")
        units = self._units(x)
        chance = torch.rand(len(units), dtype=torch.float64, generator=generator)
        left = [
            unit for unit, gone in zip(units, (chance < self.p).tolist(), strict=True) if not gone
        ]
        return (" " if self.unit == "words" else "").join(left)

    def _units(self, text: str) -> list[str]:
        if self.unit == "words":
            return text.split()
        if self.unit == "characters":
            return [*text]
        if self.cut is None:
            raise InvalidInput("noise", "pieces without a function", "unit=FUNCTION")
        with user_code("unit", "a function that fails", "one from a text to its pieces"):
            return [*self.cut(text)]

    def radius(self, p_lower: float) -> int:
        """Return within how many edits an answer of probability p_lower is the same.

        Args:
            p_lower: Lower bound of the probability.

        Returns:
            The largest k with p^k > 3/2 - p_lower, at least 0.
        """
        return self._most(Fraction(3, 2) - Fraction(p_lower))

    def deletions(self, p_lower: float) -> int:
        """Return the radius where units are only deleted: p^-k (p_lower - 1 + p^k) > 1/2."""
        return self._most(2 * (1 - Fraction(p_lower)))

    def insertions(self, p_lower: float) -> int:
        """Return the radius where units are only inserted: p^k p_lower > 1/2."""
        return self._most(1 / (2 * Fraction(p_lower))) if p_lower > 0.5 else 0

    def _most(self, bound: Fraction) -> int:
        """Return the largest k >= 0 with p^k above a bound, exactly; 0 where there is none."""
        if bound <= 0:  # of deletions alone, where the probability is taken to be 1
            raise InvalidInput("p_lower", "1", "a probability below 1")
        if bound >= 1:
            return 0
        # From a guess that is too large, down to the first that holds.
        k = 2 + math.floor(math.log(bound) / math.log(self.p))
        while k > 0 and Fraction(self.p) ** k <= bound:
            k -= 1
        return k

    def needed(self, radius: float) -> float:
        """Return the probability, about, above which an answer has a radius."""
        return 1.5 - self.p ** math.ceil(radius)


@dataclass(frozen=True)
class Gaussian:
    """Adds independent normal numbers to every entry of a tensor: for l2 distances.

    The radius of an answer of probability p is sigma Phi^-1(p), where Phi is the distribution of
    the normal law: Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized
    smoothing", ICML 2019, theorem 1.

    Args:
        sigma: Standard deviation, in input units, above 0.

    Raises:
        InvalidInput: When sigma is something else.

    >>> import holdfast
    >>> round(holdfast.Gaussian(0.5).radius(0.99), 6)
    1.163174
    """

    norm: ClassVar[float] = 2.0
    within: ClassVar[str] = "input within l2 distance `radius` of a row"

    sigma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", _size("sigma", self.sigma))

    def draw(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return a row with noise: drawn and added in float64, then rounded to the row's type."""
        noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        return (x.double() + self.sigma * noise).to(x.dtype)

    def radius(self, p_lower: float) -> float:
        """Return the radius of an answer of probability p_lower, rounded down; at least 0."""
        return max(0.0, down(self.sigma * normal_lower(p_lower))) if p_lower > 0.5 else 0.0

    def needed(self, radius: float) -> float:
        """Return the probability, about, above which an answer has a radius."""
        return float(special.ndtr(radius / self.sigma))


@dataclass(frozen=True)
class Uniform:
    """Adds independent numbers from -lam to lam to every entry of a tensor: for l1 distances.

    The radius of an answer of probability p is 2 lam (p - 1/2): Yang, Duan, Hu, Salman,
    Razenshteyn, Li, "Randomized smoothing of all shapes and sizes", ICML 2020. The noise around x
    and that around x + d have all but 1 - prod (1 - |d_i| / (2 lam)) <= |d|_1 / (2 lam) of their
    mass in common, so no probability changes by more.

    Args:
        lam: Largest size of the noise, in input units, above 0.

    Raises:
        InvalidInput: When lam is something else.

    >>> import holdfast
    >>> round(holdfast.Uniform(0.5).radius(0.75), 6)
    0.25
    """

    norm: ClassVar[float] = 1.0
    within: ClassVar[str] = "input within l1 distance `radius` of a row"

    lam: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", _size("lam", self.lam))

    def draw(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """Return a row with noise: drawn and added in float64, then rounded to the row's type."""
        noise = torch.rand(x.shape, dtype=torch.float64, generator=generator)
        return (x.double() + self.lam * (2.0 * noise - 1.0)).to(x.dtype)

    def radius(self, p_lower: float) -> float:
        """Return the radius of an answer of probability p_lower, rounded down; at least 0."""
        exact = 2 * Fraction(self.lam) * (Fraction(p_lower) - Fraction(1, 2))
        return max(0.0, down(float(exact)))

    def needed(self, radius: float) -> float:
        """Return the probability, about, above which an answer has a radius."""
        return 0.5 + radius / (2.0 * self.lam)


Noise = Deletion | Gaussian | Uniform


def normal_lower(p: float) -> float:
    """Return a number z with Phi(z) <= p, at most 1e-9 of it below the largest.

    Args:
        p: Between 1/2 and 1.
    """
    # 1 - p is exact, and the other tail keeps its digits; Phi(9) is 1 to the last bit.
    z, step = min(-float(special.ndtri(1.0 - p)), 9.0), 1e-14
    while z > 0.0 and normal_up(z) > Decimal(p):
        z, step = (z * (1.0 - step) if step < 1.0 else 0.0), step * 4.0
    return z


def normal_up(z: float) -> Decimal:
    """Return an upper bound of Phi(z) for z >= 0, to 40 digits.

    Phi(z) = 1/2 + phi(z) (z + z^3 / 3 + z^5 / (3 5) + z^7 / (3 5 7) + ...), all of one sign.
    """
    square = UP.multiply(Decimal(z), Decimal(z))
    total, term, n = Decimal(0), UP.plus(Decimal(z)), 1
    while True:
        total, n = UP.add(total, term), n + 2
        ratio = UP.divide(square, Decimal(n))
        term = UP.multiply(term, ratio)
        if ratio < 1 and UP.scaleb(term, 40) <= total:
            break
    total = UP.add(total, rest_up(term, ratio))
    # The first digits of pi, so that its root is below the true one.
    root = DOWN.sqrt(Decimal("6.28318530717958647692528676655900576839433879875021")).next_minus(
        DOWN
    )
    half = DOWN.divide(DOWN.multiply(Decimal(z), Decimal(z)), Decimal(2))
    density = UP.divide(UP.exp(half.copy_negate()).next_plus(UP), root)
    return UP.add(Decimal("0.5"), UP.multiply(density, total))
