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
    gamma,
    ldexp_up,
    lengths_up,
    mul_up,
    powers_of_two,
    scaled,
    sqrt_up,
    up,
)


def spectral_upper(matrices: Tensor, floor: float = 0.0) -> float:
    """Return a proved upper bound of the largest spectral norm of a stack of matrices.

    Args:
        matrices: Shape [..., m, n], float64 or complex128; their entries are taken as exact.
        floor: A norm below this need not be told from it, which is faster where most are below.

    Returns:
        A number at least as large as every spectral norm, typically 1e-11 above the largest or
        above `floor`. Infinity where an entry is not finite.
    """
    if matrices.numel() == 0:
        return 0.0
    stack = matrices.reshape(-1, *matrices.shape[-2:])
    if stack.shape[-2] > stack.shape[-1]:
        stack = stack.mH.resolve_conj()
    exponent = exponent_of(_parts(stack))
    if not bool(_parts(stack).isfinite().all()):
        return math.inf
    if not bool(_parts(stack).any()):
        return 0.0
    if len(stack) == 1 and min(stack.shape[1:]) >= 256:  # else a norm is found as fast
        blocks = _independent(stack[0])
        if blocks:
            for block in blocks:
                floor = max(floor, spectral_upper(block, floor))
            return floor
    # A power of two keeps the entries exact but for underflow, and squares in range.
    lost = mul_up(math.sqrt(2.0 * stack[0].numel()), 2.0 * TINY)
    stack = scaled(stack, -exponent) if abs(exponent) > 200 else stack * 2.0**-exponent
    known = min(ldexp_up(floor, -exponent), 1e150)
    return ldexp_up(up(sqrt_up(_gram_upper(stack, known * known)) + lost), exponent)


def _independent(matrix: Tensor) -> list[Tensor]:
    """Return stacks of blocks of one shape that make up a matrix, up to the order of its entries.

    A matrix is as long as the longest of those blocks that share no row and no column.

    Args:
        matrix: [m, n].

    Returns:
        The stacks; nothing where there is one block, or few entries are 0.
    """
    from scipy.sparse import coo_array  # heavy, and needed by few commands
    from scipy.sparse.csgraph import connected_components

    places = matrix.nonzero()
    if 2 * len(places) > matrix.numel():
        return []
    m, n = matrix.shape
    rows, columns = places.numpy().T
    links = coo_array((torch.ones(len(places)).numpy(), (rows, m + columns)), (m + n, m + n))
    _, labels = connected_components(links, directed=False)
    members: dict[int, tuple[list[int], list[int]]] = {}
    for k, label in enumerate(labels.tolist()):
        members.setdefault(label, ([], []))[k >= m].append(k - m * (k >= m))
    found: dict[tuple[int, int], list[Tensor]] = {}
    for own_rows, own_columns in members.values():
        block = matrix[own_rows][:, own_columns]
        found.setdefault((len(own_rows), len(own_columns)), []).append(block)
    return [torch.stack(blocks) for blocks in found.values()] if len(members) > 1 else []


def near_spectral_upper(matrix: Tensor) -> float:
    """Return a proved upper bound of the spectral norm of a matrix, within a percent or so.

    It costs a fifth of `spectral_upper` for a large matrix: the norm is guessed by power iteration,
    and a Cholesky factor proves a number slightly above the guess.

    Args:
        matrix: [m, n], float64, taken as exact.

    Returns:
        The bound; infinity where an entry is not finite.
    """
    size = float(lengths_up(matrix.flatten()))
    if not 0.0 < size < math.inf:
        return size
    rows = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    exponent = exponent_of(rows)
    rows = scaled(rows, -exponent)[None]  # what underflows is less than 2^-1000 of the norm
    gram, size = _lower_product(rows)[0], ldexp_up(size, -exponent)
    whole = gram.tril() + gram.tril(-1).mT
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(len(whole), generator=generator, dtype=torch.float64)
    for _ in range(40):  # enough for a percent, however close the next eigenvalue
        vector = whole @ (vector / vector.norm().clamp(min=TINY))
    m, step = len(whole), 0.01
    guess = max(float(vector.norm()), size * size / m)
    lost = 2.0 * gamma(rows.shape[2] + 2) * size * size + 2.0**-900
    while (1.0 + step) * guess < size * size:
        guess, step = (1.0 + step) * guess, 2.0 * step
        shifted = torch.eye(m, dtype=torch.float64) * guess - whole
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not bool(failed):
            residual = factor_residual_upper(shifted[None], factor[None])
            square = up(guess + residual + 4.0 * UNIT * (guess + size * size) + lost)
            return min(ldexp_up(sqrt_up(square), exponent), ldexp_up(size, exponent))
    return ldexp_up(size, exponent)


