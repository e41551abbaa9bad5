"""Hidden states of any module, by the layers that `holdfast.graph.layers` names.

The model is run as it is, with hooks: no capture is needed, so models that cannot be captured can
be measured too. States of token models are pooled over the real tokens of each row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.arguments import check_model, known_names, shown, user_code
from holdfast.batches import Data, Inputs, read_batches, rows_at
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import scripted, training_modes
from holdfast.graph.forward import logits_in, run_function, run_model
from holdfast.graph.layers import first_tensor, layer_results, module_path
from holdfast.knowledge_continuity.options import KnowledgeOptions
from holdfast.knowledge_continuity.states.identity import row_identity
from holdfast.knowledge_continuity.states.losses import loss_roundings, row_losses
from holdfast.knowledge_continuity.states.pooling import POOLING
from holdfast.knowledge_continuity.states.store import Store


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """What a model makes of some rows, or what was given in its place.

    Attributes:
        states: By layer, in execution order: [N, ...].
        losses: [N].
        labels: [N].
        identity: What tells one row from another, [N, k]; see `identity`.
        roundings: What rounding may change in each loss, [N].
        outputs: Of the model, [N, ...]; None where there is none.
    """

    states: Mapping[str, Tensor]
    losses: Tensor
    labels: Tensor
    identity: Tensor
    roundings: Tensor
    outputs: Tensor | None = None


def collect(
    model: nn.Module,
    data: Data,
    layers: object,
    options: KnowledgeOptions,
    store: Store,
) -> HiddenStates:
    """Run a model on all rows and keep its outputs, their losses and the states of layers.

    Args:
        model: In eval mode.
        data: Inputs [N, ...] and labels [N], or an iterable of such batches.
        layers: Module paths (with `@k` for the k-th further call); None for `default_layers`.
        options: Loss and pooling, which applies to states with a token dimension, where the inputs
            are a mapping.
        store: Where states are kept.

    Returns:
        The rows, on the CPU.

    Raises:
        Unsupported: When a module is in training mode that makes its output depend on chance.
        InvalidInput: When a layer does not exist or is not run, or its output is no tensor.
    """
    model = check_model(model)
    if obstacles := [*training_modes(model), *scripted(model)]:
        raise Unsupported("knowledge continuity", obstacles)
    pool = options.pooling if callable(options.pooling) else POOLING[options.pooling]
    names = None if layers is None else _names(layers)
    outputs, labels, identities, chosen, parts = [], [], [], names or (), {}
    for inputs, targets in read_batches(data):
        if not outputs:
            chosen = _choose(model, inputs, names)
            parts = {layer: store.rows() for layer in chosen}
        output, states = _run(model, inputs, chosen)
        outputs.append(output.cpu())
        labels.append(targets.detach().cpu())
        identities.append(row_identity(inputs).cpu())
        for layer, value in states.items():
            parts[layer].add(_pooled(layer, value, inputs, pool))
    try:
        together, identity = torch.cat(outputs), torch.cat(identities)
    except RuntimeError as problem:
        raise InvalidInput("data", f"batches that differ ({problem})", "rows of one kind") from None
    answered = together, torch.cat(labels)
    return HiddenStates(
        {name: part.whole() for name, part in parts.items()},
        row_losses(options.loss, *answered, options.threshold),
        answered[1],
        identity,
        loss_roundings(options.loss, *answered, options.threshold),
        together,
    )


def _names(layers: object) -> tuple[str, ...]:
    """Return the names of layers.

    Raises:
        InvalidInput: When they are something else.
    """
    names = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else []
    if names and all(isinstance(layer, str) for layer in names):
        return tuple(names)
    wanted = "a sequence of module paths, at least one, or None"
    raise InvalidInput("layers", shown(layers), wanted)


def default_layers(model: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Return the layers that are measured where the user names none, in execution order.

    For token models: the embeddings and the blocks, which are the members of the outermost module
    lists. For others, and where there are no blocks: one path per distinct output, the deepest.
    Outputs that are not the rows' (parametrised weights, embeddings of positions) are no states.

    Args:
        model: In eval mode.
        inputs: At least one row.
    """
    follows = {layer for layer, seen in _sizes(model, inputs).items() if _is_rows(seen)}
    row = rows_at(inputs, slice(1))
    deepest = tuple(path for path in _outputs_once(model, row) if path in follows)
    if not isinstance(inputs, Mapping):
        return deepest
    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    inner = {path for path in lists if any(path.startswith(f"{other}.") for other in lists)}
    outer = {path for path in lists if path not in inner}
    called = [path for path in _run(model, row, None)[1] if path in follows]
    blocks = [path for path in called if path.rpartition(".")[0] in outer]
    words = [path for path in called if path.rpartition(".")[2] == "embeddings"]
    return (*words, *blocks) if blocks else deepest


