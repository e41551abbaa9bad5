"""Bounds of all values on regions in which few entries move: forwards, where backwards is long.

Tightening an interval backwards takes a pass through the graph for every entry, which for layers
far wider than the input takes minutes. Affine forms of a few columns bound all of them in one pass
forwards, about as tightly; see `holdfast.bounds.forward`.
"""

import math
from collections.abc import Mapping

import torch

from holdfast.batches import flat_rows
from holdfast.bounds.forward import Forward
from holdfast.bounds.interval import Interval
from holdfast.bounds.linear import Relaxed
from holdfast.bounds.regions import Regions
from holdfast.graph.comparisons import with_pairs
from holdfast.graph.ir import Graph
from holdfast.ops import Kind


def relaxed_on(
    graph: Graph, regions: Regions, outer: Mapping[str, Interval] | None = None
) -> Relaxed:
    """Return linear bounds on all values, tightened forwards and, where it is not long, backwards.

    Args:
        graph: Captured model.
        regions: R regions.
        outer: What `Relaxed.tightened` says on regions that contain these.
    """
    count, end = _tightening(graph), math.inf
    # A second and minutes for each region; by counting, as bounds must not depend on the clock.
    known = _ranges(graph, regions) if count > 1e10 else None
    if known is not None:
        for name, part in (outer or {}).items():
            known[name] = known[name].meet(part.low, part.high) if name in known else part
        outer, end = known, -math.inf if count > 1e12 else end
    return Relaxed(graph, regions, end, outer)


def _tightening(graph: Graph) -> float:
    """Return how many products it takes to tighten what is in front of nonlinear nodes."""
    before = total = 0.0
    for node in graph.nodes:
        if not node.perturbed or node.kind is None:
            continue
        if node.kind in (Kind.AFFINE, Kind.PRODUCT):
            shape = graph[node.inputs[0]].shape
            before += math.prod(node.shape) * node.facts.roundings(node.params, shape)
        elif node.kind not in (Kind.WIRING, Kind.SUM):
            total += before * math.prod(graph[node.inputs[0]].shape)
    return total


@torch.no_grad()
def _ranges(graph: Graph, regions: Regions) -> dict[str, Interval] | None:
    """Return bounds of all values that depend on the input, by affine forms; None without any."""
    low, high = regions.box()
    moving = flat_rows(low < high).any(0).nonzero().flatten()
    if not len(moving):
        moving = torch.tensor([0])  # a point: what it is off by is rounding
    if len(moving) > 32 or not bool(low.isfinite().all() & high.isfinite().all()):
        return None
    forward = Forward(with_pairs(graph.double()), math.inf)
    if not forward.covers:
        return None
    found = {}
    for name, forms in forward.values(low, high, moving, {}).items():
        if forward.graph[name].perturbed:
            shape = (len(low), *forms.center.shape[1:])
            low_end, high_end = forms.range()
            found[name] = Interval(low_end.expand(shape), high_end.expand(shape))
    del found[forward.graph.perturbed_input.name]  # its region is more than a box
    return found
