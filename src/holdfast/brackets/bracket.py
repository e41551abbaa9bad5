"""What is known about a Lipschitz constant, and how it came to be known."""

import math
from dataclasses import dataclass

from torch import Tensor

from holdfast.brackets.gain import LayerGain
from holdfast.results import ChartedResult
from holdfast.types import Improvement, Outcome


@dataclass(frozen=True, repr=False)
class Bracket(ChartedResult):
    """What is known about a Lipschitz constant: lower <= constant <= upper.

    Attributes:
        lower: Slope of `witness`, rounded down.
        upper: Proved bound.
        norm: 1, 2 or inf, on inputs and outputs.
        lower_by: Method that found the lower bound.
        upper_by: Method that proved the upper bound.
        witness: Two inputs, float64, whose slope is at least `lower`; None where nothing moved.
            Rounded where distances have units of their own.
        trace: Every improvement, in time.
        layers: The gain of every single operation.
        outcome: How the search ended.
        assumptions: What the bracket takes for granted, in sentences.
        seconds: Time spent.
        notes: What was left out, and why, in sentences.
    """

    lower: float
    upper: float
    norm: float
    lower_by: str
    upper_by: str
    witness: tuple[Tensor, Tensor] | None
    trace: tuple[Improvement, ...]
    layers: tuple[LayerGain, ...]
    outcome: Outcome
    assumptions: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Upper / lower: 1 when the constant is known exactly, inf when nothing moved."""
        if self.upper == self.lower:
            return 1.0
        return self.upper / self.lower if self.lower > 0 else math.inf
