"""From an exported program to a graph: constants folded, layers noted, operations translated."""

import dataclasses
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from holdfast.errors import Obstacle, Unsupported
from holdfast.graph.aliases import source_line
from holdfast.graph.aten import BY_SHAPE, TRANSLATIONS, Builder, Call, Ref, opaque
from holdfast.graph.aten.layouts import follow
from holdfast.graph.aten.turned import turned
from holdfast.graph.functional import SILENT, is_check
from holdfast.graph.ir import Graph, Node
from holdfast.graph.layers import GraphLayers


def translate(program: torch.export.ExportedProgram, model: nn.Module) -> Graph:
    """Translate a functional exported program, node by node.

    Args:
        program: What `functional` returned.
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
            constant = operator.attrgetter(node.target)(program.graph_module)
            values[node.name] = constant.detach() if isinstance(constant, Tensor) else constant
        elif node.op == "call_function" and not is_check(node):
            path = named.path(node)
            obstacles += [*_chance(node, path), *_branches(node, path)]
            value = values[node.name] = _step(b, node, values, path)
            shown = value[0] if isinstance(value, list) and value else value
            if _is_layer(shown, node, values):
                named.note(node, shown.node if shown.in_rows else None)
        elif node.op == "output":
            output = _resolve(node.args[0], values)
    name = _single_output(output, len(program.graph_signature.user_outputs), obstacles)
    if obstacles:
        raise Unsupported("capture", obstacles)
    return Graph(tuple(b.nodes.values()), name, named.layers).pruned()


def _is_layer(value: object, node: torch.fx.Node, values: Mapping[str, object]) -> TypeGuard[Ref]:
    """Return whether a call makes, or passes on, what a layer may be: a value that moves."""
    if not isinstance(value, Ref) or value.at_one is not None or value.moved is not None:
        return False
    return node.target not in SILENT or value is not values[node.all_input_nodes[0].name]


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
    whole = name == "aten.batch_norm.default" and node.args[5] is True
    if whole or name.startswith(
        ("aten._native_batch_norm_legit.", "aten._native_batch_norm_legit_func")
    ):
        why = "normalises with the statistics of the batch"
    elif _draws(node):
        why = "draws random numbers in the forward pass"
    else:
        return []
    return [Obstacle(path, name, why, "call model.eval() first", source_line(node))]


def _branches(node: torch.fx.Node, path: str) -> list[Obstacle]:
    """Return why the parts of the model that a node chooses among are not followed, if so."""
    if not isinstance(node.target, torch._ops.HigherOrderOperator):
        return []
    name = f"torch.{node.target.name()}"
    why = "runs parts of the model that depend on values of the input"
    return [Obstacle(path, name, why, "rewrite it with torch.where", source_line(node))]


def _draws(node: torch.fx.Node) -> bool:
    """Return whether a call draws random numbers; attention and LSTM only do for dropout."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    schema: Any = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    given = dict(zip(names, _complete(node, node.args, node.kwargs), strict=False))
    kept = 0 in (given.get("dropout_p"), given.get("dropout"))
    kept = kept or (node.target is torch.ops.aten.dropout.default and given["p"] == 0)
    return not kept and False not in (given.get("train"), given.get("training"))


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
    """Add an input node, named as the model's own argument.

    Returns:
        What stands for it.

    Raises:
        Unsupported: For what is no tensor: a generator of random numbers that the model has.
    """
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        why = f"the forward pass uses an object that is no tensor ({node.name})"
        advice = "compute in __init__ what comes from it, and keep it as a buffer"
        raise Unsupported("capture", [Obstacle("", "state", why, advice)])
    count: object = value.shape[0]
    shape, perturbed = tuple(value.shape[1:]), value.is_floating_point()
    b.nodes[node.name] = Node(node.name, "input", shape=shape, perturbed=perturbed)
    if isinstance(count, torch.SymInt):
        b.batch.add(count.node.expr)
    return Ref(node.name, shape, perturbed)


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
    shape = _row_shape(b, value)
    complete = [_constants(item) for item in _complete(node, args, kwargs)]
    dtype = value.dtype if isinstance(value, Tensor) else None
    call = Call(node.target, complete, shape or (), path, source_line(node), dtype)
    if isinstance(value, torch.SymInt):
        return _as_size(b, opaque(b, call, args, kwargs), value)
    branches = isinstance(node.target, torch._ops.HigherOrderOperator)
    if node.target in BY_SHAPE and isinstance(args[0], Ref) and args[0].in_rows:
        like = torch.zeros(1, *args[0].shape, dtype=node.all_input_nodes[0].meta["val"].dtype)
        if all(ref.at_one is not None for ref in refs[1:]):
            return _unmoved(
                b, opaque(b, call, args, kwargs), _fold(node, [like, *args[1:]], kwargs)
            )
    if not branches and all(ref.at_one is not None for ref in refs):
        folded = _fold(node, args, kwargs)
        return _unmoved(b, opaque(b, call, args, kwargs), folded) if refs else folded
    several = isinstance(value, list | tuple) or node.target is operator.getitem
    apart = several and all(ref.in_rows or ref.moved is not None for ref in refs)
    plain = shape is not None and all(ref.in_rows for ref in refs)
    words = _in_words(node, call, values)
    if (apart or plain) and words:
        result = TRANSLATIONS[node.target](b, call)
        if result is not None and not _lacks(node, result):
            return result
    followed = follow(b, call, value)
    if followed is None and words:
        followed = turned(b, call, value)
    if followed is not None and followed.moved is None:
        return followed
    moved = None if followed is None else followed.moved
    ref = opaque(b, call, args, kwargs)
    return dataclasses.replace(ref, in_rows=shape is not None, moved=moved)


