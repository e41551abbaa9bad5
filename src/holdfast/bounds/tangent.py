"""Linear maps beside an operation on boxes, and how far its values leave them.

With c the middle of a box, f(x) lies between f(c) + J (x - c) - below and f(c) + K (x - c) + above,
entry by entry, with J and K the derivative in c, rounded, or near it. What the maps leave is of
second order in the size of the box.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Ends = tuple[Tensor, Tensor]
Pull = Callable[[Tensor, Tensor], list[Tensor]]


@dataclass(frozen=True)
class Tangent:
    """Linear maps J and K beside an operation on boxes.

    Attributes:
        pull: The transposes: from rows [R or 1, K, ...] of J x and of K x to those of the inputs.
        at: The value in the middle, [R, ...].
        shifts: at - J c and at - K c; what rounding makes of them is in `below` and `above`.
        below: How far a value can be below J x + shifts[0], at least 0.
        above: How far it can be above K x + shifts[1].
        size: |J| |x| and |K| |x|, the larger, [R, ...].
    """

    pull: Pull
    at: Tensor
    shifts: Ends
    below: Tensor
    above: Tensor
    size: Tensor
