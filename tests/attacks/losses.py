"""Rows whose certified ball holds a point of another class, as far as attacks find one.

What is certified for the exact function is held against the logits that are proved at a point, and
against PyTorch in float64; what is certified for float32 against PyTorch itself, run on the point
alone, among others, and in a larger batch in another order.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.attacks.boundary import nearest_rivals, walk
from holdfast.attacks.geometry import distance_up, into_ball, spread
from holdfast.attacks.rows import Rows
from holdfast.certificates.certificate import Certificates
from holdfast.graph.ir import Graph
from holdfast.graph.running import evaluate

Net = Callable[[Tensor], Tensor]


def losses(graph: Graph, net: nn.Module, x: Tensor, claims: Certificates) -> Tensor:
    """Return which rows are certified and have a point inside of another class, [N] bool.

    Args:
        graph: Of the net: bounds on its exact logits.
        net: In float32; it is given back like that.
        x: [N, ...], float32: the rows that the claims are about.
        claims: One per row.
    """
    certified = claims.radius > 0
    lost = torch.zeros_like(certified)
    if not bool(certified.any()):
        return lost
    x, labels, radius = x[certified], claims.labels[certified], claims.radius[certified]
    rows = Rows.begin(net.double(), (x.double(), labels), claims.norm)
    steps = towards(rows, radius)
    if claims.semantics == "float32":
        lost[certified] = executed_losses(net.float(), x, radius, rows, steps)
    else:
        lost[certified] = real_losses(graph, radius, rows, steps)
    net.float()
    return lost


def towards(rows: Rows, radius: Tensor) -> Tensor:
    """Return steps of at most the radius towards other classes, [S, R, n].

    Args:
        rows: In float64.
        radius: [R], above 0; where it is so large that steps would overflow, they are shorter.
    """
    center, norm = rows.center, rows.norm
    reach = torch.minimum(radius, 1e6 * (1.0 + center.abs().amax(1)))
    rivals = nearest_rivals(rows, 2).T
    walked = _copies(rows, len(rivals))
    walk(walked, walked.center, rivals.flatten())
    found = walked.adversarial - walked.center
    lengths = torch.linalg.vector_norm(found, ord=norm, dim=1, keepdim=True)
    far = reach.repeat(len(rivals))[:, None]
    found = found * (far / lengths.clamp(min=1e-300)).clamp(max=1.0)
    torch.manual_seed(0)
    noise = torch.randn(3, *center.shape, dtype=center.dtype)
    if math.isinf(norm):
        noise[0] = noise[0].sign()
    lengths = torch.linalg.vector_norm(noise, ord=norm, dim=2, keepdim=True)
    noise *= reach[:, None] / lengths
    starts = torch.cat([torch.zeros_like(center), noise[0]])
    climbs = climb(_copies(rows, 2), starts, reach.repeat(2))
    return torch.cat([found, climbs, noise.flatten(0, 1)]).reshape(-1, *center.shape)


def _copies(rows: Rows, count: int) -> Rows:
    """Return the rows several times, one copy after the other."""
    inputs = torch.cat([rows.inputs] * count)
    return Rows.begin(rows.model, (inputs, rows.labels.repeat(count)), rows.norm)


def climb(rows: Rows, step: Tensor, radius: Tensor) -> Tensor:
    """Return the steps within the radius at which another class came nearest, or went farthest."""
    best, highest = step, torch.full_like(radius, -math.inf)
    for turn in range(24):
        ahead, gradient = rows.climb(rows.center + step)
        better = ahead > highest
        best, highest = torch.where(better[:, None], step, best), torch.maximum(ahead, highest)
        size = radius[:, None] * 2.0 * 0.85**turn
        step = into_ball(step + size * spread(gradient, rows.norm), radius, rows.norm)
    return best


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how far the largest other logit is ahead of the label's."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -math.inf).amax(1) - own


def surely_lost(graph: Graph, net: Net, points: Tensor, labels: Tensor) -> Tensor:
    """Return where another class is proved, or far beyond rounding, ahead of the label, [R] bool.

    Args:
        graph: Of the net: bounds on its exact logits.
        net: In float64: another witness, which knows nothing of the graph.
        points: [R, ...], float64.
        labels: [R].
    """
    logits = evaluate(graph, points)
    error = logits.error.amax(1) * 3 + logits.value.abs().amax(1) * 1e-15
    with torch.no_grad():
        again = net(points)
    clear = lead(again, labels) > 1e-6 * again.abs().amax(1)
    return (lead(logits.value, labels) > error) | clear


def real_losses(graph: Graph, radius: Tensor, rows: Rows, steps: Tensor) -> Tensor:
    """Return which rows have a point inside where the exact function is of another class, [R]."""
    points = (rows.center + (1.0 - 1e-12) * steps).flatten(0, 1)
    count = len(steps)
    inside = distance_up(points, rows.center.repeat(count, 1), rows.norm) <= radius.repeat(count)
    labels = rows.labels.repeat(count)
    points = points.reshape(-1, *rows.inputs.shape[1:])
    lost = inside & surely_lost(graph, rows.model, points, labels)
    return lost.reshape(count, -1).any(0)


def executed_losses(net: Net, x: Tensor, radius: Tensor, rows: Rows, steps: Tensor) -> Tensor:
    """Return which rows have a float32 point inside that some run does not give the label, [R].

    Args:
        net: In float32.
        x: [R, ...], float32.
        radius: [R], above 0.
        rows: The same rows in float64.
        steps: [S, R, n], float64, no longer than the radius.
    """
    shares = torch.tensor([1.0, 1 - 1e-7, 1 - 1e-6, 1 - 1e-4], dtype=torch.float64)
    steps = (shares[:, None, None, None] * steps).flatten(0, 1)
    points, count = (rows.center + steps).float().flatten(0, 1), len(steps)
    apart = distance_up(points, x.flatten(1).repeat(count, 1), rows.norm)
    inside = (apart <= radius.repeat(count)).reshape(count, -1)
    points = points.reshape(count, *x.shape)
    with torch.no_grad():
        logits = net(points.flatten(0, 1))
    ahead = lead(logits, rows.labels.repeat(count)).nan_to_num(math.inf).reshape(count, -1)
    highest = torch.where(inside, ahead, -math.inf).topk(2, 0)
    lost = (highest.values >= 0).any(0)
    order = torch.randperm(3 * len(x), generator=torch.Generator().manual_seed(0)) % len(x)
    for place, best in zip(highest.indices, highest.values, strict=True):
        chosen = points[place, torch.arange(len(x))]
        with torch.no_grad():
            alone = torch.cat([net(row[None]) for row in chosen])
            many = net(chosen[order])
        given = ~(lead(alone, rows.labels) < 0)
        given[order[~(lead(many, rows.labels[order]) < 0)]] = True
        lost |= given & (best > -math.inf)
    return lost
