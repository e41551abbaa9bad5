"""A linear map beside an operation on boxes, and how far its values leave it.

With c the middle of a box and J the derivative there, rounded, f(x) lies between
f(c) + J (x - c) - below and f(c) + J (x - c) + above, entry by entry. What the tangent leaves is of
second order in the size of the box.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Ends = tuple[Tensor, Tensor]
Pull = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Tangent:
    """A linear map J beside an operation on boxes.

    Attributes:
        pull: The transpose of J: from rows [R or 1, K, ...] of the result to those of the inputs.
        at: The value in the middle, [R, ...].
        shift: at - J c; what rounding makes of it is in `below` and `above`.
        below: How far a value can be below J x + shift, at least 0.
        above: How far it can be above.
        size: |J| |x|, [R, ...].
    """

    pull: Pull
    at: Tensor
    shift: Tensor
    below: Tensor
    above: Tensor
    size: Tensor
