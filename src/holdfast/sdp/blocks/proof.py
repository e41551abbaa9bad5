"""A proved bound of one block between weighted norms, from multipliers alone.

For weights s of the inputs and t of the outputs, and multipliers lam of the units,

    q = g |s x|^2 - |t y|^2 + 2 sum lam Re((v - low z)* (v - high z))  >=  0  for all (x, v)

proves |t y|^2 <= g |s x|^2: the sum is at most 0 where v lies between its slopes. At each frequency
q is a Hermitian matrix; it is scaled by powers of two to a diagonal near 1, a shift is taken off,
and what is left is compared with the product of a Cholesky factor that is not trusted
(`holdfast.norms.matrix`). The shift exceeds that residual and the rounding of the matrix itself.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from holdfast.norms.matrix import factor_residual_upper
from holdfast.rounding import frobenius_up, gamma, powers_of_two
from holdfast.sdp.blocks.lift import BlockForm

_ROOM = 1.0 + 2.0**-20
"""Covers the rounding of sums and products of a few non-negative bounds."""


class Block:
    """A block with its weights and multipliers, as matrices.

    Args:
        form: The block.
        before: s, [channels of the input].
        after: t, [channels of the output].
        lam: [units].
    """

    def __init__(self, form: BlockForm, before: Tensor, after: Tensor, lam: Tensor) -> None:
        self.form, self.lam = form, lam
        self.s, self.t = before[form.before], after[form.after]
        self.d = form.inputs

    def matrices(self, part: slice) -> Tensor:
        """Return q with g = 0 at some frequencies, [F, n, n]; lower triangles hold."""
        form, d, lam = self.form, self.d, self.lam
        C = self.t[:, None] * form.C[part]
        B = form.B[part]
        q = -(C.mH @ C)
        bend = 2.0 * lam * form.low * form.high
        if bool((bend != 0).any()):
            q += B.mH @ (bend[:, None] * B)
        q[:, d:] -= (lam * (form.low + form.high))[:, None] * B
        # Units come after what they read, but for the cross terms of what they read itself.
        q[:, :, d:] -= ((lam * (form.low + form.high))[:, None] * B).mH
        q.diagonal(dim1=-2, dim2=-1)[:, d:] += 2.0 * lam
        return q

    def chunks(self) -> Iterator[slice]:
        """Yield frequencies some at a time: 64 MB of complex numbers are held at once."""
        size = self.d + self.form.units
        step = max(1, 2**22 // size**2)
        for first in range(0, self.form.frequencies, step):
            yield slice(first, first + step)

    def gains(self) -> Tensor:
        """Return about the least g at each frequency, [F]; infinite where there is none."""
        found = []
        for part in self.chunks():
            q = self.matrices(part)
            lower, failed = torch.linalg.cholesky_ex(q[:, self.d :, self.d :])
            half = torch.linalg.solve_triangular(lower, q[:, self.d :, : self.d], upper=False)
            needed = half.mH @ half - q[:, : self.d, : self.d]
            top = _largest(needed / self.s[:, None] / self.s)
            found.append(torch.where(failed == 0, top, math.inf))
        return torch.cat(found)

    def scale(self, g: float) -> Tensor:
        """Return powers of two that bring the diagonal of q near 1."""
        diagonal = torch.cat([g * self.s**2, 2.0 * self.lam])
        return powers_of_two(torch.round(-0.5 * torch.log2(diagonal)).clamp(-200, 200))

    def rounding(self, g: float, scale: Tensor) -> float:
        """Bound the spectral norm of the rounding in the scaled q, stored coefficients included."""
        form, lam, d = self.form, self.lam, self.d
        outputs, units = len(form.C_size), form.units
        C = self.t[:, None] * form.C_size * scale
        B = form.B_size * scale
        e = form.error
        # Each magnitude holds for the entries as computed, within 1 + e of their sizes.
        grown = (1.0 + e) * (1.0 + e) * _ROOM
        of_C = frobenius_up(C) ** 2
        total = (2.0 * e + e * e + gamma(4 * (outputs + 8))) * of_C * grown
        steep = (lam * (form.low.abs() + form.high.abs()) * scale[d:])[:, None] * B
        total += 2.0 * (e + gamma(16)) * frobenius_up(steep) * grown
        bent = (2.0 * lam * (form.low * form.high).abs()).sqrt()[:, None] * B
        total += (2.0 * e + e * e + gamma(4 * (units + 16))) * frobenius_up(bent) ** 2 * grown
        diagonal = torch.cat([g * self.s**2, 2.0 * lam]) * scale**2
        sizes = frobenius_up(C) ** 2 + 2.0 * frobenius_up(steep) + frobenius_up(bent) ** 2
        total += gamma(16) * (float(diagonal.max()) + sizes * grown)
        return total * _ROOM

    def proves(self, g: float, shift: float, scale: Tensor, cost: float) -> bool:
        """Return whether q >= 0 is proved for the exact block at every frequency."""
        for part in self.chunks():
            q = self.matrices(part)
            q.diagonal(dim1=-2, dim2=-1)[:, : self.d] += g * self.s**2
            q *= scale[:, None] * scale
            diagonal = q.diagonal(dim1=-2, dim2=-1)
            taking_off = gamma(8) * (shift + float(diagonal.real.abs().max()))
            diagonal -= shift
            factor, failed = torch.linalg.cholesky_ex(q)
            if bool(failed.any()) or not bool(factor.isfinite().all()):
                return False
            spent = factor_residual_upper(q, factor) + taking_off + cost
            if not spent * _ROOM <= shift:
                return False
        return True


def _largest(matrices: Tensor) -> Tensor:
    """Return the largest eigenvalue of each matrix in floating point, or infinity."""
    finite = matrices.isfinite().flatten(1).all(1)
    known = torch.where(finite[:, None, None], matrices, torch.zeros_like(matrices))
    try:
        return torch.where(finite, torch.linalg.eigvalsh(known)[:, -1], math.inf)
    except torch.linalg.LinAlgError:
        return torch.full((len(matrices),), math.inf, dtype=torch.float64)


def block_upper(form: BlockForm, before: Tensor, after: Tensor, lam: Tensor) -> float:
    """Return a proved g with |t y|^2 <= g |s x|^2 for differences of any two inputs.

    Args:
        form: The block.
        before: s by channel, [channels], float64, taken as exact.
        after: t by channel.
        lam: [units], from anywhere; the better, the tighter the bound.

    Returns:
        g; infinity where nothing is proved.
    """
    parts = (before, after, lam)
    if not all(bool(((p > 1e-40) & (p < 1e40)).all()) for p in parts):
        return math.inf
    block = Block(form, before, after, lam)
    least = float(block.gains().max())
    if not math.isfinite(least):
        return math.inf
    least = max(least, 1e-40)
    for raise_by in (1e-9, 1e-7, 1e-5, 1e-3):  # by how much the factor is above the least
        g = least * (1.0 + raise_by)
        scale = block.scale(g)
        cost = block.rounding(g, scale)
        # What the proof of a matrix of this size spends beside that, and half as much again.
        size = block.d + form.units
        shift = 1.5 * cost + 16.0 * gamma(size + 8) * size
        if block.proves(g, shift, scale, cost):
            return g
    return math.inf
