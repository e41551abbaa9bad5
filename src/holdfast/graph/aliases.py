"""Writes in place that are read under another name, where torch.export loses sight of them.

Most calls that return memory of their inputs say so in their schema, and writes into it are
followed. A few say nothing: `einsum` of one tensor, `meshgrid`, and dropout in eval mode, which is
exported as if it made a copy. What is written into their results is not seen in their inputs.
"""

import operator
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from holdfast.errors import Obstacle


def unseen_writes(program: torch.export.ExportedProgram) -> list[Obstacle]:
    """Return the writes into memory that is read later, or was given, under a name not followed.

    Args:
        program: As it was exported, with its writes.
    """
    calls = list(_calls(program.graph_module, {}))
    last_read = {node: at for at, (_, inputs) in enumerate(calls) for node in inputs}
    memory: dict[fx.Node, set[int]] = defaultdict(set)
    # Nodes of one family are followed together; `kept` has what uses a piece of memory.
    family: dict[fx.Node, fx.Node] = {}
    kept: dict[int, set[fx.Node]] = defaultdict(set)
    same: dict[int, int] = {}
    obstacles = []
    for at, (node, inputs) in enumerate(calls):
        if node.target is torch.ops.aten.dropout.default and not all(node.args[1:]):
            same |= dict.fromkeys(_storages(node), min(memory[inputs[0]], default=0))
        memory[node] = {same.get(place, place) for place in _storages(node)}
        source = next((item for item in inputs if memory[item] & memory[node]), None)
        family[node] = family[source] if source is not None and _is_followed(node) else node
        for written in _written(node, inputs):
            others = set().union(*(kept[place] for place in memory[written]))
            if any(
                family[other] is not family[written]
                and (other.op == "placeholder" or last_read.get(other, -1) > at)
                for other in others
            ):
                why = "writes in place into what is read elsewhere under another name"
                advice = "write the result to a new tensor, as relu(x) does instead of relu_(x)"
                obstacles.append(Obstacle("", str(node.target), why, advice, source_line(node)))
                break
        for place in memory[node]:
            kept[place].add(node)
    return obstacles


def source_line(node: fx.Node) -> str:
    """Return "file:line" of the innermost line of user code that made a node."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").splitlines()]
    frames = [line for line in lines if line.startswith("File ") and "/torch/" not in line]
    if not frames:
        return ""
    file, line = frames[-1].split(", ")[:2]
    return f"{file.removeprefix('File ').strip(chr(34))}:{line.removeprefix('line ')}"


def _calls(
    module: fx.GraphModule, outer: Mapping[fx.Node, fx.Node]
) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Yield nodes in order with what they read, also those inside of `with torch.no_grad()`.

    Args:
        module: The program, or a block of it.
        outer: What a block is given, by its own placeholders.
    """
    results: dict[Any, Any] = {}
    for node in module.graph.nodes:
        inputs = [outer.get(item, item) for item in node.all_input_nodes]
        blocks = [item for item in node.args if getattr(item, "op", "") == "get_attr"]
        if isinstance(node.target, torch._ops.HigherOrderOperator) and len(blocks) == 1:
            block = operator.attrgetter(blocks[0].target)(module)
            given = node.args[node.args.index(blocks[0]) + 1 :]
            own = [item for item in block.graph.nodes if item.op == "placeholder"]
            names = {name: outer.get(item, item) for name, item in zip(own, given, strict=False)}
            yield from _calls(block, names)
            results[node] = [names.get(item, item) for item in block.graph.output_node().args[0]]
        elif node.target is operator.getitem and node.args[0] in results:
            yield node, [results[node.args[0]][node.args[1]]]
        elif not (outer and node.op in ("placeholder", "output")):
            yield node, inputs


def _storages(node: fx.Node) -> set[int]:
    """Return the pieces of memory that a node's tensors are in."""
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    tensors = [item for item in values if isinstance(item, Tensor)]
    return {item.untyped_storage()._cdata for item in tensors if item.layout == torch.strided}


def _is_followed(node: fx.Node) -> bool:
    """Return whether torch.export knows whether a call returns memory of an input."""
    # What is lifted is a copy, whatever its traced value says.
    if node.target in (operator.getitem, torch.ops.aten.lift_fresh_copy.default):
        return True
    schema: Any = getattr(node.target, "_schema", None)
    told = schema and any(item.alias_info is not None for item in schema.returns)
    tagged = torch.Tag.maybe_aliasing_or_mutating in getattr(node.target, "tags", ())
    return bool(told) or (tagged and node.target is not torch.ops.aten.dropout.default)


def _written(node: fx.Node, inputs: list[fx.Node]) -> list[fx.Node]:
    """Return what a call writes into, among what it reads."""
    schema: Any = getattr(node.target, "_schema", None)
    if not (schema and schema.is_mutable) or node.target is torch.ops.aten.detach_.default:
        return []
    named = zip(schema.arguments, node.args, strict=False)
    values = [value for argument, value in named if _is_written(argument)]
    values += [node.kwargs.get(item.name) for item in schema.arguments if _is_written(item)]
    # Inside of a block the names are its own: there the position among the inputs tells.
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item, name in zip(inputs, node.all_input_nodes, strict=True) if name in flat]


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
