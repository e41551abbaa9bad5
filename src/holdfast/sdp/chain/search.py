"""The multipliers of the least bound: an anytime barrier method on the Riccati recursion.

Follows the central path of `barrier` (Vandenberghe and Boyd, "Semidefinite Programming", 1996;
the choice of mu by the Newton decrement and the dual bound follow Benson, Ye and Zhang, "Solving
Large-Scale Sparse Semidefinite Programs for Combinatorial Optimization", 2000). Every iterate is
feasible. Three things make it quick: the Hessian comes from the recursion, at O(n N^2); after
every step rho is set to its best value for the multipliers (without this the iterates stick to
the boundary); and each Hessian serves further cheap steps, corrected as in L-BFGS. Beyond
`metric.DENSE_NEURONS` only its diagonal blocks are formed, and L-BFGS does more of the work.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from holdfast.sdp.chain.barrier import Model, Point, Problem, model_at
from holdfast.sdp.chain.chain import Chain, condense
from holdfast.sdp.chain.metric import Metric
from holdfast.sdp.chain.recursion import sweep
from holdfast.sdp.chain.start import closed_form, feasible, top_eigenvalue

Callback = Callable[[float, float, tuple[Tensor, ...]], None]
"""Called with seconds since the start, the estimate, and one tensor of multipliers per block."""

_DECREMENT = 12.0
"""Newton decrement aimed at where the point is central; a first step has about this length."""
_CENTRED, _LOOSEN = 1.0, 1.5
_ARMIJO, _SHRINK, _TRIALS = 0.1, 0.6, 12
_CHEAP_DENSE, _CHEAP_BLOCKS = 3, 25
_NEGLIGIBLE = 0.25
_PATIENCE = 3
_GROWTH, _CREEP, _SETTLED = 2.0, 1.05, 2.0


class Ending(Enum):
    """Why the search ended."""

    OPTIMAL = "the estimate is within the tolerance of the least value of this relaxation"
    TIME = "the time was spent; more would lower the estimate further"
    STAGNATED = "rounding stopped the search; the multipliers are the best ones found"
    INFEASIBLE = "no multipliers were found: the weights are too large or too ill-scaled"


@dataclass(frozen=True)
class Solution:
    """Multipliers and what is estimated of them; only `proof.chain_upper` makes a bound of them.

    Attributes:
        multipliers: One tensor per block, for the chain as given; 0 where none is needed.
        estimate: The recursion's value in floating point.
        floor_estimate: No multipliers reach less, by weak duality in floating point; 0 if unknown.
        ending: Why the search ended.
        steps: How many Hessians were formed.
    """

    multipliers: tuple[Tensor, ...]
    estimate: float
    floor_estimate: float
    ending: Ending
    steps: int


class _Memory:
    """L-BFGS on top of a metric (Nocedal and Wright, "Numerical Optimization", algorithm 7.4)."""

    def __init__(self, base: Metric, length: int = 10) -> None:
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
        found = self.base.solve(right)
        for (step, change, product), weight in zip(self.pairs, reversed(weights), strict=True):
            found += (weight - float(change @ found) / product) * step
        return -found


def _search(
    problem: Problem, point: Point, direction: Tensor, slope: float, tau: float
) -> Point | None:
    """Return a feasible point along a direction with a sufficient decrease, or None."""
    size = min(1.0, _DECREMENT / (1.0 + math.sqrt(-slope)))
    for _ in range(_TRIALS):
        rho = point.rho + size * float(direction[-1])
        trial = problem.point(point.lam + size * direction[:-1], rho)
        if trial is not None:
            change = tau * (rho - point.rho) + trial.barrier - point.barrier
            if change < _ARMIJO * size * slope:
                return trial
        size *= _SHRINK
    return None


def _descend(problem: Problem, point: Point, model: Model, tau: float, deadline: float) -> Point:
    """Take a Newton step and a few cheap ones that reuse its metric."""
    memory = _Memory(model.metric)
    residual = model.slope.clone()
    residual[-1] += tau
    direction = model.direction(tau)
    cheap = _CHEAP_DENSE if problem.dense else _CHEAP_BLOCKS
    for count in range(1, cheap + 1):
        slope = float(direction @ residual)
        if slope > -_NEGLIGIBLE:
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


def _next_tau(problem: Problem, model: Model, before: float) -> float:
    """Return 1 / mu: further along the path where the point is central, else near it.

    The diagonal blocks alone say little about the distance to the path: there mu just falls.
    """
    if not problem.dense:
        return before * (_GROWTH if model.decrement(before) < _SETTLED else _CREEP)
    nearest = model.nearest()
    distance = model.decrement(nearest)
    return model.farthest(_DECREMENT if distance < _CENTRED else _LOOSEN * distance)


def _floor(problem: Problem, point: Point, model: Model, tau: float) -> float:
    """Estimate what no multipliers go below; near the path the gap is size / tau."""
    if problem.dense:
        return model.floor(point.rho, problem.size)
    return point.rho - 2.0 * problem.size / tau if model.decrement(tau) < _SETTLED else 0.0


class _Record:
    """The best multipliers so far, and the reports to the caller."""

    def __init__(self, chain: Chain, callback: Callback | None) -> None:
        self.chain = chain
        self.callback = callback
        self.began = time.monotonic()
        self.square = math.inf
        self.floor = 0.0
        self.best: Tensor | None = None

    def see(self, lam: Tensor, square: float) -> None:
        """Take note of feasible multipliers and of lambda_max(P_0)."""
        if not 0.0 <= square < self.square:
            return
        self.square, self.best = square, lam
        if self.callback is not None:
            self.callback(time.monotonic() - self.began, math.sqrt(square), expand(self.chain, lam))

    def closed(self, tolerance: float) -> bool:
        """Tell whether the estimate is within the tolerance of its floor."""
        return self.square <= self.floor * (1.0 + tolerance) ** 2

    def solution(self, ending: Ending, steps: int) -> Solution:
        """Return the best multipliers with the reason to stop."""
        if self.best is None:
            return Solution((), math.inf, 0.0, Ending.INFEASIBLE, 0)
        found = expand(self.chain, self.best)
        return Solution(
            found, math.sqrt(self.square), math.sqrt(max(self.floor, 0.0)), ending, steps
        )


def expand(chain: Chain, lam: Tensor) -> tuple[Tensor, ...]:
    """Return multipliers per block of a chain from those of its free neurons, 0 elsewhere."""
    pieces, done = [], 0
    for block in chain.blocks:
        free = block.free
        piece, count = block.low.new_zeros(block.neurons), int(free.sum())
        piece[free] = lam[done : done + count]
        pieces.append(piece)
        done += count
    return tuple(pieces)


def restrict(chain: Chain, multipliers: tuple[Tensor, ...]) -> Tensor:
    """Return the multipliers of the free neurons as one vector: the inverse of `expand`."""
    pairs = zip(chain.blocks, multipliers, strict=True)
    return torch.cat([piece[block.free] for block, piece in pairs])


def minimise(
    chain: Chain,
    *,
    seconds: float = 30.0,
    tolerance: float = 1e-5,
    callback: Callback | None = None,
    warm: tuple[Tensor, ...] | None = None,
) -> Solution:
    """Search the multipliers of the least Lipschitz bound.

    Args:
        chain: The network, on any device.
        seconds: Wall time after which the search ends; one step may outlast it.
        tolerance: End when the estimate is so close to the least value, relatively.
        callback: Called with (seconds, estimate, multipliers) at every improvement.
        warm: Multipliers to start from, as in `Solution`, where they are feasible.

    Returns:
        The best multipliers found. Their bound is what `proof.chain_upper` proves of them.
    """
    record = _Record(chain, callback)
    small = condense(chain)
    first = _begin(chain, small, warm)
    if first is None:
        return record.solution(Ending.INFEASIBLE, 0)
    if first.numel() == 0:
        return _without_neurons(small, record)
    return _follow(small, first, record, seconds, tolerance)


def _begin(chain: Chain, small: Chain, warm: tuple[Tensor, ...] | None) -> Tensor | None:
    if warm is not None:
        given = restrict(chain, warm)
        if bool((given > 0).all()) and sweep(small, given) is not None:
            return given
    return feasible(small, closed_form(small))


def _without_neurons(chain: Chain, record: _Record) -> Solution:
    nothing = chain.last.new_zeros(0)
    result = sweep(chain, nothing)
    if result is not None:
        record.see(nothing, max(top_eigenvalue(result.start), 0.0))
    return record.solution(Ending.OPTIMAL, 0)


def _follow(
    chain: Chain, first: Tensor, record: _Record, seconds: float, tolerance: float
) -> Solution:
    """Follow the central path from feasible multipliers of a condensed chain."""
    deadline = record.began + seconds
    problem = Problem(chain, first)
    result = sweep(chain, first)
    top = top_eigenvalue(result.start) if result else math.nan
    record.see(first, top)
    if not top > 0.0:
        return record.solution(Ending.OPTIMAL, 0)
    point = problem.point(first, 1.5 * top)
    steps, stalled, tau = 0, 0, problem.size / (1.5 * top)
    while point is not None and stalled < _PATIENCE:
        if time.monotonic() > deadline:
            return record.solution(Ending.TIME, steps)
        model = model_at(problem, point)
        if model is None:
            break
        steps += 1
        record.floor = max(record.floor, _floor(problem, point, model, tau))
        if record.closed(tolerance):
            return record.solution(Ending.OPTIMAL, steps)
        tau = _next_tau(problem, model, tau)
        after = _descend(problem, point, model, tau, deadline)
        after, top = problem.recentre(after, 1.0 / tau)
        stalled = stalled + 1 if after.lam is point.lam and top >= record.square else 0
        record.see(after.lam, top)
        point = after
    return record.solution(Ending.STAGNATED, steps)
