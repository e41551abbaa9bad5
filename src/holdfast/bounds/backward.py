"""One node read backwards: a linear bound on its result becomes one on its inputs.

A row a says that some quantity is at least <a, v> + rest, where v is the node's value. A `Step`
replaces <a, v> by <a', w> + c with w the node's inputs: exactly for affine nodes and wiring (a' is
the adjoint applied to a, by automatic differentiation of the node itself), and for others by the
line below where an entry of a is positive and the line above where it is negative.

Rounding: every step also knows `magnitude`, a bound of all absolute values that enter an entry of
the result. For an affine node v = T w + b it is |T| |w| + |b|. The rounded adjoint is within
gamma_n |T|^T |a| of the exact one, entry by entry, so replacing it changes the quantity by at most

    <gamma_n |T|^T |a|, |w|> = gamma_n <|a|, |T| |w|> <= gamma_n <|a|, magnitude>,

and the same holds for the other nodes by counting their operations. The caller subtracts it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.bounds.interval import SMALLEST, Interval
from holdfast.bounds.relaxations import Lines, lines
from holdfast.bounds.running import offset as added_by
from holdfast.graph.ir import Node
from holdfast.graph.ops import (
    ELEMENTWISE,
    LINEAR,
    OPS,
    WIRING,
    absolute,
    homogeneous,
    terms,
)
from holdfast.graph.walk import execute
from holdfast.rounding import rows_up

Pulled = tuple[list[Tensor], Tensor | None]
Pull = Callable[[Tensor, Tensor | None], Pulled]

RELU = Node("relu", "relu")
"""Stands for the ramp in max(a, b) = b + relu(a - b)."""


@dataclass(frozen=True)
class Step:
    """One node, ready to be read backwards.

    Attributes:
        inputs: Names of the nodes that the rows are passed to.
        pull: From rows [R or 1, K, ...] (and slopes to use below, or None) to the rows of each
            input and what is added, [R or 1, K], or None for nothing.
        magnitude: [R or 1, ...], as in the docstring of this file.
        operations: Rounded operations behind one entry, at most.
        lines: Of a ramp: its lines where the slope below may be any number in [0, 1].
        free: Where that is so, [R, ...].
    """

    inputs: tuple[str, ...]
    pull: Pull
    magnitude: Tensor
    operations: int
    lines: Lines | None = None
    free: Tensor | None = None


def dot(rows: Tensor, values: Tensor) -> Tensor:
    """Return the product of each row with its region's values.

    Args:
        rows: [R or 1, K, ...].
        values: [R or 1, ...].

    Returns:
        [R or 1, K].
    """
    return (rows.flatten(2) @ values.flatten(1)[:, :, None])[:, :, 0]


def affine_step(node: Node, x: Interval) -> Step:
    """Read an affine node backwards."""
    size = x.size()
    offset = execute(node, [torch.zeros_like(x.low[:1])])
    op, params = absolute(node.op, node.params)
    count = terms(node.op, node.params, size.shape[1:])
    room = SMALLEST * 4.0 * count
    magnitude = rows_up(OPS[op]([size], params) + added_by(node, offset) + room, count + 8)
    moving = bool((offset != 0).any())

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        return adjoint(node, rows, [size.shape[1:]]), dot(rows, offset) if moving else None

    return Step(node.inputs, pull, magnitude, _adjoint_terms(node) + count)


def _adjoint_terms(node: Node) -> int:
    """Return how many products one entry of the adjoint adds up, at most.

    Every output reads an input through at most as many coefficients as a kernel has taps.
    """
    outputs = max(1, torch.Size(node.shape).numel())
    taps = 1
    if node.op in ("conv", "conv_transpose"):
        taps = node.params["weight"][0, 0].numel()
    return outputs * taps + 16


def wiring_step(node: Node, parts: Sequence[Interval]) -> Step:
    """Read a node that moves entries backwards."""
    zeros = [torch.zeros_like(part.low[:1]) for part in parts]
    offset = execute(node, zeros)
    params = {**node.params, "value": abs(node.params["value"])} if node.op == "pad" else None
    magnitude = WIRING[node.op]([part.size() for part in parts], params or node.params)
    shapes = [part.low.shape[1:] for part in parts]
    moving = bool((offset != 0).any())

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        return adjoint(node, rows, shapes), dot(rows, offset) if moving else None

    return Step(node.inputs, pull, magnitude, _adjoint_terms(node))


def adjoint(node: Node, rows: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Apply the transpose of an affine or wiring node's linear part.

    Args:
        node: One whose op is in `LINEAR` or `WIRING`, float64.
        rows: [R, K, *shape of the node].
        shapes: The shape of a row of each input.

    Returns:
        [R, K, *shape] per input.
    """
    if node.op == "linear":
        return [rows @ node.params["weight"]]
    flat = rows.flatten(0, 1)
    op, params = homogeneous(node.op, node.params) if node.op in LINEAR else (node.op, node.params)
    if op == "pad":
        params = {**params, "value": 0.0}
    if op in ("scale", "scale_channels"):
        back = [OPS[op]([flat], params)]
    else:
        back = _pull_back(op, params, flat, shapes)
    return [part.unflatten(0, rows.shape[:2]) for part in back]


