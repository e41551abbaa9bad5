"""Knowledge continuity of a model on data: hidden states of every layer, then their pairs."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.arguments import check_tensor, shown
from holdfast.batches import Data, Inputs
from holdfast.errors import HoldfastWarning, InvalidInput
from holdfast.gradients import with_gradients
from holdfast.graph.single import two_logits
from holdfast.knowledge_continuity.measure import measure_layers
from holdfast.knowledge_continuity.notes import rounding_note
from holdfast.knowledge_continuity.options import KnowledgeOptions
from holdfast.knowledge_continuity.pairs.distance import Distance, name_of, paired_distances
from holdfast.knowledge_continuity.pairs.intervals import grouped_mean
from holdfast.knowledge_continuity.result import Knowledge
from holdfast.knowledge_continuity.states.losses import Loss
from holdfast.knowledge_continuity.states.states import HiddenStates, collect
from holdfast.knowledge_continuity.states.store import open_store
from holdfast.types import Estimate


def knowledge(  # noqa: PLR0913 - the signature is the contract's
    model: nn.Module,
    data: Data,
    layers: Sequence[str] | Tensor | None = None,
    loss: Loss = "cross_entropy",
    distance: Distance = "euclidean",
    *,
    labels: object = None,
    reference: Data | None = None,
    perturbations: tuple[Inputs, Tensor] | None = None,
    **options: Any,
) -> Knowledge:
    """Measure how steady a model's knowledge is at every layer, and count what proves it.

    The k-volatility of a layer is the expected ratio of loss change to distance between the hidden
    states of two random examples (Sun, Ma, Ge, Vosoughi, NeurIPS 2024, Definition 2), here over
    all pairs of rows. Any module will do; it is run as it is and need not be capturable.

    Args:
        model: Any module in eval mode.
        data: Inputs [N, ...] and labels [N], or an iterable of such batches; or the inputs alone,
            with the labels after them, as for the other verbs. For token models the inputs are a
            mapping: `input_ids`, `attention_mask`, ...
        layers: Module paths, as in `named_modules()`; `path@k` is the k-th further call of a
            module. None for one per distinct output; for token models, for the embeddings and
            every block.
        loss: `cross_entropy`, `zero_one`, `brier`, `margin`, for targets `mse`, or a callable
            with one loss per row.
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable.
        labels: [N], where `data` are the inputs alone.
        reference: Inputs and labels of a fixed set of anchors; certificates then count all rows of
            the data but those that are among them.
        perturbations: Perturbed inputs [p, ...] and the row [p] that each of them was made from,
            for example by replacing a word; their labels are those of the rows.
        options: `kernel`, `clip`, `pairs`, `near`, `grid`, `seed`, `repeats`, `pooling`: see
            `KnowledgeOptions`.

    Returns:
        Volatility with intervals, by layer, and certificates; see `Knowledge`. Where the user
        interrupts, the layers that were done, and `stopped` says how many.

    Raises:
        Unsupported: When a module is in training mode that makes its output depend on chance.
        InvalidInput: When an argument is not usable, an option or a layer does not exist.

    Warns:
        HoldfastWarning: When rows are in the reference too; certificates do not count them. When
            the user interrupts.

    >>> import torch, holdfast
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> inputs, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
    >>> result = holdfast.knowledge(model, (inputs, labels))
    >>> result.layers
    ('0', '1', '2')
    """
    if labels is None and not _are_names(layers):
        labels, layers = layers, None
    if labels is not None:
        data = (data, labels)  # pyright: ignore[reportAssignmentType]
    checked = KnowledgeOptions.named(options, loss=loss, distance=distance)
    with with_gradients(), open_store() as store:
        run = functools.partial(collect, model, options=checked, store=store)
        rows = run(data, layers=layers)
        chosen = tuple(rows.states)
        anchors = None if reference is None else run(reference, layers=chosen)
        result = measure_layers(rows, anchors, checked)
        perturbed, notes = {}, result.notes
        if perturbations is not None and not result.stopped:
            inputs, origin = _check_perturbations(perturbations, len(rows.losses))
            moved = run((inputs, rows.labels[origin]), layers=chosen)
            changes = (moved.losses - rows.losses[origin]).abs()
            perturbed = _perturbed(rows, moved, origin, changes, distance)
            rounding = float((rows.roundings[origin] + moved.roundings).mean())
            notes += tuple(rounding_note("perturbations", float(changes.mean()), rounding))
    if result.stopped:
        said = f"stopped: {result.stopped} were measured"
        warnings.warn(said, HoldfastWarning, stacklevel=2)
    return dataclasses.replace(
        result,
        loss=name_of(loss),
        perturbed=perturbed,
        accuracy=_accuracy(rows, checked.threshold),
        notes=notes,
    )


def _are_names(layers: object) -> bool:
    """Return whether what stands where layers do are layers, and not labels."""
    if isinstance(layers, list | tuple):
        return all(isinstance(layer, str) for layer in layers)
    return not isinstance(layers, Tensor) and not hasattr(layers, "__array__")


def _accuracy(rows: HiddenStates, threshold: float) -> float | None:
    """Return the share of the rows whose largest logit is the label's; None without classes."""
    if rows.outputs is None or rows.labels.is_floating_point():
        return None
    logits = two_logits(rows.outputs, threshold)
    if logits.ndim != 2 or not logits.is_floating_point():
        return None
    if not bool(((rows.labels >= 0) & (rows.labels < logits.shape[1])).all()):
        return None  # numbers that name other things than these classes
    return float((logits.argmax(1) == rows.labels).double().mean())


def _check_perturbations(given: object, n: int) -> tuple[Inputs, Tensor]:
    """Return perturbed inputs and the rows they were made from.

    Raises:
        InvalidInput: If they do not say which rows.
    """
    wanted = f"(inputs, rows) with the row of each, from 0 to {n - 1}"
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise InvalidInput("perturbations", shown(given), wanted)
    inputs, rows = given[0], check_tensor("perturbations", given[1], wanted)
    whole = rows.ndim == 1 and rows.dtype != torch.bool and not rows.is_floating_point()
    if not whole or not len(rows) or not bool(((rows >= 0) & (rows < n)).all()):
        raise InvalidInput("perturbations", f"rows {rows.tolist()[:10]}", wanted)
    return inputs, rows.long()


def _perturbed(
    rows: HiddenStates, moved: HiddenStates, origin: Tensor, changes: Tensor, distance: Distance
) -> dict[str, Estimate]:
    """Return the volatility over (row, perturbed row), by layer; pairs at distance 0 count as 0."""
    found = {}
    for layer, states in moved.states.items():
        distances = paired_distances(distance, rows.states[layer][origin], states)
        slopes = torch.where(distances > 0, changes / distances, 0.0)
        found[layer] = grouped_mean(slopes, origin)
    return found
