"""Jacobian-vector products of a graph, with kinks made smooth enough to climb on.

A piecewise linear net has a Jacobian that is constant in each piece: its gradient says nothing
about where a larger one is. Here every value carries a tangent, and the slope of a kink is a
logistic step of its argument (the derivative of softplus), so that J_s(x) u can be differentiated
with respect to x. Values stay those of the true net; the sharpness is relative to the mean
magnitude of each row's arguments, so that far points are treated like near ones.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import Reading, Rule, execute, read
from holdfast.ops import OPS, Kind, rules

StepFunction = Callable[[Tensor], Tensor]


Dual = tuple[Tensor, Tensor]
"""A value and its change along the input's direction, both [N, ...] float64."""


def push(graph: Graph, points: Tensor, directions: Tensor, sharpness: float | None) -> Tensor:
    """Return J(x) u for each row, differentiable with respect to points and directions.

    Args:
        graph: Captured model in float64. Only comparisons of two are made smooth, not sorts and
            maxima of groups (`holdfast.graph.comparisons.with_pairs`).
        points: [N, ...].
        directions: Same shape.
        sharpness: Of the steps that replace the slopes of kinks; None for the true Jacobian.

    Returns:
        [N, ...]: the change of the output.
    """
    rules = _rules(partial(_step, sharpness=sharpness))
    reading = Reading("tangents", rules, {}, constants=True)
    start = {graph.perturbed_input.name: (points, directions)}
    _, change = read(graph, reading, start)[graph.output]
    return change


def kinks(graph: Graph, points: Tensor) -> Tensor:
    """Return the arguments of all kinks: the Jacobian changes where one of them changes sign.

    Args:
        graph: Captured model in float64, with maxima as comparisons.
        points: [N, ...].

    Returns:
        [N, K]; K is 0 for a smooth net.
    """
    found = [flat_rows(points)[:, :0]]

    def note(arguments: Tensor) -> Tensor:
        found.append(flat_rows(arguments).expand(len(points), -1))
        return torch.zeros_like(arguments)

    reading = Reading("kinks", _rules(note), {}, constants=True)
    start = {graph.perturbed_input.name: (points, torch.zeros_like(points))}
    read(graph, reading, start)
    return torch.cat(found, 1)


def _step(arguments: Tensor, sharpness: float | None) -> Tensor:
    """Return 1 where an argument is positive and 0 where it is not, or smoothly between."""
    if sharpness is None:
        return (arguments > 0).to(arguments.dtype)
    return torch.sigmoid(arguments * (sharpness / _scale(arguments)))


def _scale(arguments: Tensor) -> Tensor:
    """Return the mean magnitude of each row, shaped for broadcasting."""
    dims = tuple(range(1, arguments.dim()))
    size = arguments.detach().abs()
    return (size.mean(dims, keepdim=True) if dims else size).clamp(min=1e-300)


# --- rules ------------------------------------------------------------------------------------


def _rules(step: StepFunction) -> dict[str, Rule]:
    return rules(
        {
            Kind.AFFINE: _linear,
            Kind.WIRING: _linear,
            Kind.SUM: _add,
            Kind.SCALAR: partial(_scalar, step=step),
            Kind.STEEP: _any,
            Kind.PRODUCT: _any,
            Kind.CHOICE: _any,
            Kind.VECTOR: _any,
        },
        {"constant": _constant, "aten": _any, "compare": partial(_compare, step=step)},
    )


def _constant(node: Node, parts: Sequence[Dual]) -> Dual:
    value = execute(node, [])
    return value, torch.zeros_like(value)


def _any(node: Node, parts: Sequence[Dual]) -> Dual:
    """Leave the derivative to torch: forward mode, or twice backward where an op has none."""
    values, tangents = tuple(value for value, _ in parts), tuple(change for _, change in parts)
    if not node.perturbed:
        value = execute(node, values)
        return value, torch.zeros_like(value)
    return with_change(partial(_of_values, node), values, tangents)


def with_change(
    function: Callable[..., Tensor], values: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Dual:
    """Return the value of a function, and its change along tangents.

    Args:
        function: Of as many tensors as there are values; it can be differentiated.
        values: Where it is taken.
        tangents: One for each value, of its shape.

    Returns:
        Both of the shape of the function's value.
    """
    try:
        value, tangent, *_ = torch.func.jvp(function, values, tangents)
    except (NotImplementedError, RuntimeError):  # none, or not for strided rows
        return function(*values), _twice_backward(function, values, tangents)
    return value, tangent


def _twice_backward(
    function: Callable[..., Tensor], values: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Tensor:
    """Return J t as the derivative of J^T w with respect to w, for ops without a forward mode."""
    with torch.enable_grad():
        inputs = [v if v.requires_grad else v.detach().requires_grad_() for v in values]
        output = function(*inputs)
        dummy = torch.zeros_like(output, requires_grad=True)
        back = torch.autograd.grad(output, inputs, dummy, create_graph=True, materialize_grads=True)
        moving = [(g, t) for g, t in zip(back, tangents, strict=True) if g.requires_grad]
        total = sum(((g * t).sum() for g, t in moving), dummy.sum() * 0.0)
        tangent, *_ = torch.autograd.grad(total, dummy, create_graph=True)
    return tangent


def _of_values(node: Node, *values: Tensor) -> Tensor:
    return execute(node, values)


def _linear(node: Node, parts: Sequence[Dual]) -> Dual:
    op, params = node.facts.linear(node.params)
    tangent = OPS[op].run([change for _, change in parts], params)
    return execute(node, [value for value, _ in parts]), tangent


def _scalar(node: Node, parts: Sequence[Dual], step: StepFunction) -> Dual:
    """Where the pieces are straight, the slope is made of steps at the kinks."""
    ((x, tangent),) = parts
    known = node.facts.curve(node.params)
    if known.curved:
        return _any(node, parts)
    first, *later = (piece for piece in known.pieces if piece.low < piece.high)
    slope = before = first.slope(x.detach())
    for piece in later:
        after = piece.slope(x.detach())
        slope = slope + (after - before) * step(x - piece.low)
        before = after
    return execute(node, [x]), slope * tangent


def _add(node: Node, parts: Sequence[Dual]) -> Dual:
    value = execute(node, [value for value, _ in parts])
    return value, execute(node, [change for _, change in parts])


def _compare(node: Node, parts: Sequence[Dual], step: StepFunction) -> Dual:
    (left, left_change), (right, right_change) = parts
    share = step(left - right)
    smaller, larger = (
        part * left_change + (1.0 - part) * right_change for part in (1.0 - share, share)
    )
    return execute(node, [left, right]), torch.stack([smaller, larger], 1)
