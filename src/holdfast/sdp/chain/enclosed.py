"""Float64 matrices that stand for unknown real ones, with a proved distance in Frobenius norm.

The arithmetic is the standard model (Higham, "Accuracy and Stability of Numerical Algorithms",
2002, section 3.5): a product of inner dimension k, summed in any order, is off by at most
gamma_k |X| |Y| entry by entry, plus k times the smallest float where products underflow.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.rounding import TINY, UNIT, add_up, frobenius_up, gamma, mul_up, sqrt_up


def root_up(value: float) -> float:
    """Return an upper bound of the square root; infinity for what is no finite number."""
    return sqrt_up(value) if math.isfinite(value) else math.inf


@dataclass(frozen=True)
class Enclosed:
    """A real matrix X with |X - value|_F <= error.

    Attributes:
        value: The float64 matrix.
        error: The proved distance.
        size: An upper bound of |value|_F.
    """

    value: Tensor
    error: float
    size: float

    def transposed(self) -> "Enclosed":
        """The transpose."""
        return Enclosed(self.value.mT, self.error, self.size)

    def __matmul__(self, other: "Enclosed") -> "Enclosed":
        """Return the product; X Y - X^ Y^ = dX Y^ + X^ dY + dX dY."""
        terms = self.value.shape[1]
        rounding = mul_up(gamma(terms + 1), self.size, other.size)
        carried = add_up(
            mul_up(self.error, other.size),
            mul_up(self.size, other.error),
            mul_up(self.error, other.error),
        )
        return computed(self.value @ other.value, add_up(rounding, carried), terms)

    def __add__(self, other: "Enclosed") -> "Enclosed":
        return _sum(self.value + other.value, self.error, other.error)

    def __sub__(self, other: "Enclosed") -> "Enclosed":
        return _sum(self.value - other.value, self.error, other.error)


def exact(matrix: Tensor) -> Enclosed:
    """Return a float64 matrix that stands for itself."""
    return Enclosed(matrix, 0.0, frobenius_up(matrix))


def computed(value: Tensor, error: float, terms: int) -> Enclosed:
    """Return a result whose error is bounded but for underflow in `terms` products an entry."""
    underflow = mul_up(float(value.numel() * (terms + 2)), TINY)
    return Enclosed(value, add_up(error, underflow), frobenius_up(value))


def _sum(value: Tensor, *errors: float) -> Enclosed:
    # Float addition and subtraction are exact where they underflow.
    size = frobenius_up(value)
    return Enclosed(value, add_up(*errors, mul_up(2.0 * UNIT, size)), size)


def scaled_rows(weights: Tensor, matrix: Tensor, weight_roundings: int = 0) -> Enclosed:
    """Return diag(w) X, where w is within so many relative roundings of the exact weights."""
    value = weights[:, None] * matrix
    size = frobenius_up(value)
    return computed(value, mul_up(2.0 * gamma(weight_roundings + 2), size), 1)


def symmetric(matrix: Enclosed) -> Enclosed:
    """Return the symmetric part: as close to a symmetric real matrix as the matrix itself."""
    return _sum(
        (matrix.value + matrix.value.mT) / 2,
        matrix.error,
        mul_up(float(matrix.value.numel()), TINY),
    )


def root(target: Enclosed, shift: float) -> tuple[Tensor, float] | None:
    """Return an upper triangular R and e with |X - shift I - R^T R|_2 <= e for the real X.

    Args:
        target: A symmetric matrix.
        shift: What is taken off its diagonal before it is factored.

    Returns:
        None where the factorisation fails. It is a guess: only the residual proves.
    """
    eye = torch.eye(target.value.shape[0], dtype=target.value.dtype, device=target.value.device)
    shifted = target - Enclosed(shift * eye, 0.0, 0.0)
    lower, failed = torch.linalg.cholesky_ex(shifted.value)
    if int(failed) or not math.isfinite(shifted.error):
        return None
    upper = exact(lower.mT.contiguous())
    rest = shifted - upper.transposed() @ upper
    return upper.value, add_up(rest.size, rest.error)
