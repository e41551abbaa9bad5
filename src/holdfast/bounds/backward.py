"""One node read backwards: a linear bound on its result becomes one on its inputs.

A row a says that some quantity is at least <a, v> + rest, where v is the node's value. A
`BackwardStep` replaces <a, v> by <a', w> + c with w the node's inputs: exactly for affine nodes and
wiring (a' is the adjoint applied to a, by automatic differentiation of the node itself), and for
others by the line below where an entry of a is positive and the line above where it is negative.

Rounding: every step also knows `magnitude`, a bound of all absolute values that enter an entry of
the result. For an affine node v = T w + b it is |T| |w| + |b|. The rounded adjoint is within
gamma_n |T|^T |a| of the exact one, entry by entry, so replacing it changes the quantity by at most

    <gamma_n |T|^T |a|, |w|> = gamma_n <|a|, |T| |w|> <= gamma_n <|a|, magnitude>,

and the same holds for the other nodes by counting their operations. The caller subtracts it. A
node that only moves entries rounds nothing, and passes what the rows carry to the node behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from holdfast.batches import flat_rows, groups_last
from holdfast.bounds.interval import Interval, around
from holdfast.bounds.regions import middle_form
from holdfast.bounds.relaxations import Lines, lines
from holdfast.bounds.vector import convex_lines
from holdfast.bounds.windows import Coefficients, Windows, conv_adjoint, dense, is_even
from holdfast.graph.ir import Node
from holdfast.graph.running import factor_underflow
from holdfast.graph.running import offset as added_by
from holdfast.graph.walk import execute
from holdfast.ops import OPS
from holdfast.ops.record import Params
from holdfast.ops.wiring import filled
from holdfast.rounding import SMALLEST, UNIT, gamma, rows_up


@dataclass(frozen=True)
class Pulled:
    """Rows of a node, read as rows of its inputs.

    Attributes:
        rows: [R or 1, K, ...] for each input.
        added: What is added, [R or 1, K]; None for nothing.
        size: <|rows of the node|, magnitude>, [R or 1, K]; None where nothing rounds.
    """

    rows: Sequence[Tensor | Windows]
    added: Tensor | None = None
    size: Tensor | None = None


Pull = Callable[[Tensor, Tensor | None], Pulled]

RELU = Node("relu", "relu")
"""Stands for the ramp in a comparison, max(a, b) = b + relu(a - b)."""


@dataclass(frozen=True)
class BackwardStep:
    """One node, ready to be read backwards.

    Attributes:
        inputs: Names of the nodes that the rows are passed to.
        pull: From rows [R or 1, K, ...], and slopes to use below or None, to those of each input.
        magnitude: [R or 1, ...], as in the docstring of this file.
        operations: Rounded operations behind one entry, at most.
        linear: Whether minus a row is read as minus what the row is read as.
        lines: Of a ramp: its lines where the slope below may be any number in [0, 1].
        free: Where that is so, [R, ...].
        windowed: The same as `pull` for rows in windows; None where they must be written out.
    """

    inputs: tuple[str, ...]
    pull: Pull
    magnitude: Tensor
    operations: int
    linear: bool = False
    lines: Lines | None = None
    free: Tensor | None = None
    windowed: Callable[[Windows], Pulled] | None = None


def dot(rows: Coefficients, values: Tensor) -> Tensor:
    """Return the product of each row with its region's values.

    Args:
        rows: [R or 1, K, ...].
        values: [R or 1, ...].

    Returns:
        [R or 1, K].
    """
    if isinstance(rows, Windows):
        values = values.expand(len(rows.rows), *values.shape[1:])
        return torch.linalg.vecdot(rows.flatten(2), rows.read(values).flatten(2))
    return (flat_rows(rows, 2) @ flat_rows(values)[:, :, None])[:, :, 0]


def combined(rows: Tensor, output: Interval) -> Interval:
    """Return bounds of combinations of a node's entries, from those of the entries alone.

    Args:
        rows: [R or 1, K, entries].
        output: Bounds of the node.
    """
    middle, reach = (flat_rows(part) for part in middle_form(output.low, output.high))
    moved = dot(rows.abs(), reach)
    magnitude = dot(rows.abs(), middle.abs()) + moved
    room = 4.0 * gamma(rows.shape[2] + 8) * magnitude + rows.shape[2] * SMALLEST
    return around(dot(rows, middle), moved + room)


def _size(rows: Tensor, magnitude: Tensor) -> Tensor:
    return dot(rows.detach().abs(), magnitude)


def affine_step(node: Node, x: Interval) -> BackwardStep:
    """Read an affine node backwards."""
    size = x.size()
    offset = execute(node, [torch.zeros_like(x.low[:1])])
    op, params = node.facts.absolute(node.params)
    count = node.facts.roundings(node.params, size.shape[1:])
    # the rounding is relative to the magnitude: what underflows is counted in units of it
    room = SMALLEST * 4.0 * count + factor_underflow(node, size) / UNIT
    magnitude = rows_up(OPS[op].run([size], params) + added_by(node, offset) + room, count + 8)
    moving = bool((offset != 0).any())

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        added = dot(rows, offset) if moving else None
        return Pulled(adjoint(node, rows, [size.shape[1:]]), added, _size(rows, magnitude))

    def windowed(rows: Windows) -> Pulled:
        added = dot(rows, offset) if moving else None
        size_of_rows = dot(rows.abs(), magnitude)
        weight, geometry = node.params["weight"], node.params["geometry"]
        return Pulled([rows.through(weight, geometry, tuple(size.shape[1:]))], added, size_of_rows)

    count += adjoint_terms(node)
    local = windowed if node.op == "conv" and is_even(node.params["geometry"]) else None
    return BackwardStep(node.inputs, pull, magnitude, count, linear=True, windowed=local)


def adjoint_terms(node: Node) -> int:
    """Return how many products one entry of the adjoint adds up, at most.

    Every output reads an input through at most as many coefficients as a kernel has taps.
    """
    outputs = max(1, torch.Size(node.shape).numel())
    taps = 1
    if node.op in ("conv", "conv_transpose"):
        taps = node.params["weight"][0, 0].numel()
    return outputs * taps + 16


def wiring_step(node: Node, parts: Sequence[Interval]) -> BackwardStep:
    """Read a node that moves entries backwards."""
    zeros = [torch.zeros_like(part.low[:1]) for part in parts]
    offset = execute(node, zeros)
    params = filled(node.params, abs(node.params.get("value", 0.0)))
    magnitude = node.facts.run([part.size() for part in parts], params)
    shapes = [part.low.shape[1:] for part in parts]
    moving = bool((offset != 0).any())
    # Where no entry is repeated, the adjoint adds nothing up.
    rounds = moving or node.facts.repeats(node.params)

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        added = dot(rows, offset) if moving else None
        return Pulled(
            adjoint(node, rows, shapes), added, _size(rows, magnitude) if rounds else None
        )

    return BackwardStep(node.inputs, pull, magnitude, adjoint_terms(node), linear=True)


def adjoint(node: Node, rows: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Apply the transpose of an affine or wiring node's linear part.

    Args:
        node: Affine or wiring, float64.
        rows: [R, K, *shape of the node].
        shapes: The shape of a row of each input.

    Returns:
        [R, K, *shape] per input.
    """
    if node.op == "linear":
        return [rows @ node.params["weight"]]
    flat = rows.flatten(0, 1)
    op, params = node.facts.linear(node.params)
    if op in ("scale", "divide", "scale_channels"):
        back = [OPS[op].run([flat], params)]
    elif op == "conv" and is_even(params["geometry"]):
        back = [conv_adjoint(flat, params["weight"], params["geometry"], tuple(shapes[0]))]
    else:
        back = _pull_back(op, params, flat, shapes)
    return [part.unflatten(0, rows.shape[:2]) for part in back]


