"""Classifiers of one logit: class 1 is where it is above a threshold, so its logits are [0, z - t].

Written out like this, every method for classes holds for them as it stands: the difference of the
two logits is z - t, cross entropy of the two is binary cross entropy of z - t.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.graph.ir import Graph, Node


def with_two_logits(graph: Graph, threshold: float = 0.0) -> Graph:
    """Return a graph whose output of one number per row is written as two logits.

    Args:
        graph: The model; one with another output is returned as it is.
        threshold: Class 1 is where the number is above this, rounded to the model's precision as
            PyTorch rounds it when the two are compared.
    """
    output = graph[graph.output]
    if output.shape not in ((), (1,)):
        return graph
    graph = graph.with_row_output()
    last, nodes = graph[graph.output], list(graph.nodes)
    if threshold:
        offset = torch.tensor([-threshold], dtype=graph.precision)
        nodes.append(last := _after(last, "shift", (1,), offset=offset))
    nodes.append(last := _after(last, "pad", (2,), pads=((1, 0),), mode="constant", value=0.0))
    return dataclasses.replace(graph, nodes=tuple(nodes), output=last.name)


def _after(node: Node, op: str, shape: tuple[int, ...], **params: Any) -> Node:
    """Return an operation on the result of another."""
    return Node(f"{node.name}.{op}", op, (node.name,), params, shape, node.path, node.source)


def two_logits(outputs: Tensor, threshold: float = 0.0) -> Tensor:
    """Return outputs [N] or [N, 1] as logits [N, 2]; others as they are.

    Args:
        outputs: What a model answers.
        threshold: As for `with_two_logits`.

    >>> two_logits(torch.tensor([1.5, -2.0]), 1.0)
    tensor([[ 0.0000,  0.5000],
            [ 0.0000, -3.0000]])
    """
    if outputs.dim() not in (1, 2) or (outputs.dim() == 2 and outputs.shape[1] != 1):
        return outputs
    column = outputs.reshape(-1, 1)
    return functional.pad(column - torch.tensor(threshold).to(column), (1, 0))
