"""One ATen call, and the builder that its translation adds nodes to."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.ir import Node


@dataclass(frozen=True)
class Ref:
    """The result of a node, as an argument.

    Attributes:
        node: Name of the node.
        shape: Of one row.
        perturbed: Whether it depends on a floating-point input.
        at_one: For what depends on the number of rows alone: its value at batch size 1.
        in_rows: Whether the first dimension is the batch; where not, `shape` says nothing.
    """

    node: str
    shape: tuple[int, ...] = ()
    perturbed: bool = True
    at_one: Any = None
    in_rows: bool = True


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
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    batch: set[object] = field(default_factory=set)

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
    if value.dim() and torch.broadcast_shapes(value.shape[-(rank - 1) :], target) != target:
        return None
    return value


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
