"""Lipschitz constants, proved from witnesses in rational numbers and balls of 128 bits.

For a network in the form of `network.Form` let u = T z with 0 <= T <= 1, z = B_x x + B_u u and
y = C_x x + C_u u. For multipliers lam_i >= 0 the sum of 2 lam_i u_i (z_i - u_i) is at least 0, so
|y|^2 <= sum_j x_j^2 / q_j as soon as the quadratic form

    sum_j x_j^2 / q_j - |y|^2 - sum_i 2 lam_i u_i (z_i - u_i)

is nowhere negative (Fazlyab et al. 2019, LipSDP). By two Schur complements (of the identity that
stands for y, and of the diagonal 1/q), that holds where

    S = [ 2 L - L B_u - B_u^T L   C_u^T ]  -  P diag(q) P^T,    L = diag(lam),  P = [ -L B_x ]
        [ C_u                     1     ]                                         [  C_x   ]

is positive semidefinite. A triangular R shows it: R R^T is, and what is left, S - R R^T, is
diagonally dominant. S is computed in balls that hold its exact entries, so that whatever is found
of all matrices in them is true of S: no rounding is left out, and no root has to be rational.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

from flint import arb, arb_mat, fmpq

from holdfast_check.files import require
from holdfast_check.network import ONE, ZERO, Form, Step, Tensors, normal_form, weighted


def squared_rates(steps: list[Step], cuts: list[int], norm: float, arrays: Tensors) -> dict:
    """Return the square of a rate for every pair of classes i > j.

    |(f_i - f_j)(x) - (f_i - f_j)(x')| is at most the rate times the distance of x and x'. The
    values at the `cuts` split the network: the constants of its parts multiply (from l2 to l2,
    but for the norm on the network's input), and the last part has one for every pair.
    """
    ends = [0, *cuts, len(steps) - 1]
    require(all(a < b for a, b in pairwise(ends)), "the cuts are not in order")
    before = ONE
    for first, last in pairwise(ends[:-1]):
        slopes = (steps[last].scalar or ())[:2]
        if list(steps[last].of) == [first] and slopes:  # scalar functions alone keep every norm
            before *= max(map(abs, slopes)) ** 2
        else:
            form = normal_form(steps, first, last)
            before *= _squared_rate(form, norm, f"to.{last}", arrays)
            norm = 2.0
    form, rates = normal_form(steps, ends[-2], ends[-1]), {}
    for i in range(len(form.outputs)):
        for j in range(i):
            gap = weighted({i: ONE, j: -ONE}, form.outputs)
            pair = Form(form.inputs, form.units, [gap])
            rates[i, j] = before * _squared_rate(pair, norm, f"pair.{i}.{j}", arrays)
    return rates


def _squared_rate(form: Form, norm: float, name: str, arrays: Tensors) -> Any:
    """Return the square of a bound of |y|_2 / |x|."""
    if not any(form.outputs):
        return ZERO
    if not form.units and len(form.outputs) == 1:  # the dual norm of one row
        row = [abs(arb(a)) for a in form.outputs[0].values()]
        squares = {1.0: reduce(arb.max, row) ** 2, 2.0: sum(a * a for a in row)}
        return squares.get(norm, sum(row) ** 2)
    require(all(f"{name}.{part}" in arrays for part in "qlr"), f"{name} has no witness")
    q, lam, packed = (arrays[f"{name}.{part}"].numbers() for part in "qlr")
    q *= form.inputs if len(q) == 1 else 1
    require((len(q), len(lam)) == (form.inputs, len(form.units)), f"{name} does not fit")
    require(min(q) > 0 and min(lam, default=ONE) >= 0, f"{name}: a multiplier is negative")
    require(is_positive(matrix(form, q, lam), packed), f"{name}: the bound is not proved")
    return sum(1 / entry for entry in q) if norm == float("inf") else 1 / min(q)


def matrix(form: Form, q: Sequence[fmpq], lam: Sequence[fmpq]) -> arb_mat:
    """Return S; for a matrix with more rows than columns diag(1/q) - C^T C, which says the same."""
    d, n = form.inputs, len(form.units)
    rows = [{j: -lam[i] * a for j, a in z.items()} for i, z in enumerate(form.units)] + form.outputs
    size = len(rows)
    require(size * d <= 2**24 and min(size, d + n) <= 4096, "a witness is too large")
    P = arb_mat(size, d, [row.get(j, ZERO) for row in rows for j in range(d)])
    if not n and size > d:
        S, diagonal = -(P.transpose() * P), [1 / entry for entry in q]
    else:
        scaled = arb_mat(size, d, [row.get(j, ZERO) * q[j] for row in rows for j in range(d)])
        S, diagonal = -(scaled * P.transpose()), [2 * a for a in lam] + [ONE] * (size - n)
    for i, entry in enumerate(diagonal):
        S[i, i] += entry
    for i, row in enumerate(rows):
        for j in (j for j in row if j >= d):
            S[i, j - d] += row[j]
            S[j - d, i] += row[j]
    return S


def is_positive(S: arb_mat, packed: Sequence[fmpq]) -> bool:
    """Return whether S - R R^T is diagonally dominant, scaled by powers of two near S_ii^(-1/2)."""
    n = S.nrows()
    require(len(packed) == n * (n + 1) // 2, "a triangular witness does not fit")
    lower = [packed[i * (i + 1) // 2 + j] if j <= i else ZERO for i in range(n) for j in range(n)]
    R = arb_mat(n, n, lower)
    rest = (S - R * R.transpose()).tolist()
    parts = [S[i, i].mid().man_exp() for i in range(n)]
    scale = [arb(2) ** (-(int(man).bit_length() + int(exp)) // 2) for man, exp in parts]
    sums = [sum(map(arb.__mul__, map(abs, row), scale), arb(0)) for row in rest]  # with rest[i][i]
    return all(2 * rest[i][i] * scale[i] >= sums[i] for i in range(n))
