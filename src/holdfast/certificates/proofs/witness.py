"""Witnesses of Lipschitz constants, as `holdfast_check.proof` reads them.

A witness is three arrays: multipliers `q` of the inputs and `l` of the units, and `r`, the packed
triangular factor. Multipliers come from the solvers and factors from LAPACK, in floating point; the
exact test is the checker's.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from flint import arb, fmpq

from holdfast.errors import InvalidInput, Obstacle, Unsupported
from holdfast.sdp.dense.interior import minimise, solve
from holdfast.sdp.form import Array, NormalForm
from holdfast.sdp.reduction import live_units, rotate_inputs
from holdfast.threads import one_thread
from holdfast_check.network import MOST_ENTRIES, Form, Row, Step, normal_form, weighted

MOST_PAIRS_WORK = 6e9
"""Pairs of classes times the cube of the size up to which every pair has its own witness."""

MOST_UNITS, MOST_ROWS = 1200, 2048
"""Of one witness: units of the solver, and rows of the matrix."""

_ACCURACY = 1e-3
"""How close to the best bound multipliers are sought, relatively: radii lose no more by it."""

_GRID, _BITS = 2.0**40, 30
"""Entries of the factor are multiples of 1 / `_GRID`, multipliers have `_BITS` bits: enough for
`_ACCURACY`, and the rational numbers of the checker stay short."""


def choose_cuts(steps: Sequence[Step], possible: Sequence[int]) -> list[int]:
    """Return where to split a network, so that the proof of every part is affordable.

    Small networks stay whole, and every pair of classes has its own witness. Otherwise what
    follows the last scalar function is split off: no pair needs a witness then. What is before
    stays whole if it can; if not, scalar functions and the affine maps between them are split.

    Args:
        steps: The network.
        possible: Values that everything behind them is computed from.
    """
    scalars = [k for k, step in enumerate(steps) if step.scalar]
    if not scalars:
        return []
    units, inputs, classes = sum(steps[k].size for k in scalars), steps[0].size, steps[-1].size
    size = units + min(inputs, units)
    last = next((k for k in possible if k >= scalars[-1]), None)
    if classes * (classes - 1) / 2 * size**3 <= MOST_PAIRS_WORK or last is None:
        return []
    if units <= MOST_UNITS:
        return [last]
    around = {k - 1 for k in scalars} | set(scalars)
    return [k for k in possible if k in around and k < last] + [last]


def check_entries(count: int, name: str = "") -> None:
    """Refuse a matrix, or a part of a proof, with more entries than the checker takes.

    Args:
        count: Of the entries.
        name: Of the matrix.

    Raises:
        Unsupported: When it has more.
    """
    if count > MOST_ENTRIES:
        why = f"a matrix of {count:,} entries, of which the checker takes {MOST_ENTRIES:,}"
        raise Unsupported("a proof in a file", [Obstacle(name, "size", why)])


def check_sizes(steps: Sequence[Step], cuts: Sequence[int]) -> None:
    """Refuse a network with a part that is too large for a witness.

    Args:
        steps: The network; of its steps only sizes, and whether they are scalar functions.
        cuts: From `choose_cuts`.

    Raises:
        Unsupported: When a part is too large.
    """
    ends = [0, *cuts, len(steps) - 1]
    for first, last in itertools.pairwise(ends):
        if last == first + 1 and steps[last].scalar:
            continue
        units = sum(step.size for step in steps[first + 1 : last + 1] if step.scalar)
        outputs, inputs = 1 if last == ends[-1] else steps[last].size, steps[first].size
        rows = min(units + outputs, inputs + units)
        if units > MOST_UNITS or rows > MOST_ROWS:
            why = f"one witness for {units} activations and {rows} rows, "
            why += f"of which it takes {MOST_UNITS} and {MOST_ROWS}"
            raise Unsupported("a proof in a file", [Obstacle("", "size", why)])
        check_entries((units + outputs) * inputs)


def witnesses(
    steps: Sequence[Step], cuts: Sequence[int], norm: float
) -> Iterator[tuple[str, Array]]:
    """Yield the witnesses of all parts of a network, by the names that the checker looks for.

    Args:
        steps: The network.
        cuts: From `choose_cuts`.
        norm: 1, 2 or inf, on the inputs.

    Yields:
        Name and array; the three of a witness one after the other.

    Raises:
        Unsupported: When nothing can be proved for a part.
    """
    ends = [0, *cuts]
    for first, last in zip(ends, cuts, strict=False):
        if not (last == first + 1 and steps[last].scalar):
            yield from _named(f"to.{last}", _witness(normal_form(steps, first, last), norm))
            norm = 2.0
    form = normal_form(steps, ends[-1], len(steps) - 1)
    for i in range(len(form.outputs) if form.units else 0):
        for j in range(i):
            gap = weighted({i: fmpq(1), j: fmpq(-1)}, form.outputs)
            if gap:
                pair = Form(form.inputs, form.units, [gap])
                yield from _named(f"pair.{i}.{j}", _witness(pair, norm))


def _named(part: str, witness: tuple[Array, Array, Array]) -> Iterator[tuple[str, Array]]:
    yield from zip((f"{part}.q", f"{part}.l", f"{part}.r"), witness, strict=True)


def _witness(form: Form, norm: float) -> tuple[Array, Array, Array]:
    """Return the q, l and r of a witness that the checker takes.

    Raises:
        Unsupported: When there is none.
    """
    with one_thread(), np.errstate(over="ignore", invalid="ignore"):
        r, lam = _multipliers(form, norm)
        for raise_by in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):  # the least that is accepted
            found = _factorised(form, r, lam, raise_by)
            if found is not None:
                return found
    raise Unsupported("a proof in a file with weights so extreme", [])


def _accepted(S: Array, factor: Array) -> bool:
    """Return whether S - R R^T is diagonally dominant with room for the rounding of this test."""
    rest = S - factor @ factor.T
    own = np.diagonal(rest)
    rounding = len(S) ** 2 * 2.0**-50 * max(float(np.abs(S).max()), 1.0)
    return bool((own > 2.0 * (np.abs(rest).sum(1) - own) + rounding).all())


def _dense(rows: Sequence[Row], width: int) -> Array:
    """Return sparse rows as a matrix of floats, the middles of balls."""
    result = np.zeros((len(rows), width))
    for i, row in enumerate(rows):
        result[i, list(row)] = [float(arb(a)) for a in row.values()]
    return result


def _multipliers(form: Form, norm: float) -> tuple[Array, Array]:
    """Return rough multipliers of the inputs (one, or one each) and good ones of the units."""
    units = len(form.units)
    if not units:
        return np.ones(1), np.zeros(0)
    width = form.inputs + units
    B, C = _dense(form.units, width), _dense(form.outputs, width)
    whole = NormalForm(B, C, np.zeros(units), np.ones(units), form.inputs)
    live, lam, r = live_units(whole), np.zeros(units), np.ones(1)
    small = whole.keep(live)
    try:
        if norm == math.inf and len(form.outputs) == 1:
            r, lam[live] = minimise(small, True, (_ACCURACY, math.inf))
            r = np.maximum(r, r.max() * 1e-9)
        else:
            lam[live] = solve(rotate_inputs(small), _ACCURACY, math.inf)
    except InvalidInput as problem:
        raise Unsupported("a proof in a file with weights so extreme", []) from problem
    return r, _coarse(lam)


def _coarse(values: Array) -> Array:
    """Return numbers of few bits, rounded down: the rational arithmetic gets shorter."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.floor(mantissa * 2.0**_BITS), exponent - _BITS)


