"""A proved Lipschitz bound from multipliers alone, in float64 and whatever made them.

The claim `S(r, lam) >= 0` (see `pencil`) is proved for the exact network, not for a rounded one:

1. the form is scaled by exact powers of two to a diagonal near 1 (`T S T`);
2. a shift s is taken off the diagonal, `R R^T` is compared with what is left by products alone
   (Rump 2006, "Verification of positive definiteness"; here with an explicit residual), so that
   neither the Cholesky routine nor an eigenvalue solver is trusted;
3. s must exceed the residual, the rounding of the residual, the rounding of S itself and the
   errors that the normal form states for B and C.

Every bound below is a sum of products of non-negative numbers, rounded upwards by `HEADROOM`. The
entries of a form and the multipliers lie far from both ends of float64 (`form.EXTREME`, `USUAL`),
so that only sums of products with the scaled entries can underflow, by less than `UNDERFLOW`
together. The proof holds for any order of summation, with or without fused operations, but not for
Strassen-like products.
"""

import math

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.rounding import frobenius_up, gamma, lengths_up, mul_up, powers_of_two
from holdfast.sdp.dense.steps import cholesky
from holdfast.sdp.form import HEADROOM, Array, NormalForm
from holdfast.sdp.reduction import normalise

UNDERFLOW = 1e-290  # more than every underflow together can lose
USUAL = 2.0**400  # multipliers lie between this and its inverse; smaller ones of units become 0


class Scaled:
    """The network in coordinates that make the diagonal of S close to 1.

    Args:
        form: The network.
        lam: Multipliers of the units, at least 0.
        r: Rough multipliers of the inputs, for the scale alone.
    """

    def __init__(self, form: NormalForm, lam: Tensor, r: Tensor) -> None:
        d = self.inputs = form.inputs
        exponent = torch.round(-0.5 * torch.log2(torch.cat([r, 2.0 * lam]).clamp(min=1.0 / USUAL)))
        self.scale = powers_of_two(exponent.clamp(-200, 200))
        self.input_scale = float(self.scale[:d].max())
        self.lam, self.low, self.high = lam, torch.tensor(form.low), torch.tensor(form.high)
        self.B, self.C = (torch.tensor(m) * self.scale for m in (form.B, form.C))
        self.form = form

    def matrix(self) -> Tensor:
        """Return `T S(0, lam) T` as float64 computes it."""
        d, lam = self.inputs, self.lam
        S = -(self.C.T @ self.C)
        if bool((self.low * self.high).any()):
            S += self.B.T @ ((2.0 * lam * (self.low * self.high))[:, None] * self.B)
        cross = (lam * (self.low + self.high) * self.scale[d:])[:, None] * self.B
        S[d:] -= cross
        S[:, d:] -= cross.T
        S.diagonal()[d:] += 2.0 * lam * self.scale[d:] ** 2
        return 0.5 * (S + S.T)

    def input_diagonal(self, r: Tensor) -> Tensor:
        """Return the diagonal that the multipliers r of the inputs add to `matrix`."""
        return r * self.scale[: self.inputs] ** 2

    def formation_error(self, r: Tensor) -> float:
        """Bound the spectral norm of the rounding in `matrix` with r on the diagonal added."""
        units, outputs = len(self.lam), len(self.C)
        size = lengths_up(self.B)
        curve = 2.0 * self.lam * (self.low * self.high).abs()
        cross = self.lam * (self.low.abs() + self.high.abs()) * self.scale[self.inputs :]
        own = self.lam * self.scale[self.inputs :] ** 2
        largest = float(torch.cat([self.input_diagonal(r), own]).max())
        total = gamma(units + 16) * float((curve * size**2).sum())
        total += gamma(16) * 2.0 * frobenius_up(cross * size)
        total += gamma(outputs + 16) * frobenius_up(self.C) ** 2
        return (total + gamma(16) * 2.0 * largest) * HEADROOM + UNDERFLOW

    def model_error(self) -> float:
        """Bound what the errors of B and C can take off `xi^T S xi`, per squared scaled norm."""
        if self.form.B_error is None and self.form.C_error is None:
            return 0.0
        weight = torch.cat([self.scale.new_tensor([self.input_scale]), self.scale[self.inputs :]])
        B_error, C_error = (torch.tensor(e) * weight for e in self.form.errors())
        slip = lengths_up(B_error)
        bent = (self.low * self.high).abs()
        reads = (self.low.abs() + self.high.abs()) * self.scale[self.inputs :]
        reads = reads + 2.0 * bent * lengths_up(self.B)
        total = 2.0 * float((self.lam * (slip * reads + bent * slip**2)).sum())
        missed = frobenius_up(C_error)
        return (total + missed * (2.0 * frobenius_up(self.C) + missed)) * HEADROOM**4 + UNDERFLOW


def residual_bound(matrix: Tensor, factor: Tensor) -> float:
    """Bound the spectral norm of `matrix - L L^T` for any lower triangular L."""
    gap = matrix - factor @ factor.T
    rounding = gamma(len(matrix) + 2) * frobenius_up(factor) ** 2
    return (frobenius_up(gap) * (1.0 + gamma(4)) + rounding) * HEADROOM + UNDERFLOW


def least_factor(scaled: Scaled, matrix: Tensor, r: Tensor, shift: float) -> float:
    """Estimate the factor c that makes `T S(c r, lam) T - shift` singular; inf when none does."""
    d = scaled.inputs
    shifted = matrix - shift * torch.eye(len(matrix), dtype=torch.float64)
    factor = cholesky(shifted[d:, d:])
    if factor is None or not bool(shifted.isfinite().all()):
        return math.inf
    half = torch.linalg.solve_triangular(factor, shifted[d:, :d], upper=False)
    unit = scaled.input_diagonal(r).rsqrt()
    needed = unit[:, None] * (half.T @ half - shifted[:d, :d]) * unit
    return float(torch.linalg.eigvalsh(needed)[-1]) if bool(needed.isfinite().all()) else math.inf


