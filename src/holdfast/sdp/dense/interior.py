"""LipSDP-Neuron by a primal-dual interior point method, feasible and hence valid at every step.

Minimise `sum r` subject to `S(r, lam) >= 0`, `lam >= 0` (`pencil`). The search direction is the one
of Helmberg, Rendl, Vanderbei and Wolkowicz (1996) and Kojima, Shindoh and Hara (1997), with
Mehrotra's predictor and second-order corrector. The constraint matrices have rank 2, so that the
Newton matrix is a sum of elementwise products of dense blocks (`newton_matrix`).

The primal matrix X starts infeasible as a multiple of `S^-1`, perfectly centred; the slack S only
ever takes steps after which its Cholesky factor exists. Nothing computed here is trusted: the
bound is what `proof.prove` derives from the multipliers.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.sdp.dense.pencil import Pencil, Products
from holdfast.sdp.dense.steps import cholesky, reach, reach_positive, smallest_eigenvalue
from holdfast.sdp.form import Array, NormalForm
from holdfast.sdp.reduction import normalise

Callback = Callable[[float, Array], None]
STALLED = 1e-3  # steps this short, primal and dual, mean that the precision is exhausted


@dataclass
class Iterate:
    """One point of the method.

    Attributes:
        r: Multipliers of the inputs.
        lam: Multipliers of the units.
        S: The slack matrix S(r, lam).
        L: Its Cholesky factor.
        X: Primal matrix.
        x: Primal slacks of the units.
        root: Cholesky factor of X.
    """

    r: Tensor
    lam: Tensor
    S: Tensor
    L: Tensor
    X: Tensor
    x: Tensor
    root: Tensor

    @property
    def gap(self) -> float:
        """Complementarity `<X, S> + x^T lam`."""
        return float((self.X * self.S).sum() + self.x.double() @ self.lam)


@dataclass(frozen=True)
class Direction:
    """A step in all variables.

    Attributes:
        dr: Step of r.
        dlam: Step of lam.
        slack: Step of S, float64.
        primal: Step of X.
        primal_units: Step of x.
    """

    dr: Tensor
    dlam: Tensor
    slack: Tensor
    primal: Tensor
    primal_units: Tensor

    @property
    def finite(self) -> bool:
        """Whether no entry overflowed."""
        parts = (self.primal, self.slack, self.primal_units, self.dlam)
        return all(math.isfinite(float(part.sum())) for part in parts)


@dataclass(frozen=True)
class System:
    """The Newton system at one iterate.

    Attributes:
        P: Inverse of the slack.
        images: Its products with the constraint vectors.
        matrix: The Newton matrix, scaled to a unit diagonal.
        factor: Its Cholesky factor.
        scale: What scaled it.
        gradient: Gradient of the barrier `log det S + sum log lam`.
    """

    P: Tensor
    images: Products
    matrix: Tensor
    factor: Tensor
    scale: Tensor
    gradient: Tensor

    def solve(self, right: Tensor) -> Tensor:
        """Return the solution of the Newton system, with one step of iterative refinement."""
        right = (right * self.scale)[:, None]
        found = torch.cholesky_solve(right, self.factor)
        found = found + torch.cholesky_solve(right - self.matrix @ found, self.factor)
        return found[:, 0] * self.scale


def solve(
    form: NormalForm, tolerance: float, seconds: float, callback: Callback | None = None
) -> Array:
    """Return multipliers lam of the units whose bound is within `tolerance` of LipSDP-Neuron.

    Args:
        form: The network, reduced by `reduction.reduce`.
        tolerance: Wanted relative accuracy of the bound, for example 1e-3.
        seconds: Wall time after which the best multipliers so far are returned.
        callback: Called with (bound, multipliers) after every step; the bound is not yet proved.

    Returns:
        The multipliers, shape (units,); `proof.prove(form, lam)` makes a bound of them.
    """
    return minimise(form, False, (tolerance, seconds), callback)[1]


def minimise(
    form: NormalForm,
    diagonal: bool,
    limits: tuple[float, float],
    callback: Callback | None = None,
) -> tuple[Array, Array]:
    """Minimise `sum r` over the multipliers (r, lam).

    Args:
        form: The network, reduced.
        diagonal: True for one r per input (l_inf to the absolute value of one output).
        limits: (relative accuracy of the bound, seconds of wall time).
        callback: As in `solve`.

    Returns:
        The multipliers r, shape (1,) or (inputs,), and lam, shape (units,).

    Raises:
        InvalidInput: When the form is not reduced.
    """
    began = time.perf_counter()
    if (form.low == form.high).any():
        raise InvalidInput("form", "units with equal slopes", "a reduced form")
    small, unit, lam_unit = normalise(form)
    if not small.C.any() or small.inputs == 0:
        return np.zeros(small.inputs if diagonal else 1), np.zeros(small.units)
    pencil = Pencil(small, diagonal, torch.float32)
    point = best = start(pencil)
    for _ in range(80):  # 5 to 10 are usual
        spent, value = time.perf_counter() - began, float(point.r.sum())
        best = point if value < float(best.r.sum()) else best
        if callback is not None:
            callback(math.sqrt(float(best.r.sum())) * unit, best.lam.numpy() * lam_unit)
        gap = point.gap / value
        if spent > limits[1] or gap < 2.0 * limits[0]:
            break
        pencil, following = proceed(pencil, point)
        if following is None:
            break
        point = following
    return best.r.numpy() * unit * unit, best.lam.numpy() * lam_unit


def proceed(pencil: Pencil, point: Iterate) -> tuple[Pencil, Iterate | None]:
    """Return the next iterate and the pencil in whose precision it is.

    Single precision carries the primal matrix until the gap is small or a step fails: half the
    time for the same steps, since the slack and the Newton system stay in double.

    Args:
        pencil: The problem in the precision so far.
        point: The iterate.

    Returns:
        The pencil to go on with, and the next iterate; None when double precision stalls too.
    """
    if pencil.dtype == torch.float64:
        return pencil, step(pencil, point)
    # Below a relative gap of 2 % single precision no longer carries the primal matrix.
    small = point.gap < 2e-2 * float(point.r.sum()) or point.X.dtype == torch.float64
    following = None if small else step(pencil, point)
    if following is not None:
        return pencil, following
    double = pencil.to(torch.float64)
    if not small:
        return double, centre(double, point.r, point.lam)
    promoted = promote(double, point)
    return double, None if promoted is None else step(double, promoted)


def sweep(pencil: Pencil, growth: float) -> tuple[Tensor, Tensor]:
    """Return multipliers (r, lam) by eliminating one level after another from the output back.

    Every level gets one value, `growth` times the largest eigenvalue of what the later levels ask
    of it, as in the closed form of ECLipsE-Fast; that makes every Schur complement positive.
    """
    d = pencil.inputs
    rest = -pencil.gram
    lam = torch.zeros(pencil.units, dtype=torch.float64)
    for first, last in reversed(pencil.levels):
        own = slice(d + first, d + last)
        asked = torch.linalg.eigvalsh(-rest[own, own])
        floor = 1e-9 * float(rest.abs().max()) + 1e-300
        lam[first:last] = growth * max(float(asked[-1]), floor)
        level = torch.zeros_like(lam)
        level[first:last] = lam[first:last]
        rest = rest + pencil.affine(lam.new_zeros(1), level)
        factor = torch.linalg.cholesky_ex(rest[own, own])[0]
        half = torch.linalg.solve_triangular(factor, rest[own, : d + first], upper=False)
        rest = rest[: d + first, : d + first] - half.T @ half
        rest = torch.nn.functional.pad(rest, (0, pencil.size - d - first) * 2)
    top = float(torch.linalg.eigvalsh(-rest[:d, :d])[-1])
    entries = d if pencil.diagonal else 1
    return torch.full((entries,), 1.1 * max(top, 1e-300), dtype=torch.float64), lam


def start(pencil: Pencil) -> Iterate:
    """Return a strictly feasible, centred iterate.

    Raises:
        InvalidInput: When rounding leaves no feasible start, as with extreme weights.
    """
    for growth in (1.0, 1.5, 3.0, 10.0):
        r, lam = sweep(pencil, growth)
        for raise_by in (1.0, 2.0, 8.0):
            point = centre(pencil, r * raise_by, lam)
            if point is not None:
                return point
    raise InvalidInput("form", "weights too extreme for float64", "a better scaled network")


def centre(pencil: Pencil, r: Tensor, lam: Tensor) -> Iterate | None:
    """Return the iterate at (r, lam) whose primal part is a multiple of the inverse slack."""
    S = pencil.slack(r, lam)
    L = cholesky(S) if bool(S.isfinite().all()) else None
    if L is None:
        return None
    inverse = torch.cholesky_inverse(L)
    mu = len(r) / float(inverse.diagonal()[: pencil.inputs].sum())
    X = (mu * inverse).to(pencil.dtype)
    root = cholesky(X)
    if root is None:
        X, root = X.double(), cholesky(mu * inverse)
    return None if root is None else Iterate(r, lam, S, L, X, (mu / lam).to(X.dtype), root)


def promote(pencil: Pencil, point: Iterate) -> Iterate | None:
    """Return the iterate in the precision of the pencil."""
    X = point.X.to(pencil.dtype)
    X = 0.5 * (X + X.T)
    root = cholesky(X)
    if root is None:
        return centre(pencil, point.r, point.lam)
    return Iterate(point.r, point.lam, point.S, point.L, X, point.x.to(pencil.dtype), root)


def assemble(pencil: Pencil, point: Iterate) -> System | None:
    """Return the Newton system, or None when it has no Cholesky factor.

    The Newton matrix is `H_ij = <A_i, X A_j P>` with `A_i = p_i q_i^T + q_i p_i^T` for the units
    and `A_j = e_j e_j^T` for the inputs.
    """
    d = pencil.inputs
    factor = point.L.to(pencil.dtype)
    if not bool((factor.diagonal() > 0).all()):
        return None  # it underflowed in single precision
    P = torch.cholesky_inverse(factor)
    of_P, of_X = pencil.products(P), pencil.products(point.X)
    units = of_X.PXQ * of_P.PXQ.T
    units = units + units.T
    units.addcmul_(of_X.PXP, of_P.QXQ)
    units.addcmul_(of_X.QXQ, of_P.PXP)
    units.diagonal().add_(point.x / point.lam.to(pencil.dtype))
    cross = of_X.PX[:, :d] * of_P.QX[:, :d] + of_X.QX[:, :d] * of_P.PX[:, :d]
    cross = pencil.gather(cross.T)
    inputs = pencil.gather(pencil.gather(point.X[:d, :d] * P[:d, :d]).T)
    matrix = torch.cat([torch.cat([inputs, cross], 1), torch.cat([cross.T, units], 1)]).double()
    scale = matrix.diagonal().rsqrt()
    matrix = scale[:, None] * matrix * scale
    factor = cholesky(matrix)
    if factor is None:
        return None
    head = pencil.gather(P.diagonal()[:d, None])[:, 0]
    tail = 2.0 * of_P.PXQ.diagonal() + 1.0 / point.lam
    return System(P, of_P, matrix, factor, scale, torch.cat([head, tail]).double())


def towards(
    pencil: Pencil, point: Iterate, system: System, dy: Tensor, target: float
) -> tuple[Direction, Tensor]:
    """Return the direction of the multiplier step dy with its dX, and the product `dS P`.

    Args:
        pencil: The problem.
        point: Where the step starts.
        system: The Newton system there.
        dy: Step of (r, lam).
        target: The complementarity to aim at.

    Returns:
        The direction, without second-order terms, and the product.
    """
    entries = len(point.r)
    dr, dlam = dy[:entries], dy[entries:]
    moved = pencil.along(dr.to(pencil.dtype), dlam.to(pencil.dtype), system.P, system.images)
    change = point.X @ moved
    dX = target * system.P - point.X - 0.5 * (change + change.T)
    lam = point.lam.to(pencil.dtype)
    dx = target / lam - point.x - point.x * dlam.to(pencil.dtype) / lam
    return Direction(dr, dlam, pencil.affine(dr, dlam), dX, dx), moved


def lengths(point: Iterate, way: Direction, effort: tuple[int, float]) -> tuple[float, float]:
    """Return how far X and S may go before they leave the cone."""
    primal = reach(smallest_eigenvalue(point.root, way.primal, *effort))
    dual = reach(smallest_eigenvalue(point.L, way.slack, *effort))
    return (
        min(primal, reach_positive(point.x, way.primal_units)),
        min(dual, reach_positive(point.lam, way.dlam)),
    )


def second_order(pencil: Pencil, point: Iterate, way: Direction, moved: Tensor) -> Tensor:
    """Return `<A_i, dX dS P>` for the predictor step: what Mehrotra's corrector takes off."""
    d = pencil.inputs
    BdX, Bm = pencil.times(way.primal), pencil.times(moved.T.contiguous())
    turned = moved.T
    tail = (pencil.lower(way.primal, BdX) * pencil.upper(turned, Bm)).sum(1)
    tail += (pencil.upper(way.primal, BdX) * pencil.lower(turned, Bm)).sum(1)
    tail += way.primal_units * (way.dlam / point.lam).to(pencil.dtype)
    head = pencil.gather((way.primal[:d] * turned[:d]).sum(1, keepdim=True))[:, 0]
    return torch.cat([head, tail]).double()


