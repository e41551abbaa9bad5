"""The metric of the barrier method's steps: an approximate inverse of the Hessian."""

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.sdp.chain.chain import Chain
from holdfast.sdp.chain.recursion import Sweep, block_hessian


@dataclass(frozen=True)
class Factor:
    """Cholesky factor of a positive definite matrix scaled to unit diagonal."""

    lower: Tensor
    scale: Tensor

    def solve(self, right: Tensor) -> Tensor:
        """Return H^-1 r."""
        scaled = (self.scale * right)[:, None]
        return self.scale * torch.cholesky_solve(scaled, self.lower)[:, 0]


def _factor(matrix: Tensor) -> Factor | None:
    """Factor in place: the matrix is overwritten."""
    scale = matrix.diagonal().clamp_min(1e-300).rsqrt()
    matrix.mul_(scale[:, None]).mul_(scale)
    # The diagonal is 1: what rounding has spoiled, a small multiple of the identity mends.
    for ridge in (1e-14, 1e-12, 1e-10, 1e-8, 1e-6):
        matrix.diagonal().add_(ridge)
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if not int(failed):
            return Factor(lower, scale)
    return None


@dataclass(frozen=True)
class Arrow:
    """A block-diagonal Hessian in lam, bordered by the row of rho."""

    chain: Chain
    factors: tuple[Factor, ...]
    border: Tensor
    folded: Tensor
    corner: float

    def solve(self, right: Tensor) -> Tensor:
        """Return H^-1 r."""
        body = self._blocks(right[:-1])
        last = (right[-1] - self.border @ body) / self.corner
        return torch.cat((body - last * self.folded, last[None]))

    def _blocks(self, right: Tensor) -> Tensor:
        return _solve_blocks(self.chain, self.factors, right)


def _solve_blocks(chain: Chain, factors: tuple[Factor, ...], right: Tensor) -> Tensor:
    pieces = zip(factors, chain.split(right), strict=True)
    return torch.cat([factor.solve(piece) for factor, piece in pieces])


Metric = Factor | Arrow


def dense_metric(matrix: Tensor) -> Metric | None:
    """Return the metric of the whole Hessian, which is overwritten; None if rounding spoils it."""
    return _factor(matrix)


def block_metric(chain: Chain, result: Sweep, covariance: Tensor) -> Metric | None:
    """Return the metric of the Hessian's diagonal blocks; None if rounding spoils it."""
    blocks, border, corner = block_hessian(chain, result, covariance)
    factors = tuple(factor for factor in map(_factor, blocks) if factor is not None)
    if len(factors) < len(blocks):
        return None
    folded = _solve_blocks(chain, factors, border)
    # Ignoring the blocks off the diagonal may leave the border too heavy for its corner.
    rest = max(corner - float(border @ folded), 0.1 * corner)
    return Arrow(chain, factors, border, folded, rest)
