"""The normal form of a slope-restricted network.

Every network of linear maps and scalar activations, with skips or without, is for differences of
two inputs the same thing: coordinates `xi = (x, v)`, pre-activations `z = B xi`, output `y = C xi`
and `low_i <= v_i / z_i <= high_i` for every unit.

All bounds of rounding in this room are relative, and hold as long as no product underflows. So a
form has no entry beyond `EXTREME`, and none but 0 below its inverse: smaller ones are set to 0, and
the error fields say so. Slopes are moved outward in the same way. Products of an entry, a slope, a
multiplier and a scale (`proof`) are then ordinary numbers.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.errors import InvalidInput
from holdfast.rounding import lengths_up

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
HEADROOM = 1.0 + 2.0**-20  # covers the rounding of sums and products of non-negative bounds
EXTREME = 2.0**200
"""Largest entry of a normal form; its inverse is the smallest one."""

TOO_EXTREME = (InvalidInput, ArithmeticError, np.linalg.LinAlgError, torch.linalg.LinAlgError)
"""What a method may raise where weights are too extreme for it: it has then proved nothing."""

_ARRAYS = ("B", "C", "low", "high", "B_error", "C_error")


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


def norm_rows(matrix: Array, inputs: int) -> Array:
    """Return `(|x part of the row|_2, |entries of the v part|)` per row, rounded upwards."""
    first = lengths_up(torch.tensor(matrix[:, :inputs])).numpy()[:, None]
    return np.hstack([first, np.abs(matrix[:, inputs:])]) * HEADROOM


def clear_small(rows: Array, error: Array, inputs: int) -> bool:
    """Set entries that are too small to 0, in place, and add them to the error rows.

    Returns:
        Whether there were any.
    """
    small = (np.abs(rows) < 1.0 / EXTREME) & (rows != 0.0)
    if not small.any():
        return False
    rows[small] = 0.0
    error += np.hstack([small[:, :inputs].sum(1, keepdims=True), small[:, inputs:]]) / EXTREME
    error *= HEADROOM
    return True


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
        for name in _ARRAYS:
            self._set(name, getattr(self, name))
        self._check_shapes()
        self._move_outward()
        if not (self.low <= self.high).all():
            raise InvalidInput("high", "slopes below low", "low <= high for every unit")
        if np.triu(self.B[:, self.inputs :]).any():
            raise InvalidInput("B", "a row that uses its own unit or a later one", "earlier units")
        for name in _ARRAYS:
            if getattr(self, name) is not None:
                getattr(self, name).setflags(write=False)

    def _set(self, name: str, value: Array | None) -> None:
        """Copy one array, unless it is missing.

        Raises:
            InvalidInput: When it holds what is no number, or too large.
        """
        if value is None:
            return
        value = np.array(value, dtype=np.float64, order="C")
        if not (np.abs(value) <= EXTREME).all():
            raise InvalidInput(name, "numbers too large for LipSDP, or none", "up to 1e60")
        object.__setattr__(self, name, value)

    def _move_outward(self) -> None:
        """Replace what is too small: entries by 0 and an error, slopes and errors outward."""
        B_error, C_error = self.errors()
        cleared = [clear_small(self.B, B_error, self.inputs)]
        cleared.append(clear_small(self.C, C_error, self.inputs))
        if any(cleared):
            self._set("B_error", B_error)
            self._set("C_error", C_error)
        for error in (self.B_error, self.C_error):
            if error is not None:
                error[(error > 0.0) & (error < 1.0 / EXTREME)] = 1.0 / EXTREME
        tiny = 2.0**-100  # products of two slopes stay above the inverse of EXTREME
        for slopes, sign in ((self.low, -1.0), (self.high, 1.0)):
            short = np.abs(slopes) < tiny
            slopes[short] = np.where(sign * slopes[short] > 0.0, sign * tiny, 0.0)

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