def _factorised(
    form: Form, r: Array, lam: Array, raise_by: float
) -> tuple[Array, Array, Array] | None:
    """Return the least q that leaves S positive, raised a little, lam, and the factor of S."""
    S, P = _parts(form, r, lam)
    live = np.diagonal(S) > 0.0
    S, P = S[np.ix_(live, live)], P[live]
    scale = np.exp2(-np.floor(0.5 * np.log2(np.diagonal(S))))
    S, P = scale[:, None] * S * scale, scale[:, None] * P
    shift = raise_by * np.eye(len(S))
    try:
        half = np.linalg.solve(np.linalg.cholesky(S - 2.0 * shift), P)
        least = float(np.linalg.norm(half, 2)) ** 2 * (1.0 + raise_by)
        q = _coarse(1.0 / (least * r))
        if not (np.isfinite(q).all() and (q > 0.0).all()):
            return None
        if not form.units and len(form.outputs) > form.inputs:  # the form of tall matrices
            power = np.exp2(np.round(0.5 * np.log2(q[0])))
            target, scale = power**2 * (S / q[0] - P @ P.T), scale * power
        else:
            target = S - P * (q * r) @ P.T
        factor = np.linalg.cholesky(target - shift)
    except np.linalg.LinAlgError:
        return None
    factor = np.round(np.asarray(factor, dtype=np.float64) * _GRID) / _GRID
    if not _accepted(target, factor):
        return None
    whole = np.zeros((len(live), len(live)))
    whole[np.ix_(live, live)] = factor / scale[:, None]
    return q, lam, whole[np.tril_indices(len(live))]


def _parts(form: Form, r: Array, lam: Array) -> tuple[Array, Array]:
    """Return S without its last term, and P with its columns divided by sqrt(r)."""
    d, units, outputs = form.inputs, len(form.units), len(form.outputs)
    C = _dense(form.outputs, d + units)
    if not units:
        C = C.T if outputs > d else C
        return np.eye(len(C)), C
    B = _dense(form.units, d + units)
    cross = lam[:, None] * B
    S = np.zeros((units + outputs, units + outputs))
    S[:units, :units] = np.diag(2.0 * lam) - cross[:, d:] - cross[:, d:].T
    S[units:, :units], S[:units, units:] = C[:, d:], C[:, d:].T
    S[units:, units:] = np.eye(outputs)
    return S, np.vstack([-cross[:, :d], C[:, :d]]) / np.sqrt(r)
