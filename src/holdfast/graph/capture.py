"""From a module to an immutable graph, or to a list of all the reasons why not."""

import contextlib
import dataclasses
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidInput, Obstacle, Unsupported
from holdfast.graph.aten import TRANSLATIONS, Builder, Call, Ref, opaque
from holdfast.graph.ir import Graph, Node
from holdfast.graph.replay import check_replay
from holdfast.graph.rewrite import drop_unused, pair_extremes

Example = Tensor | Mapping[str, Tensor]


def capture(model: nn.Module, example: Example) -> Graph:
    """Turn a model into a graph that every method of Holdfast reads.

    The model is exported with `torch.export`, everything that its inputs do not reach (masks,
    parametrisations, position tables) is folded to constants, and the graph is then executed
    beside the model: on a batch, twice, at another batch size and row by row.

    Args:
        model: In eval mode; its parameters and buffers are copied, not kept.
        example: One input with batch dimension [N, ...], or keyword tensors with one.

    Returns:
        The captured graph.

    Raises:
        Unsupported: With every reason at once: training-mode batch norm or dropout, state that
            the forward pass writes, data-dependent control flow, weights that are not finite,
            rows that influence each other, ...
        InvalidInput: When the example is not a batch of tensors.

    >>> import torch, holdfast
    >>> graph = holdfast.capture(torch.nn.Linear(3, 2), torch.zeros(1, 3))
    >>> [node.op for node in graph.nodes]
    ['input', 'linear']
    """
    tensors = check_example(example)
    obstacles = [*_modes(model), *_weights(model)]
    if obstacles:
        raise Unsupported("capture", obstacles)
    fingerprint = weights_hash(model)
    program = _export(model, example)
    graph = _translate(program, model, fingerprint)
    check_replay(graph, model, example, tensors)
    check_unchanged(graph, model)
    return graph


def check_example(example: Example) -> tuple[Tensor, ...]:
    """Return the tensors of an example.

    Raises:
        InvalidInput: When one is not a tensor with at least one row, or rows differ in number.
    """
    named = example if isinstance(example, Mapping) else {"example": example}
    for name, value in named.items():
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] == 0:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInput(name, got, "a tensor with at least one row (batch dimension first)")
    if len({value.shape[0] for value in named.values()}) > 1:
        rows = {name: value.shape[0] for name, value in named.items()}
        raise InvalidInput("example", f"rows {rows}", "the same number of rows in every tensor")
    return tuple(named.values())


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


def _modes(model: nn.Module) -> list[Obstacle]:
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


def _weights(model: nn.Module) -> list[Obstacle]:
    """Return the parameters and buffers that no bound can be computed from."""
    obstacles = []
    for path, value in _state(model).items():
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            why = f"stored as {str(value.dtype).removeprefix('torch.')}"
            obstacles.append(Obstacle(path, "weights", why, "convert it: model.float()"))
        elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
            obstacles.append(Obstacle(path, "weights", "holds NaN or infinity"))
        elif path.endswith("running_var") and bool((value < 0).any()):
            obstacles.append(Obstacle(path, "statistics", "a variance below zero"))
    return obstacles


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
            return program.run_decompositions({})
    except Exception as error:
        raise Unsupported("capture", [_export_obstacle(error)]) from error


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep torch.export from logging what `_export_obstacle` says in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
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


def _translate(program: torch.export.ExportedProgram, model: nn.Module, fingerprint: str) -> Graph:
    """Translate the exported program into a graph."""
    obstacles = _written_state(program)
    values = _placeholders(program)
    b = Builder()
    layers: dict[str, str] = {}
    output: object = None
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name not in values:
                values[node.name] = _input(b, node)
        elif node.op == "get_attr":
            values[node.name] = getattr(program.graph_module, node.target).detach()
        elif node.op == "call_function" and not _is_check(node):
            obstacles += _chance(node)
            values[node.name] = _step(b, node, values)
            _note_layers(layers, node, values[node.name])
        elif node.op == "output":
            output = _resolve(node.args[0], values)
    name = _single_output(output, len(program.graph_signature.user_outputs), obstacles)
    if obstacles:
        raise Unsupported("capture", obstacles)
    graph = Graph(tuple(b.nodes.values()), name, layers, fingerprint, _precision(model))
    return drop_unused(pair_extremes(graph))


def _precision(model: nn.Module) -> torch.dtype:
    """Return float64 for a model with float64 weights, float32 for any other."""
    types = {value.dtype for value in _state(model).values() if value.is_floating_point()}
    return torch.float64 if torch.float64 in types else torch.float32


def _written_state(program: torch.export.ExportedProgram) -> list[Obstacle]:
    """Return the buffers and inputs that a forward pass writes."""
    signature = program.graph_signature
    written = {**signature.buffers_to_mutate, **signature.user_inputs_to_mutate}
    advice = "remove the write, or call model.eval() if it belongs to training"
    return [
        Obstacle(str(target), "state", "the forward pass writes it", advice)
        for target in written.values()
    ]


def _chance(node: torch.fx.Node) -> list[Obstacle]:
    """Return why a node's result is not a function of its own row, if so."""
    name = str(node.target)
    if name.startswith(("aten._native_batch_norm_legit.", "aten._native_batch_norm_legit_func")):
        why = "normalises with the statistics of the batch"
    elif torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        why = "draws random numbers in the forward pass"
    else:
        return []
    return [Obstacle(_path(node), name, why, "call model.eval() first", _source(node))]


def _placeholders(program: torch.export.ExportedProgram) -> dict[str, object]:
    """Return the values of lifted parameters, buffers and constants, by placeholder name."""
    signature = program.graph_signature
    state = {**program.state_dict, **program.constants}
    lifted = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {name: state[target].detach().clone() for name, target in lifted.items()}


