"""How far a step may go before a positive definite matrix stops being one."""

import math

import numpy as np
import torch
from torch import Tensor

DENSE = 48  # below this size all eigenvalues are cheaper than a Krylov space


def cholesky(matrix: Tensor) -> Tensor | None:
    """Return the lower Cholesky factor, or None when the matrix is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    return factor if int(info) == 0 and bool(factor.diagonal().isfinite().all()) else None


def smallest_eigenvalue(factor: Tensor, change: Tensor, most: int, accuracy: float) -> float:
    """Estimate the smallest eigenvalue of `L^-1 D L^-T`, on the low side, by Lanczos steps.

    Args:
        factor: Lower triangular L.
        change: Symmetric D.
        most: Largest number of Lanczos steps.
        accuracy: Relative residual at which the estimate will do.

    Returns:
        The smallest Ritz value less its residual. It is an estimate: check the matrix after.
    """
    size = len(factor)
    if size <= DENSE:
        half = torch.linalg.solve_triangular(factor, change, upper=False)
        whole = torch.linalg.solve_triangular(factor, half.T, upper=False)
        return float(torch.linalg.eigvalsh(0.5 * (whole + whole.T))[0])
    basis = factor.new_zeros(size, most + 1)
    basis[:, 0] = torch.cos(torch.arange(size, dtype=torch.float64) ** 2).to(factor.dtype)
    basis[:, 0] /= basis[:, 0].norm()
    small = np.zeros((most + 1, most + 1))
    for k in range(most):
        vector = torch.linalg.solve_triangular(factor.T, basis[:, k : k + 1], upper=True)
        vector = torch.linalg.solve_triangular(factor, change @ vector, upper=False)
        small[k, k] = float(basis[:, k] @ vector[:, 0])
        known = basis[:, : k + 1]
        vector = vector - known @ (known.T @ vector)
        rest = float(vector.norm())
        last = k == most - 1 or rest <= 1e-12 * abs(small[k, k])
        if last or k % 4 == 3:
            values, vectors = np.linalg.eigh(small[: k + 1, : k + 1])
            residual = rest * abs(vectors[-1, 0])
            if last or residual <= accuracy * abs(values[0]):
                return float(values[0] - residual)
        small[k, k + 1] = small[k + 1, k] = rest
        basis[:, k + 1] = vector[:, 0] / rest
    return -math.inf


def reach(smallest: float) -> float:
    """Return the step at which `1 + t * smallest` becomes 0; inf when it never does."""
    return -1.0 / smallest if smallest < 0 else math.inf


def reach_positive(values: Tensor, change: Tensor) -> float:
    """Return the step at which the first of the positive values becomes 0."""
    return reach(float((change / values).min())) if len(values) else math.inf