def _parts(stack: Tensor) -> Tensor:
    """Return real and imaginary parts side by side: torch is slow at magnitudes."""
    return torch.view_as_real(stack) if stack.is_complex() else stack


def _gram_upper(stack: Tensor, floor: float) -> float:
    """Return an upper bound of the largest eigenvalue of A A^H over a stack of matrices [k, m, n].

    Entries are of magnitude at most 1 (or sqrt(2) where complex).
    """
    m, n = stack.shape[-2:]
    # A complex product is four real ones and a sum of each pair.
    per_term = 4 if stack.is_complex() else 1
    gram = _lower_product(stack)
    size = up(float(_squares_up(stack).max()))
    if size <= floor:
        return size  # the square of the Frobenius norm is a bound as well
    product_error = up(gamma(per_term * (n + 2)) * size) + per_term * m * n * TINY
    guess = floor if floor > 0.0 else _largest_eigenvalue(stack, gram)
    if not math.isfinite(guess):
        return size
    step = max(product_error, per_term * m * UNIT * guess, n * m * TINY)
    worst, pending = 0.0, gram
    # Multiples of the rounding error: c is raised until the factorisation succeeds.
    slack = 4.0
    while slack < 1e8:
        c = guess + slack * step
        shifted = -pending
        shifted.diagonal(dim1=-2, dim2=-1).add_(c)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        done = failed == 0
        if bool(done.all()):
            return max(worst, up(c + up(factor_residual_upper(shifted, factor) + product_error)))
        if bool(done.any()):
            residual = factor_residual_upper(shifted[done], factor[done])
            worst = max(worst, up(c + up(residual + product_error)))
        pending, stack = pending[~done], stack[~done]
        # The guess comes from some of the matrices: others may have larger eigenvalues.
        larger = _largest_eigenvalue(stack, pending)
        slack = slack if larger > guess else 30.0 * slack
        guess = max(guess, larger)
    return size


def _eigenvalues(gram: Tensor) -> Tensor:
    """Return the largest eigenvalue of each matrix in floating point; NaN where there is none."""
    try:
        return torch.linalg.eigvalsh(gram)[..., -1]
    except torch.linalg.LinAlgError:
        return torch.full(gram.shape[:1], math.nan, dtype=torch.float64)


def _largest_eigenvalue(stack: Tensor, gram: Tensor) -> float:
    """Guess the largest eigenvalue of A A^H from the matrix that power iteration favours.

    Args:
        stack: A, [k, m, n].
        gram: A A^H, lower triangles.

    Returns:
        The guess; NaN where there is none.
    """
    if len(gram) > 1 and gram.shape[-1] >= 32:
        short = stack.to(torch.complex64 if stack.is_complex() else torch.float32)
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(gram.shape[-1], 1, generator=generator).to(short.dtype)
        vector, length = vector.expand(len(gram), -1, 1), torch.ones(())
        for _ in range(8):  # enough to tell peaks from valleys
            vector = short @ (vector.mH @ short).mH  # conjugates vectors, never the matrices
            length = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
            vector = vector / length.clamp(min=1e-30)
        gram = gram[length.flatten().argmax()][None]
    return float(_eigenvalues(gram).max())


def _blocks(m: int) -> list[tuple[int, int]]:
    """Cut so many rows into blocks, (first, last): products are taken below the diagonal alone."""
    size = 128  # large enough for full speed
    return [(first, min(first + size, m)) for first in range(0, m, size)]


def _lower_product(rows: Tensor) -> Tensor:
    """Return A A^H below and on the diagonal, [k, m, m]; what is above is arbitrary."""
    product = rows.new_zeros(len(rows), rows.shape[-2], rows.shape[-2])
    for first, last in _blocks(rows.shape[-2]):
        torch.matmul(rows[:, first:last], rows[:, :last].mH, out=product[:, first:last, :last])
    return product


def _squares_up(part: Tensor) -> Tensor:
    """Return upper bounds of the sums of squares of entries around 1 or below, [k]."""
    parts = _parts(part).flatten(1)
    count = parts.shape[1]
    return parts.square().sum(1) * (1.0 + 2.0 * gamma(count + 2)) + count * TINY


