"""The Riccati recursion of a chain, and the derivatives of its log-det barrier.

LipSDP (Fazlyab et al., "Efficient and Accurate Estimation of Lipschitz Constants for Deep Neural
Networks", 2019, eq. 9) for a chain of layers x_{i+1} = A x_i + B v_i, v_i = phi(C x_i), slopes in
[a, b], multipliers Lam = diag(lam) > 0: with P_l = W^T W and, backward,

    S = Lam - B^T P_{i+1} B                                     must be positive definite
    K = B^T P_{i+1} A + Lam diag((a + b) / 2) C
    P_i = A^T P_{i+1} A - C^T Lam diag(a b) C + K^T S^-1 K,     L^2 <= lambda_max(P_0).

`barrier` = -log det(rho I - P_0) - sum log det S_i is -log det of the LMI's whole matrix M, convex
in (lam, rho) and self-concordant. Its derivatives need no automatic differentiation: M^-1 is the
covariance of the Gaussian chain x_0 ~ N(0, (rho I - P_0)^-1), v_i = S^-1 K x_i + N(0, S^-1), and
with p = v - a z, q = v - b z, z = C x (one p and one q per neuron)

    d barrier / d lam_i = -cov(p_i, q_i)
    d2 barrier / d lam_i d lam_j = (cov(p_i, p_j) cov(q_i, q_j) + cov(p_i, q_j) cov(q_i, p_j)) / 2.

The covariances follow from one forward pass. With n the width of a layer and N all neurons, a
gradient costs O(sum n^3), the Hessian O(n N^2).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.sdp.chain.chain import Chain, ChainLayer


@dataclass(frozen=True)
class Sweep:
    """The recursion's result.

    Attributes:
        start: P_0, shape [d, d].
        factors: Cholesky factor R of S = R R^T, one per layer, from the input to the output.
        whitened: Y = R^-1 K of the same layers.
        logdet: Sum of log det S_i.
    """

    start: Tensor
    factors: tuple[Tensor, ...]
    whitened: tuple[Tensor, ...]
    logdet: float


def sweep(chain: Chain, multipliers: Tensor) -> Sweep | None:
    """Run the recursion backward.

    Args:
        chain: Condensed or not.
        multipliers: lam over all neurons, shape [N].

    Returns:
        None where some S_i is not positive definite: these multipliers bound nothing.
    """
    ahead = chain.last.mT @ chain.last
    pivots: list[tuple[Tensor, Tensor]] = []
    logdet = torch.zeros((), dtype=ahead.dtype, device=ahead.device)
    for layer, lam in zip(reversed(chain.layers), reversed(chain.split(multipliers)), strict=True):
        pivot = _pivot(layer, lam, ahead)
        if pivot is None:
            return None
        factor, whitened = pivot
        ahead = _previous(layer, lam, ahead, whitened)
        logdet = logdet + 2.0 * factor.diagonal().log().sum()
        pivots.append(pivot)
    factors, all_whitened = zip(*reversed(pivots), strict=True) if pivots else ((), ())
    return Sweep(ahead, factors, all_whitened, float(logdet))


def _pivot(layer: ChainLayer, lam: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return R and Y of one layer; None where S is not positive definite."""
    through = ahead if layer.outer is None else ahead @ layer.outer
    gram = through if layer.outer is None else layer.outer.mT @ through
    factor, failed = torch.linalg.cholesky_ex(torch.diag(lam) - gram)
    if int(failed):
        return None
    gain = (lam * (layer.low + layer.high) / 2)[:, None] * layer.inner
    if layer.skip is not None:
        gain = gain + through.mT @ layer.skip
    return factor, torch.linalg.solve_triangular(factor, gain, upper=False)


def _previous(layer: ChainLayer, lam: Tensor, ahead: Tensor, whitened: Tensor) -> Tensor:
    value = whitened.mT @ whitened
    product = layer.low * layer.high
    if bool((product != 0).any()):
        value = value - layer.inner.mT @ ((lam * product)[:, None] * layer.inner)
    if layer.skip is not None:
        value = value + layer.skip.mT @ (ahead @ layer.skip)
    return (value + value.mT) / 2


@dataclass(frozen=True)
class _Local:
    """One layer of the Gaussian chain: p = P x + w, q = Q x + w, x_{i+1} = F x + B w."""

    p: Tensor
    q: Tensor
    forward: Tensor
    noise: Tensor
    carried: Tensor

    def advance(self, layer: ChainLayer, covariance: Tensor) -> Tensor:
        """Return the covariance of x_{i+1} from that of x_i."""
        noise = self.carried if layer.outer is None else self.carried @ layer.outer.mT
        return self.forward @ covariance @ self.forward.mT + noise


