"""The Riccati recursion of a chain, and the derivatives of its log-det barrier.

LipSDP (Fazlyab et al., "Efficient and Accurate Estimation of Lipschitz Constants for Deep Neural
Networks", 2019, eq. 9) for a chain of blocks x_{i+1} = A x_i + B v_i, v_i = phi(C x_i), slopes in
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

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.sdp.chain.chain import Block, Chain


@dataclass(frozen=True)
class Step:
    """One block of the recursion: the Cholesky factor of S = R R^T, and Y = R^-1 K."""

    factor: Tensor
    whitened: Tensor


@dataclass(frozen=True)
class Sweep:
    """The recursion's result.

    Attributes:
        start: P_0, shape [d, d].
        steps: One per block, from the input to the output.
        logdet: Sum of log det S_i.
    """

    start: Tensor
    steps: tuple[Step, ...]
    logdet: float


def split(chain: Chain, values: Tensor) -> tuple[Tensor, ...]:
    """Cut a vector over all neurons into one piece per block."""
    return torch.split(values, [block.neurons for block in chain.blocks])


def sweep(chain: Chain, multipliers: Tensor) -> Sweep | None:
    """Run the recursion backward.

    Args:
        chain: Its skips are matrices or None (see `condense`).
        multipliers: lam over all neurons, shape [N].

    Returns:
        None where some S_i is not positive definite: these multipliers bound nothing.
    """
    ahead = chain.last.mT @ chain.last
    steps: list[Step] = []
    logdet = torch.zeros((), dtype=ahead.dtype, device=ahead.device)
    for block, lam in zip(reversed(chain.blocks), reversed(split(chain, multipliers)), strict=True):
        step = _step(block, lam, ahead)
        if step is None:
            return None
        ahead = _previous(block, lam, ahead, step.whitened)
        logdet = logdet + 2.0 * step.factor.diagonal().log().sum()
        steps.append(step)
    return Sweep(ahead, tuple(reversed(steps)), float(logdet))


def _step(block: Block, lam: Tensor, ahead: Tensor) -> Step | None:
    through = ahead if block.outer is None else ahead @ block.outer
    gram = through if block.outer is None else block.outer.mT @ through
    factor, failed = torch.linalg.cholesky_ex(torch.diag(lam) - gram)
    if int(failed):
        return None
    gain = (lam * (block.low + block.high) / 2)[:, None] * block.inner
    if isinstance(block.skip, Tensor):
        gain = gain + through.mT @ block.skip
    return Step(factor, torch.linalg.solve_triangular(factor, gain, upper=False))


def _previous(block: Block, lam: Tensor, ahead: Tensor, whitened: Tensor) -> Tensor:
    value = whitened.mT @ whitened
    product = block.low * block.high
    if bool((product != 0).any()):
        value = value - block.inner.mT @ ((lam * product)[:, None] * block.inner)
    if isinstance(block.skip, Tensor):
        value = value + block.skip.mT @ (ahead @ block.skip)
    return (value + value.mT) / 2


@dataclass(frozen=True)
class _Local:
    """One block of the Gaussian chain: p = P x + w, q = Q x + w, x_{i+1} = F x + B w."""

    p: Tensor
    q: Tensor
    forward: Tensor
    noise: Tensor
    carried: Tensor

    def advance(self, block: Block, covariance: Tensor) -> Tensor:
        """Return the covariance of x_{i+1} from that of x_i."""
        noise = self.carried if block.outer is None else self.carried @ block.outer.mT
        return self.forward @ covariance @ self.forward.mT + noise


def _local(block: Block, step: Step) -> _Local:
    feedback = torch.linalg.solve_triangular(step.factor.mT, step.whitened, upper=True)
    noise = torch.cholesky_inverse(step.factor)
    forward = feedback if block.outer is None else block.outer @ feedback
    if isinstance(block.skip, Tensor):
        forward = forward + block.skip
    return _Local(
        feedback - block.low[:, None] * block.inner,
        feedback - block.high[:, None] * block.inner,
        forward,
        noise,
        noise if block.outer is None else block.outer @ noise,
    )


def gradient(chain: Chain, result: Sweep, covariance: Tensor) -> Tensor:
    """Return the derivative of the barrier with respect to (lam, rho), shape [N + 1].

    Args:
        chain: The chain.
        result: Its sweep.
        covariance: (rho I - P_0)^-1.
    """
    parts, last = [], -covariance.trace()[None]
    for block, step in zip(chain.blocks, result.steps, strict=True):
        local = _local(block, step)
        parts.append(-((local.p @ covariance) * local.q).sum(1) - local.noise.diagonal())
        covariance = local.advance(block, covariance)
    return torch.cat((*parts, last))


def derivatives(chain: Chain, result: Sweep, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient, and the Hessian with respect to (lam, rho), [N + 1, N + 1]."""
    total = sum(block.neurons for block in chain.blocks)
    matrix = covariance.new_empty(total + 1, total + 1)
    matrix[total, total] = covariance.square().sum()
    # Covariances of x_i with x_0, and with p and q of all blocks before.
    with_start, with_p, with_q = covariance, covariance[:, :0], covariance[:, :0]
    done, parts, last = 0, [], -covariance.trace()[None]
    for block, step in zip(chain.blocks, result.steps, strict=True):
        local, rows = _local(block, step), slice(done, done + block.neurons)
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
        covariance = local.advance(block, covariance)
        done += block.neurons
    return torch.cat((*parts, last)), matrix.tril_() + matrix.tril(-1).mT


def _own_block(local: _Local, p_cov: Tensor, q_cov: Tensor) -> tuple[Tensor, Tensor]:
    """Return one block's own second derivatives and its gradient."""
    pp, qq = p_cov @ local.p.mT + local.noise, q_cov @ local.q.mT + local.noise
    pq = p_cov @ local.q.mT + local.noise
    return (pp * qq + pq * pq.mT) / 2, -pq.diagonal()


def block_hessian(
    chain: Chain, result: Sweep, covariance: Tensor
) -> tuple[list[Tensor], Tensor, float]:
    """Return the Hessian's diagonal blocks, its row of (lam, rho), and its entry of (rho, rho)."""
    corner = float(covariance.square().sum())
    with_start, blocks, border = covariance, [], []
    for block, step in zip(chain.blocks, result.steps, strict=True):
        local = _local(block, step)
        blocks.append(_own_block(local, local.p @ covariance, local.q @ covariance)[0])
        border.append(((local.p @ with_start) * (local.q @ with_start)).sum(1))
        with_start = local.forward @ with_start
        covariance = local.advance(block, covariance)
    return blocks, torch.cat(border), corner