def _sizes(model: nn.Module, inputs: Inputs) -> dict[str, dict[int, int]]:
    """Return how long each layer's output is on one row and, where there are two, on two.

    Args:
        model: In eval mode.
        inputs: At least one row.

    Returns:
        By layer, in the order in which they are computed: number of rows to first dimension.
    """
    sizes: dict[str, dict[int, int]] = {}
    for rows in (1, 2)[: _count(inputs)]:
        for layer, value in _run(model, rows_at(inputs, slice(rows)), None)[1].items():
            sizes.setdefault(layer, {})[rows] = len(value)
    return sizes


def _is_rows(sizes: Mapping[int, int]) -> bool:
    return all(size == rows for rows, size in sizes.items())


def _count(inputs: Inputs) -> int:
    return len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))


def _outputs_once(model: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Return one layer for each distinct output of a module, the deepest one."""
    kept: list[Tensor] = []  # alive until the end, so that no two outputs share an address
    found: dict[tuple[int, tuple[int, ...], int], str] = {}

    def note(layer: str, value: Tensor) -> None:
        kept.append(value)
        found.setdefault((value.data_ptr(), tuple(value.shape), value._version), layer)

    with layer_results(model, _floating(note)):
        _call(model, inputs)
    return tuple(found.values())


def _choose(model: nn.Module, inputs: Inputs, layers: Sequence[str] | None) -> tuple[str, ...]:
    """Return the layers to measure, in execution order.

    Raises:
        InvalidInput: When one does not exist, or returns no tensor or one that does not hold a row
            of states for every row, or there is none.
    """
    if layers is None:
        if found := default_layers(model, inputs):
            return found
        raise InvalidInput("layers", "none", "at least one module with an output of its own")
    for layer in layers:
        if module_path(layer, model) is None:
            existing = [path for path, _ in model.named_modules() if path]
            raise InvalidInput("layer", repr(layer), known_names(layer, existing))
    called = _sizes(model, inputs)
    for layer in layers:
        if layer not in called:
            wanted = f"a module that runs and returns a tensor: {known_names(layer, called)}"
            raise InvalidInput("layer", repr(layer), wanted)
        if not _is_rows(called[layer]):
            seen = " and ".join(f"{size} for {rows}" for rows, size in called[layer].items())
            got = f"{layer!r}, whose output does not follow the rows (first dimension: {seen})"
            raise InvalidInput("layer", got, "a layer with one row of states for each row")
    return tuple(path for path in called if path in set(layers))


def _run(
    model: nn.Module, inputs: Inputs, layers: Sequence[str] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the model's output and copies of these layers (None: of all), in execution order.

    Raises:
        InvalidInput: When a layer is not run on these rows.
    """
    states: dict[str, Tensor] = {}

    def note(layer: str, value: Tensor) -> None:
        if layer and (layers is None or layer in layers):
            states[layer] = value.detach().clone()  # the next layer may work in place

    with layer_results(model, _floating(note)):
        output = _call(model, inputs)
    if missing := [layer for layer in layers or () if layer not in states]:
        raise InvalidInput("data", f"rows on which {missing[0]!r} does not run", "rows of one kind")
    return output, states


def _floating(note: Callable[[str, Tensor], None]) -> Callable[[str, object], None]:
    """Hand on only results with floating-point rows."""

    def passed(layer: str, result: object) -> None:
        value = first_tensor(result)
        if value is not None and value.ndim and value.is_floating_point():
            note(layer, value)

    return passed


@torch.no_grad()
def _call(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the only or first tensor of the model's answer to rows in its own type and place.

    Raises:
        InvalidInput: When it does not take the rows, or returns no tensor.
    """
    some = next((p for p in model.parameters() if p.is_floating_point()), None)

    def fitted(value: Tensor) -> Tensor:
        if some is None:
            return value
        return value.to(some.device, some.dtype if value.is_floating_point() else None)

    with user_code("data", "rows on which the model fails", "rows that the model takes"):
        taken = (
            {name: fitted(value) for name, value in inputs.items()}
            if isinstance(inputs, Mapping)
            else fitted(inputs)
        )
    output = logits_in(run_model(model, taken, "data")).detach()
    if output.is_meta:
        raise InvalidInput("model", "an output on the meta device", "a model with weights")
    return output


def _pooled(
    layer: str, states: Tensor, inputs: Inputs, pool: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return one flat row of states per input row, at least float32, on the CPU.

    Raises:
        InvalidInput: When the layer does not return one row of states per input row.
    """
    rows = _count(inputs)
    if isinstance(inputs, Mapping) and states.ndim == 3:
        mask = inputs.get("attention_mask", states.new_ones(states.shape[:2]))
        if states.shape[:2] == mask.shape:
            states = run_function("pooling", pool, states, mask.to(states.device))
    if not isinstance(states, Tensor) or states.shape[:1] != (rows,):
        shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
        got = f"{layer!r} with an output of shape {shape}"
        raise InvalidInput("layers", got, f"a layer with one row of states for each of {rows} rows")
    return states.reshape(rows, -1).to("cpu", torch.promote_types(states.dtype, torch.float32))
