"""What a method takes on a model, in seconds and bytes, estimated before it starts.

Counts of products come from shapes alone; how many this machine makes in a second is measured.
They are right to a factor of two or so: enough to tell seconds from hours.
"""

import functools
import math
import time
from collections.abc import Callable

import torch

from holdfast.graph.ir import Graph
from holdfast.norms.node import worth_writing_out
from holdfast.ops import Kind

Skipped = Callable[[str], None]
"""Told in a sentence what was left out, and why."""


@functools.cache
def products_a_second() -> float:
    """Return how many products of float64 numbers a matrix product makes in a second."""
    size = 384
    matrix = torch.ones(size, size, dtype=torch.float64)
    spent = []
    for _ in range(4):  # the fastest: others may use the processor too
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        spent.append(time.perf_counter() - start)
    return size**3 / max(min(spent), 1e-9)


def products(graph: Graph) -> int:
    """Return how many products one row takes through a graph."""
    return sum(
        math.prod(node.shape) * node.facts.roundings(node.params, graph[node.inputs[0]].shape)
        for node in graph.nodes
        if node.kind in (Kind.AFFINE, Kind.PRODUCT) and node.perturbed
    )


def norms_products(graph: Graph, norm: float) -> float:
    """Return about how many products the operator norms of all affine nodes take."""
    total = 0.0
    for node in graph.nodes:
        if node.kind is not Kind.AFFINE or not node.perturbed or node.facts.by_entry:
            continue
        shape = graph[node.inputs[0]].shape
        columns, rows = math.prod(shape), math.prod(node.shape)
        once = rows * node.facts.roundings(node.params, shape)
        if norm != 2.0:
            total += 4.0 * once
        elif node.op == "linear" or worth_writing_out(columns, rows):
            # every input is pushed through, twice; then come a Gram matrix and its eigenvalues
            pushed = 0.0 if node.op == "linear" else 2.0 * columns * once
            total += pushed + 8.0 * min(columns, rows) * columns * rows
        elif len(shape) == 3:  # the same for the channels, at half of the frequencies
            sizes = sorted((shape[0], node.shape[0]))
            total += 4.0 * max(columns / shape[0], rows / node.shape[0]) * sizes[0] ** 2 * sizes[1]
    return total


def affords(method: str, count: float, numbers: float, seconds: float, skipped: Skipped) -> bool:
    """Return whether a method fits into the time and the memory; say so where it does not.

    Args:
        method: Its name.
        count: Products of float64 numbers that it takes.
        numbers: Float64 numbers that it holds at once.
        seconds: Time that is left.
        skipped: Told why the method is left out.
    """
    needed, held = count / products_a_second(), 8.0 * numbers
    if held > 2e9:
        skipped(f"{method} was left out: it takes about {held / 1e9:.1f} GB of memory")
        return False
    if needed > seconds:
        left = f"{max(seconds, 0.0):.2g} s were left"
        skipped(f"{method} was left out: it takes about {needed:.2g} s, and {left}")
        return False
    return True
