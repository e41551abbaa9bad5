"""From an exported program to a graph: constants folded, layers noted, operations translated."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import Obstacle, Unsupported
from holdfast.graph.aten import TRANSLATIONS, Builder, Call, Ref, opaque
from holdfast.graph.ir import Graph, Node
from holdfast.graph.layers import GraphLayers


def translate(program: torch.export.ExportedProgram, model: nn.Module) -> Graph:
    """Translate a functional exported program, node by node.

    Args:
        program: From `torch.export` with an empty decomposition table.
        model: What was exported: its modules name the layers.

    Returns:
        The graph, not yet stamped with weights and precision.

    Raises:
        Unsupported: For state that the forward pass writes, randomness, batch statistics, and
            anything but one result.
    """
    obstacles = _written_state(program)
    values = _placeholders(program)
    b, named = Builder(), GraphLayers(model)
    output: object = None
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name not in values:
                values[node.name] = _input(b, node)
        elif node.op == "get_attr":
            values[node.name] = getattr(program.graph_module, node.target).detach()
        elif node.op == "call_function" and not _is_check(node):
            path = named.path(node)
            obstacles += _chance(node, path)
            value = values[node.name] = _step(b, node, values, path)
            if isinstance(value, Ref) and value.at_one is None:
                named.note(node, value.node if value.in_rows else None)
        elif node.op == "output":
            output = _resolve(node.args[0], values)
    name = _single_output(output, len(program.graph_signature.user_outputs), obstacles)
    if obstacles:
        raise Unsupported("capture", obstacles)
    return _drop_unused(Graph(tuple(b.nodes.values()), name, named.layers))


def _drop_unused(graph: Graph) -> Graph:
    """Remove the nodes that neither the output nor a layer needs; inputs stay."""
    needed = {graph.output, *graph.layers.values()}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    kept = tuple(node for node in graph.nodes if node.name in needed or node.op == "input")
    return dataclasses.replace(graph, nodes=kept)


def _written_state(program: torch.export.ExportedProgram) -> list[Obstacle]:
    """Return the buffers and inputs that a forward pass writes."""
    signature = program.graph_signature
    written = {**signature.buffers_to_mutate, **signature.user_inputs_to_mutate}
    advice = "remove the write, or call model.eval() if it belongs to training"
    return [
        Obstacle(str(target), "state", "the forward pass writes it", advice)
        for target in written.values()
    ]


def _chance(node: torch.fx.Node, path: str) -> list[Obstacle]:
    """Return why a node's result is not a function of its own row, if so."""
    name = str(node.target)
    if name.startswith(("aten._native_batch_norm_legit.", "aten._native_batch_norm_legit_func")):
        why = "normalises with the statistics of the batch"
    elif _draws(node):
        why = "draws random numbers in the forward pass"
    else:
        return []
    return [Obstacle(path, name, why, "call model.eval() first", _source(node))]


def _draws(node: torch.fx.Node) -> bool:
    """Return whether a call draws random numbers; attention without dropout does not."""
    if node.target is torch.ops.aten.scaled_dot_product_attention.default:
        dropout = _complete(node, node.args, node.kwargs)[4]
        return dropout != 0
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


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


def _step(b: Builder, node: torch.fx.Node, values: Mapping[str, Any], path: str) -> object:
    """Translate, fold or keep one call."""
    args = [_resolve(item, values) for item in node.args]
    kwargs = {name: _resolve(item, values) for name, item in node.kwargs.items()}
    refs = [item for item in _flat([args, list(kwargs.values())]) if isinstance(item, Ref)]
    value = node.meta.get("val")
    if not isinstance(value, torch.SymInt) and all(ref.at_one is not None for ref in refs):
        return _fold(node, args, kwargs)
    complete = _complete(node, args, kwargs)
    shape = _row_shape(value)
    dtype = value.dtype if isinstance(value, Tensor) else None
    call = Call(node.target, complete, shape or (), path, _source(node), dtype)
    translate = TRANSLATIONS.get(node.target)
    in_rows = shape is not None or isinstance(value, list | tuple)
    if translate and in_rows and all(r.in_rows for r in refs) and not _narrows(node, complete):
        result = translate(b, call)
        if result is not None:
            return result
    ref = opaque(b, call, args, kwargs)
    if isinstance(value, torch.SymInt):
        return _as_size(b, ref, value)
    return dataclasses.replace(ref, in_rows=shape is not None)


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


def _narrows(node: torch.fx.Node, args: Sequence[Any]) -> bool:
    """Return whether a call rounds its operands to a narrower type: a step, not a smooth map."""
    wide = (torch.float32, torch.float64)
    if any(isinstance(item, torch.dtype) and item not in wide for item in args):
        return True
    result = node.meta.get("val")
    operands = [item.meta.get("val") for item in node.all_input_nodes]
    sizes = [v.dtype.itemsize for v in operands if isinstance(v, Tensor) and v.is_floating_point()]
    return isinstance(result, Tensor) and any(size > result.dtype.itemsize for size in sizes)


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


def _source(node: torch.fx.Node) -> str:
    """Return "file:line" of the innermost line of user code that made a node."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    frames = [line for line in lines if line.startswith("File ") and "/torch/" not in line]
    if not frames:
        return ""
    file, line = frames[-1].split(", ")[:2]
    return f"{file.removeprefix('File ').strip(chr(34))}:{line.removeprefix('line ')}"


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
