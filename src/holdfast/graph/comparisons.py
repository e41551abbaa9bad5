"""Sorts and maxima of groups, written out as comparisons of two: once, for every method.

A node `compare` holds both ends of a pair, [min(a, b), max(a, b)]. With g = relu(a - b) they are
a - g and b + g, so that a pair costs a method one unit, however many nodes read its ends. Values
stay what they are, and so does the name of every node of the graph.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.ir import Graph, Node
from holdfast.ops.record import Params

_LONGEST = 8  # entries of a sort that is written out: 8 take 19 comparisons, 16 take 63

NOT_WRITTEN = {
    "sort": (f"groups of more than {_LONGEST} entries", "sort smaller groups"),
    "max_pool": ("a window reads nothing but padding", "pad less"),
}
"""What stays as it is and why, with advice: for the readings that know comparisons alone."""


def with_groups(graph: Graph) -> Graph:
    """Return the same function with short sorts as comparisons, poolings as maxima of groups.

    Args:
        graph: Captured model.

    Returns:
        A graph whose nodes include those of `graph`, by name and value.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "sort" and node.shape[node.params["dim"] - 1] <= _LONGEST:
            nodes += _sorted(node)
        elif node.op == "max_pool":
            nodes += _grouped(node, graph[node.inputs[0]].shape)
        else:
            nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes))


def with_pairs(graph: Graph) -> Graph:
    """Return the same function with short sorts and all maxima as comparisons.

    Args:
        graph: Captured model, or what `with_groups` made of it.

    Returns:
        A graph whose nodes include those of `graph`, by name and value.
    """
    graph = with_groups(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "amax":
            nodes += _tournament(node, graph[node.inputs[0]].shape)
        else:
            nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes))


class _Parts:
    """Nodes that are written in place of one, each named after it.

    Args:
        node: The node that is written out.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def add(self, op: str, inputs: Sequence[str], shape: Sequence[int], /, **params: Any) -> str:
        """Add a node and return its name."""
        name = f"{self.node.name}:{self.node.op}{len(self.nodes)}"
        self.nodes.append(
            dataclasses.replace(
                self.node,
                name=name,
                op=op,
                inputs=tuple(inputs),
                shape=tuple(shape),
                params=params,
            )
        )
        return name

    def compare(self, first: str, second: str, shape: Sequence[int]) -> str:
        """Add the comparison of two nodes."""
        return self.add("compare", (first, second), (2, *shape))

    def cut(self, source: str, shape: Sequence[int], dim: int, entries: range) -> str:
        """Add a slice of a node of the given shape."""
        start, stop, step = entries.start, entries.stop, entries.step
        shape = (*shape[: dim - 1], len(entries), *shape[dim:])
        return self.add("slice", (source,), shape, dim=dim, start=start, stop=stop, step=step)

    def end(self, op: str, inputs: Sequence[str], /, **params: Any) -> list[Node]:
        """Return the nodes; the last one has the name and the value of the one written out."""
        last = dataclasses.replace(self.node, op=op, inputs=tuple(inputs), params=params)
        return [*self.nodes, last]


def exchanges(length: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of places whose comparison, one after the other, sorts any entries.

    Batcher's merge exchange (Knuth, "The Art of Computer Programming", volume 3, algorithm
    5.2.2M), which takes 1, 3, 5, 9, 12, 16 and 19 comparisons for 2 to 8 entries.
    """
    top = 1 << max(0, (length - 1).bit_length() - 1)
    step = top if length > 1 else 0
    while step:
        last, rest, far = top, 0, step
        while True:
            yield from ((i, i + far) for i in range(length - far) if i & step == rest)
            if last == step:
                break
            far, last, rest = last - step, last // 2, step
        step //= 2


