"""A norm bound at every node, with entries that are only moved followed one by one.

A map split into parts and put together again then costs nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.graph.ir import Graph, Node
from holdfast.ops.wiring import filled
from holdfast.rounding import add_up, hypot_up, mul_up, sqrt_up


@dataclass(frozen=True)
class Flow:
    """What a node's entries are: which entry of which source each of them repeats.

    Attributes:
        entries: [1, *shape], float64 holding whole numbers: the place of the entry in the list of
            all sources' entries; -1 for a constant.
        sources: (first place, number of entries, bound of the norm) of every source.
    """

    entries: Tensor
    sources: tuple[tuple[int, int, float], ...]


class Flows:
    """Makes the flows of one graph.

    Args:
        graph: Captured model, or a part of one.
        norm: 1, 2 or inf.
    """

    def __init__(self, graph: Graph, norm: float) -> None:
        self.graph, self.norm = graph, norm
        self._places = 0

    def source(self, shape: Sequence[int], bound: float) -> Flow:
        """Make the entries of a node a new source, of norm at most `bound`; NaN is no bound."""
        bound = bound if bound >= 0.0 else math.inf
        count = math.prod(shape)
        entries = torch.arange(self._places, self._places + count, dtype=torch.float64)
        flow = Flow(entries.reshape(1, *shape), ((self._places, count, bound),))
        self._places += count
        return flow

    def move(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        """Move entries: execute the wiring on their places."""
        nowhere = [torch.full((1, *self.graph[name].shape), -1.0) for name in node.inputs]
        parts = [
            blank.double() if flow is None else flow.entries
            for flow, blank in zip(flows, nowhere, strict=True)
        ]
        sources = {source[0]: source for flow in flows if flow for source in flow.sources}
        moved = node.facts.run(parts, filled(node.params, -1.0))
        return Flow(moved, tuple(sources.values()))

    def total(self, flow: Flow | None) -> float:
        """Return the bound of a node's norm; a node that no perturbation reaches has 0.

        A map that repeats entries of a source, each at most k times, has norm at most k for l1,
        sqrt(k) for l2 and 1 for linf.
        """
        if flow is None:
            return 0.0
        places = flow.entries.flatten().long()
        parts = []
        for first, count, bound in flow.sources:
            mine = places[(places >= first) & (places < first + count)]
            if mine.numel():
                copies = float(torch.bincount(mine - first).max())
                factor = {1.0: copies, 2.0: sqrt_up(copies), math.inf: 1.0}[self.norm]
                parts.append(mul_up(factor, bound))
        return self.together(parts)

    def joined(self, flows: Sequence[Flow | None]) -> float:
        """Return the bound of the norm of several nodes put together.

        Entries of one source that several nodes hold are told apart: parts of one vector are no
        longer than it.
        """
        moving = [flow for flow in flows if flow is not None]
        if not moving:
            return 0.0
        sources = {source[0]: source for flow in moving for source in flow.sources}
        entries = torch.cat([flat_rows(flow.entries) for flow in moving], 1)
        return self.total(Flow(entries, tuple(sources.values())))

    def together(self, bounds: Sequence[float]) -> float:
        """Return the bound of the norm of several vectors put together; one alone stays exact."""
        moving = [bound for bound in bounds if bound != 0.0]
        if len(moving) <= 1:
            return moving[0] if moving else 0.0
        if self.norm == 1.0:
            return add_up(*moving)
        if self.norm == 2.0:
            return hypot_up(*moving)
        return max(moving)
