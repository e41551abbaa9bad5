"""Multipliers in closed form: a feasible start for chains."""

import math

import torch
from torch import Tensor

from holdfast.sdp.chain.chain import Chain, ChainLayer
from holdfast.sdp.chain.recursion import sweep


def closed_form(chain: Chain) -> Tensor:
    """Return feasible multipliers, one number per layer, shape [N].

    Backward: with A' = A + B M C (M, R: middles and half ranges of the slopes), the recursion
    reads P_i = A'^T P A' + t C^T R^2 C + K^T (t I - B^T P B)^-1 K, K = B^T P A'. The multiplier
    t = |B^T P B| + |K| / |R C| minimises t |R C|^2 + |K|^2 / (t - |B^T P B|). For a
    feed-forward layer this is at most the product bound; it needs no monotone slopes.
    """
    ahead = chain.last.mT @ chain.last
    found: list[Tensor] = []
    for layer in reversed(chain.layers):
        value, ahead = _one_multiplier(layer, ahead)
        found.append(layer.low.new_full((layer.neurons,), value))
    return torch.cat(found[::-1])


def _one_multiplier(layer: ChainLayer, ahead: Tensor) -> tuple[float, Tensor]:
    """Return the multiplier of a layer, and P before it for P = `ahead` behind it."""
    outer = torch.eye(layer.neurons, dtype=ahead.dtype) if layer.outer is None else layer.outer
    straight = outer @ (((layer.low + layer.high) / 2)[:, None] * layer.inner)
    straight = straight if layer.skip is None else layer.skip + straight
    value = straight.mT @ (ahead @ straight)
    if not layer.neurons:
        return 0.0, (value + value.mT) / 2
    through = ahead @ outer
    gram, gain = outer.mT @ through, through.mT @ straight
    spread = ((layer.high - layer.low) / 2)[:, None] * layer.inner
    top = max(top_eigenvalue(gram), 0.0)
    tiny = 1e-60  # for layers that are 0
    ratio = _norm(gain) / max(_norm(spread), tiny)
    lam = max(top + ratio, 1.001 * top, tiny)
    eye = torch.eye(layer.neurons, dtype=gram.dtype)
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


def feasible(chain: Chain, multipliers: Tensor) -> Tensor | None:
    """Raise multipliers, more towards the input, until the recursion accepts them, or give up."""
    if not bool(torch.isfinite(multipliers).all()):
        return None
    depth = len(chain.layers)
    powers = torch.cat(
        [
            layer.low.new_full((layer.neurons,), float(depth - position))
            for position, layer in enumerate(chain.layers)
        ]
    )
    for attempt in range(40):  # the last one raises the multipliers by a factor of 1.5 per layer
        raised = multipliers * (1.0 + 1e-12 * 2.0**attempt) ** powers
        if sweep(chain, raised) is not None:
            return raised
    return None
