"""The normal form of a slope-restricted network.

Every network of linear maps and scalar activations, with skips or without, is for differences of
two inputs the same thing: coordinates `xi = (x, v)`, pre-activations `z = B xi`, output `y = C xi`
and `low_i <= v_i / z_i <= high_i` for every unit.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.errors import InvalidInput

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
HEADROOM = 1.0 + 2.0**-20  # covers the rounding of sums and products of non-negative bounds
LEAST_EXPONENT = -960
SQUARES = 1e-150  # more than a length loses when squares of small entries underflow


def multiply(left: Array, right: Array) -> Array:
    """Return `left @ right`, by torch: its thread count can be set while the process runs."""
    product = torch.from_numpy(np.ascontiguousarray(left)) @ torch.from_numpy(
        np.ascontiguousarray(right)
    )
    return product.numpy()


def levels(B: Array, inputs: int) -> list[tuple[int, int]]:
    """Split the units, in their order, into the longest runs that do not feed themselves.

    Args:
        B: Pre-activation rows, shape (units, inputs + units).
        inputs: Number of input coordinates.

    Returns:
        Half-open ranges (first, last) of units; for a feed-forward net, its layers.
    """
    if not len(B):
        return []
    filled = B[:, inputs:] != 0
    latest = np.where(filled.any(1), filled.shape[1] - 1 - filled[:, ::-1].argmax(1), -1)
    runs, first = [], 0
    for unit in range(B.shape[0]):
        if latest[unit] >= first:
            runs.append((first, unit))
            first = unit
    return [*runs, (first, B.shape[0])]


def may_underflow(*factors: Array) -> bool:
    """Return whether products of their entries may come near the smallest float64.

    Error bounds here are relative, and say nothing about a product that vanishes.
    """
    sizes = [np.abs(factor[factor != 0.0]) for factor in factors]
    return sum(math.log2(float(size.min())) for size in sizes if size.size) < LEAST_EXPONENT


def norm_rows(matrix: Array, inputs: int) -> Array:
    """Return `(|x part of the row|_2, |entries of the v part|)` per row, rounded upwards."""
    first = np.linalg.norm(matrix[:, :inputs], axis=1, keepdims=True)
    first += SQUARES * matrix[:, :inputs].any(1, keepdims=True)
    return np.hstack([first, np.abs(matrix[:, inputs:])]) * HEADROOM


@dataclass(frozen=True)
class NormalForm:
    """`z = B (x, v) + e`, `y = C (x, v) + f`, `v_i` between `low_i z_i` and `high_i z_i`.

    The matrices are exact unless the two error fields say otherwise. An error row with the entries
    `(t, s_1, ..., s_N)` means `|e_i| <= t |x|_2 + sum_j s_j |v_j|` for every pair of true inputs;
    `x` may be an orthogonal projection of the true input, which is never longer than it.

    Attributes:
        B: Pre-activations, shape (units, inputs + units); row i uses only units before i.
        C: Outputs, shape (outputs, inputs + units).
        low: Smallest slope of every unit.
        high: Largest slope of every unit.
        inputs: Number of input coordinates.
        B_error: Bound of the rounding errors in B, shape (units, 1 + units); None where exact.
        C_error: The same for C, shape (outputs, 1 + units).
        rotated: Whether x is such a projection; then only l2 bounds carry over.
    """

    B: Array
    C: Array
    low: Array
    high: Array
    inputs: int
    B_error: Array | None = None
    C_error: Array | None = None
    rotated: bool = False

    def __post_init__(self) -> None:
        for name in ("B", "C", "low", "high", "B_error", "C_error"):
            value = getattr(self, name)
            if value is None:
                continue
            value = np.array(value, dtype=np.float64, order="C")
            if not np.isfinite(value).all():
                raise InvalidInput(name, "values that are not finite", "finite values")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        self._check_shapes()
        if not (self.low <= self.high).all():
            raise InvalidInput("high", "slopes below low", "low <= high for every unit")
        if np.triu(self.B[:, self.inputs :]).any():
            raise InvalidInput("B", "a row that uses its own unit or a later one", "earlier units")

    def _check_shapes(self) -> None:
        units, outputs = len(self.B), len(self.C)
        wanted = {
            "B": (units, self.inputs + units),
            "C": (outputs, self.inputs + units),
            "low": (units,),
            "high": (units,),
            "B_error": (units, 1 + units),
            "C_error": (outputs, 1 + units),
        }
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise InvalidInput(name, f"shape {value.shape}", f"shape {shape}")
            if value is not None and name.endswith("error") and (value < 0).any():
                raise InvalidInput(name, "negative entries", "bounds, at least 0")

    @property
    def units(self) -> int:
        """Number of activations."""
        return self.B.shape[0]

    def errors(self) -> tuple[Array, Array]:
        """Return both error bounds, zeros where the form is exact."""
        B_error = np.zeros((self.units, 1 + self.units)) if self.B_error is None else self.B_error
        C_error = np.zeros((len(self.C), 1 + self.units)) if self.C_error is None else self.C_error
        return B_error, C_error

    def keep(self, units: Mask) -> "NormalForm":
        """Return the form without the units that the mask leaves out and without their columns."""
        columns = np.concatenate([np.ones(self.inputs, bool), units])
        bounds = np.concatenate([[True], units])
        cut = None if self.B_error is None else self.B_error[np.ix_(units, bounds)]
        return NormalForm(
            self.B[np.ix_(units, columns)],
            self.C[:, columns],
            self.low[units],
            self.high[units],
            self.inputs,
            cut,
            None if self.C_error is None else self.C_error[:, bounds],
            self.rotated,
        )