def factor_residual_upper(shifted: Tensor, factor: Tensor) -> float:
    """Return a bound of the 2-norm of A - L L^H over a stack of Hermitian A with entries around 1.

    Args:
        shifted: A, [k, m, m]; lower triangles are read.
        factor: L, [k, m, m], anything whose lower triangle is meant.

    Returns:
        The largest over the stack.
    """
    m = factor.shape[-1]
    per_term = 4 if factor.is_complex() else 1
    factor = factor.tril()
    of_target = of_residual = torch.zeros(len(factor), dtype=torch.float64)
    for first, last in _blocks(m):
        target = shifted[:, first:last, :last]
        rest = target - factor[:, first:last, :last] @ factor[:, :last, :last].mH
        rest[:, :, first:].tril_()
        # Twice what is below the diagonal bounds the whole.
        of_residual = of_residual + 2.0 * _squares_up(rest)
        of_target = of_target + 2.0 * _squares_up(target)
    lengths = [(squares * (1.0 + 2.0 * gamma(m))).sqrt() for squares in (of_target, of_residual)]
    of_factor = _squares_up(factor)
    rounding = gamma(per_term * (m + 2)) * of_factor + 2.0 * UNIT * (lengths[0] + lengths[1])
    underflow = per_term * m * m * (m + 1) * TINY
    return up(up(float((lengths[1] * (1.0 + 4.0 * UNIT) + 2.0 * rounding).max())) + underflow)


def row_sums_upper(matrix: Tensor) -> float:
    """Return an upper bound of the largest absolute row sum: the operator norm for linf."""
    sums = matrix.abs().sum(-1) * (1.0 + 2.0 * gamma(matrix.shape[-1] + 2))
    return float(sums.max()) if sums.numel() else 0.0


def spectral_uppers(stack: Tensor) -> Tensor:
    """Return a proved upper bound of the spectral norm of each of many small matrices.

    With B = V^T G V, G = A A^T, for any V that has an inverse, lambda_max(G) is at most
    lambda_max(B) / sigma_min(V)^2, and V the computed eigenvectors of G makes both easy to bound:
    B by its row sums (Gershgorin), V by how far V^T V is from the identity.

    Args:
        stack: [R, m, n], float64, taken as exact.

    Returns:
        [R]; infinity or NaN where an entry is not finite.
    """
    if stack.shape[1] > stack.shape[2]:
        stack = stack.mT
    m, n = stack.shape[1:]
    frobenius = lengths_up(stack.flatten(1))
    if m <= 1 or not bool(frobenius.isfinite().all()):
        return frobenius
    # Scaled by powers of two squares neither overflow nor lose more than a few `TINY`.
    exponents = torch.frexp(frobenius).exponent.clamp(min=-1000)
    halves = exponents // 2, exponents - exponents // 2  # 2^1024 is not at hand, nor is 2^-1024
    rows = stack
    for half in halves:
        rows = rows * powers_of_two(-half)[:, None, None]
    gram = rows @ rows.mT
    try:
        vectors = torch.linalg.eigh(gram).eigenvectors
    except torch.linalg.LinAlgError:
        return frobenius
    turned = (vectors.mT @ gram @ vectors).abs()
    turned = 0.5 * (turned + turned.mT)
    apart = (vectors.mT @ vectors - torch.eye(m, dtype=torch.float64)).flatten(1).norm(dim=1)
    length = vectors.flatten(1).square().sum(1) * (1.0 + 2.0 * gamma(m * m))
    # ||G||_F <= ||A||_F^2 < 1.
    lost = (gamma(n + 4) + 2.0 * gamma(2 * m + 8)) * (1.0 + length) + m * n * 2.0**-1000
    largest = (turned.sum(2).amax(1) + lost * (1.0 + length)) * (1.0 + 2.0 * gamma(m + 8))
    spread = apart * (1.0 + 2.0 * gamma(m * m)) + 2.0 * gamma(m + 4) * (1.0 + length)
    square = largest / (1.0 - spread).clamp(min=0.5) * (1.0 + 8.0 * UNIT)
    found = square.sqrt() * (1.0 + 4.0 * UNIT)
    for half in halves:
        found = found * powers_of_two(half)
    return torch.where(spread < 0.5, torch.minimum(found + TINY, frobenius), frobenius)
