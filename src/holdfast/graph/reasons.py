"""Why an operation outside the vocabulary cannot be bounded, where the operation itself says so."""

from collections.abc import Sequence
from typing import Any

import torch

from holdfast.graph.ir import Graph, Node

_STEP = "give the rows in the type that the model computes in, for example inputs.float()"
_LEAVE = "leave it out of the certified part"
_CONDITION = (
    "chooses by a condition that moves, and the two sides need not meet where it changes",
    "write it as a maximum, a minimum, clamp, or torch.where(x > 0, x, s * x)",
)
_FILL = (
    "fills in what is not finite, or differs from row to row",
    "fill in a large finite number such as -1e9",
)
_RESIZE = (
    "its coefficients are no exact numbers in floating point",
    "resize by a power of two, or by mode='nearest'",
)

_JUMPS = frozenset(
    (
        *("gt", "ge", "lt", "le", "eq", "ne", "isnan", "logical_not", "logical_and", "logical_or"),
        *("round", "floor", "ceil", "trunc", "frac", "floor_divide", "remainder", "fmod"),
        *("sign", "sgn", "heaviside", "signbit", "argmax", "argmin", "argsort", "one_hot"),
        *("bucketize", "searchsorted", "nonzero", "threshold"),
    )
)
_ADVICE = {
    "upsample_linear1d": _RESIZE,
    "upsample_bilinear2d": _RESIZE,
    "upsample_trilinear3d": _RESIZE,
    "softplus": (
        "torch switches to the identity above its threshold, a jump that this precision shows",
        "raise its threshold: 20 hides the jump in float32, 40 in float64",
    ),
}
_RECURRENT = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))

MAX_STEPS = 1024
"""Steps of a recurrent layer that are written out: each becomes about ten nodes."""

_PRODUCTS = frozenset(("mul", "matmul", "bmm", "einsum", "div"))


def key(node: Node) -> str:
    """Return the name under which reasons are filed: without the ATen overload."""
    return node.title.removeprefix("aten.").split(".")[0]


def reason(graph: Graph, node: Node) -> tuple[str, str] | None:
    """Return what is true of an operation whatever is asked of it, and how to go on.

    Args:
        graph: The captured model.
        node: One of its nodes.

    Returns:
        Why it cannot be bounded, and advice; None where the operation alone does not say.
    """
    if node.op != "aten" or not node.perturbed:
        return None
    name = key(node)
    if (found := _by_type(graph, node)) is not None:
        return found
    if name in _JUMPS or node.params.get("kwargs", {}).get("rounding_mode") is not None:
        return "jumps: no Lipschitz constant", _LEAVE
    moving = [source for source in node.inputs if graph[source].perturbed]
    if name in _PRODUCTS and len(moving) == 1:
        why = "no rule for this product of what moves and what does not"
        return why, "use torch.einsum of two, or a constant that broadcasts along the batch"
    if name in ("where", "masked_fill"):
        kinds = [graph[source].params.get("dtype") for source in moving]
        return _CONDITION if torch.bool in kinds else _FILL
    return _recurrent(graph, node) if name in _RECURRENT else _ADVICE.get(name)


def steps(args: Sequence[Any], rows: Any) -> int:
    """Return how many steps a call of a recurrent layer takes, over all layers and directions.

    Args:
        args: Of the call.
        rows: Its input, or the node of it; shape [steps, features] a row.
    """
    return rows.shape[0] * args[4] * (1 + args[7])


def _recurrent(graph: Graph, node: Node) -> tuple[str, str]:
    """Say why a recurrent layer was not written out step by step."""
    rows = graph[node.inputs[0]]
    if len(rows.shape) == 2 and (count := steps(node.params["args"], rows)) > MAX_STEPS:
        why = f"takes {count} steps over all layers and directions; {MAX_STEPS} are written out"
        return why, "give shorter sequences"
    why = f"more than {MAX_STEPS} steps, or weights or a first state that move: not written out"
    return why, "give shorter sequences, or leave it out of the certified part"


def _by_type(graph: Graph, node: Node) -> tuple[str, str] | None:
    """Return what the types of an operation and its inputs say."""
    cast, kind = key(node) in ("to", "_to_copy"), node.params["dtype"]
    sources = [graph[source] for source in node.inputs]
    given = [source.params["dtype"] for source in sources if source.op == "aten"]
    narrow = [found for found in (kind, *given) if found in (torch.float16, torch.bfloat16)]
    if narrow:
        short = _name(narrow[0])
        why = f"continues with numbers that were rounded to {short}"
        if kind is narrow[0]:
            why = f"rounds to {short}: a step function" if cast else f"computes in {short}"
        return why, "leave out .half(), .bfloat16() and autocast"
    if not cast or kind is None:
        return None
    if any(map(_whole, given)):
        return "continues with whole numbers, which jump where the input moves", _LEAVE
    if _whole(kind):
        return "rounds to whole numbers: a step function", _LEAVE
    return f"rounds to {_name(kind)}, a narrower type: a step function", _STEP


def _whole(kind: torch.dtype | None) -> bool:
    return kind is not None and not (kind.is_floating_point or kind.is_complex)


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
