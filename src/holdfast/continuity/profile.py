"""Knowledge continuity of a model on data: hidden states of every layer, then their pairs."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.batches import Data, gather
from holdfast.continuity.distance import Distance, name_of
from holdfast.continuity.knowledge import Knowledge
from holdfast.continuity.losses import Loss, row_losses
from holdfast.continuity.measure import measure
from holdfast.errors import InvalidInput
from holdfast.graph.capture import capture, check_unchanged
from holdfast.graph.ir import Graph
from holdfast.graph.walk import hidden_states

_BATCH = 256


def knowledge(
    model: nn.Module,
    data: Data,
    layers: Sequence[str] | None = None,
    loss: Loss = "cross_entropy",
    distance: Distance = "euclidean",
) -> Knowledge:
    """Measure how steady a model's knowledge is at every layer.

    The k-volatility of a layer is the expected ratio of loss change to distance between the hidden
    states of two random examples (Sun, Ma, Ge, Vosoughi, NeurIPS 2024, Definition 2), here over
    all pairs of rows.

    Args:
        model: Any module in eval mode.
        data: Inputs [N, ...] and labels [N], or an iterable of such batches.
        layers: Module paths, as in `named_modules()`; None for every layer.
        loss: `cross_entropy`, `zero_one`, `brier`, `margin`, or a callable with one loss per row.
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable.

    Returns:
        Volatility with intervals, by layer; see `Knowledge`.

    Raises:
        Unsupported: When the model cannot be captured.
        InvalidInput: When an argument is not usable, or a layer does not exist.

    >>> import torch, holdfast
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> inputs, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    >>> result = holdfast.knowledge(model, (inputs, labels))
    >>> result.layers
    ('0', '1', '2')
    """
    inputs, labels = gather(data)
    graph = capture(model, inputs[:1])
    result = knowledge_of(graph, (inputs, labels), layers, loss, distance)
    check_unchanged(graph, model)
    return result


def knowledge_of(
    graph: Graph,
    data: tuple[Tensor, Tensor],
    layers: Sequence[str] | None,
    loss: Loss,
    distance: Distance,
) -> Knowledge:
    """Measure a captured model; see `knowledge`."""
    inputs, labels = data
    chosen = tuple(graph.leaf_layers if layers is None else layers)
    if not chosen:
        raise InvalidInput("layers", "none", "at least one module with an output of its own")
    outputs, states = _collect(graph, inputs, chosen)
    losses = row_losses(loss, outputs, labels)
    return dataclasses.replace(
        measure(states, losses, labels, distance=distance), loss=name_of(loss)
    )


def _collect(
    graph: Graph, inputs: Tensor, layers: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run all rows in batches and put outputs and hidden states together."""
    parts = [hidden_states(graph, part, layers) for part in inputs.split(_BATCH)]
    outputs = torch.cat([output for output, _ in parts])
    return outputs, {layer: torch.cat([states[layer] for _, states in parts]) for layer in layers}
