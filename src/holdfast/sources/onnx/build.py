"""From the nodes of an ONNX graph to a module, or to all the reasons why not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import Obstacle, Unsupported
from holdfast.files import reason
from holdfast.graph.walk import Slot
from holdfast.sources.onnx.call import OPERATORS, OnnxCall, Value, make_call
from holdfast.sources.onnx.rows import RowValue, counted, settle, shape_of, stored_shape
from holdfast.sources.sizes import Budget, activations
from holdfast.sources.wired import Wire, Wired, module_name

WHAT = "ONNX model"
_READ = ("Constant", "Shape", "Size", "DequantizeLinear")

_JUMPS = frozenset(
    (
        *("Sign", "Round", "ArgMax", "ArgMin", "OneHot", "Hardmax", "NonZero", "ThresholdedRelu"),
        *("QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"),
        *("QLinearConv", "QLinearMatMul", "Unique", "Bernoulli", "NonMaxSuppression"),
    )
)


@dataclass(frozen=True)
class OnnxNode:
    """One node of a file, decoded.

    Attributes:
        op: Operator.
        name: As in the file; may be empty.
        inputs: Names of values; empty where one is left out.
        outputs: Names of values.
        attributes: Numbers, lists, strings and tensors.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def obstacle(self, why: str, advice: str = "") -> Obstacle:
        """Return the node as a reason to refuse."""
        return Obstacle(self.name or next(iter(self.outputs), ""), self.op, why, advice)


@dataclass(frozen=True)
class OnnxGraph:
    """A graph of a file, decoded.

    Attributes:
        nodes: In execution order.
        constants: Initialisers by name.
        entry: Name of the one input.
        dtype: Of the input.
        shape: Of the input; None where a size is not fixed.
        result: Name of the output, or of another value that a node gives.
        opset: Version of the operators.
    """

    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Tensor]
    entry: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]
    result: str
    opset: int

    @property
    def entries(self) -> int:
        """How many numbers the file holds: initialisers and tensors in attributes."""
        kept = [value for node in self.nodes for value in node.attributes.values()]
        every = (*self.constants.values(), *kept)
        return sum(value.numel() for value in every if isinstance(value, Tensor))

    def shape_for(self, batch: int) -> tuple[int, ...]:
        """Return the input's shape with a size for the batch, where that is left open."""
        return tuple(batch if size is None else size for size in self.shape)


@dataclass
class _Plan:
    """What is known while the nodes are gone through, in order.

    Attributes:
        values: Constants and rows, by name.
        made: Budget of what is made of constants alone.
        run: Budget of the values of one row.
        steps: Wires and their modules.
        taken: Names of modules.
        obstacles: Reasons to refuse.
        failed: Names of values that cannot be had.
    """

    values: dict[str, Value]
    made: Budget
    run: Budget
    steps: list[tuple[Wire, nn.Module]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    obstacles: list[Obstacle] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)


def build(graph: OnnxGraph) -> tuple[Wired, tuple[int, ...]]:
    """Turn a graph into a module.

    Args:
        graph: A decoded graph.

    Returns:
        The module, [N, ...] to [N, ...], and the shape of one input row.

    Raises:
        Unsupported: With every operator that is not known and every node that cannot be built.
    """
    not_known = [*_unknown(graph)]
    if not_known:
        raise Unsupported(WHAT, not_known)
    module = _module(graph, 1)
    _, row = stored_shape(graph.shape_for(1))
    if graph.shape[0] is None:
        _check_rows_alone(graph, module, row)
    return module, row


def _unknown(graph: OnnxGraph) -> Iterator[Obstacle]:
    moving = {graph.entry}
    for node in graph.nodes:
        sources = [name for name in node.inputs if name in moving]
        if sources:
            moving.update(node.outputs)
        if node.op in OPERATORS or node.op in _READ:
            continue
        if sources and node.op in _JUMPS:
            why = "its value jumps, so that no distance on the input bounds its change"
            first = sources[0] == graph.entry
            advice = f"end the model before it: ?output={sources[0]}"
            yield node.obstacle(why, "leave it out of the model" if first else advice)
        else:
            advice = "export the model with plain operators, as torch:, or load it with module:"
            yield node.obstacle("this operator is not known", advice)


def _module(graph: OnnxGraph, batch: int) -> Wired:
    batched, row = stored_shape(graph.shape_for(batch))
    start = RowValue(torch.empty(1, *row, dtype=graph.dtype, device="meta"), batched)
    stored = graph.entries + start.tensor.numel()
    # Of constants, tables and masks are made, and they stay: a few hundred times what is stored.
    plan = _Plan({**graph.constants, graph.entry: start}, Budget(stored, 200), activations(stored))
    for node in graph.nodes:
        if plan.failed.intersection(node.inputs):
            plan.failed.update(node.outputs)
            continue
        try:
            _add(plan, node, graph.opset)
        except Exception as problem:  # a hostile file can break any operation, in any way
            plan.failed.update(node.outputs)
            plan.obstacles.append(node.obstacle(reason(problem)))
    if not plan.obstacles:
        plan.obstacles.extend(_of_result(graph.result, plan.values.get(graph.result)))
    if plan.obstacles:
        raise Unsupported(WHAT, plan.obstacles)
    return Wired(graph.entry, plan.steps, graph.result).eval()


def _of_result(name: str, value: Value) -> Iterator[Obstacle]:
    if not isinstance(value, RowValue):
        yield Obstacle("", "output", f"the output {name!r} does not depend on the input")
    elif not value.tensor.is_floating_point():
        why = f"the output {name!r} is of whole numbers or conditions, which jump"
        yield Obstacle("", "output", why, "choose another one with ?output=NAME")


