"""From an exported program to one that writes nothing."""

from collections.abc import Mapping
from typing import Any

import torch

from holdfast.graph.aten import TRANSLATIONS

aten = torch.ops.aten

SILENT = frozenset(
    (
        *(aten.dropout.default, aten.to.dtype, aten.contiguous.default),
        *(aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int),
    )
)
"""Calls that may do nothing: then they are no operation, and no layer ends with them."""


def functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program that writes nothing and is made of calls that are translated, where it can.

    The second pass of `torch.export` makes such a program; it takes three quarters of a capture's
    time, and most models need nothing but `relu_` to be read as `relu`.

    Args:
        program: As it was exported. Calls that write into what nothing else reads are replaced.
    """
    given = set(program.graph_signature.user_inputs)
    moving = {node for node in program.graph.nodes if node.name in given}
    twins: dict[torch.fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op in ("placeholder", "output") or is_check(node):
            continue
        target = _target(node, twins)
        reached = not moving.isdisjoint(node.all_input_nodes)
        size = isinstance(node.meta.get("val"), torch.SymInt | int)
        if target is None or (reached and not (size or target in TRANSLATIONS)):
            return program.run_decompositions({})
        if reached:
            moving.add(node)
        twins[node] = target
    for node, target in twins.items():
        node.target = target
    program.graph.eliminate_dead_code()
    return program


def _target(node: torch.fx.Node, twins: Mapping[torch.fx.Node, Any]) -> Any | None:
    """Return what a node calls, or the same that writes nothing; None where neither is known.

    Args:
        node: The call.
        twins: What is called instead at the nodes before it.
    """
    target: Any = node.target
    if node.op != "call_function" or isinstance(target, torch._ops.HigherOrderOperator):
        return None
    schema = getattr(target, "_schema", None)
    if not (schema and schema.is_mutable) or target is aten.detach_.default:
        return target
    # What is written into is nobody else's: a result of its own that only this call reads.
    written = node.all_input_nodes[0] if node.all_input_nodes else node
    maker = twins.get(written)
    made = getattr(maker, "_schema", None)
    own = made and made.returns and all(item.alias_info is None for item in made.returns)
    if not own or maker not in TRANSLATIONS or maker in SILENT:
        return None
    alone = list(written.users) == [node] and node.args[0] is written
    packet = getattr(aten, schema.name.removeprefix("aten::").removesuffix("_"), None)
    twin = getattr(packet, schema.overload_name or "default", None)
    # Others may take their arguments in another order, or, like comparisons, return another type.
    return twin if alone and twin in TRANSLATIONS and not _promotes(node) else None


def _promotes(node: torch.fx.Node) -> bool:
    """Return whether a write would have another type if its result were a new tensor."""
    values = [item.meta.get("val") for item in node.all_input_nodes]
    types = {item.dtype for item in values if isinstance(item, torch.Tensor)}
    return any(kind.is_floating_point and kind != node.meta["val"].dtype for kind in types)


def is_check(node: torch.fx.Node) -> bool:
    """Return whether a node only asserts something for torch.export itself."""
    return "assert" in str(node.target) or "sym_constrain" in str(node.target)
