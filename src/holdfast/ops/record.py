"""What is known about one operation: a record, refused at import when it is not complete."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from holdfast.errors import InternalError
from holdfast.ops.curves import Curve, Slopes

Params = Mapping[str, Any]
Shape = Sequence[int]
Evaluate = Callable[[Sequence[Tensor], Params], Tensor]
"""Execute on tensors with a leading batch dimension; dimensions in params never name the batch."""
Ratios = tuple[Tensor, Tensor]
"""A matrix in exact numbers, [outputs, inputs], and what each of its rows is divided by, above 0,
[outputs]."""
Rewrite = Callable[[Params], tuple[str, Params]]
"""From the settings of an operation to another operation, by name, and its settings."""


def _unknown(*_: object) -> Any:
    """Stand for a fact that an operation does not have."""
    raise InternalError("an operation was asked for a fact that its kind does not have")


class Kind(enum.Enum):
    """What an operation does to its inputs; the value says it in words."""

    AFFINE = "affine in its one input"
    WIRING = "every entry is an entry of an input, or a constant"
    SUM = "adds its inputs"
    SCALAR = "one function of one number, applied to every entry"
    STEEP = "one function of one number, with no steepest slope where it is defined"
    PRODUCT = "multiplies its two inputs"
    CHOICE = "every entry is one of the entries that it is chosen from, by size"
    VECTOR = "mixes entries in a curved way"


@dataclass(frozen=True)
class Op:
    """One operation. What its kind needs has no default: a fact left out is refused at import.

    Attributes:
        run: Executes it.
        kind: What it does.
        roundings: Affine, product: how many rounded operations one entry of the result takes at
            most, from the settings and the shape of one row of the (first) input.
        linear: Affine: itself without what it adds. Wiring: with zeros for the constants it adds.
        absolute: Affine: the linear part with every coefficient replaced by its absolute value,
            so that bounds on rounding and norms come from the same execution.
        offset: Affine: magnitudes of what is added, shaped to broadcast against values with so
            many dimensions, batch included; None where nothing is.
        ratios: Affine: the matrix of the linear part in exact numbers, from the settings and the
            shape of one row of the input; None where its coefficients are no quotients of numbers
            that are at hand.
        stored: Affine: whether its coefficients are stored numbers, not results of arithmetic.
        by_entry: Affine, wiring: entry i reads at most entry i in the order of the flattened row,
            or another place that no other entry reads, and every entry is read.
        repeats: Wiring: whether an entry of the input may appear more than once in the result.
        exact: Scalar: rounds nothing, as every value is an argument, its negative or a constant.
        curve: Scalar, steep: pieces, turns, limits, gaps.
        slopes: Scalar, steep: smallest and largest slope wherever it is defined, rounded outward.
        inflation: Scalar: by how much the settings magnify the rounding of the function.
        inner: Scalar: the size of the terms that cancel inside, from the argument: the result may
            round as they do. None where none cancel.
        constant: Choice, vector: an upper bound of the Lipschitz constant, from the settings, the
            shapes of one row of input and result, and the norm.
        unbounded: Steep, product: why there is no Lipschitz constant on all inputs.
    """

    run: Evaluate
    kind: Kind
    roundings: Callable[[Params, Shape], int] = _unknown
    linear: Rewrite = _unknown
    absolute: Rewrite = _unknown
    offset: Callable[[Params, int], Tensor | None] = _unknown
    ratios: Callable[[Params, Shape], Ratios | None] = _unknown
    stored: Callable[[Params], bool] = lambda params: False
    by_entry: bool = False
    repeats: Callable[[Params], bool] = _unknown
    exact: bool = False
    curve: Callable[[Params], Curve] = _unknown
    slopes: Callable[[Params], Slopes] = _unknown
    inflation: Callable[[Params], float] = _unknown
    inner: Callable[[Tensor], Tensor] | None = None
    constant: Callable[[Params, Shape, Shape, float], float] = _unknown
    unbounded: str = ""

    def __post_init__(self) -> None:
        needed = {
            Kind.AFFINE: ("roundings", "linear", "absolute", "offset", "ratios"),
            Kind.WIRING: ("linear", "repeats"),
            Kind.SUM: (),
            Kind.SCALAR: ("curve", "slopes", "inflation"),
            Kind.STEEP: ("curve", "slopes", "unbounded"),
            Kind.PRODUCT: ("roundings", "unbounded"),
            Kind.CHOICE: ("constant",),
            Kind.VECTOR: ("constant",),
        }[self.kind]
        missing = [name for name in needed if getattr(self, name) in (_unknown, "")]
        if missing:
            raise InternalError(f"the record of an operation lacks {', '.join(missing)}")

    def steepest(self, params: Params) -> float:
        """Return the Lipschitz constant of a scalar function: the larger |slope|."""
        low, high = self.slopes(params)
        return max(abs(low), abs(high))
