"""The matrix inequality of LipSDP and the products with it that an interior point method needs.

With `p_i = e_i - low_i B_i` and `q_i = e_i - high_i B_i` every pair of inputs obeys
`(p_i^T xi) (q_i^T xi) <= 0`, so that for `lam >= 0` (Fazlyab et al. 2019, "Efficient and accurate
estimation of Lipschitz constants for deep neural networks", theorem 2, here for any graph)

    S(r, lam) = diag(r)_x + sum_i lam_i (p_i q_i^T + q_i p_i^T) - C^T C >= 0

proves `|y|_2^2 <= sum_j r_j x_j^2`. All matrices are torch tensors; P, Q have the rows p_i, q_i.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.sdp.form import NormalForm, levels


@dataclass(frozen=True)
class Products:
    """Products of a symmetric X with the constraint vectors.

    Attributes:
        PX: Rows `p_i^T X`, shape (units, size).
        QX: Rows `q_i^T X`.
        PXP: `p_i^T X p_j`, shape (units, units).
        PXQ: `p_i^T X q_j`.
        QXQ: `q_i^T X q_j`.
    """

    PX: Tensor
    QX: Tensor
    PXP: Tensor
    PXQ: Tensor
    QXQ: Tensor


class Pencil:
    """S(r, lam) for one normal form; r has one entry (l2) or one per input (l_inf).

    Args:
        form: The network, best reduced: no dead and no linear units.
        diagonal: Whether every input has its own r.
        dtype: Precision of the products; `affine` and `slack` are always float64.
    """

    def __init__(
        self, form: NormalForm, diagonal: bool = False, dtype: torch.dtype = torch.float64
    ) -> None:
        self.form, self.inputs, self.units = form, form.inputs, form.units
        self.size = form.inputs + form.units
        self.diagonal, self.dtype = diagonal, dtype
        self.B = torch.tensor(form.B)
        C = torch.tensor(form.C)
        self.gram = C.T @ C
        low, high = torch.tensor(form.low), torch.tensor(form.high)
        self.middle, self.product = low + high, 2.0 * low * high
        self.curved = bool(self.product.any())
        self.levels = levels(form.B, form.inputs)
        self._bands = []
        for first, last in self.levels:
            used = self.B[first:last].any(0).nonzero()
            if len(used):
                self._bands.append((first, last, int(used[0]), int(used[-1]) + 1))
        self._matrix, self.low, self.high = (t.to(dtype) for t in (self.B, low, high))
        self._sheared = bool(low.any())

    def to(self, dtype: torch.dtype) -> "Pencil":
        """Return the same problem with products in another precision."""
        return Pencil(self.form, self.diagonal, dtype)

    def affine(self, r: Tensor, lam: Tensor) -> Tensor:
        """Return S(r, lam) + C^T C."""
        d = self.inputs
        S = torch.zeros(self.size, self.size, dtype=torch.float64)
        cross = (lam * self.middle)[:, None] * self.B
        S[d:] -= cross
        S[:, d:] -= cross.T
        if self.curved:
            S += self.B.T @ ((lam * self.product)[:, None] * self.B)
        S.diagonal()[:d] += r
        S.diagonal()[d:] += 2.0 * lam
        return S

    def slack(self, r: Tensor, lam: Tensor) -> Tensor:
        """Return S(r, lam)."""
        return self.affine(r, lam) - self.gram

    def gather(self, rows: Tensor) -> Tensor:
        """Return what the rows of the input coordinates add up to for every entry of r."""
        return rows if self.diagonal else rows.sum(0, keepdim=True)

    def times(self, X: Tensor) -> Tensor:
        """Return `B X`, without the blocks of zeros."""
        out = X.new_zeros(self.units, X.shape[1])
        for first, last, left, right in self._bands:
            torch.mm(self._matrix[first:last, left:right], X[left:right], out=out[first:last])
        return out

    def transposed_times(self, Y: Tensor) -> Tensor:
        """Return `B^T Y`, without the blocks of zeros."""
        out = Y.new_zeros(self.size, Y.shape[1])
        for first, last, left, right in self._bands:
            out[left:right].addmm_(self._matrix[first:last, left:right].T, Y[first:last])
        return out

    def lower(self, X: Tensor, BX: Tensor) -> Tensor:
        """Return `P X` from `B X`."""
        rows = X[self.inputs :]
        return rows - self.low[:, None] * BX if self._sheared else rows

    def upper(self, X: Tensor, BX: Tensor) -> Tensor:
        """Return `Q X` from `B X`."""
        return X[self.inputs :] - self.high[:, None] * BX

    def products(self, X: Tensor) -> Products:
        """Return the products of a symmetric X with P and Q."""
        BX = self.times(X)
        BXB = self.times(BX.T.contiguous())
        PX, QX = self.lower(X, BX), self.upper(X, BX)
        read = BX[:, self.inputs :].T  # X_vv-rows against B, so that X B^T needs no product
        PXB = read - self.low[:, None] * BXB if self._sheared else read
        QXB = read - self.high[:, None] * BXB
        PXQ = PX[:, self.inputs :] - PXB * self.high
        QXQ = QX[:, self.inputs :] - QXB * self.high
        PXP = PX[:, self.inputs :] - PXB * self.low if self._sheared else PX[:, self.inputs :]
        return Products(PX, QX, PXP, PXQ, QXQ)

    def along(self, dr: Tensor, dlam: Tensor, X: Tensor, of: Products) -> Tensor:
        """Return `(dS) X` for the step (dr, dlam) and a symmetric X with its products."""
        both = of.PX + of.QX
        back = (self.high * dlam)[:, None] * of.PX
        if self._sheared:
            back += (self.low * dlam)[:, None] * of.QX
        out = -self.transposed_times(back)
        out[self.inputs :] += dlam[:, None] * both
        out[: self.inputs] += dr[:, None] * X[: self.inputs]
        return out
