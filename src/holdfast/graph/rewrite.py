"""Small rewritings of a graph that keep its function and help every reading."""

import dataclasses
from collections.abc import Iterator

from holdfast.graph.ir import Graph, Node


def drop_unused(graph: Graph) -> Graph:
    """Remove the nodes that neither the output nor a layer needs; inputs stay."""
    needed = {graph.output, *graph.layers.values()}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    kept = tuple(node for node in graph.nodes if node.name in needed or node.op == "input")
    return dataclasses.replace(graph, nodes=kept)


def pair_extremes(graph: Graph) -> Graph:
    """Return the graph with max(a, b) and min(a, b) as the two halves of sort([a, b]).

    Apart they look like two maps of constant sqrt(2); together (MaxMin, Anil, Lucas, Grosse,
    "Sorting out Lipschitz function approximation", 2019) they permute entries and have constant 1.
    """
    twins = _twins(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        pair = twins.get(node.name)
        if pair is None:
            nodes.append(node)
            continue
        if not any(other.name == pair for other in nodes):
            nodes += _sorted_pair(node, pair)
        index = 1 if node.op == "maximum" else 0
        params = {"dim": 1, "index": index}
        nodes.append(dataclasses.replace(node, op="select", inputs=(pair,), params=params))
    return dataclasses.replace(graph, nodes=tuple(nodes))


def _twins(graph: Graph) -> dict[str, str]:
    """Name the sorted pair that a maximum and the minimum of the same two nodes share."""
    extremes = [node for node in graph.nodes if node.op in ("maximum", "minimum")]
    by_inputs: dict[frozenset[str], dict[str, Node]] = {}
    for node in extremes:
        by_inputs.setdefault(frozenset(node.inputs), {})[node.op] = node
    return {
        node.name: f"{pair['maximum'].name}_pair"
        for pair in by_inputs.values()
        if len(pair) == 2
        for node in pair.values()
    }


def _sorted_pair(node: Node, name: str) -> Iterator[Node]:
    """Stack the two inputs along a new first dimension and sort along it."""
    raised = []
    for side, source in zip(("a", "b"), node.inputs, strict=True):
        shape = (1, *node.shape)
        raised.append(f"{name}_{side}")
        yield dataclasses.replace(
            node,
            name=raised[-1],
            op="reshape",
            inputs=(source,),
            params={"shape": shape},
            shape=shape,
        )
    shape = (2, *node.shape)
    stack = dataclasses.replace(
        node, name=f"{name}_stack", op="cat", inputs=tuple(raised), params={"dim": 1}, shape=shape
    )
    yield stack
    params = {"dim": 1, "descending": False}
    yield dataclasses.replace(stack, name=name, op="sort", inputs=(stack.name,), params=params)
