"""Bounds of a Jacobian whose slopes are free between two ends."""

import math

import numpy as np
import torch

from holdfast.brackets.branching.pieces import Pieces
from holdfast.brackets.semidefinite import row_upper
from holdfast.lipsdp.normal_form import Array
from holdfast.lipsdp.reduction import reduce
from holdfast.norms.dense import spectral_upper
from holdfast.rounding import gamma


def constant_upper(pieces: Pieces, low: Array, high: Array, norm: float, accuracy: float) -> float:
    """Return a proved bound of the largest ||J|| over all slopes between two ends.

    Args:
        pieces: The network.
        low: [units], smallest slopes.
        high: [units], largest slopes.
        norm: 1, 2 or inf.
        accuracy: Relative, of the semidefinite program for l2.
    """
    if norm == 2.0:
        return _spectral(pieces, low, high, accuracy)
    middle, reach = jacobian_box(pieces, low, high)
    sizes = (np.abs(middle) + reach) * (1.0 + 2.0 * gamma(2))
    sums = sizes.sum(0 if norm == 1.0 else 1) * (1.0 + 2.0 * gamma(max(sizes.shape) + 2))
    return math.nextafter(float(sums.max(initial=0.0)), math.inf)


def _spectral(pieces: Pieces, low: Array, high: Array, accuracy: float) -> float:
    """Bound the spectral norm: exactly where all slopes are known, else by LipSDP."""
    form = pieces.form(low, high)
    small = reduce(form, rotate=False)
    if small.units:
        return row_upper(form, 2.0, accuracy)
    error = 0.0 if small.C_error is None else float(np.linalg.norm(small.C_error)) * (1.0 + 1e-12)
    return math.nextafter(spectral_upper(torch.tensor(small.C)) + error, math.inf)


def jacobian_box(pieces: Pieces, low: Array, high: Array) -> tuple[Array, Array]:
    """Return a box around every entry of the Jacobian: midpoints and radii, rounded outward.

    Args:
        pieces: The network.
        low: [units], smallest slopes.
        high: [units], largest slopes.

    Returns:
        Two matrices [outputs, inputs].
    """
    d = pieces.inputs
    middle, reach = np.zeros((2, d + len(pieces.B), d))
    middle[:d] = np.eye(d)
    centre = 0.5 * low + 0.5 * high
    spread = np.maximum(high - centre, centre - low) * (1.0 + gamma(4))
    spread[low == high] = 0.0
    centre = np.where(low == high, low, centre)
    for unit, row in enumerate(pieces.B):
        used = np.flatnonzero(row)
        if not len(used):
            continue
        m = row[used] @ middle[used]
        size = np.abs(row[used]) @ np.abs(middle[used])
        r = np.abs(row[used]) @ reach[used] + gamma(len(used) + 4) * size
        r *= 1.0 + gamma(len(used) + 8)
        c, s = centre[unit], spread[unit]
        middle[d + unit] = c * m
        wider = abs(c) * r + s * (np.abs(m) + r) + gamma(4) * np.abs(c * m)
        reach[d + unit] = wider * (1.0 + gamma(8))
    rows = np.abs(pieces.C)
    rounding = gamma(pieces.C.shape[1] + 4) * (rows @ np.abs(middle))
    return pieces.C @ middle, (rows @ reach + rounding) * (1.0 + gamma(pieces.C.shape[1] + 8))
