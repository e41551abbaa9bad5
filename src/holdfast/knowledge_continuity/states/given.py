"""States and losses that are handed over as tensors, checked."""

from collections.abc import Mapping

import torch
from torch import Tensor

from holdfast.arguments import shown
from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.states.identity import states_identity
from holdfast.knowledge_continuity.states.states import HiddenStates

Reference = tuple[Mapping[str, Tensor], Tensor]


def given_states(
    states: Mapping[str, Tensor], losses: Tensor, labels: Tensor, reference: Reference | None
) -> tuple[HiddenStates, HiddenStates | None]:
    """Return rows, and anchors beside them, that were handed over as tensors.

    Args:
        states: By layer, in execution order: [N, ...].
        losses: [N].
        labels: [N].
        reference: States by layer [A, ...] and losses [A] of the anchors.

    Returns:
        The rows; the anchors, without labels, or None.

    Raises:
        InvalidInput: For the first tensor that does not fit, fewer than 2 rows, or values that are
            not finite.
    """
    check_rows(states, losses, labels)
    flat = _columns({layer: values.detach() for layer, values in states.items()})
    beside = {layer: values[:0] for layer, values in flat.items()}
    if reference is not None:
        beside = _checked_anchors(reference, states)
    pairs = states_identity(flat.values(), (beside[layer] for layer in flat))
    unit = torch.finfo(losses.dtype).eps / 2 if losses.is_floating_point() else 0.0
    losses = losses.detach()
    rows = HiddenStates(flat, losses, labels, pairs[0], unit * losses.double().abs())
    if reference is None:
        return rows, None
    losses, nothing = reference[1].detach(), torch.zeros(len(reference[1]))
    return rows, HiddenStates(beside, losses, nothing, pairs[1], nothing)


def _columns(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the states with at least one entry per row as a dimension of its own."""
    return {layer: values.reshape(len(values), -1) for layer, values in states.items()}


def _checked_anchors(reference: Reference, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the states of anchors by layer, [A, d], in the type and place of the rows'.

    Raises:
        InvalidInput: If they are not rows of the same layers.
    """
    wanted = "(states by layer, losses)"
    if not isinstance(reference, list | tuple) or len(reference) != 2:
        raise InvalidInput("reference", shown(reference), wanted)
    anchors, losses = reference
    if not isinstance(anchors, Mapping) or not isinstance(losses, Tensor):
        raise InvalidInput("reference", f"({shown(anchors)}, {shown(losses)})", wanted)
    missing = [layer for layer in states if layer not in anchors]
    if missing:
        raise InvalidInput("reference", f"no states of {missing}", "states of every layer")
    check_rows({layer: anchors[layer] for layer in states}, losses, torch.zeros(len(losses)))
    for layer, values in states.items():
        if anchors[layer].shape[1:] != values.shape[1:]:
            got = f"states of shape {tuple(anchors[layer].shape)} in layer {layer!r}"
            raise InvalidInput("reference", got, f"[A, {', '.join(map(str, values.shape[1:]))}]")
    columns = _columns({layer: anchors[layer].detach() for layer in states})
    return {layer: values.to(states[layer]) for layer, values in columns.items()}


def check_rows(states: Mapping[str, Tensor], losses: Tensor, labels: Tensor) -> None:
    """Check that all tensors are finite and have the same rows, at least 2.

    Raises:
        InvalidInput: For the first tensor that does not fit.
    """
    if not isinstance(states, Mapping) or not states:
        got = "no layers" if isinstance(states, Mapping) else shown(states)
        raise InvalidInput("states", got, "a mapping of at least one layer to its states")
    layers = {f"states[{layer!r}]": values for layer, values in states.items()}
    tensors = {"losses": losses, "labels": labels} | layers
    for name, values in tensors.items():
        if not isinstance(values, Tensor):
            raise InvalidInput(name, shown(values), "a tensor")
        if values.is_complex() or values.layout != torch.strided or values.is_meta:
            kind = f"{values.dtype}, {values.layout} on {values.device}"
            raise InvalidInput(name, kind, "a dense tensor of real numbers")
    n = losses.numel()
    if losses.shape != (n,) or n < 2:
        raise InvalidInput("losses", f"shape {tuple(losses.shape)}", "[N] with N at least 2")
    if labels.shape != (n,):
        raise InvalidInput("labels", f"shape {tuple(labels.shape)}", f"[{n}], one per loss")
    for name, values in layers.items():
        if values.shape[:1] != (n,) or values.numel() == 0:
            raise InvalidInput(name, f"shape {tuple(values.shape)}", f"[{n}, ...], a row per loss")
    for name, values in tensors.items():
        if bad := int((~values.reshape(n, -1).isfinite().all(1)).sum()):
            raise InvalidInput(name, f"NaN or infinity in {bad} of {n} rows", "finite values")
    # Squares of distances beyond this overflow, or vanish, in float64.
    most = 1e140
    for name, values in layers.items():
        largest = max(abs(float(end)) for end in values.detach().aminmax())
        if largest and not 1 / most < largest < most:
            wanted = f"units in which the largest is from {1 / most:g} to {most:g}"
            raise InvalidInput(name, f"entries up to {largest:g}", wanted)
