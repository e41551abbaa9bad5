"""Proved upper bounds of the spectral norm of explicit matrices.

For any real R, R^T R >= 0, hence lambda_max(G) <= c + ||c I - G - R^T R||_2 for G = A A^T. A
Cholesky factor serves as R: neither the eigenvalue solver that suggests c nor the factorisation
is trusted, only float64 products and sums (Rump, "Verification of positive definiteness", BIT
46, 2006, uses the same witness).
"""

import math

import torch
from torch import Tensor

from holdfast.rounding import (
    TINY,
    UNIT,
    exponent_of,
    frobenius_up,
    gamma,
    ldexp_up,
    mul_up,
    scaled,
    sqrt_up,
    sum_up,
    up,
)


def spectral_upper(matrices: Tensor) -> float:
    """Return a proved upper bound of the largest spectral norm of a stack of matrices.

    Args:
        matrices: Shape [..., m, n], float64 or complex128; their entries are taken as exact.

    Returns:
        A number at least as large as every spectral norm, typically 1e-11 above the largest.
        Infinity where an entry is not finite.
    """
    if matrices.numel() == 0:
        return 0.0
    stack = matrices.reshape(-1, *matrices.shape[-2:])
    if stack.shape[-2] > stack.shape[-1]:
        stack = stack.mH
    largest = float(stack.abs().max())
    if not math.isfinite(largest):
        return math.inf
    if largest == 0.0:
        return 0.0
    # A power of two keeps the entries exact but for underflow, and squares in range.
    exponent = exponent_of(stack)
    lost = mul_up(math.sqrt(2.0 * stack[0].numel()), 2.0 * TINY)
    bound = up(sqrt_up(_gram_upper(scaled(stack, -exponent))) + lost)
    return ldexp_up(bound, exponent)


def _gram_upper(stack: Tensor) -> float:
    """Return an upper bound of the largest eigenvalue of A A^H over a stack of matrices [k, m, n].

    Entries are of magnitude at most 1 (or sqrt(2) where complex).
    """
    m, n = stack.shape[-2:]
    # A complex product is four real ones and a sum of each pair.
    per_term = 4 if stack.is_complex() else 1
    gram = stack @ stack.mH
    size = max(sum_up(matrix.abs().square()) for matrix in stack) + m * n * TINY
    product_error = up(gamma(per_term * (n + 2)) * size) + per_term * m * n * TINY
    try:
        guess = max(float(torch.linalg.eigvalsh(gram)[..., -1].max()), 0.0)
    except torch.linalg.LinAlgError:
        return size
    step = max(product_error, per_term * m * UNIT * guess, n * m * TINY)
    identity = torch.eye(m, dtype=gram.dtype)
    # Multiples of the rounding error: c is raised until the factorisation succeeds.
    for slack in (4.0, 64.0, 1e4, 1e7):
        c = guess + slack * step
        shifted = c * identity - gram
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not bool(failed.any()):
            return up(c + up(_residual_upper(shifted, factor) + product_error))
    return size  # the square of the Frobenius norm is a bound as well


def _residual_upper(shifted: Tensor, factor: Tensor) -> float:
    """Return a bound of the 2-norm of c I - G - L L^H, where `shifted` is c I - G as computed."""
    m = factor.shape[-1]
    per_term = 4 if factor.is_complex() else 1
    rest = shifted - factor @ factor.mH
    worst = 0.0
    for residual, lower, target in zip(rest, factor, shifted, strict=True):
        rounding = gamma(per_term * (m + 2)) * sum_up(lower.abs().square())
        rounding += 2.0 * UNIT * (frobenius_up(target) + frobenius_up(residual))
        underflow = per_term * m * m * (m + 1) * TINY
        worst = max(worst, up(frobenius_up(residual) + 2.0 * rounding) + underflow)
    return worst


def row_sums_upper(matrix: Tensor) -> float:
    """Return an upper bound of the largest absolute row sum: the operator norm for linf."""
    sums = matrix.abs().sum(-1) * (1.0 + 2.0 * gamma(matrix.shape[-1] + 2))
    return float(sums.max()) if sums.numel() else 0.0
