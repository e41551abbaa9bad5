"""The log-det barrier of a chain's LMI: points, their quadratic models, the best rho.

phi(rho, lam) = rho / mu - log det M(rho, lam) is convex and self-concordant; its minimisers over
falling mu are the central path, which ends at the LipSDP-Neuron optimum.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.sdp.chain.chain import Chain
from holdfast.sdp.chain.metric import Metric, block_metric, dense_metric
from holdfast.sdp.chain.recursion import Sweep, derivatives, gradient, sweep
from holdfast.sdp.chain.start import eigenvalues

DENSE_NEURONS = 6000
"""Up to so many neurons the whole Hessian is formed: N^2 numbers, about 2.5 copies at once."""


@dataclass(frozen=True)
class Point:
    """A strictly feasible (rho, lam) with its sweep and the Cholesky factor of rho I - P_0."""

    lam: Tensor
    rho: float
    result: Sweep
    factor: Tensor
    barrier: float

    def covariance(self) -> Tensor:
        """Return (rho I - P_0)^-1."""
        return torch.cholesky_inverse(self.factor)


class Problem:
    """The barrier of one chain, with a faint penalty that keeps useless multipliers bounded."""

    def __init__(self, chain: Chain, first: Tensor) -> None:
        self.chain = chain
        # Multipliers that the bound does not need stay below about 30 times their start.
        self.penalty = 1.0 / (30.0 * first)
        self.inputs = chain.layers[0].inner.shape[1]
        self.size = first.numel() + self.inputs
        self.dense = first.numel() <= DENSE_NEURONS

    def point(self, lam: Tensor, rho: float) -> Point | None:
        """Return the point, or None where it is not feasible."""
        if not (rho > 0.0 and bool((lam > 0).all())):
            return None
        result = sweep(self.chain, lam)
        return None if result is None else self.at(lam, rho, result)

    def at(self, lam: Tensor, rho: float, result: Sweep) -> Point | None:
        """Return the point of a sweep that was made before, or None where it is not feasible."""
        eye = torch.eye(self.inputs, dtype=lam.dtype, device=lam.device)
        factor, failed = torch.linalg.cholesky_ex(rho * eye - result.start)
        if int(failed):
            return None
        logdet = 2.0 * float(factor.diagonal().log().sum()) + result.logdet
        value = float(self.penalty @ lam) - logdet
        return Point(lam, rho, result, factor, value) if math.isfinite(value) else None

    def gradient(self, point: Point, covariance: Tensor) -> Tensor:
        """Return the derivative of the barrier with respect to (lam, rho)."""
        slope = gradient(self.chain, point.result, covariance)
        slope[:-1] += self.penalty
        return slope

    def derivatives(self, point: Point, covariance: Tensor) -> tuple[Tensor, Metric | None]:
        """Return the gradient and the metric."""
        if not self.dense:
            found = block_metric(self.chain, point.result, covariance)
            return self.gradient(point, covariance), found
        slope, matrix = derivatives(self.chain, point.result, covariance)
        slope[:-1] += self.penalty
        return slope, dense_metric(matrix)

    def recentre(self, point: Point, mu: float) -> tuple[Point, float]:
        """Return the point with the best rho for mu, and lambda_max(P_0)."""
        eigen = eigenvalues(point.result.start)
        top = float(eigen[-1])
        gaps = top - eigen
        low, high = 0.5 * mu, mu * self.inputs
        for _ in range(50):
            middle = math.sqrt(low * high)
            below = float((mu / (gaps + middle)).sum()) > 1.0
            low, high = (middle, high) if below else (low, middle)
        better = self.at(point.lam, top + high, point.result)
        return (better or point), top


@dataclass(frozen=True)
class QuadraticModel:
    """The barrier's quadratic model at a point, for every mu at once."""

    metric: Metric
    slope: Tensor
    to_rho: Tensor
    to_centre: Tensor

    def decrement(self, tau: float) -> float:
        """Return the Newton decrement for mu = 1 / tau."""
        a, b, c = self._coefficients()
        return math.sqrt(max(a * tau * tau + 2.0 * b * tau + c, 0.0))

    def _coefficients(self) -> tuple[float, float, float]:
        return (
            float(self.to_rho[-1]),
            float(self.to_centre[-1]),
            float(self.slope @ self.to_centre),
        )

    def nearest(self) -> float:
        """Return the 1 / mu of the point on the central path that is nearest."""
        a, b, _ = self._coefficients()
        return max(-b / a, 1e-300) if a > 0 else math.nan

    def farthest(self, decrement: float) -> float:
        """Return the largest 1 / mu with at most that decrement."""
        a, b, c = self._coefficients()
        return (-b + math.sqrt(max(b * b - a * (c - decrement * decrement), 0.0))) / a

    def direction(self, tau: float) -> Tensor:
        """Return the Newton step for mu = 1 / tau."""
        return -(tau * self.to_rho + self.to_centre)

    def floor(self, rho: float, size: int) -> float:
        """Return rho less the duality gap of the primal point that this model implies, or 0.

        Args:
            rho: The model's rho.
            size: Order of the matrix M.
        """
        if self.decrement(self.nearest()) >= 0.99:
            return 0.0
        tau = self.farthest(0.99)
        return rho - (size + float(self.slope @ self.direction(tau))) / tau


def model_at(problem: Problem, point: Point) -> QuadraticModel | None:
    """Return the quadratic model at a point, or None where rounding spoils it."""
    covariance = point.covariance()
    slope, found = problem.derivatives(point, covariance)
    if found is None or not bool(torch.isfinite(slope).all()):
        return None
    unit = torch.zeros_like(slope)
    unit[-1] = 1.0
    model = QuadraticModel(found, slope, found.solve(unit), found.solve(slope))
    return model if math.isfinite(model.nearest()) and model.nearest() > 0 else None