def certified(scaled: Scaled, matrix: Tensor, r: Tensor, shift: float) -> bool:
    """Return whether `S(r, lam) >= 0` is proved for the exact network.

    Args:
        scaled: The scaled network.
        matrix: `scaled.matrix()`.
        r: Multipliers of the inputs.
        shift: What the proof may spend on rounding, in scaled units.

    Returns:
        True when it is proved.
    """
    trial = matrix.clone()
    diagonal = scaled.input_diagonal(r)
    trial.diagonal()[: scaled.inputs] += diagonal
    trial.diagonal().sub_(shift)
    factor = cholesky(trial)
    if factor is None:
        return False
    spent = residual_bound(trial, factor.tril()) + scaled.formation_error(r)
    spent += gamma(8) * (shift + float(trial.diagonal().abs().max()))  # taking the shift off
    # a projected input is shorter than the true one: that only helps where r is at least the shift
    enough = not scaled.form.rotated or float(diagonal.min()) >= shift
    return enough and (spent + scaled.model_error()) * HEADROOM <= shift


def prove(form: NormalForm, lam: Array) -> float:
    """Return a proved upper bound of the l2 Lipschitz constant, from the multipliers alone.

    Args:
        form: The network; its error fields are part of what is proved.
        lam: Multipliers of the units, from anywhere; the better, the tighter the bound.

    Returns:
        The bound, rounded upwards; inf when nothing can be proved with these multipliers.
    """
    if is_constant(form):
        return 0.0
    small, unit, lam_unit = normalise(form)
    factor = prove_factor(small, np.asarray(lam, dtype=np.float64) / lam_unit, np.ones(form.inputs))
    return scale_up(math.sqrt(factor), unit)


def prove_linf(form: NormalForm, r: Array, lam: Array) -> float:
    """Return a proved bound of `|y| / |x|_inf` for a form with one output.

    Args:
        form: The network with one output row, reduced with `rotate=False`.
        r: Multipliers of the inputs.
        lam: Multipliers of the units.

    Returns:
        The bound `sqrt(sum r)`, rounded upwards; inf when nothing can be proved.

    Raises:
        InvalidInput: When the form has several outputs or a rotated input space.
    """
    if len(form.C) != 1:
        raise InvalidInput("form", f"{len(form.C)} outputs", "one output row")
    if form.rotated:
        raise InvalidInput("form", "a rotated input space", "reduce(form, rotate=False)")
    if is_constant(form):
        return 0.0
    small, unit, lam_unit = normalise(form)
    weights = np.asarray(r, dtype=np.float64) / unit / unit
    factor = prove_factor(small, np.asarray(lam, dtype=np.float64) / lam_unit, weights)
    if not math.isfinite(factor):
        return math.inf  # not inf * 0, where all weights are 0
    total = mul_up(factor, float(np.sum(weights)), 1.0 + gamma(form.inputs + 4))
    return scale_up(math.sqrt(total), unit)


def is_constant(form: NormalForm) -> bool:
    """Return whether the exact output surely does not move."""
    return not form.C.any() and (form.C_error is None or not form.C_error.any())


def scale_up(root: float, unit: float) -> float:
    """Return `root * unit`, rounded upwards, for a square root rounded to nearest; never NaN."""
    bound = math.nextafter(math.nextafter(root, math.inf) * unit, math.inf)
    return bound if bound >= 0.0 else math.inf


def prove_factor(form: NormalForm, lam: Array, r: Array) -> float:
    """Return a proved c with `|y|_2^2 <= c sum_j r_j x_j^2`, or inf."""
    lam, r = np.array(lam, dtype=np.float64), np.array(r, dtype=np.float64)
    usable = lam.shape == (form.units,) and r.shape == (form.inputs,) and form.inputs > 0
    if not (usable and np.isfinite(lam).all() and np.isfinite(r).all()):
        return math.inf
    if not ((lam >= 0).all() and (r > 0).all() and (lam <= USUAL).all()):
        return math.inf
    lam[lam < 1.0 / USUAL] = 0.0
    units, weights = torch.tensor(lam), torch.tensor(r)
    rough = Scaled(form, units, weights)
    guess = max(least_factor(rough, rough.matrix(), weights, 0.0), 1e-200)
    wanted = weights * guess
    if not bool(((wanted >= 1.0 / USUAL) & (wanted <= USUAL)).all()):
        return math.inf
    scaled = Scaled(form, units, weights * guess)
    matrix = scaled.matrix()
    cost = scaled.formation_error(weights * guess) + scaled.model_error()
    trace = matrix.diagonal().abs().sum() + scaled.input_diagonal(weights * guess).sum()
    cost += gamma(len(matrix) + 2) * float(trace)
    # How many times the expected rounding the proof may spend: the least that does.
    for generosity in (2.0, 8.0, 64.0, 4096.0):
        shift = generosity * cost
        least = least_factor(scaled, matrix, weights, shift)
        raises = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)  # by how much the factor is above the least
        for raise_by in raises if math.isfinite(least) else ():
            factor = max(least, guess) * (1.0 + raise_by)
            if certified(scaled, matrix, weights * factor, shift):
                # rounding the products weights * factor: the proved r is never above this
                return factor * (1.0 + 4.0 * gamma(1))
    return math.inf
