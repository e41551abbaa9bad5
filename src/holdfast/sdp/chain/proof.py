"""Proved Lipschitz bounds from multipliers alone.

For a layer x' = v = phi(C x) write phi's slopes as m +- r and v = m z + u, z = C x: then
|u_k| <= r_k |z_k| for every neuron, and with A' = diag(m) C and any lam >= 0

    P = A'^T P' A' + C^T diag(lam r^2) C + K^T S^-1 K,   K = P' A',  S = diag(lam) - P'

gives x'^T P' x' <= x^T P x wherever S > 0 (differences of two inputs; the S-procedure). Proved in
float64: R^T R and Y come from a Cholesky factorisation and a triangular solve that are not
trusted. With E = S - R^T R >= s - e > 0 and F = K - R^T Y, |F| <= f,

    K^T S^-1 K <= Y^T Y + (f^2 / (s - e)) I,

because [[Y^T Y + c I, K^T], [K, S]] = [Y R]^T [Y R] + [[c I, F^T], [F, E]] >= 0. Residuals and
products carry their rounding errors (`enclosed`); what is lost is added to P as a multiple of the
identity. No subtraction of large terms occurs, whatever the slopes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.norms.matrix import spectral_upper
from holdfast.rounding import UNIT, add_up, down, frobenius_up, gamma, mul_up, powers_of_two, up
from holdfast.sdp.chain.chain import Chain, ChainLayer
from holdfast.sdp.chain.enclosed import (
    Enclosed,
    computed,
    exact,
    root,
    root_up,
    scaled_rows,
    symmetric,
)
from holdfast.sdp.chain.start import top_eigenvalue

_SHIFTS = (4.0, 64.0, 4096.0)
"""Multiples of the rounding error that are taken off before a matrix is factored."""


def chain_upper(chain: Chain, multipliers: Sequence[Tensor]) -> float:
    """Return a proved upper bound of the chain's l2 Lipschitz constant.

    Args:
        chain: The network; its float64 entries are taken as exact.
        multipliers: One tensor [n] per layer, in order. Entries of neurons that are idle or
            linear (`ChainLayer.free`) are ignored.

    Returns:
        Infinity where the multipliers prove nothing: wrong shapes, an entry that is negative, not
        finite or too small; and for a condensed chain.
    """
    if not _usable(chain, multipliers):
        return math.inf
    # Multipliers grow, layer by layer towards the input, until the proof succeeds.
    for room in (0.0, 1e-10, 1e-7, 1e-4):
        bound = _attempt(chain, multipliers, room)
        if bound < math.inf:
            return bound
    return math.inf


def _usable(chain: Chain, multipliers: Sequence[Tensor]) -> bool:
    if len(multipliers) != len(chain.layers):
        return False
    for layer, lam in zip(chain.layers, multipliers, strict=True):
        if layer.outer is not None or layer.skip is not None:
            return False
        if tuple(lam.shape) != (layer.neurons,) or lam.dtype != torch.float64:
            return False
        used = lam[layer.free]
        # The range keeps every power of two of `_balance` and every product exact or normal.
        if not bool(((used > 1e-100) & (used < 1e100)).all()):
            return False
    return True


def _attempt(chain: Chain, multipliers: Sequence[Tensor], room: float) -> float:
    last = exact(chain.last)
    ahead = _raised(symmetric(last.transposed() @ last), 0.0)
    depth = len(chain.layers)
    for position in range(depth - 1, -1, -1):
        layer = chain.layers[position]
        lam = multipliers[position] * (1.0 + room) ** (depth - position)
        aside = position == 0 and _is_wide(layer)
        found = _layer_upper(_compact(layer) if aside else layer, lam, ahead)
        if found is None:
            return math.inf
        ahead = found
    return _finish(ahead, chain.layers[0].inner if _is_wide(chain.layers[0]) else None)


def _is_wide(layer: ChainLayer) -> bool:
    """Tell whether the input enters through fewer numbers C x than it has components."""
    return layer.inner.shape[1] > layer.neurons


def _compact(layer: ChainLayer) -> ChainLayer:
    """Return the layer as a function of z = C x."""
    eye = torch.eye(layer.neurons, dtype=layer.inner.dtype)
    return ChainLayer(eye, layer.low, layer.high)


def _raised(matrix: Enclosed, more: float) -> Tensor | None:
    """Return a symmetric float matrix that is at least the real one plus `more` times I."""
    biggest = float(matrix.value.diagonal().abs().max()) if matrix.value.numel() else 0.0
    lift = add_up(matrix.error, more)
    lift = add_up(lift, mul_up(4.0 * UNIT, add_up(biggest, lift)))
    if not math.isfinite(lift):
        return None
    raised = matrix.value.clone()
    raised.diagonal().add_(lift)
    return raised


def _layer_upper(layer: ChainLayer, lam: Tensor, ahead: Tensor | None) -> Tensor | None:
    """Return a proved P for P' = `ahead`, or None."""
    if ahead is None:
        return None
    middle, radius = _slopes(layer)
    straight = scaled_rows(middle, layer.inner)
    weighed = exact(ahead)
    value = straight.transposed() @ (weighed @ straight)
    free = layer.free
    if not bool(free.any()):
        return _raised(symmetric(value), 0.0)
    spread = scaled_rows(radius[free] * lam[free].sqrt(), layer.inner[free], 3)
    eliminated = _eliminate(layer, lam, weighed, straight)
    if eliminated is None:
        return None
    factor, extra = exact(eliminated[0]), eliminated[1]
    value = value + spread.transposed() @ spread + factor.transposed() @ factor
    return _raised(symmetric(value), extra)


