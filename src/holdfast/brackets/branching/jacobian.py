"""Bounds of a Jacobian whose slopes are free between two ends."""

import math

import numpy as np
import torch
from torch import Tensor

from holdfast.brackets.branching.pieces import PiecewiseNet
from holdfast.brackets.semidefinite import row_upper
from holdfast.norms.matrix import row_sums_upper, spectral_uppers
from holdfast.rounding import TINY, gamma, lengths_up, rows_up
from holdfast.sdp.form import TOO_EXTREME, Array


def constant_upper(
    pieces: PiecewiseNet, low: Array, high: Array, norm: float, accuracy: float
) -> float:
    """Return a proved bound of the largest ||J|| over all slopes between two ends.

    Args:
        pieces: The network.
        low: [units], smallest slopes.
        high: [units], largest slopes.
        norm: 1, 2 or inf.
        accuracy: Relative, of the semidefinite program for l2.

    Returns:
        The bound; inf where the weights are too extreme for float64.
    """
    if norm == 2.0:
        try:
            form = pieces.form(low, high)
        except TOO_EXTREME:
            return math.inf
        return row_upper(form, 2.0, accuracy)
    middle, reach = _jacobian_box(pieces, low, high)
    sizes = torch.from_numpy((np.abs(middle) + reach) * (1.0 + 2.0 * gamma(2)))
    bound = row_sums_upper(sizes.T if norm == 1.0 else sizes)
    return bound if bound >= 0.0 else math.inf  # NaN: extreme weights overflowed


@np.errstate(over="ignore", invalid="ignore")
def _jacobian_box(pieces: PiecewiseNet, low: Array, high: Array) -> tuple[Array, Array]:
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
        r = r * (1.0 + gamma(len(used) + 8)) + 4.0 * len(used) * TINY
        c, s, divisor = centre[unit], spread[unit], pieces.divisor[unit]
        middle[d + unit] = c * m / divisor
        wider = abs(c) * r + s * (np.abs(m) + r) + gamma(6) * np.abs(c * m) + 8.0 * TINY
        reach[d + unit] = wider / divisor * (1.0 + gamma(10)) + 8.0 * TINY
    rows = np.abs(pieces.C)
    terms = rows.shape[1]
    rounding = gamma(terms + 4) * (rows @ np.abs(middle)) + 4.0 * terms * TINY
    return pieces.C @ middle, (rows @ reach + rounding) * (1.0 + gamma(terms + 8))


def norm_uppers(jacobian: Tensor, reach: Tensor, norm: float) -> Tensor:
    """Return upper bounds of the norms of all matrices in boxes.

    Args:
        jacobian: [R, outputs, d].
        reach: Same shape, at least 0.
        norm: 1, 2 or inf.

    Returns:
        [R]; infinity or NaN where nothing is known.
    """
    sizes = rows_up(jacobian.abs() + reach, 2)
    if norm != 2.0:
        dim = 1 if norm == 1.0 else 2
        return rows_up(sizes.sum(dim), sizes.shape[dim]).amax(1)
    together = spectral_uppers(sizes)
    apart = rows_up(spectral_uppers(jacobian) + lengths_up(reach.flatten(1)), 2)
    return torch.minimum(together, apart)


def steepest(matrix: Tensor, norm: float) -> Tensor:
    """Return a direction of length 1 that a matrix stretches most, up to rounding, [d]."""
    if norm == 2.0:
        return torch.linalg.svd(matrix, full_matrices=False).Vh[0]
    if norm == 1.0:
        return torch.nn.functional.one_hot(matrix.abs().sum(0).argmax(), matrix.shape[1]).double()
    row = matrix[matrix.abs().sum(1).argmax()]
    return torch.where(row < 0, -1.0, 1.0).double()
