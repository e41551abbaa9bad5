"""One ATen call, and the builder that its translation adds nodes to."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.ir import Node
from holdfast.graph.walk import Slot

aten = torch.ops.aten


@dataclass(frozen=True)
class Ref:
    """The result of a node, as an argument.

    Attributes:
        node: Name of the node.
        shape: Of one row.
        perturbed: Whether it depends on a floating-point input.
        at_one: For what depends on the number of rows alone: its value at batch size 1.
        in_rows: Whether the first dimension is the batch; where not, `shape` says nothing.
        moved: Where it is not: the same value with the batch first, where that is known.
    """

    node: str
    shape: tuple[int, ...] = ()
    perturbed: bool = True
    at_one: Any = None
    in_rows: bool = True
    moved: "Moved | None" = None


@dataclass(frozen=True)
class Moved:
    """A value of torch whose rows may be any dimension, or a part of one.

    Attributes:
        ref: The same entries in the same order but for the rows, which come first: [N, *sizes].
        dims: The sizes that each dimension of the value is made of, 0 for the rows. In their order,
            without that 0, they are the shape of `ref`; sizes of 1 are left out.
    """

    ref: Ref
    dims: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Call:
    """One ATen call whose arguments are constants or `Ref`.

    Attributes:
        target: The ATen overload.
        args: Every argument in the order of the schema, defaults filled in.
        shape: Shape of one row of the result; empty for a call with several results.
        path: Module path.
        source: Line of the user's code.
        dtype: Of the result; None for a call with several results.
    """

    target: Any
    args: Sequence[Any]
    shape: tuple[int, ...]
    path: str
    source: str
    dtype: torch.dtype | None = None


@dataclass
class Builder:
    """Collects the nodes of a graph while it is translated.

    Attributes:
        nodes: By name.
        batch: What `torch.export` calls the number of rows.
        outside: The calls outside the vocabulary, by the node that executes each.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    batch: set[object] = field(default_factory=set)
    outside: dict[str, Call] = field(default_factory=dict)

    def emit(
        self,
        op: str,
        inputs: Sequence[Ref],
        call: Call,
        shape: tuple[int, ...],
        /,
        **params: Any,
    ) -> Ref:
        """Add one node and return its result."""
        perturbed = any(ref.perturbed for ref in inputs)
        name = self.fresh(op)
        names = tuple(ref.node for ref in inputs)
        self.nodes[name] = Node(name, op, names, params, shape, call.path, call.source, perturbed)
        return Ref(name, shape, perturbed)

    def fresh(self, stem: str) -> str:
        """Return a name that no node has yet."""
        name, k = stem, 1
        while name in self.nodes:
            name, k = f"{stem}_{k}", k + 1
        return name

    def constant(self, value: Tensor, call: Call) -> Ref:
        """Add a constant that broadcasts along the batch."""
        return self.emit("constant", [], call, tuple(value.shape[1:]), value=value)


Translation = Ref | list[Ref] | None
Translate = Callable[[Builder, Call], Translation]


def unary(op: str, **fixed: object) -> Translate:
    """Translate a call of one tensor and no settings."""
    return lambda b, call: b.emit(op, [call.args[0]], call, call.args[0].shape, **fixed)


def feature_dim(ref: Ref, dim: int) -> int | None:
    """Return the positive dimension (batch is 0), or None for the batch itself."""
    dim = dim if dim >= 0 else dim + len(ref.shape) + 1
    return dim if dim > 0 else None


def feature_dims(ref: Ref, dims: Sequence[int] | int | None) -> tuple[int, ...] | None:
    """Return positive dimensions, or None where the batch is among them (or all are meant)."""
    if dims is None or (isinstance(dims, Sequence) and not dims):
        return None
    listed = [dims] if isinstance(dims, int) else dims
    found = [feature_dim(ref, dim) for dim in listed]
    features = tuple(dim for dim in found if dim is not None)
    return features if len(features) == len(found) else None


def as_number(value: Tensor) -> Tensor | None:
    """Return a constant in floating point; None where float64 does not hold it.

    Types of whole numbers have an arithmetic of their own: |int8 -128| is -128.
    """
    if value.is_floating_point():
        return value
    if value.is_complex():
        return None
    wide = value.double()
    return wide if torch.equal(wide.to(value.dtype), value) else None