def _slopes(layer: ChainLayer) -> tuple[Tensor, Tensor]:
    """Return m and r with m - r <= low and high <= m + r, proved."""
    middle = (layer.low + layer.high) / 2
    radius = torch.maximum(layer.high - middle, middle - layer.low)
    exactly = _is_short(layer.low) & _is_short(layer.high)
    # A radius that is too large is sound; the least one keeps what follows clear of underflow.
    return middle, torch.where(exactly, radius, radius * (1.0 + 4.0 * UNIT)).clamp_min(1e-100)


def _is_short(values: Tensor) -> Tensor:
    """Tell which values have at most 20 fractional bits and are below 2^20: sums are exact."""
    grid = values * 2.0**20
    return (values.abs() < 2.0**20) & (grid == grid.round())


def _balance(lam: Tensor) -> Tensor:
    """Return powers of two close to lam^-1/2."""
    return powers_of_two(-(torch.frexp(lam).exponent // 2))


def _through(layer: ChainLayer, powers: Tensor, ahead: Enclosed) -> tuple[Enclosed, Enclosed]:
    """Return P' D and D P' D for the free neurons and D = diag(powers)."""
    free = layer.free
    through = computed(ahead.value[:, free] * powers, 0.0, 1)
    scaled = mul_up(through.error, float(powers.max()))
    return through, computed(powers[:, None] * through.value[free], scaled, 1)


def _eliminate(
    layer: ChainLayer, lam: Tensor, ahead: Enclosed, straight: Enclosed
) -> tuple[Tensor, float] | None:
    """Return Y and c with K^T S^-1 K <= Y^T Y + c I, in coordinates where S is near 1."""
    used = lam[layer.free]
    powers = _balance(used)
    through, gram = _through(layer, powers, ahead)
    gain = through.transposed() @ straight
    target = exact(torch.diag(used * powers * powers)) - gram
    trace = float(target.value.diagonal().abs().sum())
    noise = add_up(target.error, mul_up(gamma(2 * powers.numel() + 8), trace))
    for multiple in _SHIFTS:
        found = root(target, multiple * noise)
        left = down(multiple * noise - found[1]) if found is not None else 0.0
        if found is None or not left > 0.0:
            continue
        whitened = torch.linalg.solve_triangular(found[0].mT, gain.value, upper=False)
        rest = gain - exact(found[0]).transposed() @ exact(whitened)
        miss = add_up(rest.size, rest.error)
        return whitened, up(mul_up(miss, miss) / left)
    return None


def _finish(ahead: Tensor | None, inner: Tensor | None) -> float:
    """Return an upper bound of sqrt(lambda_max(P)), or of sqrt(lambda_max(C^T P C))."""
    if ahead is None:
        return math.inf
    if inner is None:
        return root_up(max(symmetric_upper(ahead), 0.0))
    size = frobenius_up(ahead)
    for multiple in _SHIFTS:
        # P + t I = R^T R + E: shift by -t, which the bound then only gains from.
        shift = multiple * mul_up(gamma(2 * ahead.shape[0] + 8), size)
        found = root(exact(ahead), -shift)
        if found is None:
            continue
        upper, error = found
        image = exact(upper) @ exact(inner)
        norm = add_up(spectral_upper(image.value), image.error)
        lost = mul_up(max(up(error - shift), 0.0), frobenius_up(inner), frobenius_up(inner))
        return root_up(add_up(mul_up(norm, norm), lost))
    return math.inf


def symmetric_upper(matrix: Tensor) -> float:
    """Return a proved upper bound of the largest eigenvalue of a symmetric float64 matrix."""
    size = frobenius_up(matrix)
    if not math.isfinite(size):
        return math.inf
    guess = top_eigenvalue(matrix)
    step = mul_up(gamma(matrix.shape[0] + 8), size)
    for multiple in _SHIFTS:
        top = min(guess, size) + multiple * step
        # top I - P = R^T R + E with |E| <= e, hence P <= (top + e) I.
        found = root(Enclosed(-matrix, 0.0, size), -top)
        if found is not None:
            return add_up(max(top, 0.0), found[1])
    return size
