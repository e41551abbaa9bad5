"""Readings of a graph, and the one walker that carries them through it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.graph.reasons import key, reason
from holdfast.ops import OPS

V = TypeVar("V")
Env = dict[str, V]
Rule = Callable[[Node, Sequence[V]], V]


@dataclass(frozen=True)
class Reading(Generic[V]):
    """What the nodes of a graph mean to one method.

    Attributes:
        name: For messages, for example "Lipschitz gain (l2)".
        rules: How a value flows through each op: `rule(node, values of its inputs)`.
        advice: Why an op has no rule and how to go on, by op or ATen name.
        constants: Whether nodes that no perturbed input reaches are read too; where not, they
            are absent from the environment and their value is passed to rules as None.
    """

    name: str
    rules: Mapping[str, Rule]
    advice: Mapping[str, tuple[str, str]]
    constants: bool = False


def uncovered(graph: Graph, reading: Reading) -> tuple[Node, ...]:
    """Return every node that the reading has no rule for."""
    return tuple(
        node
        for node in graph.nodes
        if node.op not in reading.rules
        and node.op != "input"
        and (node.perturbed or reading.constants)
    )


def check_covered(graph: Graph, reading: Reading) -> None:
    """Refuse a graph that the reading does not cover.

    Raises:
        Unsupported: Naming every op without a rule at once, first those that no reading has one
            for.
    """
    missing = sorted(uncovered(graph, reading), key=lambda node: node.op != "aten")
    if missing:
        default = (f"no rule in {reading.name}", "use holdfast.knowledge, which needs none")
        raise Unsupported(
            reading.name,
            [
                node.obstacle(*(reason(graph, node) or reading.advice.get(key(node), default)))
                for node in missing
            ],
        )


def read(graph: Graph, reading: Reading[V], lifted: Mapping[str, V]) -> Env[V]:
    """Carry a reading forward through a graph.

    Args:
        graph: The captured model.
        reading: The method.
        lifted: What stands for each input, by node name.

    Returns:
        The value of every node that the reading covers, by name.

    Raises:
        Unsupported: When ops have no rule.
    """
    check_covered(graph, reading)
    env: Env[V] = dict(lifted)
    for node in graph.nodes:
        if node.name in env or not (node.perturbed or reading.constants):
            continue
        env[node.name] = reading.rules[node.op](node, [env.get(name) for name in node.inputs])
    return env


def execute(node: Node, values: Sequence[Any]) -> Any:
    """Run one node on concrete tensors with a batch dimension."""
    if node.op == "constant":
        return node.params["value"]
    if node.op == "aten":
        return _execute_aten(node, values)
    return node.facts.run(values, node.params)


@dataclass(frozen=True)
class Slot:
    """Place of the k-th given value among the arguments of a call."""

    index: int


def fill_slots(item: object, values: Sequence[Any]) -> Any:
    """Return an argument, or a list of them, with values in place of slots."""
    if isinstance(item, Slot):
        return values[item.index]
    if isinstance(item, list | tuple):
        return [fill_slots(part, values) for part in item]
    return item


def _execute_aten(node: Node, values: Sequence[Any]) -> Any:
    kwargs = {name: fill_slots(item, values) for name, item in node.params["kwargs"].items()}
    return node.params["call"](*fill_slots(node.params["args"], values), **kwargs)


CONCRETE: Reading[Tensor] = Reading(
    "execution",
    dict.fromkeys((*OPS, "constant", "aten"), execute),
    {},
    constants=True,
)


def run(graph: Graph, inputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Execute the graph.

    Args:
        graph: The captured model; its precision is that of its constants (`Graph.double`).
        inputs: One tensor with batch dimension, or one per input of the graph.

    Returns:
        The model's output.
    """
    return read(graph, CONCRETE, lift(graph, inputs))[graph.output]


def lift(graph: Graph, inputs: Tensor | Sequence[Tensor]) -> Env[Tensor]:
    """Give the graph's inputs their concrete values."""
    values = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    return {
        node.name: value.to(graph.precision) if value.is_floating_point() else value
        for node, value in zip(graph.inputs, values, strict=True)
    }


def hidden_states(
    graph: Graph, inputs: Tensor | Sequence[Tensor], layers: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Execute the graph without gradients and collect the outputs of layers.

    Args:
        graph: The captured model.
        inputs: As for `run`.
        layers: Out of `graph.layers`.

    Returns:
        The model's output [N, ...], and each layer's output [N, ...] by its name.
    """
    nodes = {layer: graph.layer_node(layer).name for layer in layers}
    with torch.no_grad():
        env = read(graph, CONCRETE, lift(graph, inputs))
    return env[graph.output], {layer: env[name] for layer, name in nodes.items()}
