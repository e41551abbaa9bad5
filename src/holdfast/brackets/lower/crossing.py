"""Hill climbing over the kinks of a net, with the true Jacobian.

In a piecewise linear net nothing changes before the next kink. Along a direction d the argument z
of a kink changes sign at t = -z / (dz/dt), to first order: candidates are put between one of the
nearest crossings and the next, so that every one of them stands in another piece, whatever the
pieces' size. A small loss is accepted now and then, and the best is remembered.
"""

import torch
from torch import Tensor

from holdfast.brackets.lower.climbers import Climbers, Hunt, refine, slopes_uphill
from holdfast.brackets.lower.pairs import lengths, over_rows, project
from holdfast.brackets.lower.tangent import kinks

_FAR = 1e300
"""Stands for a kink that is never met: beyond all distances, and still finite."""


def cross(hunt: Hunt, climbers: Climbers, steps: int, candidates: int) -> Climbers:
    """Try candidates round every climber and go to the best, step by step.

    Args:
        hunt: What is looked for.
        climbers: From where.
        steps: Number of steps, fewer when the time is spent.
        candidates: Tried per climber and step.

    Returns:
        The best that each climber met.
    """
    now = best = climbers
    for _ in range(steps):
        if hunt.spent():
            break
        now = _move(hunt, now, candidates)
        best = _better(now, best, now.values > best.values)
    return best


def _better(new: Climbers, old: Climbers, chosen: Tensor) -> Climbers:
    """Return the new climbers where chosen, else the old ones."""
    return Climbers(
        torch.where(over_rows(chosen, new.points), new.points, old.points),
        torch.where(over_rows(chosen, new.points), new.directions, old.directions),
        torch.where(chosen, new.values, old.values),
        torch.where(over_rows(chosen, new.points), new.scales, old.scales),
    )


def _move(hunt: Hunt, climbers: Climbers, candidates: int) -> Climbers:
    """Go to the best candidate of each climber, unless it loses too much."""
    parents = torch.arange(len(climbers)).repeat_interleave(candidates)
    crowd = climbers[parents]
    ways = _ways(hunt, climbers, parents)
    reach = _reach(hunt, crowd, ways)
    points = project(hunt.region, crowd.points + ways * over_rows(reach, ways))
    tried = refine(hunt, Climbers(points, crowd.directions, crowd.values, crowd.scales), 2)
    winner = tried.values.reshape(-1, candidates).argmax(1)
    winners = tried[winner + torch.arange(len(climbers)) * candidates]
    loss = 0.03 * hunt.uniform(len(climbers))  # relative, at most
    return _better(winners, climbers, winners.values >= climbers.values * (1.0 - loss))


def _ways(hunt: Hunt, climbers: Climbers, parents: Tensor) -> Tensor:
    """Return directions to try: random, sparse, towards another climber, uphill.

    Args:
        hunt: What is looked for.
        climbers: The parents, [N, ...].
        parents: Which of them each candidate starts from, [M].

    Returns:
        [M, ...].
    """
    points = climbers.points[parents]
    noise = hunt.normal(points) * climbers.scales[parents]
    few = hunt.uniform(points.numel()).reshape(points.shape) < 0.2
    other = climbers.points[hunt.choose(len(climbers), len(points))]
    sharpness = 2.0 * 50.0 ** float(hunt.uniform(1))
    uphill, _ = slopes_uphill(hunt, climbers.points, climbers.directions, sharpness)
    blurred = over_rows(0.3 * hunt.uniform(len(points)), points) * noise
    kinds = (
        noise,
        noise * few,
        other - points,
        (uphill * climbers.scales)[parents] + blurred,
    )
    kind = torch.arange(len(points)) % len(kinds)
    ways = torch.zeros_like(points)
    for number, way in enumerate(kinds):
        ways = torch.where(over_rows(kind == number, ways), way, ways)
    return hunt.free(ways)


def _reach(hunt: Hunt, crowd: Climbers, ways: Tensor) -> Tensor:
    """Return how far to go along each way: between two of the nearest crossings.

    A way without a crossing, or one that leads out of sight, gets a random length.
    """
    anywhere = 10.0 ** (-4.0 * hunt.uniform(len(ways)))
    nearby = 5  # crossings that are taken into account along each way
    between, which = hunt.uniform(len(ways)), hunt.choose(nearby - 1, len(ways))
    distances = crossings(hunt, crowd.points, ways)
    if not distances.shape[1]:
        return anywhere
    nearest = distances.topk(min(nearby, distances.shape[1]), largest=False).values
    nearest = torch.cat([nearest, torch.full_like(nearest[:, :1], _FAR)], 1)
    which = which.clamp(max=nearest.shape[1] - 2)[:, None]
    before, after = nearest.gather(1, which)[:, 0], nearest.gather(1, which + 1)[:, 0]
    after = torch.where(after < _FAR, after, 2.0 * before)
    reach = before + between * (after - before)
    limit = 100.0 * (lengths(crowd.points, 2.0) + lengths(crowd.scales, 2.0))
    sighted = (before < _FAR) & (reach * lengths(ways, 2.0) <= limit)
    return torch.where(sighted, reach, anywhere)


def crossings(hunt: Hunt, points: Tensor, ways: Tensor) -> Tensor:
    """Return the distances to kinks ahead, to first order, in lengths of the ways.

    Args:
        hunt: Holds the graph.
        points: [N, ...].
        ways: Same shape.

    Returns:
        [N, K], 1e300 where there is no kink ahead; K is 0 for a smooth net.
    """

    def arguments(x: Tensor) -> Tensor:
        return kinks(hunt.graph, x)

    with torch.no_grad():
        try:
            value, change, *_ = torch.func.jvp(arguments, (points,), (ways,))
        except (NotImplementedError, RuntimeError):  # an op without a forward mode
            return points.flatten(1)[:, :0]
    distances = -value / change
    ahead = (distances > 0) & (distances < _FAR)
    return torch.where(ahead, distances, torch.full_like(distances, _FAR))
