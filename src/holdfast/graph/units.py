"""A model in units of its own: what is moved is u, with x = units u + offset."""

import dataclasses

from torch import Tensor

from holdfast.graph.ir import Graph, Node


def in_units(graph: Graph, units: Tensor | None, offset: Tensor | None = None) -> Graph:
    """Return the graph of u -> f(units u + offset).

    How fast it changes is how fast f changes with distances in these units, whatever values the
    entries with unit 0 keep: rules for all inputs do not depend on what is added to an entry.

    Args:
        graph: The model.
        units: Float64, of one row's shape, at least 0; None returns the graph as it is.
        offset: Float64, of the same shape; None adds nothing.
    """
    if units is None:
        return graph
    graph = graph.double()
    entry = graph.perturbed_input
    last = Node(f"{entry.name}.units", "scale", (entry.name,), {"factor": units}, entry.shape)
    added = [last]
    if offset is not None:
        last = Node(f"{last.name}.offset", "shift", (last.name,), {"offset": offset}, entry.shape)
        added.append(last)
    name = last.name
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(name if each == entry.name else each for each in node.inputs)
        nodes.append(dataclasses.replace(node, inputs=inputs))
        if node.name == entry.name:
            nodes += added
    output = name if graph.output == entry.name else graph.output
    return dataclasses.replace(graph, nodes=tuple(nodes), output=output)
