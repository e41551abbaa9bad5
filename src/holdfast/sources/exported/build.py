"""From the graph of an exported program to a module, or to all the reasons why not."""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidInput, Obstacle, Unsupported
from holdfast.files import check_once, reason
from holdfast.graph.aten import TRANSLATIONS
from holdfast.graph.walk import Slot, fill_slots
from holdfast.sources.exported.archive import TYPES, read_archive
from holdfast.sources.files import check_count
from holdfast.sources.sizes import check_activations
from holdfast.sources.wired import Wire, Wired, module_name

WHAT = "exported program"
aten = torch.ops.aten
_MORE = {
    aten.sym_size.int,
    aten.lift_fresh_copy.default,
    aten.detach_.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.batch_norm.default,
    aten.instance_norm.default,
    aten.scaled_dot_product_attention.default,
    aten.einsum.default,
}
"""Beside the translated, the core and the elementwise ones: what those are composed of."""
_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv")
}


class ExportedCall(nn.Module):
    """One call of an operation.

    Args:
        target: The operation.
        arguments: By name: a value, or a `Slot` for one that the call is given.
        kept: Its constants by the name of their argument.
        several: Whether it gives several results.
    """

    def __init__(
        self,
        target: Any,
        arguments: Mapping[str, Any],
        kept: Mapping[str, Tensor],
        several: bool,
    ) -> None:
        super().__init__()
        self.target, self.arguments, self.several = target, dict(arguments), several
        self.kept = tuple(kept)
        for name, value in kept.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(_held(name), value)
            else:
                self.register_buffer(_held(name), value)

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Return the results."""
        filled = {name: fill_slots(item, values) for name, item in self.arguments.items()}
        filled |= {name: getattr(self, _held(name)) for name in self.kept}
        if self.target in _ARITHMETIC.values():
            return (self.target(*filled.values()),)
        # `self` is a name among the arguments of most operations.
        names = [item.name for item in self.target._schema.arguments]
        positional = [filled.pop(names[0])] if names and names[0] in filled else []
        result = self.target(*positional, **filled)
        return tuple(result) if self.several else (result,)


def _held(name: str) -> str:
    """Return the name of a constant in its module, which has attributes of its own."""
    return name if name in ("weight", "bias", "running_mean", "running_var") else f"the_{name}"


def read_exported(path: Path) -> tuple[nn.Module, tuple[int, ...]]:
    """Read an exported program.

    Args:
        path: A `.pt2` file from `torch.export.save`.

    Returns:
        The module, and the shape of one input row.

    Raises:
        InvalidInput: When the file is something else, or can only be unpickled.
        Unsupported: With every operation that is not known, and what else is in the way.
    """
    program, tensors = read_archive(path)
    try:
        return _build(program, tensors)
    except (InvalidInput, Unsupported):
        raise
    except Exception as problem:  # a damaged file can break its reader anywhere
        got = f"{str(path)!r} ({reason(problem)})"
        raise InvalidInput("model", got, "an exported program") from problem


def _build(
    program: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[nn.Module, tuple[int, ...]]:
    graph, signature = program["graph"], program["signature"]
    check_count("nodes", len(graph["nodes"]))
    obstacles: list[Obstacle] = []
    entry, constants = _inputs(signature["input_specs"], tensors, obstacles)
    result = _output(signature["output_specs"], obstacles)
    steps, taken = [], set()
    for node in graph["nodes"]:
        target, name = _target(node["target"]), node["target"].removeprefix("torch.ops.aten.")
        if name.startswith(("_assert", "sym_constrain")):
            continue  # what the export checked of its sizes
        if target is None:
            why = "this operation is not known"
            obstacles.append(Obstacle(_path(node), node["target"], why, "load it with module:"))
            continue
        path = module_name(f"{_path(node)}_{name.partition('.')[0]}", taken)
        steps.append(_step(node, target, constants, path))
    if obstacles:
        raise Unsupported(WHAT, obstacles)
    written = [name for wire, _ in steps for name in wire.writes if name]
    check_once("value", [entry, *constants, *written])
    module, meta = Wired(entry, steps, result).eval(), graph["tensor_values"][entry]
    row = _row(meta)
    check_activations(module, row, TYPES[meta["dtype"]])
    return module, row


def _target(name: str) -> Callable[..., Any] | None:
    """Return the operation of a name, if it is one of those that only compute."""
    found = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", name)
    if found is None:
        return _ARITHMETIC.get(name)
    overload = getattr(getattr(aten, found[1], None), found[2], None)
    if not isinstance(overload, torch._ops.OpOverload):
        return None
    tags = {torch.Tag.core, torch.Tag.pointwise} & set(overload.tags)
    return overload if tags or overload in TRANSLATIONS or overload in _MORE else None


def _inputs(
    specs: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], obstacles: list[Obstacle]
) -> tuple[str, dict[str, Tensor]]:
    """Return the name of the one input, and the constants by the names of their values."""
    given, constants = [], {}
    for spec in specs:
        ((kind, entry),) = spec.items()
        name = entry["arg"].get("name") if kind != "user_input" else None
        if kind == "parameter":
            constants[name] = nn.Parameter(tensors[entry["parameter_name"]])
        elif kind in ("buffer", "tensor_constant"):
            constants[name] = tensors[entry[f"{kind}_name"]]
        elif kind == "user_input" and "as_tensor" in entry["arg"]:
            given.append(entry["arg"]["as_tensor"]["name"])
        else:
            obstacles.append(Obstacle("", "input", f"of kind {kind}, wanted one tensor"))
    if len(given) != 1:
        obstacles.append(Obstacle("", "input", f"{len(given)} tensors, wanted one"))
    return next(iter(given), ""), constants


def _output(specs: Sequence[Mapping[str, Any]], obstacles: list[Obstacle]) -> str:
    """Return the name of the one result."""
    results = []
    for spec in specs:
        ((kind, entry),) = spec.items()
        if kind == "user_output" and "as_tensor" in entry["arg"]:
            results.append(entry["arg"]["as_tensor"]["name"])
        else:
            obstacles.append(Obstacle("", "output", f"of kind {kind}, wanted one tensor"))
    if len(results) != 1:
        obstacles.append(Obstacle("", "output", f"{len(results)} tensors, wanted one"))
    return next(iter(results), "")


def _row(meta: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of one input row.

    Raises:
        Unsupported: When the batch is fixed, or another size is not, or it is not floating point.
    """
    first, *rest = meta["sizes"]
    if "as_int" in first:
        why, advice = "the batch size is fixed", "export with dynamic_shapes=({0: Dim('n')},)"
        raise Unsupported(WHAT, [Obstacle("", "input", why, advice)])
    if not all("as_int" in size for size in rest) or not TYPES[meta["dtype"]].is_floating_point:
        why = "more than the batch is left open, or it is not floating point"
        raise Unsupported(WHAT, [Obstacle("", "input", why)])
    return tuple(size["as_int"] for size in rest)