def _unmoved(b: Builder, ref: Ref, at_one: object) -> Ref:
    """Return a node as what no entry of the input reaches, with its value for one row."""
    b.nodes[ref.node] = dataclasses.replace(b.nodes[ref.node], perturbed=False)
    return dataclasses.replace(ref, perturbed=False, at_one=at_one)


def _constants(item: object) -> object:
    """Replace tensors that depend on the number of rows alone by those for one row."""
    if isinstance(item, Ref) and isinstance(item.at_one, Tensor):
        return item.at_one
    if isinstance(item, list | tuple):
        return [_constants(part) for part in item]
    return item


def _in_words(node: torch.fx.Node, call: Call, values: Mapping[str, Any]) -> bool:
    """Return whether the vocabulary may have words for a call.

    It speaks of float32 and float64, of results that are not narrower than what they are computed
    from (that rounds: a step, no smooth map), of conditions, and of numbers that do not follow the
    batch.
    """
    if node.target not in TRANSLATIONS:
        return False
    schema: Any = getattr(node.target, "_schema", None)
    arguments = list(schema.arguments) if schema else []
    conditions = [
        item
        for item, argument in zip(node.args, arguments, strict=False)
        if argument.name in ("condition", "mask")
    ]
    types = [item for item in call.args if isinstance(item, torch.dtype)]
    for source in node.all_input_nodes:
        value, known = source.meta.get("val"), values[source.name]
        moves = isinstance(known, Ref) and known.at_one is None and source not in conditions
        if isinstance(value, Tensor) and moves:
            types.append(value.dtype)
            if call.dtype is not None and value.dtype.itemsize > call.dtype.itemsize:
                return False
    for argument, item in zip(arguments, call.args, strict=False):
        if str(argument.type) in ("number", "float") and isinstance(item, Ref):
            return False
    return all(kind in (torch.float32, torch.float64) for kind in types)


def _lacks(node: torch.fx.Node, result: Ref | list[Ref]) -> bool:
    """Return whether a result is asked for that a translation does not give, such as indices."""
    asked = [user.args[1] for user in node.users if user.target is operator.getitem]
    return isinstance(result, list) and any(index not in range(len(result)) for index in asked)


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


def _fold(node: torch.fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    """Return what no input reaches; what follows the batch size is computed for one row.

    In the vocabulary a constant for one row broadcasts along the batch; where that is not what the
    model does, the replay at other batch sizes shows it.

    Raises:
        Unsupported: Where it fails, such as for an index that one row does not have.
    """
    function: Any = node.target
    try:
        with torch.no_grad():
            return function(*map(_at_one, args), **{k: _at_one(v) for k, v in kwargs.items()})
    except Exception as error:
        why = f"fails for one row: {type(error).__name__}: {error}"
        advice = "the model must accept any number of rows"
        obstacle = Obstacle("", str(node.target), why, advice, source_line(node))
        raise Unsupported("capture", [obstacle]) from error


def _at_one(item: object) -> object:
    if isinstance(item, Ref):
        return item.at_one
    if isinstance(item, list | tuple):
        return [_at_one(part) for part in item]
    return item


def _as_size(b: Builder, ref: Ref, value: torch.SymInt) -> Ref:
    """Return a node as a size that follows the batch: it does not move with the input.

    Only what is linear in the number of rows shows at a few of them what it is at all of them;
    anything else (a quotient, say) is not folded into constants.
    """
    ref = _unmoved(b, ref, None)
    expression = value.node.expr
    symbols = expression.free_symbols
    if not all(expression.is_polynomial(s) and expression.diff(s).is_number for s in symbols):
        return dataclasses.replace(ref, in_rows=False)
    return dataclasses.replace(ref, at_one=int(expression.subs(dict.fromkeys(symbols, 1))))


def _row_shape(b: Builder, value: object) -> tuple[int, ...] | None:
    """Return the shape of one row, or None where the first dimension is not the batch."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return None
    first, *rest = value.shape
    follows_batch = isinstance(first, torch.SymInt) and first.node.expr in b.batch
    sizes = [s.node.maybe_as_int() if isinstance(s, torch.SymInt) else s for s in rest]
    return tuple(sizes) if follows_batch and None not in sizes else None


def _single_output(output: object, count: int, obstacles: list[Obstacle]) -> str:
    """Return the name of the node that is the model's only result.

    Written state comes first among the program's outputs; the model's own are the last `count`.

    Raises:
        Unsupported: When there are several results, or one that no input reaches.
    """
    results = list(_flat(output))[-count:]
    first = results[0] if len(results) == 1 else None
    if isinstance(first, Ref) and first.at_one is None:
        if 0 in first.shape:
            obstacles.append(Obstacle("", "output", f"no entries (shape {first.shape} a row)"))
        return first.node
    if len(results) == 1:
        why = "the result does not depend on the input"
        obstacles.append(Obstacle("", "output", why))
    else:
        why = f"{len(results)} results, wanted one tensor"
        advice = "wrap the model in a module that returns the logits alone"
        obstacles.append(Obstacle("", "output", why, advice))
    raise Unsupported("capture", obstacles)
