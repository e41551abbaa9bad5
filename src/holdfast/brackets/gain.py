"""The Lipschitz gain: one number per node, the product bound made exact where it can be.

Every node carries an upper bound of the Lipschitz constant of the map from the network's input to
its value. Entries that are only moved (slices, concatenations, paddings, ...) are followed one by
one, so that a map split into parts and put together again costs nothing; runs of affine nodes
are measured as one operator. Composition multiplies, sums of branches add (Szegedy et al.,
"Intriguing properties of neural networks", 2014, section 4.3, is the product bound).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.bounds.activations import slope_bound
from holdfast.brackets.known import CONSTANTS
from holdfast.brackets.operators import (
    affine_run,
    chain_norm_upper,
    operator_norm_upper,
    worth_writing_out,
)
from holdfast.graph.ir import Graph, Node
from holdfast.graph.ops import ELEMENTWISE, LINEAR, WIRING
from holdfast.graph.walk import Reading, Rule, read
from holdfast.rounding import add_up, mul_up, sqrt_up
from holdfast.types import norm_name

_LOCAL_ONLY = "has no global Lipschitz constant (a product of values that both move)"
_ADVICE = {
    name: (_LOCAL_ONLY, "bound it on a region, or use holdfast.knowledge")
    for name in ("mul", "matmul", "bmm", "scaled_dot_product_attention", "pow", "square", "div")
} | {
    "exp": ("has no global Lipschitz constant", "bound it on a region, or use holdfast.knowledge"),
    "rsqrt": ("has no global Lipschitz constant", "add a bound away from zero"),
    "round": ("jumps: no Lipschitz constant", "leave it out of the certified part"),
    "sign": ("jumps: no Lipschitz constant", "leave it out of the certified part"),
    "argmax": ("jumps: no Lipschitz constant", "certify the logits before it"),
}


@dataclass(frozen=True)
class LayerGain:
    """The gain of one operation by itself.

    Attributes:
        path: Module path.
        op: Operation.
        gain: Upper bound of its own Lipschitz constant.
    """

    path: str
    op: str
    gain: float


@dataclass(frozen=True)
class Flow:
    """What a node's entries are: which entry of which source each of them repeats.

    Attributes:
        entries: [1, *shape], float64 holding whole numbers: the place of the entry in the list of
            all sources' entries; -1 for a constant.
        sources: (first place, number of entries, gain) of every source.
    """

    entries: Tensor
    sources: tuple[tuple[int, int, float], ...]


def gain_upper(graph: Graph, norm: float) -> float:
    """Return an upper bound of the global Lipschitz constant of a graph.

    Args:
        graph: Captured model, or a part of one.
        norm: 1, 2 or inf, on inputs and outputs.

    Returns:
        sup ||f(x) - f(x')|| / ||x - x'||, bounded above; inf where nothing finite is proved.

    Raises:
        Unsupported: When an op has no rule, naming every such op.
    """
    return GainReading(graph, norm).output


class GainReading:
    """The gain carried through one graph.

    Args:
        graph: Captured model, or a part of one.
        norm: 1, 2 or inf, on both sides.

    Attributes:
        output: The bound for the whole graph.
        layers: The gain of every single operation, in execution order.
    """

    def __init__(self, graph: Graph, norm: float) -> None:
        self.graph, self.norm = graph, norm
        self._places = 0
        self._flows: dict[str, Flow] = {}
        self.layers: list[LayerGain] = []
        entry = graph.perturbed_input
        rules: dict[str, Rule] = dict.fromkeys(WIRING, self._move)
        rules |= dict.fromkeys(LINEAR, self._affine)
        rules |= dict.fromkeys(ELEMENTWISE, self._elementwise)
        rules |= dict.fromkeys(CONSTANTS, self._constant)
        rules |= {"add": self._add, "maximum": self._extreme, "minimum": self._extreme}
        reading = Reading(
            f"global Lipschitz constant ({norm_name(norm)})",
            {op: self._keeping(rule) for op, rule in rules.items()},
            _ADVICE,
        )
        self._flows[entry.name] = self._source(entry.shape, 1.0)
        read(graph, reading, dict(self._flows))
        self.output = self._of(self._flows.get(graph.output))

    def _keeping(self, rule: Rule) -> Rule:
        """Keep the flow of every node: runs of affine nodes look back at where they start."""

        def keep(node: Node, flows: Sequence[Flow | None]) -> Flow:
            self._flows[node.name] = rule(node, flows)
            return self._flows[node.name]

        return keep

    def _source(self, shape: Sequence[int], gain: float) -> Flow:
        """Make the entries of a node a new source."""
        count = math.prod(shape)
        entries = torch.arange(self._places, self._places + count, dtype=torch.float64)
        flow = Flow(entries.reshape(1, *shape), ((self._places, count, gain),))
        self._places += count
        return flow

    def _total(self, flow: Flow) -> float:
        """Return the bound of a node out of those of its sources.

        A map that repeats entries of a source, each at most k times, has norm at most k for l1,
        sqrt(k) for l2 and 1 for linf.
        """
        places = flow.entries.flatten().long()
        total = []
        for first, count, gain in flow.sources:
            mine = places[(places >= first) & (places < first + count)]
            if mine.numel():
                copies = float(torch.bincount(mine - first).max())
                total.append((copies, gain))
        if self.norm == 1.0:
            return add_up(*[mul_up(copies, gain) for copies, gain in total])
        if self.norm == 2.0:
            return _root_of_squares([mul_up(sqrt_up(copies), gain) for copies, gain in total])
        return max((gain for _, gain in total), default=0.0)

    def _of(self, flow: Flow | None) -> float:
        """Return the bound of an input of a node; one that no perturbation reaches has none."""
        return 0.0 if flow is None else self._total(flow)

    def _step(self, node: Node, flow: Flow | None, gain: float) -> Flow:
        """Pass one input through an operation of known gain."""
        if node.op != "shift":
            self.layers.append(LayerGain(node.path, node.op, gain))
        return self._source(node.shape, mul_up(self._of(flow), gain))

    def _move(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        """Move entries: execute the wiring on their places."""
        nowhere = [torch.full((1, *self.graph[name].shape), -1.0) for name in node.inputs]
        parts = [
            blank.double() if flow is None else flow.entries
            for flow, blank in zip(flows, nowhere, strict=True)
        ]
        params = {**node.params, "value": -1.0} if node.op == "pad" else node.params
        sources = {source[0]: source for flow in flows if flow for source in flow.sources}
        return Flow(WIRING[node.op](parts, params), tuple(sources.values()))

    def _affine(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        (flow,) = flows
        shape = self.graph[node.inputs[0]].shape
        after = self._step(node, flow, operator_norm_upper(node, shape, self.norm))
        run = affine_run(self.graph, node)
        first = self.graph[run[0].inputs[0]]
        if not self._worth_writing_out(run, first):
            return after
        whole = mul_up(self._total(self._flows[first.name]), chain_norm_upper(run, first.shape))
        (place, count, gain), *_ = after.sources
        return Flow(after.entries, ((place, count, min(gain, whole)),))

    def _worth_writing_out(self, run: Sequence[Node], first: Node) -> bool:
        """Return whether a run of affine nodes is small enough, and more than one operator."""
        several = sum(node.op in LINEAR and node.op != "shift" for node in run) > 1
        small = worth_writing_out(math.prod(first.shape), math.prod(run[-1].shape))
        return self.norm == 2.0 and several and small and first.perturbed

    def _elementwise(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        return self._step(node, flows[0], slope_bound(node))

    def _constant(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        return self._step(node, flows[0], CONSTANTS[node.op](node, self._row(node), self.norm))

    def _row(self, node: Node) -> tuple[int, ...]:
        """Return the shape of one row of a node's input."""
        return self.graph[node.inputs[0]].shape

    def _add(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        return self._source(node.shape, add_up(*map(self._of, flows)))

    def _extreme(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        """Bound max(a, b): each entry moves at most as far as one of the two."""
        gains = [self._of(flow) for flow in flows]
        combined = {
            1.0: add_up(*gains),
            2.0: _root_of_squares(gains),
            math.inf: max(gains),
        }[self.norm]
        return self._source(node.shape, combined)


def _root_of_squares(gains: Sequence[float]) -> float:
    """Return an upper bound of sqrt(sum of squares); one gain alone stays exact."""
    moving = [gain for gain in gains if gain > 0.0]
    if len(moving) <= 1:
        return moving[0] if moving else 0.0
    return sqrt_up(add_up(*[mul_up(gain, gain) for gain in moving]))
