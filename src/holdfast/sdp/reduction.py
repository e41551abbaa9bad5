"""Exact reductions of a normal form; what they round goes into its error fields."""

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch

from holdfast.rounding import gamma, lengths_up
from holdfast.sdp.form import (
    EXTREME,
    HEADROOM,
    Array,
    Mask,
    NormalForm,
    clear_small,
    levels,
    multiply,
    norm_rows,
)


@np.errstate(over="ignore", invalid="ignore")  # `NormalForm` refuses what overflowed
def reduce(form: NormalForm, rotate: bool = True) -> NormalForm:
    """Return a smaller form with the same Lipschitz bound.

    Units with equal slopes become linear maps, units that are always 0 or never reach the
    output leave, identical twins become one, and (`rotate`) the input space shrinks to the
    rank of what reads it. Rounding goes into the error fields.

    Args:
        form: Any form.
        rotate: False for norms other than l2, which a rotation does not keep.

    Returns:
        The reduced form.
    """
    form = merge_twins(drop_dead(substitute_linear(form)))
    return rotate_inputs(form) if rotate else form


def substitute(rows: Array, error: Array, B: Array, B_error: Array, plan: tuple) -> None:
    """Replace linear units in `rows` by what they read, in place, and bound the rounding.

    Args:
        rows: Rows of B or C that may use the units.
        error: Their error bounds.
        B: Pre-activation rows of the units, free of linear units themselves.
        B_error: Error bounds of those rows.
        plan: (the units, their slopes, number of inputs).
    """
    units, slopes, inputs = plan
    weight = rows[:, inputs + units] * slopes
    sloped = np.abs(error[:, 1 + units] * slopes) * HEADROOM
    sizes = norm_rows(B, inputs)
    rounding = gamma(len(units) + 4) * (norm_rows(rows, inputs) + multiply(np.abs(weight), sizes))
    inherited = multiply(np.abs(weight) * HEADROOM + sloped, B_error) + multiply(sloped, sizes)
    rows[:, inputs + units] = 0.0
    error[:, 1 + units] = 0.0
    touched = (weight != 0).any(1)
    rows[touched] += multiply(weight, B)[touched]
    rounding[~touched] = 0.0
    error += rounding + inherited
    error *= HEADROOM
    clear_small(rows, error, inputs)


def substitute_linear(form: NormalForm) -> NormalForm:
    """Replace every unit with equal slopes by the linear map that it is."""
    linear = form.low == form.high
    if not linear.any():
        return form
    B, C = form.B.copy(), form.C.copy()
    B_error, C_error = (bound.copy() for bound in form.errors())
    # What a unit reads by an error alone must be replaced as well, level by level.
    reads = np.abs(form.B)
    reads[:, form.inputs :] += B_error[:, 1:]
    for first, last in levels(reads, form.inputs):
        units = first + np.flatnonzero(linear[first:last])
        if len(units):
            plan = (units, form.low[units], form.inputs)
            read, read_error = B[units], B_error[units]
            later = slice(last, form.units)
            substitute(B[later], B_error[later], read, read_error, plan)
            substitute(C, C_error, read, read_error, plan)
    exact = not (B_error.any() or C_error.any())
    bounds = (None, None) if exact else (B_error, C_error)
    return NormalForm(B, C, form.low, form.high, form.inputs, *bounds, form.rotated).keep(~linear)


def live_units(form: NormalForm) -> Mask:
    """Return which units move with the input and reach the output."""
    B_error, C_error = form.errors()
    uses = (form.B[:, form.inputs :] != 0) | (B_error[:, 1:] != 0)
    reads_input = form.B[:, : form.inputs].any(1) | (B_error[:, 0] != 0)
    moves = np.zeros(form.units, bool)
    for unit in range(form.units):
        moves[unit] = reads_input[unit] or bool((uses[unit] & moves).any())
    reaches = (form.C[:, form.inputs :] != 0).any(0) | (C_error[:, 1:] != 0).any(0)
    for unit in reversed(range(form.units)):
        if reaches[unit] and moves[unit]:
            reaches |= uses[unit]
    return moves & reaches


def drop_dead(form: NormalForm) -> NormalForm:
    """Remove the units whose input never moves and those that never reach the output."""
    live = live_units(form)
    return form if live.all() else form.keep(live)


def merge_twins(form: NormalForm) -> NormalForm:
    """Merge units with the same input row, the same slopes and the same outgoing column.

    A common row alone is not enough: biases are not part of the form, so such units need not move
    together. With a common column only their sum matters, and the mean of two admissible slopes is
    admissible, which makes the merger exact.

    Returns:
        The form with one unit for every set of twins.
    """
    if form.B_error is not None or form.C_error is not None:
        return form
    groups: dict[bytes, list[int]] = defaultdict(list)
    for unit in range(form.units):
        column = form.inputs + unit
        parts = (form.B[unit], form.B[:, column], form.C[:, column], form.low[unit : unit + 1])
        key = np.concatenate([*parts, form.high[unit : unit + 1]]) + 0.0
        groups[key.tobytes()].append(unit)
    kept = np.zeros(form.units, bool)
    B, C = form.B.copy(), form.C.copy()
    for twins in groups.values():
        kept[twins[0]] = True
        count = 1 << (len(twins).bit_length() - 1)  # powers of two scale without rounding
        kept[twins[count:]] = True
        column = form.inputs + twins[0]
        B[:, column] *= count
        C[:, column] *= count
    if kept.all():
        return form
    return NormalForm(B, C, form.low, form.high, form.inputs, rotated=form.rotated).keep(kept)


