"""The small frozen values that every floor shares: norms, regions, outcomes, estimates."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.arguments import check_distance, check_norm, check_tensor
from holdfast.errors import InvalidInput
from holdfast.results import Result


def dual(norm: float) -> float:
    """Return the norm dual to `norm`: 1 and inf swap, 2 is its own.

    >>> dual(1), dual(2), dual(math.inf)
    (inf, 2.0, 1.0)
    """
    return {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[check_norm(norm)]


def norm_name(norm: float) -> str:
    """Return how the norm is written in sentences: l1, l2 or linf; edit for that of texts."""
    if norm == 0.0:
        return "edit"
    return "linf" if math.isinf(norm) else f"l{norm:g}"


@dataclass(frozen=True)
class Ball:
    """All points within `radius` of `center` in `norm`.

    Attributes:
        center: One input without batch dimension.
        radius: In input units, at least 0.
        norm: 1, 2 or inf.

    Raises:
        InvalidInput: When one of them is not that.
    """

    center: Tensor
    radius: float
    norm: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", check_norm(self.norm))
        object.__setattr__(self, "radius", check_distance("radius", self.radius))
        center = check_tensor("center", self.center, "one input without batch dimension")
        object.__setattr__(self, "center", center)
        if not torch.isfinite(self.center).all():
            raise InvalidInput("center", "values that are not finite", "finite values")


@dataclass(frozen=True)
class Box:
    """All points between `low` and `high`, entry by entry.

    Attributes:
        low: One input without batch dimension.
        high: Same shape, nowhere below `low`.

    Raises:
        InvalidInput: When they are not.
    """

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            corner = check_tensor(name, getattr(self, name), "one input without batch dimension")
            object.__setattr__(self, name, corner)
        if self.low.shape != self.high.shape:
            raise InvalidInput("high", tuple(self.high.shape), f"shape {tuple(self.low.shape)}")
        if not bool((self.low <= self.high).all()):
            raise InvalidInput("high", "values below low (or NaN)", "low <= high everywhere")


Region = Ball | Box


class Outcome(enum.Enum):
    """How a bracket ended; the value is the sentence for people."""

    CLOSED = "the bracket is within the tolerance"
    BUDGET_SPENT = "the time was spent before the bracket was within the tolerance"
    EXHAUSTED = "every method that applies has run; more time would not narrow the bracket"
    UNBOUNDED = "no finite constant can be proved on the whole region"
    INTERRUPTED = "interrupted; the bracket is the best found until then"


@dataclass(frozen=True, repr=False)
class Estimate(Result):
    """A statistical estimate with its interval.

    Attributes:
        value: The estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Nominal coverage of the interval.
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def __format__(self, spec: str) -> str:
        spec = spec or ".3g"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class Improvement:
    """A better bound of a bracket.

    Attributes:
        seconds: Since the start.
        side: "lower" or "upper".
        value: The new bound.
        method: What found it.
    """

    seconds: float
    side: str
    value: float
    method: str


@dataclass(frozen=True)
class Progress:
    """How far a verb has come, for its `report`.

    Attributes:
        part: What is being done, in a few words.
        done: How much of it is done.
        total: Of how much; 0 where that is not known beforehand.
        improvement: What a bracket has just gained; None elsewhere.
        within: The progress of what the part runs, such as a verb within an audit.
    """

    part: str
    done: int = 0
    total: int = 0
    improvement: Improvement | None = None
    within: "Progress | None" = None

    def __str__(self) -> str:
        """Return the part and how far it is."""
        if self.total:
            return f"{self.part} ({self.done} of {self.total})"
        return f"{self.part} ({self.done})" if self.done else self.part


Report = Callable[[Progress], None]
"""Called by every verb with its progress."""


def silent(progress: Progress) -> None:
    """Report nothing: the default of every verb."""
