"""Lower bounds of a Lipschitz constant: the largest Jacobian over given points.

The Jacobian at a point says in which direction the output changes fastest (power iteration with
Jacobian-vector products); a pair of points along that direction is the witness.
`holdfast.brackets.lower.ascent` looks for better points.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.brackets.lower.pairs import (
    SteepPair,
    best_pair,
    lengths,
    over_rows,
    pairs_along,
    unit,
)
from holdfast.brackets.lower.tangent import with_change
from holdfast.graph.ir import Graph
from holdfast.graph.walk import run
from holdfast.types import Region

Spent = Callable[[], bool]
"""Says whether the time is over."""


def _never() -> bool:
    return False


def steepest_pairs(
    graph: Graph,
    points: Tensor,
    norm: float,
    region: Region | None,
    batch: int = 256,
    spent: Spent = _never,
) -> Iterator[SteepPair]:
    """Yield pairs with ever larger slopes, going through the points batch by batch.

    Args:
        graph: Captured model.
        points: Where to look, [N, ...].
        norm: 1, 2 or inf, on both sides.
        region: Both points of a pair lie in it; None for no restriction.
        batch: Points taken at once.
        spent: Says when to stop; asked between steps.

    Yields:
        A `SteepPair` whenever a batch has a larger proved slope than all before.
    """
    graph = graph.double()
    best = 0.0
    for number, part in enumerate(points.double().split(batch)):
        if number and spent():
            return
        directions, values = steepest_directions(graph, part, norm, spent)
        finalists = values.argsort(descending=True)[:8]
        pairs = pairs_along(part[finalists], directions[finalists], region)
        for tried, (first, second) in enumerate(pairs):
            # Without time a pair that proves something is enough, and two that do not.
            if spent() and (best or tried > 1):
                return
            witness = best_pair(graph, first, second, norm)
            if witness.slope > best:
                best = witness.slope
                yield witness


def steepest_directions(
    graph: Graph, points: Tensor, norm: float, spent: Spent = _never
) -> tuple[Tensor, Tensor]:
    """Return unit directions of fast change at points, and the rate of change there.

    Args:
        graph: Captured model in float64.
        points: [N, ...].
        norm: 1, 2 or inf.
        spent: Says when to stop; asked between steps of the power iteration.

    Returns:
        Directions [N, ...] of length 1 in the norm, and ||J u|| per point, [N].
    """
    function = partial(run, graph)
    if norm == 2.0:
        return _power_iteration(function, points, spent)
    return _by_output(function, points, norm)


def _power_iteration(function: Callable, points: Tensor, spent: Spent) -> tuple[Tensor, Tensor]:
    """Iterate u <- J^T J u, all points at once: rows do not influence each other."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(points.shape, generator=generator, dtype=points.dtype)
    direction = unit(noise, 2.0)
    _, pull = _vjp(function, points)
    for _ in range(20):
        (back,) = pull(_push(function, points, direction))
        moving = over_rows(lengths(back, 2.0) > 0, back)
        direction = torch.where(moving, unit(back, 2.0), direction)
        if spent():
            break
    change = _push(function, points, direction)
    return direction.detach(), lengths(change, 2.0).detach()


def _vjp(function: Callable, points: Tensor) -> tuple[Tensor, Callable]:
    """Return the values at points, and the map from output to input directions there."""
    values, pull, *_ = torch.func.vjp(function, points)
    return values, pull


def _push(function: Callable, points: Tensor, directions: Tensor) -> Tensor:
    """Return the change of the output along directions, [N, ...]."""
    return with_change(function, (points,), (directions,))[1].detach()


def _by_output(function: Callable, points: Tensor, norm: float) -> tuple[Tensor, Tensor]:
    """Write the Jacobian out, output by output; its best row (linf) or column (l1) says where."""
    output, pull = _vjp(function, points)
    flat = flat_rows(output)
    count = min(flat.shape[1], 256)  # each output takes a pass of its own
    if norm == math.inf:
        return _best_row(pull, output, count)
    sums = flat_rows(torch.zeros_like(points))
    for k in range(count):
        sums += flat_rows(_gradient(pull, output, k)).abs()
    value, place = sums.max(1)
    direction = torch.zeros_like(sums).scatter_(1, place[:, None], 1.0)
    return direction.reshape(points.shape), value


def _gradient(pull: Callable, output: Tensor, k: int) -> Tensor:
    """Return the gradient of the k-th output entry, for every row."""
    chosen = flat_rows(torch.zeros_like(output))
    chosen[:, k] = 1.0
    (gradient,) = pull(chosen.reshape(output.shape))
    return gradient.detach()


def _best_row(pull: Callable, output: Tensor, count: int) -> tuple[Tensor, Tensor]:
    direction = torch.ones_like(_gradient(pull, output, 0))
    best = torch.zeros(output.shape[0], dtype=output.dtype)
    for k in range(count):
        gradient = _gradient(pull, output, k)
        value = lengths(gradient, 1.0)
        better = value > best
        signs = torch.where(gradient < 0, -1.0, 1.0).to(direction)
        direction = torch.where(over_rows(better, direction), signs, direction)
        best = torch.maximum(best, value)
    return direction, best