def _add(plan: _Plan, node: OnnxNode, opset: int) -> None:
    """Read, fold or add one node.

    Raises:
        ValueError: When it reads what nothing gives.
    """
    missing = [name for name in node.inputs if name and name not in plan.values]
    if missing or not node.outputs:
        raise ValueError(f"reads {missing}, which nothing gives before it")
    values = [plan.values[name] if name else None for name in node.inputs]
    if node.op in _READ:
        plan.values[node.outputs[0]] = _read(node, values)
        return
    while values and values[-1] is None:
        values.pop()
    step = make_call(node.op, values, node.attributes, opset, len(node.outputs))
    rows = [value for value in values if isinstance(value, RowValue)]
    if rows:
        with plan.run:
            results: Sequence[Value] = step.results([_on_meta(each) for each in rows])
        name = module_name(node.name or f"{node.op}_{len(plan.steps)}", plan.taken)
        reads = [
            name
            for name, value in zip(node.inputs, values, strict=False)
            if isinstance(value, RowValue)
        ]
        plan.steps.append((Wire(name, tuple(reads), node.outputs), step))
    else:
        results = _folded(step, values, plan.made)
    plan.values.update(zip(node.outputs, results, strict=False))


def _on_meta(rows: RowValue) -> RowValue:
    return RowValue(rows.tensor.to("meta"), rows.batched)


def _folded(step: OnnxCall, values: Sequence[Value], budget: Budget) -> list[Tensor]:
    """Return what a node makes of constants alone; its size is known before it is made."""
    pairs = zip(step.arguments.values(), values, strict=True)
    constants = [value for item, value in pairs if isinstance(item, Slot)]
    rows = [settle(value.unsqueeze(0)) for value in constants if isinstance(value, Tensor)]
    with budget:  # without rows there is only a view of one number
        found = step.results([_on_meta(each) for each in rows])
    return [result.free()[0] for result in (step.results(rows) if rows else found)]


def _read(node: OnnxNode, values: Sequence[Value]) -> Tensor:
    """Return the value of a node that is known without running it.

    Raises:
        ValueError: When the node is not formed as it must be.
    """
    if node.op == "Constant":
        (name, value), *more = node.attributes.items()
        if more or name not in ("value", "value_float", "value_int", "value_floats", "value_ints"):
            raise ValueError(f"attributes {list(node.attributes)}")
        kind = torch.float32 if "float" in name else torch.int64
        return value if isinstance(value, Tensor) else torch.tensor(value, dtype=kind)
    if node.op == "DequantizeLinear":
        return _dequantised(values, **node.attributes)
    (value,) = values
    if value is None:
        raise ValueError("no input")
    shape = shape_of(value)
    if node.op == "Size":
        return torch.tensor(math.prod(shape))
    rank = len(shape)
    start, end = (node.attributes.get(key, rest) for key, rest in (("start", 0), ("end", rank)))
    return torch.tensor(shape[start:end], dtype=torch.int64)


def _dequantised(
    values: Sequence[Value], axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    """Return weights that are stored as whole numbers with a scale.

    Raises:
        ValueError: When they move, or are stored in another way.
    """
    stored, scale, *rest = (value for value in values if value is not None)
    if isinstance(stored, RowValue):
        raise ValueError("whole numbers that move: the model rounds its values, and jumps")
    zero = rest[0] if rest else torch.zeros(1, dtype=torch.int64)
    if not isinstance(scale, Tensor) or not isinstance(zero, Tensor) or block_size:
        raise ValueError("a scale that moves, or one for every block")
    if scale.dtype not in (torch.float32, torch.float64) or output_dtype not in (0, 1):
        raise ValueError(f"a scale of {scale.dtype}, to ONNX type {output_dtype}")
    sizes = [1] * stored.dim()
    if scale.numel() > 1:
        (place,) = counted([axis], stored.dim())
        sizes[place] = stored.shape[place]
    whole = stored.long() - zero.long().reshape(sizes if zero.numel() > 1 else [1] * stored.dim())
    return whole.to(scale.dtype) * scale.reshape(sizes)


def _check_rows_alone(graph: OnnxGraph, module: Wired, row: tuple[int, ...]) -> None:
    """Run a file that leaves the batch open on two rows at once, and on each alone.

    Raises:
        Unsupported: When they differ: then no row has an answer of its own.
    """
    try:
        both = _module(graph, 2)
    except Unsupported:
        return  # a file that takes one row at a time after all
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *row, generator=generator, dtype=torch.float64).to(graph.dtype)
    try:
        with torch.no_grad():
            alone, together = module(pair).flatten(1), both(pair.unsqueeze(0))
    except RuntimeError as problem:
        raise Unsupported(WHAT, [Obstacle("", "batch", reason(problem))]) from problem
    sizes = alone.nan_to_num(0.0, 0.0, 0.0).abs().amax(0)
    # Each entry at its own scale: beside a class masked by -1e9 the others are compared, too.
    room = 1e-4 * sizes + 1e-6 * sizes.median()
    same = alone.numel() == together.numel()
    if same:
        together = together.reshape(alone.shape)
        equal = torch.isclose(alone, together, rtol=0.0, atol=0.0, equal_nan=True)
        same = bool((equal | ((alone - together).abs() <= room)).all())
    if not same:
        why = "two rows together give another result than each alone"
        raise Unsupported(WHAT, [Obstacle("", "batch", why, "normalise per row")])
