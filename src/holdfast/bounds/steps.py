"""How each operation is read backwards: the table of its steps."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from holdfast.bounds.backward import (
    BackwardStep,
    Pulled,
    add_step,
    affine_step,
    compare_step,
    constant_step,
    convex_step,
    dot,
    elementwise_step,
    largest_step,
    wiring_step,
)
from holdfast.bounds.interval import Interval
from holdfast.bounds.normalisation import normalisation_tangent
from holdfast.bounds.product import product_tangent
from holdfast.bounds.softmax import softmax_tangent
from holdfast.bounds.tangent import Ends, Tangent
from holdfast.graph.ir import Node
from holdfast.ops import Kind, rules
from holdfast.rounding import next_down, rows_up

Step = Callable[[Node, Sequence[Interval], Interval, Interval | None], BackwardStep]


def tangent_step(
    node: Node, known: Tangent, parts: Sequence[Interval], result: Interval
) -> BackwardStep:
    """Read an operation backwards through its tangent, or the ends of its range where closer.

    Args:
        node: The node.
        known: Its tangent.
        parts: Bounds of its inputs.
        result: Bounds of its value.

    Returns:
        The step.
    """
    floor = next_down(known.shifts[0] - known.below)
    ceiling = -next_down(-known.shifts[1] - known.above)
    finite = known.size.isfinite() & floor.isfinite() & ceiling.isfinite()
    lower = finite & (known.at - known.below >= result.low)
    upper = finite & (known.at + known.above <= result.high)
    floor, ceiling = torch.where(lower, floor, result.low), torch.where(upper, ceiling, result.high)
    count = sum(part.low[0].numel() for part in parts) + result.low[0].numel() + 64
    size = torch.where(lower | upper, known.size, 0.0)
    magnitude = rows_up(size + torch.maximum(floor.abs(), ceiling.abs()), 8)

    def pull(rows: Tensor, _: Tensor | None) -> Pulled:
        positive, negative = rows.clamp(min=0.0), rows.clamp(max=0.0)
        added = dot(positive, floor) + dot(negative, ceiling)
        back = known.pull(positive * lower[:, None], negative * upper[:, None])
        return Pulled(back, added, dot(rows.detach().abs(), magnitude))

    return BackwardStep(node.inputs, pull, magnitude, count)


def _beside(make: Callable[[Node, Sequence[Ends]], Tangent]) -> Step:
    """Read operations backwards through their tangents."""

    def step(
        node: Node, parts: Sequence[Interval], result: Interval, gap: Interval | None
    ) -> BackwardStep:
        known = make(node, [(part.low, part.high) for part in parts])
        return tangent_step(node, known, parts, result)

    return step


def _compare(
    node: Node, parts: Sequence[Interval], result: Interval, gap: Interval | None
) -> BackwardStep:
    return constant_step(result) if gap is None else compare_step(node, parts, gap)


_STEPS: Mapping[str, Callable[..., BackwardStep]] = rules(
    {
        Kind.AFFINE: lambda node, parts, *_: affine_step(node, parts[0]),
        Kind.WIRING: lambda node, parts, *_: wiring_step(node, parts),
        Kind.SUM: lambda node, parts, *_: add_step(node, parts),
        Kind.SCALAR: lambda node, parts, *_: elementwise_step(node, parts[0]),
        Kind.STEEP: lambda node, parts, *_: elementwise_step(node, parts[0]),
        Kind.PRODUCT: _beside(product_tangent),
    },
    {
        "compare": _compare,
        "amax": lambda node, parts, result, _: largest_step(node, parts[0], result),
        "vector_norm": lambda node, parts, result, _: convex_step(node, parts[0], result),
        "logsumexp": lambda node, parts, result, _: convex_step(node, parts[0], result),
        **dict.fromkeys(
            ("softmax", "log_softmax"), _beside(lambda n, x: softmax_tangent(n, *x[0]))
        ),
        **dict.fromkeys(
            ("layer_norm", "group_norm", "rms_norm"),
            _beside(lambda node, parts: normalisation_tangent(node, *parts[0])),
        ),
    },
)


def make_step(
    node: Node, parts: Sequence[Interval], result: Interval, gap: Interval | None
) -> BackwardStep:
    """Return how a node is read backwards.

    Args:
        node: In float64.
        parts: Bounds of its inputs.
        result: Bounds of its value.
        gap: For `compare`, bounds of the first input less the second.

    Returns:
        The step; where there is no linear rule, or nothing moves, the bounds themselves.
    """
    if not node.perturbed or node.op not in _STEPS:
        return constant_step(result)
    return _STEPS[node.op](node, parts, result, gap)
