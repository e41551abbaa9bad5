"""Multipliers in closed form: a feasible start for chains, and ECLipsE-Fast."""

import math

import torch
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.sdp.chain.chain import Block, Chain
from holdfast.sdp.chain.recursion import sweep

_RAISES = 40
_TINY = 1e-60


def closed_form(chain: Chain) -> Tensor:
    """Return feasible multipliers, one number per block, shape [N].

    Backward: with A' = A + B M C (M, R: middles and half ranges of the slopes), the recursion
    reads P_i = A'^T P A' + t C^T R^2 C + K^T (t I - B^T P B)^-1 K, K = B^T P A'. The multiplier
    t = |B^T P B| + |K| / |R C| minimises t |R C|^2 + |K|^2 / (t - |B^T P B|). For a
    feed-forward block this is at most the product bound; it needs no monotone slopes.
    """
    ahead = chain.last.mT @ chain.last
    found: list[Tensor] = []
    for block in reversed(chain.blocks):
        value, ahead = _scalar_step(block, ahead)
        found.append(block.low.new_full((block.neurons,), value))
    return torch.cat(found[::-1])


def _scalar_step(block: Block, ahead: Tensor) -> tuple[float, Tensor]:
    outer, skip = block.outer_matrix(), block.skip_matrix()
    straight = outer @ (((block.low + block.high) / 2)[:, None] * block.inner)
    straight = straight if skip is None else skip + straight
    value = straight.mT @ (ahead @ straight)
    if not block.neurons:
        return 0.0, (value + value.mT) / 2
    through = ahead @ outer
    gram, gain = outer.mT @ through, through.mT @ straight
    spread = ((block.high - block.low) / 2)[:, None] * block.inner
    top = max(top_eigenvalue(gram), 0.0)
    ratio = _norm(gain) / max(_norm(spread), _TINY)
    lam = max(top + ratio, 1.001 * top, _TINY)
    eye = torch.eye(block.neurons, dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky_ex(lam * eye - gram)[0]
    whitened = torch.linalg.solve_triangular(factor, gain, upper=False)
    value = value + lam * spread.mT @ spread + whitened.mT @ whitened
    return lam, (value + value.mT) / 2


def top_eigenvalue(matrix: Tensor) -> float:
    """Return the largest eigenvalue of a symmetric matrix in floating point, or infinity."""
    return float(eigenvalues(matrix)[-1])


def eigenvalues(matrix: Tensor) -> Tensor:
    """Return the eigenvalues of a symmetric matrix, ascending; infinite where there are none."""
    if bool(torch.isfinite(matrix).all()):
        try:
            return torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
        except torch.linalg.LinAlgError:
            pass
    return matrix.new_full((matrix.shape[0],), math.inf)


def _norm(matrix: Tensor) -> float:
    """Return the spectral norm in floating point."""
    if not matrix.numel():
        return 0.0
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    return math.sqrt(max(top_eigenvalue(small @ small.mT), 0.0))


def is_plain(chain: Chain) -> bool:
    """Tell whether ECLipsE applies: feed-forward, all slopes in [0, 1]."""
    return all(
        block.outer is None and block.skip is None
        and bool((block.low == 0).all()) and bool((block.high == 1).all())
        for block in chain.blocks
    )  # fmt: skip


def eclipse_fast(chain: Chain) -> tuple[float, Tensor]:
    """Return ECLipsE-Fast's value and multipliers (Xu and Sivaranjani, 2024, Algorithm 2).

    Forward, X_0 = I: k = lambda_max(C X^-1 C^T), X_next = (2 I - C X^-1 C^T / k) / k; then
    L^2 = lambda_max(W X^-1 W^T). The multipliers 2 L^2 / k are feasible in `riccati.sweep`, up to
    rounding; a factor above 1 that grows towards the input makes them strictly so.

    Args:
        chain: Feed-forward with slopes in [0, 1].

    Returns:
        The value, an estimate in floating point and not proved, and lam of shape [N].

    Raises:
        InvalidInput: For any other chain.
    """
    if not is_plain(chain):
        raise InvalidInput("chain", "skips or other slopes", "layers with slopes in [0, 1]")
    inverse = torch.empty(0)
    tops: list[float] = []
    for block in chain.blocks:
        gram = block.inner @ (inverse @ block.inner.mT if tops else block.inner.mT)
        eigen, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
        top = max(float(eigen[-1]), _TINY)
        inverse = (vectors * (top / (2.0 - eigen / top))) @ vectors.mT
        tops.append(top)
    square = top_eigenvalue(chain.last @ inverse @ chain.last.mT)
    parts = [
        block.low.new_full((block.neurons,), 2.0 * square / top)
        for block, top in zip(chain.blocks, tops, strict=True)
    ]
    return math.sqrt(max(square, 0.0)), torch.cat(parts)


def feasible(chain: Chain, multipliers: Tensor) -> Tensor | None:
    """Raise multipliers, more towards the input, until the recursion accepts them, or give up."""
    if not bool(torch.isfinite(multipliers).all()):
        return None
    depth = len(chain.blocks)
    powers = torch.cat(
        [
            block.low.new_full((block.neurons,), float(depth - position))
            for position, block in enumerate(chain.blocks)
        ]
    )
    for attempt in range(_RAISES):
        raised = multipliers * (1.0 + 1e-12 * 2.0**attempt) ** powers
        if sweep(chain, raised) is not None:
            return raised
    return None