def step(pencil: Pencil, point: Iterate) -> Iterate | None:
    """Return the next iterate by one predictor-corrector step, or None when it stalls."""
    system = assemble(pencil, point)
    if system is None:
        return None
    price = torch.zeros_like(system.gradient)
    price[: len(point.r)] = 1.0
    descent = -system.solve(price)
    guess, moved = towards(pencil, point, system, descent, 0.0)
    if not guess.finite:
        return None
    primal, dual = (min(1.0, t) for t in lengths(point, guess, (12, 0.1)))
    left = float(((point.X + primal * guess.primal) * (point.S + dual * guess.slack)).sum())
    left += float(
        (point.x + primal * guess.primal_units).double() @ (point.lam + dual * guess.dlam)
    )
    gap = point.gap
    target = min(max((left / gap) ** 3, 1e-4), 1.0) * gap / (pencil.size + pencil.units)
    bend = second_order(pencil, point, guess, moved)
    dy = descent + target * system.solve(system.gradient) - system.solve(bend)
    way, _ = towards(pencil, point, system, dy, target)
    twist = guess.primal @ moved
    way.primal.sub_(twist + twist.T, alpha=0.5)
    way.primal_units.sub_(guess.primal_units * (guess.dlam / point.lam).to(pencil.dtype))
    return advance(pencil, point, way, 0.9 + 0.07 * min(primal, dual)) if way.finite else None


def advance(pencil: Pencil, point: Iterate, way: Direction, share: float) -> Iterate | None:
    """Return the iterate after going `share` of the way to the boundary, at most a full step.

    Returns:
        The iterate, with Cholesky factors that prove it interior; None when no step was left.
    """
    primal, dual = (min(1.0, share * t) for t in lengths(point, way, (30, 0.02)))
    root = cholesky(point.X + primal * way.primal)
    while root is None and primal > STALLED:
        primal *= 0.8
        root = cholesky(point.X + primal * way.primal)
    if root is None:
        return None
    while dual > STALLED:
        r, lam = point.r + dual * way.dr, point.lam + dual * way.dlam
        S = pencil.slack(r, lam)
        L = cholesky(S) if bool((lam > 0).all()) else None
        if L is not None:
            X = point.X + primal * way.primal
            return Iterate(r, lam, S, L, X, point.x + primal * way.primal_units, root)
        dual *= 0.8
    return None
