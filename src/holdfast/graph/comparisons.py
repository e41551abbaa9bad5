"""Sorting and pooling written out as comparisons of two, and as maxima of disjoint groups.

Linear bounds then need rules for `maximum`, `minimum` and `amax` alone. The function of the graph
stays, and so does the name of every node whose values stay.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from holdfast.graph.ir import Graph, Node

_LONGEST = 8
"""Longer groups are not written out: they take about half the square of their length in
comparisons."""


def write_out(graph: Graph) -> Graph:
    """Return the same function with short sorts and all poolings written out.

    Args:
        graph: Captured model.

    Returns:
        A graph whose nodes include those of `graph`, by name and value.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "sort" and node.shape[node.params["dim"] - 1] <= _LONGEST:
            nodes += _comparisons(node)
        elif node.op == "max_pool" and (found := _windows(node, graph)) is not None:
            nodes += _grouped(node, graph[node.inputs[0]].shape, *found)
        else:
            nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes))


def _comparisons(node: Node) -> Iterator[Node]:
    """Sort by odd-even transposition: n rounds of comparisons of neighbours sort n entries."""
    dim, length = node.params["dim"], node.shape[node.params["dim"] - 1]
    shape = (*node.shape[: dim - 1], 1, *node.shape[dim:])

    def piece(place: str, op: str, inputs: tuple[str, ...], **params: object) -> Node:
        name = f"{node.name}:{place}"
        return dataclasses.replace(
            node, name=name, op=op, inputs=inputs, params=params, shape=shape
        )

    wires = []
    for k in range(length):
        part = piece(str(k), "slice", node.inputs, dim=dim, start=k, stop=k + 1, step=1)
        wires.append(part.name)
        yield part
    for turn in range(length if length > 2 else length - 1):
        for k in range(turn % 2, length - 1, 2):
            pair = (wires[k], wires[k + 1])
            for place, op in ((k, "minimum"), (k + 1, "maximum")):
                part = piece(f"{turn}:{place}", op, pair)
                wires[place] = part.name
                yield part
    ordered = wires[::-1] if node.params["descending"] else wires
    yield dataclasses.replace(node, op="cat", inputs=tuple(ordered), params={"dim": dim})


def _windows(node: Node, graph: Graph) -> tuple[Tensor, Tensor] | None:
    """Return the places that each window reads in a flattened channel, and which only fill up.

    A tap on the padding reads another tap of its window in its place, which leaves the maximum.
    Both results are [windows, taps].
    None where a window reads nothing but padding.
    """
    sizes = graph[node.inputs[0]].shape[1:]
    settings = (node.params[name] for name in ("kernel", "stride", "padding", "dilation"))
    table, filling = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool)
    for size, outputs, kernel, stride, padding, dilation in zip(
        sizes, node.shape[1:], *settings, strict=True
    ):
        starts = torch.arange(outputs)[:, None] * stride - padding
        places = starts + torch.arange(kernel) * dilation
        valid = (places >= 0) & (places < size)
        if not bool(valid.any(1).all()):
            return None
        first = places.gather(1, valid.int().argmax(1, keepdim=True))
        places = torch.where(valid, places, first)
        table = table[:, None, :, None] * size + places[None, :, None, :]
        filling = filling[:, None, :, None] | ~valid[None, :, None, :]
        table, filling = (part.flatten(2).flatten(0, 1) for part in (table, filling))
    return table, filling


def _grouped(node: Node, shape: Sequence[int], table: Tensor, filling: Tensor) -> Iterator[Node]:
    """Gather every window along a new last dimension, and take the maximum there."""
    channels, taps = shape[0], table.shape[1]
    steps = (
        ("flat", "reshape", (channels, math.prod(shape[1:])), None),
        ("taps", "index_select", (channels, table.numel()), {"dim": 2, "index": table.flatten()}),
        ("groups", "reshape", (*node.shape, taps), None),
    )
    before = node.inputs
    for place, op, rows, settings in steps:
        name = f"{node.name}:{place}"
        params = settings or {"shape": rows}
        yield dataclasses.replace(node, name=name, op=op, inputs=before, params=params, shape=rows)
        before = (name,)
    rivals = ~filling.reshape(*node.shape[1:], taps)
    params = {"dims": (len(node.shape) + 1,), "keepdim": False, "rivals": rivals}
    yield dataclasses.replace(node, op="amax", inputs=before, params=params)