def _pull_back(
    op: str, params: object, flat: Tensor, shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Differentiate <flat, T w> by w; where the rows have a gradient, so has the result."""
    with torch.enable_grad():
        zeros = [flat.new_zeros(len(flat), *shape).requires_grad_() for shape in shapes]
        result = OPS[op](zeros, params)
        return list(torch.autograd.grad(result, zeros, flat, create_graph=flat.requires_grad))


def add_step(node: Node, parts: Sequence[Interval]) -> Step:
    """Read a sum backwards."""
    magnitude = torch.stack(torch.broadcast_tensors(*[part.size() for part in parts])).sum(0)

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        return [rows] * len(parts), None

    return Step(node.inputs, pull, rows_up(magnitude, len(parts) + 2), len(parts) + 2)


def _lined(bounds: Lines, rows: Tensor, slopes: Tensor | None, free: Tensor | None) -> Pulled:
    """Replace an elementwise function by its line below or above, by the sign of the row."""
    positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
    below, floor = bounds.lower_slope[:, None], bounds.lower_offset
    if slopes is not None and free is not None:
        below = torch.where(free[:, None], slopes, below)
        floor = torch.where(free, torch.zeros_like(floor), floor)
    added = dot(positive, floor) + dot(negative, bounds.upper_offset)
    return [positive * below + negative * bounds.upper_slope[:, None]], added


def _offsets(bounds: Lines) -> Tensor:
    return torch.maximum(bounds.lower_offset.abs(), bounds.upper_offset.abs())


def elementwise_step(node: Node, x: Interval) -> Step:
    """Read an activation backwards, through its lines."""
    bounds = lines(node, x.low, x.high)
    steepest = torch.maximum(bounds.lower_slope.abs(), bounds.upper_slope.abs())
    free = ((x.low < 0) & (x.high > 0)) if node.op == "relu" else None
    if free is not None:
        steepest = steepest.clamp(min=1.0)
    magnitude = rows_up(steepest * x.size() + _offsets(bounds), 8)

    def pull(rows: Tensor, slopes: Tensor | None) -> Pulled:
        return _lined(bounds, rows, slopes, free)

    return Step(node.inputs, pull, magnitude, 2 * x.low[0].numel() + 16, bounds, free)


def extreme_step(node: Node, parts: Sequence[Interval], gap: Interval) -> Step:
    """Read max(a, b) = b + relu(a - b) or min(a, b) = a - relu(a - b) backwards.

    Args:
        node: The node.
        parts: Bounds of a and b.
        gap: Bounds of a - b.

    Returns:
        The step.
    """
    bounds = lines(RELU, gap.low, gap.high)
    free = (gap.low < 0) & (gap.high > 0)
    largest = node.op == "maximum"

    def pull(rows: Tensor, slopes: Tensor | None) -> Pulled:
        (ramp,), added = _lined(bounds, rows if largest else -rows, slopes, free)
        return ([ramp, rows - ramp] if largest else [rows + ramp, -ramp]), added

    sizes = parts[0].size() + parts[1].size()
    magnitude = rows_up(4.0 * sizes + _offsets(bounds), 8)
    return Step(node.inputs, pull, magnitude, 2 * gap.low[0].numel() + 32, bounds, free)


def largest_step(node: Node, x: Interval, result: Interval) -> Step:
    """Read the maximum of disjoint groups backwards.

    A maximum is at least the entry whose lower end is largest, and is that entry where no other
    one's upper end is above; elsewhere it is at most the largest upper end.

    Args:
        node: An `amax`; its setting `rivals` says, where present, which entries of a group are not
            copies of others.
        x: Bounds of its input.
        result: Bounds of its value.

    Returns:
        The step.
    """
    dims: tuple[int, ...] = tuple(node.params["dims"])
    low, high = _by_group(x.low, dims), _by_group(x.high, dims)
    counted = node.params.get("rivals", torch.ones(()) > 0)
    low, high = (torch.where(counted, end, torch.full_like(end, -torch.inf)) for end in (low, high))
    chosen = low.argmax(-1, keepdim=True)
    mark = torch.zeros_like(low).scatter(-1, chosen, 1.0)
    rivals = torch.where(mark > 0, torch.full_like(high, -torch.inf), high).amax(-1)
    shape = torch.Size(node.shape)
    ahead = (rivals <= low.amax(-1)).double().reshape(-1, *shape)
    ceiling = torch.where(ahead > 0, torch.zeros_like(result.high), result.high)

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        negative = rows.clamp(max=0.0)
        exact = rows.clamp(min=0.0) + negative * ahead[:, None]
        grouped = exact.reshape(*exact.shape[:2], *low.shape[1:-1])[..., None] * mark[:, None]
        return [_ungroup(grouped, x.low.shape[1:], dims)], dot(negative, ceiling)

    reach = _by_group(x.size(), dims).amax(-1).reshape(-1, *shape)
    return Step(node.inputs, pull, reach + ceiling.abs(), low[0].numel() + 16)


def _by_group(values: Tensor, dims: Sequence[int]) -> Tensor:
    """Lay the reduced dimensions of [R, ...] along one last dimension."""
    ends = tuple(range(values.dim() - len(dims), values.dim()))
    return values.movedim(tuple(dims), ends).flatten(ends[0])


def _ungroup(values: Tensor, shape: Sequence[int], dims: Sequence[int]) -> Tensor:
    """Undo `_by_group` for [R, K, ..., group]; `dims` count without K."""
    ends = tuple(range(len(shape) + 2 - len(dims), len(shape) + 2))
    values = values.unflatten(-1, [shape[dim - 1] for dim in dims])
    return values.movedim(ends, tuple(dim + 1 for dim in dims))


def constant_step(result: Interval) -> Step:
    """Read a node without a linear rule backwards: its bounds are all that is known."""

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
        return [], dot(positive, result.low) + dot(negative, result.high)

    return Step((), pull, result.size(), 2 * result.low[0].numel() + 16)


Build = Callable[[Node, Sequence[Interval], Interval, Interval | None], Step]


def _extreme(node: Node, parts: Sequence[Interval], result: Interval, gap: Interval | None) -> Step:
    return constant_step(result) if gap is None else extreme_step(node, parts, gap)


_STEPS: Mapping[str, Build] = {
    **dict.fromkeys(LINEAR, lambda node, parts, *_: affine_step(node, parts[0])),
    **dict.fromkeys(WIRING, lambda node, parts, *_: wiring_step(node, parts)),
    **dict.fromkeys(ELEMENTWISE, lambda node, parts, *_: elementwise_step(node, parts[0])),
    "add": lambda node, parts, *_: add_step(node, parts),
    "maximum": _extreme,
    "minimum": _extreme,
    "amax": lambda node, parts, result, _: largest_step(node, parts[0], result),
}


def make_step(
    node: Node, parts: Sequence[Interval], result: Interval, gap: Interval | None
) -> Step:
    """Return how a node is read backwards.

    Args:
        node: In float64.
        parts: Bounds of its inputs.
        result: Bounds of its value.
        gap: For `maximum` and `minimum`, bounds of the first input less the second.

    Returns:
        The step; where there is no linear rule, or nothing moves, the bounds themselves.
    """
    if not node.perturbed or node.op not in _STEPS:
        return constant_step(result)
    return _STEPS[node.op](node, parts, result, gap)