def rotate_inputs(form: NormalForm) -> NormalForm:
    """Replace x by its projection on the space that the net reads, by a thin QR factorisation.

    With `D = R^T Q^T + E` for the columns D that read x, `x' = Q^T x / (1 + delta)` is never longer
    than x, where `delta` bounds how far the computed Q is from orthonormal; E goes into the error.

    Returns:
        The form with as many inputs as rows that read x, or the same form if that is no fewer.
    """
    d, N = form.inputs, form.units
    direct = np.vstack([form.B[:, :d], form.C[:, :d]])
    used = direct.any(1)
    rank = int(used.sum())
    if rank >= d or rank == 0:
        return form
    factor, triangle = torch.linalg.qr(torch.from_numpy(direct[used].T.copy()))
    Q = factor.numpy()
    drift = np.abs(multiply(Q.T, Q) - np.eye(rank)).sum(1).max()
    stretch = 1.0 + HEADROOM * (drift + gamma(d + 2) * rank * 2.0)
    R = triangle.numpy().T * stretch
    R[np.abs(R) < 1.0 / EXTREME] = 0.0  # any R will do
    # the scaled coordinates are Q^T x / stretch: compare with R (Q^T / stretch)
    residual = direct[used] - multiply(R, Q.T) / stretch
    rounding = gamma(rank + 4) * _lengths(R) * np.linalg.norm(Q)
    lost = HEADROOM * (_lengths(residual) + rounding)
    rotated = np.zeros((N + len(form.C), rank))
    rotated[used] = R
    bounds = np.zeros(len(rotated))
    bounds[used] = lost + gamma(2) * _lengths(direct[used])
    B_error, C_error = (bound.copy() for bound in form.errors())
    B_error[:, 0] = (B_error[:, 0] + bounds[:N]) * HEADROOM
    C_error[:, 0] = (C_error[:, 0] + bounds[N:]) * HEADROOM
    B = np.hstack([rotated[:N], form.B[:, d:]])
    C = np.hstack([rotated[N:], form.C[:, d:]])
    return NormalForm(B, C, form.low, form.high, rank, B_error, C_error, True)


def _lengths(rows: Array) -> Array:
    """Return the lengths of rows, rounded up."""
    return lengths_up(torch.tensor(rows)).numpy()


def transpose(form: NormalForm) -> NormalForm:
    """Return the form of the transposed network, whose Jacobians are the transposed ones.

    For slopes Lam the Jacobian is J = C_x + C_v (I - Lam B_v)^-1 Lam B_x; its transpose has the
    same shape with B' = (C_v^T, B_v^T) and C' = (C_x^T, B_x^T), the units in reverse order. So
    sup |J|_1 over all slopes, which bounds the l1 constant, is sup |J^T|_inf of this form.
    """
    d, outputs = form.inputs, len(form.C)
    back = slice(None, None, -1)
    B = np.hstack([form.C[:, d:].T, form.B[:, d:].T[:, back]])[back]
    C = np.hstack([form.C[:, :d].T, form.B[:, :d].T[:, back]])
    if form.B_error is None and form.C_error is None:
        return NormalForm(B, C, form.low[back], form.high[back], outputs)
    B_error, C_error = form.errors()
    # An error of length t in the x part of a row is at most t in each of its entries.
    reads = _lengths(C_error[:, 1:].T)
    own = np.hstack([reads[:, None], B_error[:, 1:].T[:, back]])[back]
    direct = np.full((d, 1), _lengths(C_error[:, :1].T))
    leaves = np.hstack([direct, np.tile(B_error[:, 0][back], (d, 1))])
    return NormalForm(B, C, form.low[back], form.high[back], outputs, own, leaves)


def between(form: NormalForm, free: Mask) -> NormalForm:
    """Return the form for pairs of inputs that differ in some coordinates alone, not rotated."""
    if free.all() or not free.any():
        return form
    columns = np.concatenate([free, np.ones(form.units, bool)])
    B, C, inputs = form.B[:, columns], form.C[:, columns], int(free.sum())
    return replace(form, B=B, C=C, inputs=inputs)


def output_row(form: NormalForm, row: int) -> NormalForm:
    """Return the form with one of its outputs alone."""
    one = slice(row, row + 1)
    error = None if form.C_error is None else form.C_error[one]
    return replace(form, C=form.C[one], C_error=error)


def normalise(form: NormalForm) -> tuple[NormalForm, float, float]:
    """Scale inputs and outputs by powers of two, without rounding, to entries near 1.

    Returns:
        The scaled form, the factor that brings its Lipschitz constant back, and the factor that
        brings the multipliers of its units back.
    """
    d = form.inputs
    inward, outward = (power_near(matrix) for matrix in (form.B[:, :d], form.C))
    B, C = form.B.copy(), form.C * outward
    B_error, C_error = (error.copy() for error in form.errors())
    C_error *= outward
    for matrix in (B, C):
        matrix[:, :d] *= inward
    for error in (B_error, C_error):
        error[:, 0] *= inward
    exact = form.B_error is None and form.C_error is None
    errors = (None, None) if exact else (B_error, C_error)
    small = NormalForm(B, C, form.low, form.high, d, *errors, form.rotated)
    return small, 1.0 / (inward * outward), outward**-2


def power_near(matrix: Array) -> float:
    """Return the power of two that brings the largest entry of a matrix closest to 1."""
    largest = float(np.abs(matrix).max(initial=0.0))
    if largest == 0.0:
        return 1.0
    return math.ldexp(1.0, min(max(-round(math.log2(largest)), -450), 450))
