"""No point inside a certified ball is known to be of another class: nets over all operations.

What is certified for the exact function is held against the logits that are proved at a point, and
against PyTorch in float64; what is certified for float32 against PyTorch itself, run on the point
alone, among others, and in a larger batch in another order.
"""

import math
from collections import Counter

import pytest
import torch
from tests.attacks.drawn import SHAPES, draw_net, draw_rows, graphs_of
from torch import Tensor, nn

from holdfast.arguments import NORMS
from holdfast.attacks.boundary import nearest_rivals, walk
from holdfast.attacks.geometry import distance_up, into_ball, spread
from holdfast.attacks.rows import Rows
from holdfast.bounds.float32 import FLOAT32
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.certify import CertifyOptions, certify_graph
from holdfast.graph.ir import Graph
from holdfast.graph.running import evaluate
from holdfast.graph.walk import uncovered

METHODS = ("auto", "auto", "global", "local")


def towards(net: nn.Module, x: Tensor, claims: Certificates) -> Tensor:
    """Return steps of at most the certified radius towards other classes, [S, R, n]."""
    radius, norm = claims.radius.to(x), claims.norm
    rows = Rows.begin(net, x, claims.labels, norm, math.inf)
    for rivals in nearest_rivals(rows, 2).T:
        walk(rows, rows.center, rivals)
    torch.manual_seed(0)
    noise = torch.randn(3, *rows.center.shape, dtype=x.dtype)
    if math.isinf(norm):
        noise[0] = noise[0].sign()
    lengths = torch.linalg.vector_norm(noise, ord=norm, dim=2, keepdim=True)
    noise *= radius[:, None] / lengths
    found = rows.adversarial - rows.center
    lengths = torch.linalg.vector_norm(found, ord=norm, dim=1, keepdim=True)
    found = found * (radius[:, None] / lengths.clamp(min=1e-300)).clamp(max=1.0)
    climbs = [climb(rows, start, radius) for start in (torch.zeros_like(found), noise[0])]
    return torch.stack([found, *climbs, *noise]).nan_to_num(0.0, 0.0, 0.0)


def climb(rows: Rows, step: Tensor, radius: Tensor) -> Tensor:
    """Return the steps within the radius at which another class came nearest, or went farthest."""
    best, highest = step, torch.full_like(radius, -math.inf)
    for turn in range(24):
        lead, gradient = rows.climb(rows.center + step)
        better = lead > highest
        best, highest = torch.where(better[:, None], step, best), torch.maximum(lead, highest)
        size = radius[:, None] * 2.0 * 0.85**turn
        step = into_ball(step + size * spread(gradient, rows.norm), radius, rows.norm)
    return best


def lead(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how far the largest other logit is ahead of the label's."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -math.inf).amax(1) - own


def surely_lost(graph: Graph, net: nn.Module, points: Tensor, labels: Tensor) -> Tensor:
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


def real_losses(graph: Graph, net: nn.Module, x: Tensor, claims: Certificates) -> Tensor:
    """Return which rows are certified and have a point inside of another class [N] bool."""
    double, wide = net.double(), x.double()
    lost = torch.zeros(len(x), dtype=torch.bool)
    for step in (1.0 - 1e-12) * towards(double, wide, claims):
        points = wide + step.reshape(x.shape)
        apart = distance_up(points.flatten(1), wide.flatten(1), claims.norm)
        inside = (apart <= claims.radius) & (claims.radius > 0)
        lost |= inside & surely_lost(graph, double, points, claims.labels)
    net.float()
    return lost


def executed_losses(net: nn.Module, x: Tensor, claims: Certificates) -> Tensor:
    """Return which rows are certified and have a float32 point inside that some run gives away."""
    steps = towards(net.double(), x.double(), claims)
    net.float()
    points, leads = [], []
    for share in (1.0, 1 - 1e-7, 1 - 1e-6, 1 - 1e-4):
        for step in share * steps:
            point = (x.double() + step.reshape(x.shape)).float()
            apart = distance_up(point.flatten(1), x.flatten(1), claims.norm)
            inside = (apart <= claims.radius) & (claims.radius > 0)
            with torch.no_grad():
                ahead = lead(net(point), claims.labels).nan_to_num(math.inf)
            points.append(point)
            leads.append(torch.where(inside, ahead, -math.inf))
    highest = torch.stack(leads).topk(2, 0)
    lost = (highest.values >= 0).any(0)
    order = torch.randperm(3 * len(x), generator=torch.Generator().manual_seed(0)) % len(x)
    for place, ahead in zip(highest.indices, highest.values, strict=True):
        chosen = torch.stack(points)[place, torch.arange(len(x))]
        with torch.no_grad():
            alone = torch.cat([net(row[None]) for row in chosen])
            many = net(chosen[order])
        given = ~(lead(alone, claims.labels) < 0)
        given[order[~(lead(many, claims.labels[order]) < 0)]] = True
        lost |= given & (ahead > -math.inf)
    return lost


def false_claims(bundle: int, nets: int = 10) -> tuple[list[str], Counter]:
    """Attack the certificates of some nets; return what is wrong, and how many were attacked."""
    shape = SHAPES[bundle % len(SHAPES)]
    drawn = [draw_net(nets * bundle + place, shape) for place in range(nets)]
    wrong, counts = [], Counter()
    for place, (net, graph) in enumerate(zip(drawn, graphs_of(drawn, shape), strict=True)):
        seed = nets * bundle + place
        x = draw_rows(seed, net, shape, 24)
        with torch.no_grad():
            labels = net.double()(x.double()).argmax(1)
            net.float()
        executed = seed % 2 == 1 and not uncovered(graph, FLOAT32)
        semantics = "float32" if executed else "real"
        options = CertifyOptions(NORMS[seed // 2 % 3], METHODS[seed // 6 % 4], semantics)
        claims = certify_graph(graph, x, labels, options)
        counts[semantics] += int((claims.radius > 0).sum())
        judged = executed_losses(net, x, claims) if executed else real_losses(graph, net, x, claims)
        wrong += [
            f"net {seed} of rows {shape}, row {row}: {options}, method {claims.method[row]}, "
            f"radius {float(claims.radius[row])!r}"
            for row in judged.nonzero().flatten().tolist()
        ]
    return wrong, counts


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_no_attack_lies_inside_a_ball_of_a_drawn_net(part: int) -> None:
    counts: Counter = Counter()
    for bundle in range(5 * part, 5 * part + 5):
        wrong, attacked = false_claims(bundle)
        assert not wrong
        counts += attacked
    assert counts["real"] + counts["float32"] >= 1000  # of 1,200 rows