def _path(node: Mapping[str, Any]) -> str:
    """Return the path of the module that an operation ran in, as the file notes it."""
    last = node["metadata"].get("nn_module_stack", "").split(";")[-1].split(",")
    return last[1] if len(last) == 3 and not last[0].startswith("_empty") else ""


def _step(
    node: Mapping[str, Any], target: Callable[..., Any], constants: Mapping[str, Tensor], path: str
) -> tuple[Wire, ExportedCall]:
    """Return a call and where its values come from."""
    reads: list[str] = []
    arguments: dict[str, Any] = {}
    kept: dict[str, Tensor] = {}

    def find(value: Mapping[str, Any]) -> Any:
        """Return what stands for a value: a number, a constant, or a slot to be filled."""
        if "as_int" in value:
            return value["as_int"]
        name = _name(value)
        if name in constants:
            return constants[name]
        reads.append(name)
        return Slot(len(reads) - 1)

    for place, each in enumerate(node["inputs"]):
        name, value = each["name"] or str(place), _argument(each["arg"], find)
        if isinstance(value, Tensor):
            kept[name] = value
        else:
            arguments[name] = value
    writes = [name for output in node["outputs"] for name in _written(output)]
    several = len(writes) > 1 or any("as_tensors" in output for output in node["outputs"])
    return Wire(path, tuple(reads), tuple(writes)), ExportedCall(target, arguments, kept, several)


def _name(value: Mapping[str, Any]) -> str:
    return str(value.get("name", value.get("as_name", value.get("as_int"))))


def _same(value: Any) -> Any:
    return value


_ARGUMENTS: Mapping[str, Callable[[Any], Any]] = {
    "as_none": lambda value: None,
    "as_device": lambda value: None,
    "as_int": _same,
    "as_ints": _same,
    "as_bool": _same,
    "as_bools": _same,
    "as_string": _same,
    "as_float": float,
    "as_floats": lambda value: [float(part) for part in value],
    "as_scalar_type": lambda value: TYPES[value],
    "as_memory_format": {1: torch.contiguous_format, 4: torch.preserve_format}.__getitem__,
    "as_layout": {7: torch.strided}.__getitem__,
}
"""How every kind of argument is read that is no value of the graph; graphs, operators and objects
are not among them."""


def _argument(argument: Mapping[str, Any], find: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Return an argument of a call; `find` says what stands for a value of the graph."""
    ((kind, value),) = argument.items()
    match kind:
        case "as_tensor" | "as_sym_int" | "as_sym_bool" | "as_sym_float":
            return find(value)
        case "as_tensors" | "as_sym_ints":
            return [find(part) for part in value]
        case "as_optional_tensor":
            return find(value["as_tensor"]) if "as_tensor" in value else None
        case "as_optional_tensors":
            return [_argument({"as_optional_tensor": part}, find) for part in value]
    return _ARGUMENTS[kind](value)


def _written(output: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of a call's results."""
    ((kind, value),) = output.items()
    parts = value if kind == "as_tensors" else [value]
    for part in parts:
        yield _name(part) if part and kind != "as_none" else ""
