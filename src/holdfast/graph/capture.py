"""From a module to an immutable graph, or to a list of all the reasons why not."""

import contextlib
import dataclasses
import hashlib
import io
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from holdfast.arguments import check_example, check_model
from holdfast.errors import Obstacle, Unsupported
from holdfast.gradients import with_gradients
from holdfast.graph.aliases import unseen_writes
from holdfast.graph.functional import functional
from holdfast.graph.ir import Graph
from holdfast.graph.replay import check_replay
from holdfast.graph.translate import translate
from holdfast.rounding import check_subnormals

Example = Tensor | Mapping[str, Tensor]


def capture(model: nn.Module, example: Example) -> Graph:
    """Turn a model into a graph that every method of Holdfast reads.

    The model is exported with `torch.export`, everything that its inputs do not reach (masks,
    parametrisations, position tables) is folded to constants, and the graph is then executed
    beside the model: twice, in batches of several sizes, row by row and module by module.

    Args:
        model: In eval mode; its parameters and buffers are copied, not kept.
        example: One input with batch dimension [N, ...], or keyword tensors with one.

    Returns:
        The captured graph.

    Raises:
        Unsupported: With every reason at once: training-mode batch norm or dropout, state that
            the forward pass writes, data-dependent control flow, weights that are not finite,
            rows that influence each other, ... Or when the process flushes subnormal numbers.
        InvalidInput: When the example is not a batch of tensors.

    >>> import torch, holdfast
    >>> graph = holdfast.capture(torch.nn.Linear(3, 2), torch.zeros(1, 3))
    >>> [node.op for node in graph.nodes]
    ['input', 'linear']
    """
    with captured(model, example) as graph:
        return graph


@contextlib.contextmanager
def captured(model: nn.Module, example: Example) -> Iterator[Graph]:
    """Capture a model for the length of a `with` statement; see `capture`.

    Whatever is computed inside is about one state of the weights: they are hashed before the model
    is exported, and once more where the statement ends. Neither there nor here does the process
    flush subnormal numbers.

    Args:
        model: As for `capture`.
        example: As for `capture`.

    Yields:
        The captured graph.

    Raises:
        Unsupported: As for `capture`, and when weights or buffers changed meanwhile.
        InvalidInput: As for `capture`.
    """
    model, example = check_model(model), check_example(example)
    with with_gradients():
        yield from _captured(model, example)


def _captured(model: nn.Module, example: Tensor | dict[str, Tensor]) -> Iterator[Graph]:
    check_subnormals("capture")
    tensors = tuple(example.values()) if isinstance(example, dict) else (example,)
    obstacles = [*scripted(model), *training_modes(model), *unusable_weights(model)]
    if obstacles:
        raise Unsupported("capture", obstacles)
    fingerprint = weights_hash(model)
    program = _export(model, example)
    graph = dataclasses.replace(
        translate(program, model), fingerprint=fingerprint, precision=_precision(model, tensors)
    )
    graph = check_replay(graph, model, example, tensors)
    empty = [node.obstacle("no entries", "leave it out") for node in graph.nodes if 0 in node.shape]
    if empty:
        raise Unsupported("capture", empty)
    yield graph
    check_subnormals("certification")
    check_unchanged(graph, model)


def example_row(inputs: Tensor) -> Tensor:
    """Return the first row of inputs, [1, ...], with zeros for entries that are not finite."""
    return inputs[:1].nan_to_num(0.0, 0.0, 0.0)


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(_state(model).items()):
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def check_unchanged(graph: Graph, model: nn.Module) -> None:
    """Refuse to go on when the model's weights are no longer those of the capture.

    Raises:
        Unsupported: When the hash differs.
    """
    if weights_hash(model) != graph.fingerprint:
        why = "weights or buffers changed after the model was captured"
        raise Unsupported("certification", [Obstacle("", "weights", why, "capture it again")])


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer, those outside the state dict included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def scripted(model: nn.Module) -> list[Obstacle]:
    """Return the modules of TorchScript, whose operations and layers cannot be seen."""
    advice = "give the module that it was made from, before torch.jit.trace or torch.jit.script"
    return [
        Obstacle(path, type(module).__name__, "TorchScript: its operations cannot be seen", advice)
        for path, module in model.named_modules()
        if isinstance(module, torch.jit.ScriptModule)
    ][:1]


def training_modes(model: nn.Module) -> list[Obstacle]:
    """Return the modules whose training mode makes the output depend on batch or chance."""
    obstacles = []
    for path, module in model.named_modules():
        kind = type(module).__name__
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            why = "training mode: each row's output depends on the other rows"
        elif isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            why = f"training mode: drops entries at random (p={module.p})"
        else:
            continue
        obstacles.append(Obstacle(path, kind, why, "call model.eval() first"))
    return obstacles