def _input(b: Builder, node: torch.fx.Node) -> Ref:
    """Add an input node, named as the model's own argument."""
    value = node.meta["val"]
    shape, perturbed = tuple(value.shape[1:]), value.is_floating_point()
    b.nodes[node.name] = Node(node.name, "input", shape=shape, perturbed=perturbed)
    return Ref(node.name, shape, perturbed)


def _is_check(node: torch.fx.Node) -> bool:
    """Return whether a node only asserts something for torch.export itself."""
    return "assert" in str(node.target) or "sym_constrain" in str(node.target)


def _resolve(item: object, values: Mapping[str, Any]) -> object:
    """Replace graph nodes among arguments by their values."""
    if isinstance(item, torch.fx.Node):
        return values[item.name]
    if isinstance(item, list | tuple):
        return [_resolve(part, values) for part in item]
    return item


def _step(b: Builder, node: torch.fx.Node, values: Mapping[str, Any]) -> object:
    """Translate, fold or keep one call."""
    args = [_resolve(item, values) for item in node.args]
    kwargs = {name: _resolve(item, values) for name, item in node.kwargs.items()}
    refs = [item for item in _flat([args, list(kwargs.values())]) if isinstance(item, Ref)]
    value = node.meta.get("val")
    if not isinstance(value, torch.SymInt) and all(ref.at_one is not None for ref in refs):
        return _fold(node, args, kwargs)
    complete = _complete(node, args, kwargs)
    shape = _row_shape(value)
    call = Call(node.target, complete, shape or (), _path(node), _source(node))
    translate = TRANSLATIONS.get(node.target)
    rows = shape is not None or isinstance(value, list | tuple)
    if translate and rows and not _narrows(complete):
        result = translate(b, call)
        if result is not None:
            return result
    ref = opaque(b, call, args, kwargs)
    return _as_size(b, ref, value) if isinstance(value, torch.SymInt) else ref


def _flat(items: object) -> Iterator[object]:
    if isinstance(items, list | tuple):
        for item in items:
            yield from _flat(item)
    else:
        yield items


def _complete(node: torch.fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return all arguments in the order of the schema, with its defaults."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return list(args)
    rest = schema.arguments[len(args) :]
    return [*args, *(kwargs.get(item.name, item.default_value) for item in rest)]


def _narrows(args: Sequence[Any]) -> bool:
    """Return whether a call asks for a type other than float32 or float64."""
    wide = (torch.float32, torch.float64)
    return any(isinstance(item, torch.dtype) and item not in wide for item in args)


def _fold(node: torch.fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """Return what no input reaches; what follows the batch size is computed for one row.

    A constant for one row broadcasts along the batch; where that is not what the model does,
    the replay at other batch sizes shows it.
    """
    function: Any = node.target
    with torch.no_grad():
        return function(*map(_at_one, args), **{k: _at_one(v) for k, v in kwargs.items()})


def _at_one(item: object) -> object:
    if isinstance(item, Ref):
        return item.at_one
    if isinstance(item, list | tuple):
        return [_at_one(part) for part in item]
    return item


def _as_size(b: Builder, ref: Ref, value: torch.SymInt) -> Ref:
    """Mark a node as a size that follows the batch: it does not move with the input."""
    b.nodes[ref.node] = dataclasses.replace(b.nodes[ref.node], perturbed=False)
    expression = value.node.expr
    at_one = int(expression.subs({symbol: 1 for symbol in expression.free_symbols}))
    return Ref(ref.node, (), False, at_one)


def _row_shape(value: object) -> tuple[int, ...] | None:
    """Return the shape of one row, or None where the first dimension is not the batch."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return None
    first, *rest = value.shape
    follows_batch = isinstance(first, torch.SymInt) and first.node.expr.is_symbol
    if not follows_batch or any(isinstance(size, torch.SymInt) for size in rest):
        return None
    return tuple(rest)


def _stack(node: torch.fx.Node) -> list[tuple[str, str]]:
    """Return (key, module path) of the modules that a node runs in, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(key, path) for key, (path, _) in stack.items() if not key.startswith("_empty")]


def _path(node: torch.fx.Node) -> str:
    stack = _stack(node)
    return stack[-1][1] if stack else ""


def _source(node: torch.fx.Node) -> str:
    """Return "file:line" of the innermost line of user code that made a node."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    frames = [line for line in lines if line.startswith("File ") and "/torch/" not in line]
    if not frames:
        return ""
    file, line = frames[-1].split(", ")[:2]
    return f"{file.removeprefix('File ').strip(chr(34))}:{line.removeprefix('line ')}"


def _note_layers(layers: dict[str, str], node: torch.fx.Node, value: object) -> None:
    """Make a node the output, so far, of every module that it runs in."""
    if not isinstance(value, Ref) or value.at_one is not None:
        return
    for key, path in _stack(node):
        if path:
            _, at, call = key.partition("@")
            layers[path + at + call] = value.node


def _single_output(output: object, count: int, obstacles: list[Obstacle]) -> str:
    """Return the name of the node that is the model's only result.

    Written state comes first among the program's outputs; the model's own are the last `count`.

    Raises:
        Unsupported: When there are several results, or one that no input reaches.
    """
    results = list(_flat(output))[-count:]
    if len(results) == 1 and isinstance(results[0], Ref):
        return results[0].node
    if len(results) == 1:
        why = "the result does not depend on the input"
        obstacles.append(Obstacle("", "output", why))
    else:
        why = f"{len(results)} results, wanted one tensor"
        advice = "wrap the model in a module that returns the logits alone"
        obstacles.append(Obstacle("", "output", why, advice))
    raise Unsupported("capture", obstacles)
