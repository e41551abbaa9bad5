"""ECLipsE-Fast, a peer: multipliers of a feed-forward ReLU network in closed form."""

import math

import torch
from torch import Tensor

from holdfast.sdp.chain.chain import Chain


def eclipse_fast(chain: Chain) -> tuple[float, Tensor]:
    """Return ECLipsE-Fast's value and multipliers (Xu and Sivaranjani, 2024, Algorithm 2).

    Forward, X_0 = I: k = lambda_max(C X^-1 C^T), X_next = (2 I - C X^-1 C^T / k) / k; then
    L^2 = lambda_max(W X^-1 W^T). The multipliers 2 L^2 / k are feasible in the recursion, up to
    rounding; a factor above 1 that grows towards the input makes them strictly so.

    Args:
        chain: With slopes in [0, 1].

    Returns:
        The value, an estimate in floating point and not proved, and one multiplier per neuron.
    """
    inverse, tops = torch.eye(chain.layers[0].inner.shape[1], dtype=torch.float64), []
    for layer in chain.layers:
        if bool((layer.low != 0).any()) or bool((layer.high != 1).any()):
            raise ValueError("ECLipsE-Fast is about slopes in [0, 1]")
        gram = layer.inner @ inverse @ layer.inner.mT
        eigen, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
        top = max(float(eigen[-1]), 1e-60)
        inverse = (vectors * (top / (2.0 - eigen / top))) @ vectors.mT
        tops.append(top)
    last = chain.last @ inverse @ chain.last.mT
    square = max(float(torch.linalg.eigvalsh((last + last.mT) / 2)[-1]), 0.0)
    parts = [
        layer.low.new_full((layer.neurons,), 2.0 * square / top)
        for layer, top in zip(chain.layers, tops, strict=True)
    ]
    return math.sqrt(square), torch.cat(parts)