def per_row(value: object, ref: Ref) -> Tensor | float | None:
    """Return a constant operand shaped to broadcast against [N, *shape], or None.

    None when it carries a batch of its own or would enlarge the rows, or is no real number that
    float64 holds.
    """
    if isinstance(value, int | float):
        return float(value) if abs(value) <= 2**53 or float(value) == value else None
    if not isinstance(value, Tensor) or (value := as_number(value)) is None:
        return None
    rank = len(ref.shape) + 1
    if value.dim() > rank or (value.dim() == rank and value.shape[0] != 1):
        return None
    target = torch.Size(ref.shape)
    sizes = value.shape[1:] if value.dim() == rank else value.shape
    return value if torch.broadcast_shapes(sizes, target) == target else None


def broadcast(b: Builder, call: Call, ref: Ref) -> Ref | None:
    """Repeat the entries of a row so that it has the shape of the call's result, if it can."""
    if ref.shape == call.shape:
        return ref
    if len(ref.shape) != len(call.shape):
        return None  # of another rank, a row would line up with the batch
    return b.emit("expand", [ref], call, call.shape, shape=call.shape)


def spread_constant(value: Any, call: Call) -> Tensor | None:
    """Return a constant operand with all entries of one row of the call's result, [1, *shape]."""
    row = per_row(torch.as_tensor(value, dtype=call.dtype), Ref("", call.shape))
    return row.expand(1, *call.shape) if isinstance(row, Tensor) else None


def alike(b: Builder, left: object, right: object, call: Call, depth: int = 6) -> bool:
    """Return whether two operands of a call are the same value: one node, or the same arithmetic.

    `where(2 * x > y, 2 * x, y)` computes 2 * x twice. A depth of 6 sees through what people write
    inside a condition, and bounds the work where graphs branch.
    """
    if isinstance(left, Ref) and isinstance(right, Ref):
        one, other = b.nodes[left.node], b.nodes[right.node]
        if one is other:
            return True
        if (
            depth == 0
            or one.op in ("input", "constant")
            or (one.op, one.shape, len(one.inputs)) != (other.op, other.shape, len(other.inputs))
            or not _equal(one.params, other.params)
        ):
            return False
        pairs = zip(one.inputs, other.inputs, strict=True)
        return all(alike(b, Ref(name), Ref(twin), call, depth - 1) for name, twin in pairs)
    if isinstance(left, Ref) or isinstance(right, Ref) or call.dtype is None:
        return False
    first, second = (spread_constant(value, call) for value in (left, right))
    return first is not None and second is not None and torch.equal(first, second)


def _equal(left: object, right: object) -> bool:
    """Return whether settings of two nodes agree."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return type(left) is type(right) and left == right


def spread(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Repeat a setting given once for every spatial dimension."""
    listed = [value] if isinstance(value, int) else list(value)
    return tuple(listed * rank) if len(listed) == 1 else tuple(listed)


def with_args(call: Call, args: Sequence[Any]) -> Call:
    """Return the call with other arguments."""
    return dataclasses.replace(call, args=args)


def reduce(op: str) -> Translate:
    """Translate a reduction over dimensions other than the batch."""

    def translate(b: Builder, call: Call) -> Translation:
        x, dims, keepdim = call.args[:3]
        dims = feature_dims(x, dims)
        if dims is None:
            return None
        return b.emit(op, [x], call, call.shape, dims=dims, keepdim=keepdim)

    return translate


def opaque(b: Builder, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Ref:
    """Emit an operation outside the vocabulary: it can be executed, not bounded."""
    inputs: list[Ref] = []

    def slot(item: object) -> object:
        if isinstance(item, Ref):
            inputs.append(item)
            return Slot(len(inputs) - 1)
        if isinstance(item, list | tuple):
            return [slot(part) for part in item]
        return item

    settings = {
        "target": str(call.target) if hasattr(call.target, "_schema") else _name(call.target),
        # Where other operations stand for a part of the model, memory may be laid out otherwise.
        "call": aten.reshape.default if call.target is aten.view.default else call.target,
        "args": [slot(item) for item in args],
        "kwargs": {name: slot(item) for name, item in kwargs.items()},
        "dtype": call.dtype,
    }
    ref = b.emit("aten", inputs, call, call.shape, **settings)
    b.outside[ref.node] = call
    return ref


def _name(target: object) -> str:
    return getattr(target, "__name__", str(target))
