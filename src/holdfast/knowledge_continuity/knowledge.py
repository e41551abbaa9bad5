"""Knowledge continuity of a model on data: hidden states of every layer, then their pairs."""

import dataclasses
from collections.abc import Sequence
from typing import Unpack, cast

import torch
from torch import Tensor, nn

from holdfast.arguments import look_up
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.measure import (
    Options,
    Plan,
    measure_layers,
    resolution_note,
)
from holdfast.knowledge_continuity.pairs.distance import Distance, name_of, paired_distances
from holdfast.knowledge_continuity.pairs.intervals import grouped_mean
from holdfast.knowledge_continuity.result import Knowledge
from holdfast.knowledge_continuity.states.losses import Loss, loss_resolution, row_losses
from holdfast.knowledge_continuity.states.states import Batches, Inputs, Pooling, Seen, collect
from holdfast.knowledge_continuity.states.store import open_store
from holdfast.types import Estimate

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class ModelOptions(Options, total=False):
    """How hidden states are taken and pairs are measured.

    Attributes:
        pooling: `mean`, `first` or `last` over the real tokens, or a callable of states [b, T, d]
            and mask [b, T]; for token models, whose inputs are a mapping.
        reference: Inputs and labels of a fixed set of anchors, none of them among the data;
            certificates then count all rows of the data.
        perturbations: Perturbed inputs [p, ...] and the row [p] that each of them was made from,
            for example by replacing a word; their labels are those of the rows.
    """

    pooling: Pooling
    reference: Batches | None
    perturbations: tuple[Inputs, Tensor] | None


def knowledge(
    model: nn.Module,
    data: Batches,
    layers: Sequence[str] | None = None,
    loss: Loss = "cross_entropy",
    distance: Distance = "euclidean",
    **options: Unpack[ModelOptions],
) -> Knowledge:
    """Measure how steady a model's knowledge is at every layer, and count what proves it.

    The k-volatility of a layer is the expected ratio of loss change to distance between the hidden
    states of two random examples (Sun, Ma, Ge, Vosoughi, NeurIPS 2024, Definition 2), here over
    all pairs of rows. Any module will do; it is run as it is and need not be capturable.

    Args:
        model: Any module in eval mode.
        data: Inputs [N, ...] and labels [N], or an iterable of such batches. For token models the
            inputs are a mapping: `input_ids`, `attention_mask`, ...
        layers: Module paths, as in `named_modules()`; `path@k` is the k-th further call of a
            module. None for one per distinct output; for token models, for the embeddings and
            every block.
        loss: `cross_entropy`, `zero_one`, `brier`, `margin`, or a callable with one loss per row.
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable.
        options: See `ModelOptions` and `Options`: `kernel`, `clip`, `pairs`, `near`, `grid`,
            `seed`, `pooling`, `reference`, `perturbations`.

    Returns:
        Volatility with intervals, by layer, and certificates; see `Knowledge`.

    Raises:
        Unsupported: When a module is in training mode that makes its output depend on chance.
        InvalidInput: When an argument is not usable, an option or a layer does not exist.

    >>> import torch, holdfast
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> inputs, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    >>> result = holdfast.knowledge(model, (inputs, labels))
    >>> result.layers
    ('0', '1', '2')
    """
    for option in options:
        look_up("option", option, ModelOptions.__annotations__ | Options.__annotations__)
    pooling = options.pop("pooling", "mean")
    anchors = options.pop("reference", None)
    perturbations = options.pop("perturbations", None)
    plan = Plan(distance, **cast(Options, options))
    with open_store() as store:
        seen = collect(model, data, layers, pooling, store)
        losses = row_losses(loss, seen.outputs, seen.labels)
        resolution = loss_resolution(loss, seen.outputs, seen.labels)
        given = None
        if anchors is not None:
            other = collect(model, anchors, tuple(seen.states), pooling, store)
            given = (other.states, row_losses(loss, other.outputs, other.labels))
        result = measure_layers(seen.states, losses, seen.labels, given, plan, resolution)
        perturbed, notes = {}, result.notes
        if perturbations is not None:
            inputs, rows = _check_perturbations(perturbations, len(losses))
            moved = collect(model, (inputs, seen.labels[rows]), tuple(seen.states), pooling, store)
            changes = (row_losses(loss, moved.outputs, moved.labels) - losses[rows]).abs()
            perturbed = _perturbed(seen, moved, rows, changes, distance)
            note = resolution_note("perturbations", float(changes.mean()), resolution)
            notes += (note,) if note else ()
    accuracy = _accuracy(seen.outputs, seen.labels)
    return dataclasses.replace(
        result, loss=name_of(loss), perturbed=perturbed, accuracy=accuracy, notes=notes
    )


def _accuracy(outputs: Tensor, labels: Tensor) -> float | None:
    """Return the share of the rows whose largest output is the label's; None without classes."""
    if outputs.ndim != 2 or outputs.shape[1] < 2 or labels.is_floating_point():
        return None
    return float((outputs.argmax(1) == labels).double().mean())


def _check_perturbations(given: object, n: int) -> tuple[Inputs, Tensor]:
    """Return perturbed inputs and the rows they were made from.

    Raises:
        InvalidInput: If they do not say which rows.
    """
    wanted = f"(inputs, rows) with the row of each, from 0 to {n - 1}"
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise InvalidInput("perturbations", type(given).__name__, wanted)
    inputs, rows = given
    whole = isinstance(rows, Tensor) and rows.ndim == 1 and rows.dtype in WHOLE
    if not whole or not len(rows) or not bool(((rows >= 0) & (rows < n)).all()):
        raise InvalidInput("perturbations", f"rows {rows}", wanted)
    return inputs, rows.long()


def _perturbed(
    seen: Seen, moved: Seen, rows: Tensor, changes: Tensor, distance: Distance
) -> dict[str, Estimate]:
    """Return the volatility over (row, perturbed row), by layer; pairs at distance 0 count as 0."""
    found = {}
    for layer, states in moved.states.items():
        distances = paired_distances(distance, seen.states[layer][rows], states)
        slopes = torch.where(distances > 0, changes / distances, 0.0)
        found[layer] = grouped_mean(slopes, rows)
    return found
