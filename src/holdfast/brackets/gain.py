"""The Lipschitz gain: one number per node, the product bound made exact where it can be.

Every node carries an upper bound of the Lipschitz constant of the map from the network's input to
its value. Entries that are only moved (slices, concatenations, paddings, ...) are followed one by
one; runs of affine nodes are measured as one operator. Composition multiplies, sums of branches add
(Szegedy et al., "Intriguing properties of neural networks", 2014, section 4.3, is the product
bound).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.bounds.interval import READING
from holdfast.brackets.flows import Flow, Flows
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import Reading, Rule, read, uncovered
from holdfast.norms.node import OperatorNorms, affine_run, worth_writing_out
from holdfast.ops import OPS, Kind, rules
from holdfast.rounding import add_up, mul_up
from holdfast.types import norm_name


def _advice(graph: Graph) -> Mapping[str, tuple[str, str]]:
    """Return why operations have no gain, and how to go on: on a region, where that works."""
    how = "use holdfast.knowledge, which needs none"
    if not uncovered(graph, READING):
        how = (
            "bound it on a region: certify(..., method='local'), or "
            "lipschitz(..., region=holdfast.Ball(row, radius))"
        )
    return {name: (op.unbounded, how) for name, op in OPS.items() if op.unbounded}


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
    """The gain carried through one graph; the norm of every operator is computed once.

    Args:
        graph: Captured model, or a part of one.
        norm: 1, 2 or inf, on both sides.
        norms: Operator norms that are known from another reading with nodes in common.
        runs: Whether runs of affine nodes are measured as one operator, too.

    Attributes:
        output: The bound for the whole graph.
        layers: The gain of every single operation, in execution order.
        own: The same by node, where one operation acts on one input.
    """

    def __init__(
        self, graph: Graph, norm: float, norms: OperatorNorms | None = None, runs: bool = True
    ) -> None:
        self.graph, self.norm, self._runs = graph, norm, runs
        self._norms = norms or OperatorNorms(norm)
        self._places = Flows(graph, norm)
        self._flows: dict[str, Flow] = {}
        self.layers: list[LayerGain] = []
        self.own: dict[str, float] = {}
        entry = graph.perturbed_input
        table: dict[str, Rule] = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: self._places.move,
                Kind.SUM: self._add,
                Kind.SCALAR: self._elementwise,
                Kind.CHOICE: self._constant,
                Kind.VECTOR: self._constant,
            },
            {"compare": self._compare},
        )
        reading = Reading(
            f"global Lipschitz constant ({norm_name(norm)})",
            {op: self._keeping(rule) for op, rule in table.items()},
            _advice(graph),
        )
        self._flows[entry.name] = self._places.source(entry.shape, 1.0)
        read(graph, reading, dict(self._flows))
        self.output = self.of(graph.output)

    def _keeping(self, rule: Rule) -> Rule:
        """Keep the flow of every node: runs of affine nodes look back at where they start."""

        def keep(node: Node, flows: Sequence[Flow | None]) -> Flow:
            self._flows[node.name] = rule(node, flows)
            return self._flows[node.name]

        return keep

    def of(self, name: str) -> float:
        """Return the bound of the map to a node; 0 where no perturbation reaches it."""
        return self._places.total(self._flows.get(name))

    def after(self, name: str) -> float:
        """Return the bound of the map from a node's value to the output.

        Raises:
            Unsupported: When a path from the input leads round the node.
        """
        _, rest = self.graph.cut_at(name)
        return GainReading(rest, self.norm, self._norms).output

    def _step(self, node: Node, flow: Flow | None, gain: float) -> Flow:
        """Pass one input through an operation of known gain."""
        self.own[node.name] = gain
        if node.op != "shift":
            self.layers.append(LayerGain(node.path, node.op, gain))
        return self._places.source(node.shape, mul_up(self._places.total(flow), gain))

    def _affine(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        (flow,) = flows
        shape = self.graph[node.inputs[0]].shape
        after = self._step(node, flow, self._norms.of(node, shape))
        run = affine_run(self.graph, node)
        first = self.graph[run[0].inputs[0]]
        if not self._worth_writing_out(run, first):
            return after
        before = self._places.total(self._flows[first.name])
        whole = mul_up(before, self._norms.of_run(run, first.shape))
        (place, count, gain), *_ = after.sources
        return Flow(after.entries, ((place, count, min(gain, whole)),))

    def _worth_writing_out(self, run: Sequence[Node], first: Node) -> bool:
        """Return whether a run of affine nodes is small enough, and more than one operator."""
        several = sum(node.kind is Kind.AFFINE and node.op != "shift" for node in run) > 1
        small = worth_writing_out(math.prod(first.shape), math.prod(run[-1].shape))
        return self._runs and self.norm == 2.0 and several and small and first.perturbed

    def _elementwise(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        return self._step(node, flows[0], node.facts.steepest(node.params))

    def _constant(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        shape = self.graph[node.inputs[0]].shape
        gain = node.facts.constant(node.params, shape, node.shape, self.norm)
        return self._step(node, flows[0], gain)

    def _add(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        return self._places.source(node.shape, add_up(*map(self._places.total, flows)))

    def _compare(self, node: Node, flows: Sequence[Flow | None]) -> Flow:
        """Bound (min(a, b), max(a, b)): it permutes the entries of a and b, piece by piece."""
        self.layers.append(LayerGain(node.path, node.op, 1.0))
        return self._places.source(node.shape, self._places.joined(flows))
