"""Ranges of affine forms on a box of which only what lies in some half-spaces is meant.

Where <g_k, u> + b_k >= 0 for all k, and |u| <= 1, Lagrange multipliers w_k >= 0 give

    <s, u> >= -||s - sum w_k g_k||_1 - sum w_k b_k,

whatever they are; with the best ones this is the minimum itself (duality of linear programs). They
are looked for one after the other, each at a kink of what is a concave function of it alone.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.rounding import SMALLEST, gamma


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """Half-spaces of R boxes |u| <= 1, W each: <slope, u> + offset >= 0.

    Attributes:
        slope: [R, W, d].
        offset: [R, W].
    """

    slope: Tensor
    offset: Tensor

    @classmethod
    def of(cls, rows: Tensor, middle: Tensor, radius: Tensor) -> "HalfSpaces":
        """Return where rows are not negative.

        Args:
            rows: [R, W, d + 1], gradients and offsets in terms of the input, each within a rounding
                of what is meant. Where one is not finite, nothing is said; so are rows of zeros.
            middle: [R, d], of the boxes.
            radius: [R, d].
        """
        d = middle.shape[1]
        finite = rows.isfinite().all(2, keepdim=True)
        rows = torch.where(finite, rows, 0.0)
        # in units of the largest entry, up to a power of two, which rounds nothing
        largest = rows.abs().amax(2, keepdim=True)
        rows = torch.ldexp(rows, -torch.frexp(largest).exponent.clamp(-1000, 1000))
        gradient, constant = rows[..., :d], rows[..., d]
        slope, offset = (
            gradient * radius[:, None],
            constant + (gradient @ middle[..., None])[..., 0],
        )
        reach = (middle.abs() + radius)[..., None]
        size = constant.abs() + (gradient.abs() @ reach)[..., 0]
        lost = 4.0 * gamma(d + 8) * size + SMALLEST * (d + reach.sum(1))
        return cls(slope, offset + lost)

    def least(self, slope: Tensor, parts: Tensor) -> Tensor:
        """Return lower bounds of <slope, u>.

        Args:
            slope: [n, d].
            parts: [n], of which box each is.

        Returns:
            [n]: infinity or NaN where nothing is known.
        """
        gradients, offsets = self.slope[parts], self.offset[parts]
        weights, rest = torch.zeros_like(offsets), slope
        for _ in range(2):  # a second round takes up what the first one left behind
            for k in range(offsets.shape[1]):
                gradient, offset = gradients[:, k], offsets[:, k]
                steps = (rest / gradient).nan_to_num(0.0, 0.0, 0.0)
                steps = torch.cat([steps, torch.zeros_like(steps[:, :1])], 1)
                steps = torch.maximum(steps, -weights[:, k : k + 1])
                sizes = (rest[:, None] - steps[..., None] * gradient[:, None]).abs().sum(2)
                found = (-steps * offset[:, None] - sizes).nan_to_num(
                    -torch.inf, -torch.inf, -torch.inf
                )
                step = steps.gather(1, found.argmax(1, keepdim=True))
                weights[:, k : k + 1] += step
                rest = rest - step * gradient
        weights = weights.clamp(min=0.0)
        terms = weights[..., None] * gradients
        size = slope.abs().sum(1) + terms.abs().sum((1, 2)) + (weights * offsets.abs()).sum(1)
        value = -(slope - terms.sum(1)).abs().sum(1) - (weights * offsets).sum(1)
        count = terms.shape[1] + terms.shape[2] + 8
        return value - 4.0 * gamma(count) * size - (count + 4.0) ** 2 * SMALLEST
