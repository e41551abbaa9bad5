"""Lower bounds of a Lipschitz constant by search: far better than the data maximum.

Rounds of two searches that help each other. Smoothed ascent (`climbers.ascend`) finds good
neighbourhoods from the given points and from random ones of all sizes; hill climbing over the
kinks (`crossing.cross`) finds the best linear piece there, which on small nets is most often the
exact constant. What is yielded is a pair of points whose slope is proved (`pairs`).
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from holdfast.brackets.budget import products
from holdfast.brackets.lower.climbers import Climbers, Hunt, ascend, recruit, refine
from holdfast.brackets.lower.crossing import cross, crossings
from holdfast.brackets.lower.pairs import (
    SteepPair,
    best_pair,
    contains,
    over_rows,
    pairs_along,
    project,
    sample,
)
from holdfast.brackets.lower.steepest import steepest_directions
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.ir import Graph
from holdfast.ops import Kind, names
from holdfast.types import Region


def within(seconds: float) -> Callable[[], bool]:
    """Return a clock that says, from now on, whether so many seconds are spent."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


def ascending_pairs(
    graph: Graph,
    points: Tensor,
    norm: float,
    region: Region | None,
    spent: Callable[[], bool],
    seed: int = 0,
) -> Iterator[SteepPair]:
    """Yield pairs with ever larger slopes until the time is spent.

    Args:
        graph: Captured model.
        points: Where to start, [N, ...]: finite data, or points of the region.
            Up to 256 of them are taken, always the first: put the best known one there.
        norm: 1, 2 or inf, on both sides.
        region: Both points of a pair lie in it; None for no restriction.
        spent: Says when to stop (`within(seconds)`); asked between steps.
        seed: Of the random choices. The pairs depend on the seed and on how often `spent` says
            no, on nothing else.

    Yields:
        A `SteepPair` whenever its proved slope is larger than all before.
    """
    generator = torch.Generator().manual_seed(seed)
    hunt = Hunt(with_pairs(graph.double()), norm, region, spent, generator)
    best = 0.0
    for elite in _rounds(hunt, project(region, points.double())):
        if float(elite.values.max()) <= best * (1.0 + 1e-9):
            continue
        for witness in _witnesses(hunt, elite):
            if witness.slope > best:
                best = witness.slope
                yield witness
            if hunt.late():
                return


def _rounds(hunt: Hunt, points: Tensor) -> Iterator[Climbers]:
    """Yield teams of climbers after every stage of every round.

    Rounds start in turn from the given points with random ones, and from near the elite; the
    first are short.
    """
    entries = sum(max(1, math.prod(node.shape)) for node in hunt.graph.nodes)
    # All values of one batch of candidates take 2 MB, which stays in the cache.
    rows = min(max(2**18 // entries, 8), 512)
    # A step of all candidates takes a fraction of a second.
    rows = min(rows, max(2, 2**30 // (1 + products(hunt.graph))))
    many, few = min(64, rows), min(16, max(2, rows // 8))
    others = 1 + torch.randperm(len(points) - 1, generator=hunt.generator)[: 4 * many - 1]
    given = recruit(hunt, torch.cat([points[:1], points[others]]))
    elite = given.best(few)
    yield elite
    number = 0
    while not (hunt.spent() or _same_everywhere(hunt.graph)):
        steps, blocks = min(200, 50 * 2**number), min(5, 1 + number)
        if number % 2:
            found = ascend(hunt, _near(hunt, elite, many), steps, (5.0, 200.0), stride=0.2)
        else:
            starts = given.best(many // 2) if number == 0 else given[:0]
            anywhere = _anywhere(hunt, points, starts, many)
            found = ascend(hunt, anywhere, steps, (2.0, 100.0), stride=0.3)
        alone = number % 4 == 2
        team = (found if alone else elite.joined(found)).best(few)
        yield team
        for _ in range(blocks):
            if hunt.spent():
                break
            team = cross(hunt, team, 20, max(2, rows // len(team)))
            yield team
        elite = elite.joined(team).best(few)
        number += 1


def _same_everywhere(graph: Graph) -> bool:
    """Return whether the Jacobian is the same at all points."""
    affine = {*names(Kind.AFFINE, Kind.WIRING, Kind.SUM), "input"}
    return all(node.op in affine or not node.perturbed for node in graph.nodes)


def _anywhere(hunt: Hunt, points: Tensor, starts: Climbers, count: int) -> Climbers:
    """Return the given starts, and climbers at random points: of all sizes, or of the region."""
    rest = count - len(starts)
    if hunt.region is not None:
        return starts.joined(recruit(hunt, sample(hunt.region, rest, hunt.generator)))
    near = points[hunt.choose(len(points), rest)]
    sizes = (float(points.std(correction=0)) or 1.0) * 10.0 ** (3.0 * hunt.uniform(rest) - 1.0)
    noise = hunt.normal(near) * over_rows(sizes, near)
    alone = over_rows(hunt.uniform(rest) < 0.5, near)
    return starts.joined(recruit(hunt, torch.where(alone, noise, near + noise)))


def _near(hunt: Hunt, elite: Climbers, count: int) -> Climbers:
    """Return the elite and climbers spread round it."""
    spread = elite[hunt.choose(len(elite), max(1, count - len(elite)))]
    sizes = 10.0 ** (-2.0 * hunt.uniform(len(spread)))
    noise = hunt.normal(spread.points) * spread.scales * over_rows(sizes, spread.points)
    points = project(hunt.region, spread.points + noise)
    return elite.joined(replace(spread, points=points))


def _witnesses(hunt: Hunt, team: Climbers) -> Iterator[SteepPair]:
    """Yield a proved pair for every way to lay one at the best climbers."""
    best = refine(hunt, team.best(4), 8)
    if hunt.norm != 2.0:
        directions, values = steepest_directions(hunt.graph, best.points, hunt.norm)
        best = replace(best, directions=hunt.free(directions), values=values)
    pairs = (*_chords(hunt, best), *pairs_along(best.points, best.directions, hunt.region))
    for first, second in pairs:
        yield best_pair(hunt.graph, first, second, hunt.norm)


def _chords(hunt: Hunt, climbers: Climbers) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs within one linear piece, nearly as far apart as it is wide."""
    points, directions = climbers.points, climbers.directions
    limit = points.flatten(1).abs().amax(1).clamp(min=1e-3)
    ends = []
    for sign in (1.0, -1.0):
        distances = crossings(hunt, points, sign * directions)
        if not distances.shape[1]:
            return
        ends.append(sign * torch.minimum(distances.amin(1), limit))
    for share in (0.9, 0.1):
        first, second = (points + over_rows(share * end, points) * directions for end in ends)
        inside = contains(hunt.region, first) & contains(hunt.region, second)
        if bool(inside.any()):
            yield first[inside], second[inside]