def _locals(chain: Chain, result: Sweep) -> Iterator[tuple[ChainLayer, _Local]]:
    """Yield every layer and what it is in the Gaussian chain, from the input to the output."""
    for layer, factor, whitened in zip(chain.layers, result.factors, result.whitened, strict=True):
        yield layer, _local(layer, factor, whitened)


def _local(layer: ChainLayer, factor: Tensor, whitened: Tensor) -> _Local:
    feedback = torch.linalg.solve_triangular(factor.mT, whitened, upper=True)
    noise = torch.cholesky_inverse(factor)
    forward = feedback if layer.outer is None else layer.outer @ feedback
    if layer.skip is not None:
        forward = forward + layer.skip
    return _Local(
        feedback - layer.low[:, None] * layer.inner,
        feedback - layer.high[:, None] * layer.inner,
        forward,
        noise,
        noise if layer.outer is None else layer.outer @ noise,
    )


def gradient(chain: Chain, result: Sweep, covariance: Tensor) -> Tensor:
    """Return the derivative of the barrier with respect to (lam, rho), shape [N + 1].

    Args:
        chain: The chain.
        result: Its sweep.
        covariance: (rho I - P_0)^-1.
    """
    parts, last = [], -covariance.trace()[None]
    for layer, local in _locals(chain, result):
        parts.append(-((local.p @ covariance) * local.q).sum(1) - local.noise.diagonal())
        covariance = local.advance(layer, covariance)
    return torch.cat((*parts, last))


def derivatives(chain: Chain, result: Sweep, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient, and the Hessian with respect to (lam, rho), [N + 1, N + 1]."""
    total = sum(layer.neurons for layer in chain.layers)
    matrix = covariance.new_empty(total + 1, total + 1)
    matrix[total, total] = covariance.square().sum()
    # Covariances of x_i with x_0, and with p and q of all layers before.
    with_start, with_p, with_q = covariance, covariance[:, :0], covariance[:, :0]
    done, parts, last = 0, [], -covariance.trace()[None]
    for layer, local in _locals(chain, result):
        rows = slice(done, done + layer.neurons)
        p_cov, q_cov = local.p @ covariance, local.q @ covariance
        matrix[rows, rows], slope = _own_block(local, p_cov, q_cov)
        parts.append(slope)
        crossed = (local.p @ with_p).mul_(local.q @ with_q)
        matrix[rows, :done] = crossed.addcmul_(local.p @ with_q, local.q @ with_p).mul_(0.5)
        matrix[total, rows] = ((local.p @ with_start) * (local.q @ with_start)).sum(1)
        with_start = local.forward @ with_start
        new_p = local.forward @ p_cov.mT + local.carried
        new_q = local.forward @ q_cov.mT + local.carried
        with_p = torch.cat((local.forward @ with_p, new_p), 1)
        with_q = torch.cat((local.forward @ with_q, new_q), 1)
        covariance = local.advance(layer, covariance)
        done += layer.neurons
    return torch.cat((*parts, last)), matrix.tril_() + matrix.tril(-1).mT


def _own_block(local: _Local, p_cov: Tensor, q_cov: Tensor) -> tuple[Tensor, Tensor]:
    """Return one layer's own second derivatives and its gradient."""
    pp, qq = p_cov @ local.p.mT + local.noise, q_cov @ local.q.mT + local.noise
    pq = p_cov @ local.q.mT + local.noise
    return (pp * qq + pq * pq.mT) / 2, -pq.diagonal()


def block_hessian(
    chain: Chain, result: Sweep, covariance: Tensor
) -> tuple[list[Tensor], Tensor, float]:
    """Return the Hessian's diagonal blocks, its row of (lam, rho), and its entry of (rho, rho)."""
    corner = float(covariance.square().sum())
    with_start, blocks, border = covariance, [], []
    for layer, local in _locals(chain, result):
        blocks.append(_own_block(local, local.p @ covariance, local.q @ covariance)[0])
        border.append(((local.p @ with_start) * (local.q @ with_start)).sum(1))
        with_start = local.forward @ with_start
        covariance = local.advance(layer, covariance)
    return blocks, torch.cat(border), corner
