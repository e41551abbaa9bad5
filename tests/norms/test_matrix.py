"""The proved spectral bound: never below the truth, and tight."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.norms.matrix import near_spectral_upper, row_sums_upper, spectral_upper


def exceeds_exactly(bound: float, matrix: list[list[float]]) -> bool:
    """Decide bound > sigma_max in exact rational arithmetic: bound^2 I - A A^T > 0.

    Sylvester's criterion by elimination without pivoting, which positive definite matrices allow.
    """
    rows = [[Fraction(value) for value in row] for row in matrix]
    n = len(rows)
    square = Fraction(bound) ** 2
    gram = [
        [
            square * (i == j) - sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
            for j in range(n)
        ]
        for i in range(n)
    ]
    for k in range(n):
        if gram[k][k] <= 0:
            return False
        for i in range(k + 1, n):
            factor = gram[i][k] / gram[k][k]
            for j in range(k, n):
                gram[i][j] -= factor * gram[k][j]
    return True


def test_the_exact_reference_knows_both_sides() -> None:
    assert exceeds_exactly(5.001, [[3.0, 4.0]])
    assert not exceeds_exactly(5.0, [[3.0, 4.0]])


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([1.0, 2.0**-140, 2.0**100, 1e-6]),
    st.sampled_from(["gauss", "rank one", "orthogonal", "mixed"]),
    st.integers(0, 2**31),
)
def test_never_below_the_exact_norm(m: int, n: int, scale: float, kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((m, n))
    if kind == "rank one":
        matrix = np.outer(matrix[:, 0], generator.standard_normal(n))
    elif kind == "orthogonal":
        matrix = np.linalg.qr(generator.standard_normal((max(m, n), max(m, n))))[0][:m, :n]
    elif kind == "mixed":
        matrix = matrix * 10.0 ** generator.integers(-12, 12, (m, n))
    matrix = matrix * scale
    bound = spectral_upper(torch.from_numpy(matrix))
    assert exceeds_exactly(bound, matrix.tolist())
    assert bound <= np.linalg.norm(matrix, 2) * (1 + 1e-9)
    near = near_spectral_upper(torch.from_numpy(matrix))
    assert exceeds_exactly(near, matrix.tolist())
    assert near <= np.linalg.norm(matrix, 2) * 1.03


def hostile(kind: str, generator: np.random.Generator) -> np.ndarray:
    """Return a small float32 matrix of one of the kinds that norms go wrong on."""
    m, n = generator.integers(1, 4), generator.integers(1, 5)
    matrix = generator.standard_normal((m, n))
    if kind == "rank one":
        matrix = np.outer(matrix[:, 0], generator.standard_normal(n))
    elif kind == "orthogonal":
        side = max(m, n)
        matrix = np.linalg.qr(generator.standard_normal((side, side)))[0][:m, :n]
    elif kind == "mixed":
        matrix = matrix * 10.0 ** generator.integers(-38, 38, (m, n))
    elif kind == "signs":
        matrix = np.sign(matrix)
    else:
        matrix = matrix * float(kind)
    return matrix.astype(np.float32).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rank one", "orthogonal", "1e-42", "1e30", "mixed", "signs"])
def test_ten_thousand_hostile_matrices(kind: str) -> None:
    """Of all kinds together: in rationals, which are exact where 60 digits would only be close."""
    generator = np.random.default_rng(len(kind))
    for _ in range(1700):
        matrix = hostile(kind, generator)
        bound = spectral_upper(torch.from_numpy(matrix))
        if matrix.any():
            assert exceeds_exactly(bound, matrix.tolist())
            assert bound <= np.linalg.norm(matrix, 2) * (1 + 1e-9)
            near = near_spectral_upper(torch.from_numpy(matrix))
            assert exceeds_exactly(near, matrix.tolist())
            assert near <= np.linalg.norm(matrix, 2) * 1.05


@pytest.mark.parametrize("shape", [(256, 784), (300, 20), (64, 64)])
def test_inflation_is_below_one_part_in_a_billion(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(*shape, dtype=torch.float64)
    true = float(torch.linalg.svdvals(matrix)[0])
    assert true < spectral_upper(matrix) <= true * (1 + 1e-9)


def test_extreme_sizes_do_not_overflow_or_vanish() -> None:
    tiny = torch.full((2, 2), 5e-324, dtype=torch.float64)
    assert spectral_upper(tiny) >= 1e-323
    assert spectral_upper(torch.full((2, 2), 1e300, dtype=torch.float64)) >= 2e300
    assert spectral_upper(torch.full((4, 4), 1.7e308, dtype=torch.float64)) == math.inf
    assert spectral_upper(torch.zeros(3, 2, dtype=torch.float64)) == 0.0
    assert spectral_upper(torch.tensor([[math.inf]], dtype=torch.float64)) == math.inf
    assert spectral_upper(torch.tensor([[math.nan]], dtype=torch.float64)) == math.inf


@pytest.mark.parametrize("exponent", [-1000, -500, 500, 900])
def test_powers_of_two_pass_through(exponent: int) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(3, 5, dtype=torch.float64)
    bound = math.ldexp(spectral_upper(matrix), exponent)
    assert spectral_upper(matrix * 2.0**exponent) == bound


def test_complex_stacks_give_the_largest() -> None:
    torch.manual_seed(0)
    stack = torch.randn(7, 3, 5, dtype=torch.complex128)
    true = float(torch.linalg.matrix_norm(stack, 2).max())
    assert true < spectral_upper(stack) <= true * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_large_stacks_in_blocks(dtype: torch.dtype) -> None:
    """The matrix with the largest norm is found among many, also where another looks larger."""
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(5, 130, 150, generator=generator, dtype=dtype)
    stack[3] *= 1.01
    true = float(torch.linalg.matrix_norm(stack, 2).max())
    assert true < spectral_upper(stack) <= true * (1 + 1e-9)
    assert true < spectral_upper(stack, floor=0.5 * true) <= true * (1 + 1e-9)
    assert 2.0 * true <= spectral_upper(stack, floor=2.0 * true) <= 2.0 * true * (1 + 1e-9)


def test_power_iteration_would_have_been_too_small() -> None:
    """Trap U1/U2: a start vector orthogonal to the top direction never finds it."""
    matrix = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    rotation = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    hidden = matrix @ rotation  # the all-ones start is the direction of the small value
    vector = torch.ones(2, dtype=torch.float64)
    for _ in range(50):
        vector = hidden.T @ (hidden @ vector)
        vector /= vector.norm()
    assert float((hidden @ vector).norm()) < 1.5
    assert spectral_upper(hidden) >= 2.0


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_row_sums_are_never_below(m: int, n: int, seed: int) -> None:
    matrix = torch.from_numpy(np.random.default_rng(seed).standard_normal((m, n)))
    exact = max(sum(Fraction(abs(value)) for value in row) for row in matrix.tolist())
    assert Fraction(row_sums_upper(matrix)) >= exact


@pytest.mark.parametrize("scale", [1.0, 2.0**-1040, 2.0**1000])
def test_blocks_that_share_no_row_and_no_column_are_measured_apart(scale: float) -> None:
    numbers = np.random.default_rng(0)
    matrix, squares, row, column = np.zeros((300, 420)), [], 0, 0
    while row + 5 < 300:
        m, n = numbers.integers(1, 6, 2)
        left, right = numbers.integers(-9, 10, m), numbers.integers(-9, 10, n)
        matrix[row : row + m, column : column + n] = np.outer(left, right)
        squares.append(int(left @ left) * int(right @ right))  # of the length of this block
        row, column = row + m, column + n
    matrix = torch.from_numpy(matrix[numbers.permutation(300)][:, numbers.permutation(420)])
    for part in (matrix, matrix.T):
        square = (Fraction(spectral_upper(scale * part)) / Fraction(scale)) ** 2
        assert max(squares) <= square <= Fraction(1.000001) * max(squares)
