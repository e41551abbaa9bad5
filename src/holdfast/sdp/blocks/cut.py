"""Cutting a network into blocks, one after the other: where everything passes through one value."""

from collections.abc import Callable

from holdfast.graph.ir import Graph
from holdfast.ops import Kind


def passages(graph: Graph) -> list[str]:
    """Return the nodes that every path from the input to the output goes through, in order.

    Args:
        graph: Captured model, pruned to what its output needs.
    """
    moving = [node for node in graph.nodes if node.perturbed]
    last_use = {node.name: k for k, node in enumerate(moving)}
    for k, node in enumerate(moving):
        for name in node.inputs:
            if name in last_use:
                last_use[name] = k
    found, open_until = [], 0
    for k, node in enumerate(moving):
        if open_until <= k:
            found.append(node.name)
        open_until = max(open_until, last_use[node.name])
    return found


def between(graph: Graph, first: str, last: str) -> Graph:
    """Return the part of a graph from one passage to a later one."""
    part, _ = graph.cut_at(last) if last != graph.output else (graph, None)
    return part if first == part.perturbed_input.name else part.cut_at(first)[1]


def blocks(graph: Graph, fits: Callable[[Graph], bool]) -> list[Graph]:
    """Cut a graph into blocks, as few as fit.

    Args:
        graph: Captured model, pruned.
        fits: Whether a part is small enough to be one block. A part between neighbouring passages
            is not cut further, whether it fits or not.

    Returns:
        Parts, the output of each the input of the next.
    """
    places = passages(graph)
    parts, first = [], 0
    while first < len(places) - 1:
        last = first + 1
        while last + 1 < len(places) and fits(between(graph, places[first], places[last + 1])):
            last += 1
        # Behind an activation a block ends for nothing: before a convolution with a stride there
        # are fewer numbers than before the activation, which would be one of many pixels.
        ends = [k for k in range(first + 1, last + 1) if graph[places[k]].kind is Kind.SCALAR]
        if last < len(places) - 1 and ends:
            last = ends[-1]
        parts.append(between(graph, places[first], places[last]))
        first = last
    return parts
