"""The immutable graph of one model: nodes in execution order, constants folded into them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from holdfast.arguments import look_up
from holdfast.errors import Obstacle, Unsupported
from holdfast.ops import OPS, Kind, Op
from holdfast.results import Result


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes:
        name: Unique in its graph.
        op: A name of `holdfast.ops.OPS`, "input", "constant", or "aten" for an operation
            outside the vocabulary, which can be executed but not bounded.
        inputs: Names of the nodes it reads.
        params: Settings and constant tensors.
        shape: Shape of one row of the result, without the batch dimension.
        path: Module path as in `named_modules()`.
        source: Line of the user's code, where known.
        perturbed: Whether the result depends on a floating-point input.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    shape: tuple[int, ...] = ()
    path: str = ""
    source: str = ""
    perturbed: bool = True

    @property
    def facts(self) -> Op:
        """What is known about the operation; only for those of the vocabulary."""
        return OPS[self.op]

    @property
    def kind(self) -> Kind | None:
        """What the operation does; None for inputs, constants and what is not understood."""
        return OPS[self.op].kind if self.op in OPS else None

    @property
    def title(self) -> str:
        """The operation in words: its own name, or the ATen name outside the vocabulary."""
        return str(self.params["target"]) if self.op == "aten" else self.op

    def obstacle(self, why: str, advice: str = "") -> Obstacle:
        """Return this node as a reason to refuse."""
        return Obstacle(self.path, self.title, why, advice, self.source)


@dataclass(frozen=True, eq=False, repr=False)
class Graph(Result):
    """A captured model.

    Attributes:
        nodes: In execution order, inputs first.
        output: Name of the node that is the model's result.
        layers: Layer, named as in `holdfast.graph.layers`, to the node that is its output, in the
            order in which the calls of the modules end.
        fingerprint: SHA-256 of the model's weights and buffers at capture.
        precision: Floating-point type in which the model was captured.
    """

    nodes: tuple[Node, ...]
    output: str
    layers: Mapping[str, str]
    fingerprint: str = ""
    precision: torch.dtype = torch.float32

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The input nodes, in the order of the model's arguments."""
        return tuple(node for node in self.nodes if node.op == "input")

    @property
    def perturbed_input(self) -> Node:
        """The one floating-point input: what a distance between inputs is about.

        Raises:
            Unsupported: When there is none (token ids), or more than one.
        """
        floating = [node for node in self.inputs if node.perturbed]
        if len(floating) == 1:
            return floating[0]
        if not floating:
            why = "no floating-point input, so there is no distance between inputs"
            advice = "use holdfast.knowledge, or capture the model on its embeddings"
        else:
            why = f"{len(floating)} floating-point inputs: {', '.join(n.name for n in floating)}"
            advice = "wrap the model so that one tensor is perturbed and the others are constants"
        raise Unsupported("a distance between inputs", [Obstacle("", "input", why, advice)])

    @cached_property
    def leaf_layers(self) -> tuple[str, ...]:
        """One layer per distinct output, the innermost call, in execution order."""
        first: dict[str, str] = {}
        for layer, node in self.layers.items():
            first.setdefault(node, layer)
        return tuple(first[node.name] for node in self.nodes if node.name in first)

    def layer_node(self, layer: str) -> Node:
        """Return the node that is the output of a layer.

        Raises:
            InvalidInput: When there is no such layer, with the nearest names.
        """
        return self[look_up("layer", layer, self.layers)]

    def pruned(self) -> "Graph":
        """Return the graph without the nodes that neither its output nor a layer needs."""
        needed = {self.output, *self.layers.values()}
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.inputs)
        kept = tuple(node for node in self.nodes if node.name in needed or node.op == "input")
        return dataclasses.replace(self, nodes=kept)

    def double(self) -> "Graph":
        """Return the same graph with every constant in float64."""
        nodes = tuple(
            dataclasses.replace(node, params={k: _double(v) for k, v in node.params.items()})
            for node in self.nodes
        )
        return dataclasses.replace(self, nodes=nodes, precision=torch.float64)

    def with_row_output(self) -> "Graph":
        """Return the graph with an output of shape [1] where it is one number per row."""
        if self[self.output].shape:
            return self
        name = f"{self.output}.row"
        last = Node(name, "reshape", (self.output,), {"shape": (1,)}, (1,))
        return dataclasses.replace(self, nodes=(*self.nodes, last), output=name)

    def cut(self, layer: str) -> tuple["Graph", "Graph"]:
        """Split the graph at the output of a layer.

        Args:
            layer: One of `layers`.

        Returns:
            The part from the input to the layer's output, and the part from there to the end.
            Running the second on the result of the first is running the whole.

        Raises:
            Unsupported: When a path from the input leads round the layer, so that the rest of
                the model is not a function of the layer's output alone.
        """
        return self.cut_at(self.layer_node(layer).name)

    def cut_at(self, name: str) -> tuple["Graph", "Graph"]:
        """Split the graph at the output of a node; see `cut`."""
        middle = self[name]
        front = _part(self, self.nodes, name)
        entry = dataclasses.replace(middle, op="input", inputs=(), params={})
        back_nodes = (entry, *(n for n in self.nodes if n.name != name and n.op != "input"))
        try:
            back = _part(self, back_nodes, self.output)
        except KeyError:
            why = "a path from the input leads round it (a skip connection)"
            raise Unsupported("cut", [middle.obstacle(why, "cut at the block's output")]) from None
        return front, back


def _double(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value


def _part(graph: Graph, nodes: tuple[Node, ...], output: str) -> Graph:
    """Return the part of the graph that `output` needs, out of the given nodes."""
    available = {node.name: node for node in nodes}
    needed = {output}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(available[name].name for name in node.inputs)
    kept = tuple(node for node in nodes if node.name in needed)
    layers = {path: node for path, node in graph.layers.items() if node in needed}
    return dataclasses.replace(graph, nodes=kept, output=output, layers=layers)
