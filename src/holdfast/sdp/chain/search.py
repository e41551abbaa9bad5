"""The multipliers of the least bound: an anytime barrier method on the Riccati recursion.

Follows the central path of `barrier` (Vandenberghe and Boyd, "Semidefinite Programming", 1996;
the choice of mu by the Newton decrement and the dual bound follow Benson, Ye and Zhang, "Solving
Large-Scale Sparse Semidefinite Programs for Combinatorial Optimization", 2000). Every iterate is
feasible. Three things make it quick: the Hessian comes from the recursion, at O(n N^2); after
every step rho is set to its best value for the multipliers (without this the iterates stick to
the boundary); and each Hessian serves further cheap steps, corrected as in L-BFGS. Beyond
`barrier.DENSE_NEURONS` only its diagonal blocks are formed, and L-BFGS does more of the work.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from holdfast.sdp.chain.barrier import Point, Problem, QuadraticModel, model_at
from holdfast.sdp.chain.chain import Chain, condense
from holdfast.sdp.chain.metric import Metric
from holdfast.sdp.chain.recursion import sweep
from holdfast.sdp.chain.start import closed_form, feasible, top_eigenvalue

Found = Callable[[float, tuple[Tensor, ...]], None]
"""Called with an estimate of the bound, and one tensor of multipliers per layer."""

_DECREMENT = 12.0
"""Newton decrement aimed at where the point is central; a first step has about this length."""


class Memory:
    """L-BFGS on top of a metric, of lengths where there is none.

    Nocedal and Wright, "Numerical Optimization", algorithm 7.4.
    """

    def __init__(self, base: Metric | None, length: int = 10) -> None:
        self.base = base
        self.length = length
        self.pairs: list[tuple[Tensor, Tensor, float]] = []

    def update(self, step: Tensor, change: Tensor) -> None:
        """Remember a step and the change of gradient along it."""
        product = float(step @ change)
        if product > 0.0:
            self.pairs = [*self.pairs[1 - self.length :], (step, change, product)]

    def direction(self, residual: Tensor) -> Tensor:
        """Return minus the approximate inverse Hessian times the gradient."""
        right, weights = residual.clone(), []
        for step, change, product in reversed(self.pairs):
            weights.append(float(step @ right) / product)
            right -= weights[-1] * change
        found = right if self.base is None else self.base.solve(right)
        for (step, change, product), weight in zip(self.pairs, reversed(weights), strict=True):
            found += (weight - float(change @ found) / product) * step
        return -found


def _search(
    problem: Problem, point: Point, direction: Tensor, slope: float, tau: float
) -> Point | None:
    """Return a feasible point along a direction with a sufficient decrease, or None."""
    size = min(1.0, _DECREMENT / (1.0 + math.sqrt(-slope)))
    for _ in range(12):  # down to a 300th of the step
        rho = point.rho + size * float(direction[-1])
        trial = problem.point(point.lam + size * direction[:-1], rho)
        if trial is not None:
            change = tau * (rho - point.rho) + trial.barrier - point.barrier
            if change < 0.1 * size * slope:  # Armijo's condition
                return trial
        size *= 0.6
    return None


def _descend(
    problem: Problem, point: Point, model: QuadraticModel, tau: float, deadline: float
) -> Point:
    """Take a Newton step and a few cheap ones that reuse its metric."""
    memory = Memory(model.metric)
    residual = model.slope.clone()
    residual[-1] += tau
    direction = model.direction(tau)
    cheap = 3 if problem.dense else 25  # the diagonal blocks alone need more correction
    for count in range(1, cheap + 1):
        slope = float(direction @ residual)
        if slope > -0.25:  # the rest is below the accuracy of the path
            break
        after = _search(problem, point, direction, slope, tau)
        if after is None:
            break
        if count == cheap or time.monotonic() > deadline:
            return after
        following = problem.gradient(after, after.covariance())
        following[-1] += tau
        step = torch.cat((after.lam - point.lam, point.lam.new_tensor([after.rho - point.rho])))
        memory.update(step, following - residual)
        point, residual = after, following
        direction = memory.direction(residual)
    return point


def _next_tau(problem: Problem, model: QuadraticModel, before: float) -> float:
    """Return 1 / mu: further along the path where the point is central, else near it.

    The diagonal blocks alone say little about the distance to the path: there mu just falls.
    """
    if not problem.dense:
        return before * (2.0 if model.decrement(before) < 2.0 else 1.05)
    distance = model.decrement(model.nearest())
    # Within a decrement of 1 Newton's method converges: there it pays to go on.
    return model.farthest(_DECREMENT if distance < 1.0 else 1.5 * distance)


def _floor(problem: Problem, point: Point, model: QuadraticModel, tau: float) -> float:
    """Estimate what no multipliers go below; near the path the gap is size / tau."""
    if problem.dense:
        return model.floor(point.rho, problem.size)
    return point.rho - 2.0 * problem.size / tau if model.decrement(tau) < 2.0 else 0.0


def _least(chain: Chain, found: Found, best: float, lam: Tensor, square: float) -> float:
    """Return the smaller of two squared estimates, and report the new one where it is that.

    Args:
        chain: The network, not condensed.
        found: Called with an improvement.
        best: The smallest lambda_max(P_0) so far.
        lam: Feasible multipliers.
        square: Their lambda_max(P_0).
    """
    if not 0.0 <= square < best:
        return best
    found(math.sqrt(square), expand(chain, lam))
    return square


def expand(chain: Chain, lam: Tensor) -> tuple[Tensor, ...]:
    """Return multipliers per layer of a chain from those of its free neurons, 0 elsewhere."""
    pieces, done = [], 0
    for layer in chain.layers:
        free = layer.free
        piece, count = layer.low.new_zeros(layer.neurons), int(free.sum())
        piece[free] = lam[done : done + count]
        pieces.append(piece)
        done += count
    return tuple(pieces)


def minimise(chain: Chain, tolerance: float, seconds: float, found: Found) -> None:
    """Search the multipliers of the least Lipschitz bound.

    Args:
        chain: The network.
        tolerance: End when the estimate is so close to the least value, relatively.
        seconds: Wall time after which the search ends; one step may outlast it.
        found: Called with an estimate and multipliers at every improvement; never where the weights
            are too large or too ill-scaled for any. `proof.chain_upper` makes bounds of them.
    """
    deadline = time.monotonic() + seconds
    small = condense(chain)
    first = feasible(small, closed_form(small))
    result = None if first is None else sweep(small, first)
    if first is None or result is None:
        return
    top = top_eigenvalue(result.start)
    best = _least(chain, found, math.inf, first, top if len(first) else max(top, 0.0))
    if not (top > 0.0 and len(first)):
        return
    problem = Problem(small, first)
    point = problem.point(first, 1.5 * top)
    stalled, floor, tau = 0, 0.0, problem.size / (1.5 * top)
    while point is not None and stalled < 3 and time.monotonic() <= deadline:
        model = model_at(problem, point)
        if model is None:
            return
        floor = max(floor, _floor(problem, point, model, tau))
        if best <= floor * (1.0 + tolerance) ** 2:
            return
        tau = _next_tau(problem, model, tau)
        after = _descend(problem, point, model, tau, deadline)
        after, top = problem.recentre(after, 1.0 / tau)
        stalled = stalled + 1 if after.lam is point.lam and top >= best else 0
        best = _least(chain, found, best, after.lam, top)
        point = after