def _pull_back(
    op: str, params: Params, flat: Tensor, shapes: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Differentiate <flat, T w> by w; where the rows have a gradient, so has the result."""
    with torch.enable_grad():
        zeros = [flat.new_zeros(len(flat), *shape).requires_grad_() for shape in shapes]
        result = OPS[op].run(zeros, params)
        return list(torch.autograd.grad(result, zeros, flat, create_graph=flat.requires_grad))


def add_step(node: Node, parts: Sequence[Interval]) -> BackwardStep:
    """Read a sum backwards."""
    total = torch.stack(torch.broadcast_tensors(*[part.size() for part in parts])).sum(0)
    count = len(parts) + 2
    magnitude = rows_up(total, count)

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        return Pulled([rows] * len(parts), None, _size(rows, magnitude))

    return BackwardStep(node.inputs, pull, magnitude, count, linear=True)


def _ramp_step(
    inputs: tuple[str, ...],
    known: Lines,
    free: Tensor | None,
    magnitude: Tensor,
    operations: int,
) -> BackwardStep:
    """Read a function backwards through lines in its place; arguments as in `BackwardStep`."""

    def pull(rows: Tensor, slopes: Tensor | None) -> Pulled:
        """Take the line below or above, by the sign of each row's entry."""
        positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
        below, floor = known.lower_slope[:, None], known.lower_offset
        if slopes is not None and free is not None:
            below = torch.where(free[:, None], slopes, below)
            floor = torch.where(free, torch.zeros_like(floor), floor)
        lower, upper = (
            flat_rows(part, 2) @ torch.stack([flat_rows(offset), flat_rows(magnitude)], 2)
            for part, offset in ((positive, floor), (negative, known.upper_offset))
        )
        moved = positive * below + negative * known.upper_slope[:, None]
        size = (lower[..., 1] - upper[..., 1]).detach()
        return Pulled([moved], lower[..., 0] + upper[..., 0], size)

    def windowed(rows: Windows) -> Pulled:
        """Do the same for rows in windows."""
        offsets = known.lower_offset, known.upper_offset
        parts = torch.cat((known.lower_slope, known.upper_slope, *offsets, magnitude), 1)
        below, above, floor, ceiling, large = rows.read(parts).chunk(5, 2)
        positive, negative = rows.rows.clamp(min=0.0), rows.rows.clamp(max=0.0)
        added = flat_rows(positive * floor + negative * ceiling, 2).sum(2)
        size = flat_rows((positive - negative) * large, 2).sum(2)
        return Pulled([rows.replaced(positive * below + negative * above)], added, size)

    return BackwardStep(
        inputs, pull, magnitude, operations, lines=known, free=free, windowed=windowed
    )


def _offsets(bounds: Lines) -> Tensor:
    return torch.maximum(bounds.lower_offset.abs(), bounds.upper_offset.abs())


def elementwise_step(node: Node, x: Interval) -> BackwardStep:
    """Read an activation backwards, through its lines."""
    bounds = lines(node, x.low, x.high)
    steepest = torch.maximum(bounds.lower_slope.abs(), bounds.upper_slope.abs())
    free = ((x.low < 0) & (x.high > 0)) if node.op == "relu" else None
    if free is not None:
        steepest = steepest.clamp(min=1.0)
    magnitude = rows_up(steepest * x.size() + _offsets(bounds), 8)
    return _ramp_step(node.inputs, bounds, free, magnitude, 2 * x.low[0].numel() + 16)


def compare_step(node: Node, parts: Sequence[Interval], gap: Interval) -> BackwardStep:
    """Read a pair, [a - relu(a - b), b + relu(a - b)], backwards.

    Rows of both ends are joined before the ramp is replaced by a line: of a + b nothing is lost.

    Args:
        node: The node.
        parts: Bounds of a and b.
        gap: Bounds of a - b.

    Returns:
        The step.
    """
    bounds = lines(RELU, gap.low, gap.high)
    free = (gap.low < 0) & (gap.high > 0)
    sizes = parts[0].size() + parts[1].size()
    size = rows_up(4.0 * sizes + _offsets(bounds), 8)
    ramp = _ramp_step(node.inputs, bounds, free, size, 4 * size[0].numel() + 32)
    magnitude = torch.stack([size, size], 1)

    def pull(rows: Tensor, slopes: Tensor | None) -> Pulled:
        smaller, larger = rows.unbind(2)
        got = ramp.pull(larger - smaller, slopes)
        moved = cast(Tensor, got.rows[0])
        # The difference of the two rows rounds by their sizes, not by its own.
        return Pulled([smaller + moved, larger - moved], got.added, _size(rows, magnitude))

    return replace(ramp, pull=pull, magnitude=magnitude, windowed=None)


def largest_step(node: Node, x: Interval, result: Interval) -> BackwardStep:
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
    low, high = groups_last(x.low, dims), groups_last(x.high, dims)
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
        back = ungroup(grouped, x.low.shape[1:], dims)
        return Pulled([back], dot(negative, ceiling), _size(rows, magnitude))

    reach = groups_last(x.size(), dims).amax(-1).reshape(-1, *shape)
    magnitude = reach + ceiling.abs()
    return BackwardStep(node.inputs, pull, magnitude, low[0].numel() + 16)


def ungroup(values: Tensor, shape: Sequence[int], dims: Sequence[int]) -> Tensor:
    """Undo `groups_last` for [R, K, ..., group]; `dims` count without K."""
    ends = tuple(range(len(shape) + 2 - len(dims), len(shape) + 2))
    values = values.unflatten(-1, [shape[dim - 1] for dim in dims])
    return values.movedim(ends, tuple(dim + 1 for dim in dims))


def convex_step(node: Node, x: Interval, result: Interval) -> BackwardStep:
    """Read lengths, or logarithms of sums of exponentials, backwards through their planes."""
    dims = tuple(node.params["dims"])
    known = convex_lines(node, x.low, x.high, (result.low, result.high))
    slopes = known.lower_slope, known.upper_slope
    steepest = torch.maximum(*(slope.abs() for slope in slopes))
    reach = (steepest * groups_last(x.size(), dims)).sum(-1).reshape(-1, *node.shape)
    count = x.low[0].numel() + 16
    magnitude = rows_up(reach + _offsets(known), count)

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        signs = rows.clamp(min=0.0), rows.clamp(max=0.0)
        moved = sum(
            part.reshape(*part.shape[:2], *slope.shape[1:-1])[..., None] * slope[:, None]
            for part, slope in zip(signs, slopes, strict=True)
        )
        back = ungroup(cast(Tensor, moved), x.low.shape[1:], dims)
        added = dot(signs[0], known.lower_offset) + dot(signs[1], known.upper_offset)
        return Pulled([back], added, _size(rows, magnitude))

    return BackwardStep(node.inputs, pull, magnitude, count)


def constant_step(result: Interval) -> BackwardStep:
    """Read a node without a linear rule backwards: its bounds are all that is known."""
    magnitude = result.size()

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
        added = dot(positive, result.low) + dot(negative, result.high)
        return Pulled([], added, _size(rows, magnitude))

    return BackwardStep((), pull, magnitude, 2 * result.low[0].numel() + 16)


def pull_back(step: BackwardStep, rows: Coefficients, slopes: Tensor | None) -> Pulled:
    """Read a step backwards, in windows where that saves work."""
    if isinstance(rows, Windows) and step.windowed and rows.worth_it():
        return step.windowed(rows)
    return step.pull(dense(rows), slopes)


def joined(first: Coefficients, second: Coefficients) -> Coefficients:
    """Add rows of one node."""
    return dense(first) + dense(second)