def _sorted(node: Node) -> list[Node]:
    """Sort along one dimension, entry against entry."""
    dim, length = node.params["dim"], node.shape[node.params["dim"] - 1]
    shape = (*node.shape[: dim - 1], 1, *node.shape[dim:])
    parts = _Parts(node)
    lanes = [parts.cut(node.inputs[0], node.shape, dim, range(k, k + 1)) for k in range(length)]
    for low, high in exchanges(length):
        both = parts.compare(lanes[low], lanes[high], shape)
        for index, place in enumerate((low, high)):
            lanes[place] = parts.add("select", (both,), shape, dim=1, index=index)
    ordered = lanes[::-1] if node.params["descending"] else lanes
    return parts.end("cat", ordered, dim=dim)


def _tournament(node: Node, shape: Sequence[int]) -> list[Node]:
    """Compare the entries of every group two by two until one is left."""
    parts, dims = _Parts(node), [*node.params["dims"]]
    kept = [dim for dim in range(1, len(shape) + 1) if dim not in dims]
    lead = [shape[dim - 1] for dim in kept]
    order = [*kept, *dims]
    moved = parts.add("permute", node.inputs, [shape[dim - 1] for dim in order], dims=(0, *order))
    left = math.prod(shape[dim - 1] for dim in dims)
    last, now = len(lead) + 1, parts.add("reshape", (moved,), (*lead, left), shape=(*lead, left))
    while left > 1:
        half = left // 2
        first, second = (
            parts.cut(now, (*lead, left), last, range(k, 2 * half, 2)) for k in range(2)
        )
        both = parts.compare(first, second, (*lead, half))
        winners = parts.add("select", (both,), (*lead, half), dim=1, index=1)
        if left % 2:
            alone = parts.cut(now, (*lead, left), last, range(left - 1, left))
            winners = parts.add("cat", (winners, alone), (*lead, half + 1), dim=last)
        now, left = winners, left - half
    return parts.end("reshape", (now,), shape=node.shape)


def window_places(
    params: Params, sizes: Sequence[int], outputs: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the places that each window of a pooling reads in a flattened channel.

    Args:
        params: Kernel, stride, padding and dilation, by spatial dimension.
        sizes: Of the spatial dimensions.
        outputs: Number of windows along each of them.

    Returns:
        Places and whether they lie on the padding, both [windows, taps]. A tap on the padding has
        the place of the window's first tap that is not, which leaves a maximum.
    """
    settings = (params[name] for name in ("kernel", "stride", "padding", "dilation"))
    table, padded = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool)
    for size, count, kernel, stride, padding, dilation in zip(
        sizes, outputs, *settings, strict=True
    ):
        starts = torch.arange(count)[:, None] * stride - padding
        places = starts + torch.arange(kernel) * dilation
        valid = (places >= 0) & (places < size)
        first = places.gather(1, valid.int().argmax(1, keepdim=True))
        places = torch.where(valid, places, first)
        table = table[:, None, :, None] * size + places[None, :, None, :]
        padded = padded[:, None, :, None] | ~valid[None, :, None, :]
        table, padded = (part.flatten(2).flatten(0, 1) for part in (table, padded))
    return table, padded


def _grouped(node: Node, shape: Sequence[int]) -> list[Node]:
    """Gather every window along a new last dimension, and take the maximum there."""
    table, padded = window_places(node.params, shape[1:], node.shape[1:])
    if bool(padded.all(1).any()):  # a window with nothing in it, which has no maximum
        return [node]
    parts, channels, taps = _Parts(node), shape[0], table.shape[1]
    flat = (channels, math.prod(shape[1:]))
    now = parts.add("reshape", node.inputs, flat, shape=flat)
    gathered = (channels, table.numel())
    now = parts.add("index_select", (now,), gathered, dim=2, index=table.flatten())
    windows = (*node.shape, taps)
    now = parts.add("reshape", (now,), windows, shape=windows)
    rivals = ~padded.reshape(*node.shape[1:], taps)
    return parts.end("amax", (now,), dims=(len(windows),), keepdim=False, rivals=rivals)