def unreadable_weights(model: nn.Module) -> list[Obstacle]:
    """Return the parameters and buffers that hold no numbers that can be read one by one."""
    obstacles = []
    for path, value in _state(model).items():
        if torch.nn.parameter.is_lazy(value):
            why, advice = "not initialised", "run the model once"
        elif value.is_meta:
            why, advice = "on the meta device, without values", "load them: model.to_empty(...)"
        elif value.layout != torch.strided:
            why, advice = "stored sparse", "replace them by their to_dense()"
        elif value.is_quantized:
            why, advice = "quantised", "use the model before quantisation"
        else:
            continue
        obstacles.append(Obstacle(path, "weights", why, advice))
    return obstacles


@torch.no_grad()  # weights made in inference mode cannot be looked at otherwise
def unusable_weights(model: nn.Module) -> list[Obstacle]:
    """Return the parameters and buffers that no bound can be computed from."""
    obstacles = unreadable_weights(model)
    if obstacles:
        return obstacles
    for path, value in _state(model).items():
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            why = f"stored as {str(value.dtype).removeprefix('torch.')}"
            obstacles.append(Obstacle(path, "weights", why, "convert it: model.float()"))
        elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
            obstacles.append(Obstacle(path, "weights", *_not_finite(value)))
        elif path.endswith("running_var") and bool((value < 0).any()):
            obstacles.append(Obstacle(path, "statistics", "a variance below zero"))
    return obstacles


def _not_finite(value: Tensor) -> tuple[str, str]:
    """Say what is no number in a parameter or buffer, and how to go on."""
    kinds = {"NaN": value.isnan(), "inf": value == math.inf, "-inf": value == -math.inf}
    found = [
        f"{name} in {n} of {value.numel()}" for name, at in kinds.items() if (n := int(at.sum()))
    ]
    why = f"holds NaN or infinity ({', '.join(found)} entries): nothing can be bounded beside it"
    if found[0].startswith("-inf"):
        return why, "in a mask, use a large finite number such as -1e9"
    return why, "load them again, or train again"


def _export(model: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """Export with a dynamic batch dimension, functional, composite operations kept whole."""
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else ((example,), {})
    # Rows are repeated to three: torch.export freezes a dimension of size one.
    args = tuple(_three_rows(value) for value in args)
    kwargs = {name: _three_rows(value) for name, value in kwargs.items()}
    batch = {0: torch.export.Dim.DYNAMIC}
    shapes = {name: batch for name in kwargs} if kwargs else tuple(batch for _ in args)
    try:
        with warnings.catch_warnings(), _quiet_torch():
            warnings.simplefilter("ignore")  # torch's own, about its own internals
            program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
            obstacles = unseen_writes(program)
            writes_nothing = functional(program)
    except Exception as error:
        raise Unsupported("capture", [_export_obstacle(error)]) from error
    if obstacles:
        raise Unsupported("capture", obstacles)
    if limits := _limits(program):
        why = f"what it does depends on the number of rows: exported for {' and '.join(limits)}"
        advice = "do the same for any x.shape[0]"
        raise Unsupported("capture", [Obstacle("", "batch", why, advice)])
    return writes_nothing


def _limits(program: torch.export.ExportedProgram) -> list[str]:
    """Return what torch.export noted that the number of rows must fulfil, in words.

    That there are at least two it takes for granted; one row is tried by the replay.
    """
    guards: list[str] = getattr(program, "_guards_code", None) or []
    found = [re.sub(r"L\['\w+'\]\.size\(\)\[0\]", "rows", guard) for guard in guards]
    # Other sizes have ranges too, such as the number of entries that a mask lets through.
    given = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    shapes = [value.shape for value in given if isinstance(value, Tensor)]
    firsts = [shape[0] for shape in shapes if shape]
    rows = [size.node.expr for size in firsts if isinstance(size, torch.SymInt)]
    ranges = [
        f"{limits.lower} to {limits.upper} rows"
        for symbol, limits in program.range_constraints.items()
        if symbol in rows and (limits.lower > 2 or limits.upper < 2**31)
    ]
    # Of several inputs it is noted that they have the same number of rows.
    return [guard for guard in found if guard != "rows == rows"] or ranges


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep torch.export from logging what `_export_obstacle` says in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _three_rows(value: Tensor) -> Tensor:
    return torch.cat([value[:1]] * 3)


def _export_obstacle(error: Exception) -> Obstacle:
    """Say in one sentence why torch.export gave up."""
    text = str(error)
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        why = "which operations run depends on the values of the input"
        return Obstacle("", "control flow", why, "rewrite it with torch.where")
    if "Constraints violated" in text or "specialized" in text:
        why = "the model fixes the batch size"
        return Obstacle("", "batch", why, "use x.shape[0] (or -1) in reshapes")
    if "were assigned during export" in text:
        return Obstacle("", "state", "the forward pass writes to an attribute", "return it instead")
    first = next((line for line in text.splitlines() if line.strip()), "no message")
    return Obstacle("", "torch.export", f"{type(error).__name__}: {first.strip()}")


def _precision(model: nn.Module, inputs: Iterable[Tensor]) -> torch.dtype:
    """Return float64 for a model with float64 weights or rows, float32 for any other."""
    values = [*_state(model).values(), *inputs]
    types = {value.dtype for value in values if value.is_floating_point()}
    return torch.float64 if torch.float64 in types else torch.float32
