"""A running error bound: the float64 evaluation of a graph, and how far it can be from the truth.

Each value carries a bound of the absolute error of every entry, against the exact real function of
the stored weights, in whatever order dot products are summed (Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, section 3.3). Transcendental functions of the library are taken to be
within `ULPS` units of roundoff of max(1, |x|); dot products must be ordinary ones (no FFT or
Winograd), which holds for float64 on CPUs. Exponentials, logarithms, powers, roots and reciprocals
are taken to be within `ULPS` units of roundoff of their own value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.graph.ir import Graph, Node
from holdfast.graph.slopes import slopes_on
from holdfast.graph.walk import Env, Reading, Rule, execute, read
from holdfast.ops import OPS, Kind, rules
from holdfast.ops.geometry import per_channel
from holdfast.ops.vector import group_size
from holdfast.rounding import SMALLEST, TINY, UNIT, gamma, next_down, rows_up

ULPS = 32.0
"""Rounding of one elementary function, in units of roundoff of max(1, |x|): several times what
vectorised libraries state."""


@dataclass(frozen=True)
class Approximate:
    """A computed value and a bound of its error.

    Attributes:
        value: [N, ...], float64.
        error: Same shape, at least 0: |value - exact| <= error.
    """

    value: Tensor
    error: Tensor


def evaluate(graph: Graph, inputs: Tensor) -> Approximate:
    """Evaluate a graph in float64 with a proved bound of the rounding error.

    Args:
        graph: Captured model.
        inputs: [N, ...], taken as exact.

    Returns:
        The model's output, [N, ...], and the bound of its error.

    Raises:
        Unsupported: When an op has no rule, naming every such op.
    """
    return evaluate_all(graph, inputs)[graph.output]


def evaluate_all(graph: Graph, inputs: Tensor) -> Env[Approximate]:
    """Evaluate every node, by name; see `evaluate`."""
    reading = Reading("float64 evaluation with error bounds", ONE_STEP, {}, constants=True)
    exact = inputs.double()
    start = {graph.perturbed_input.name: Approximate(exact, torch.zeros_like(exact))}
    with torch.no_grad():
        return read(graph.double(), reading, start)


def _row_shape(part: Approximate) -> tuple[int, ...]:
    return tuple(part.value.shape[1:])


def _constant(node: Node, parts: Sequence[Approximate]) -> Approximate:
    value = node.params["value"].double()
    return Approximate(value, torch.zeros_like(value))


def affine(node: Node, parts: Sequence[Approximate]) -> Approximate:
    """Propagate |T| error, plus gamma_n (|T| |x| + |b|) for the operation itself."""
    (x,) = parts
    value = execute(node, [x.value])
    op, params = node.facts.absolute(node.params)
    count = node.facts.roundings(node.params, _row_shape(x))
    magnitude = OPS[op].run([x.value.abs() + x.error], params) + offset(node, value)
    error = OPS[op].run([x.error], params) + 2.0 * gamma(count + 8) * magnitude
    error = error + factor_underflow(node, x.value.abs() + x.error)
    return Approximate(value, rows_up(error, count + 8))


def factor_underflow(node: Node, size: Tensor) -> Tensor | float:
    """Bound what is lost where the factor of a batch norm, which is a product, underflows.

    Args:
        node: An affine node.
        size: [N, ...], the largest absolute values of its input.

    Returns:
        The bound, of the shape of `size`, or 0.
    """
    if node.op != "batch_norm":
        return 0.0
    return TINY * (size + per_channel(node.params["mean"].abs(), size.dim()))


def offset(node: Node, value: Tensor) -> Tensor:
    """Return the magnitude of what an affine operation adds, to values like the given ones."""
    added = node.facts.offset(node.params, value.dim())
    return torch.zeros_like(value) if added is None else added.expand_as(value)


def _wiring(node: Node, parts: Sequence[Approximate]) -> Approximate:
    op, params = node.facts.linear(node.params)
    value = execute(node, [part.value for part in parts])
    return Approximate(value, OPS[op].run([part.error for part in parts], params))


def elementwise(node: Node, parts: Sequence[Approximate]) -> Approximate:
    """Apply an activation: an error grows by the steepest slope, and its own rounding is added."""
    (x,) = parts
    value = execute(node, [x.value])
    if node.kind is Kind.STEEP:
        return Approximate(value, rows_up(_moved(node, x) + steep_rounding(value, UNIT), 4))
    slope = node.facts.steepest(node.params)
    units = 0.0 if node.facts.exact else ULPS * UNIT * settings_size(node, slope)
    rounding = units * x.value.abs().clamp(min=1.0)
    return Approximate(value, rows_up(slope * x.error + rounding, 4))


def _moved(node: Node, x: Approximate) -> Tensor:
    """Return how far an error can take the value of a function, by its slopes within the error."""
    low, high = next_down(x.value - x.error), -next_down(-x.value - x.error)
    exact = x.error == 0.0
    low, high = torch.where(exact, x.value, low), torch.where(exact, x.value, high)
    least, most = slopes_on(node, low, high)
    moved = torch.where(exact, 0.0, torch.maximum(least.abs(), most.abs()) * x.error)
    undefined = node.facts.curve(node.params).undefined(low, high)
    return torch.where(undefined, torch.inf, moved)


def steep_rounding(value: Tensor, unit: float) -> Tensor:
    """Return the rounding of a steep function: relative to its value, or where it underflows."""
    return ULPS * unit * value.abs() + SMALLEST


def settings_size(node: Node, slope: float) -> float:
    """Return by how much the settings of a function magnify its rounding, at least 1."""
    return max(1.0, node.facts.inflation(node.params)) * max(1.0, slope)


def _product(node: Node, parts: Sequence[Approximate]) -> Approximate:
    """Return |a| eb + ea |b| + ea eb, and the rounding of so many products and sums."""
    a, b = (part.value.abs() for part in parts)
    wide = [size + part.error for size, part in zip((a, b), parts, strict=True)]
    count = node.facts.roundings(node.params, _row_shape(parts[0]))
    moved = execute(node, [wide[0], parts[1].error]) + execute(node, [parts[0].error, b])
    error = moved + gamma(count + 4) * execute(node, wide) + count * TINY
    return Approximate(execute(node, [part.value for part in parts]), rows_up(error, count + 8))


def _add(node: Node, parts: Sequence[Approximate]) -> Approximate:
    value = execute(node, [part.value for part in parts])
    magnitude = sum(part.value.abs() + part.error for part in parts)
    error = sum((part.error for part in parts), torch.zeros_like(value))
    error = error + gamma(len(parts) + 2) * magnitude
    return Approximate(value, rows_up(error, len(parts) + 2))


def _compare(node: Node, parts: Sequence[Approximate]) -> Approximate:
    left, right = parts
    worst = torch.maximum(left.error, right.error)
    return Approximate(execute(node, [left.value, right.value]), torch.stack([worst, worst], 1))


def _largest_of_group(node: Node, parts: Sequence[Approximate]) -> Approximate:
    """Selections from a group: no result moves further than the group's largest error."""
    (x,) = parts
    return Approximate(execute(node, [x.value]), execute(node, [x.error]))


def _sort(node: Node, parts: Sequence[Approximate]) -> Approximate:
    (x,) = parts
    worst = x.error.amax(node.params["dim"], keepdim=True).expand_as(x.error)
    return Approximate(execute(node, [x.value]), worst)


def softmax(node: Node, parts: Sequence[Approximate]) -> Approximate:
    """Bound a softmax: |J| in linf is at most 1/2 (2 for its logarithm); sums round relatively."""
    (x,) = parts
    value = execute(node, [x.value])
    dim = node.params["dim"]
    constant = 0.5 if node.op == "softmax" else 2.0
    worst = x.error.amax(dim, keepdim=True)
    size = x.value.abs().amax(dim, keepdim=True).clamp(min=1.0)
    rounding = gamma(x.value.shape[dim] + 64) * 4.0 * size
    return Approximate(value, rows_up((constant * worst + rounding).expand_as(value), 8))


def log_sum_exp(node: Node, parts: Sequence[Approximate]) -> Approximate:
    """Bound a logarithm of sums: |J| in linf is 1, and the sum rounds as that of a softmax."""
    (x,) = parts
    dims, keepdim = node.params["dims"], node.params["keepdim"]
    worst = x.error.amax(dims, keepdim)
    size = x.value.abs().amax(dims, keepdim).clamp(min=1.0)
    rounding = gamma(group_size(node.params, _row_shape(x)) + 64) * 4.0 * size
    return Approximate(execute(node, [x.value]), rows_up(worst + rounding, 8))


def vector_norm(node: Node, parts: Sequence[Approximate]) -> Approximate:
    """Bound lengths: an error passes as its own length, and squares, sum and root round."""
    (x,) = parts
    value, moved = execute(node, [x.value]), execute(node, [x.error])
    n = group_size(node.params, _row_shape(x))
    # Squares that underflow lose less than n 2^-1073 together, their root less than this.
    lost = n**0.5 * 2.0**-535
    error = moved + gamma(n + 8) * (value + moved) + 2.0 * lost
    return Approximate(value, rows_up(error, n + 8))


def _normalisation(node: Node, parts: Sequence[Approximate]) -> Approximate:
    """Return z = (x - mean) / s with its rounding, for s >= sqrt(eps) and |z| <= sqrt(d).

    The centred value errs by at most e = gamma_d 2 max|x|, and by twice the error of the input;
    that moves s by at most the same, so z by e (1 + sqrt(d)) / s, and d + 8 relative roundings act
    on |z|. The exact s is at least sqrt(eps), and at least the computed one less e. It is computed
    like that here: torch subtracts large squares for some memory layouts. Where no mean is taken
    off, the bound is more than there is; of squares that overflow nothing else is known.
    """
    (x,) = parts
    flat, weight, bias = _groups(node, x)
    mean = 0.0 if node.op == "rms_norm" else flat.value.mean(-1, keepdim=True)
    centred = flat.value - mean
    deviation = (centred.square().mean(-1, keepdim=True) + node.params["eps"]).sqrt()
    value = (centred / deviation).reshape(x.value.shape) * weight + bias
    d = flat.value.shape[-1]
    root, least = d**0.5, node.params["eps"] ** 0.5 * (1.0 - 4.0 * UNIT)
    size = flat.value.abs().amax(-1, keepdim=True)
    off = 2.0 * gamma(d + 2) * size + 2.0 * flat.error.amax(-1, keepdim=True) + 4.0 * d * TINY
    # Squares that underflow are at most 2^-500 of s; those that overflow say nothing.
    near = (deviation * (1.0 - 2.0 * gamma(d + 16)) - off - 2.0**-500).clamp(min=least)
    least = torch.where(deviation.isfinite(), near, least)
    z_error = (off / least * (1.0 + root) + root * gamma(d + 16)).expand_as(flat.value)
    error = z_error.reshape(value.shape) * weight.abs()
    rounding = 4.0 * UNIT * (value.abs() + weight.abs() * root + bias.abs())
    return Approximate(value, rows_up(2.0 * error + rounding, d + 32))


def _groups(node: Node, x: Approximate) -> tuple[Approximate, Tensor, Tensor]:
    """Lay the entries that are normalised together along the last dimension."""
    rows = x.value.shape[0]
    groups: int = node.params.get("groups", 0)
    lead = (rows, groups) if groups else x.value.shape[: -len(node.params["shape"])]
    flat_shape = (*lead, -1)
    flat = Approximate(x.value.reshape(flat_shape), x.error.reshape(flat_shape))
    scale = [node.params["weight"], node.params["bias"]]
    default = [torch.ones(()), torch.zeros(())]
    weight, bias = (
        (fallback if value is None else value).double()
        for value, fallback in zip(scale, default, strict=True)
    )
    if groups and weight.dim():
        weight = per_channel(weight, x.value.dim())
    if groups and bias.dim():
        bias = per_channel(bias, x.value.dim())
    return flat, weight, bias


ONE_STEP: dict[str, Rule] = rules(
    {
        Kind.AFFINE: affine,
        Kind.WIRING: _wiring,
        Kind.SUM: _add,
        Kind.SCALAR: elementwise,
        Kind.STEEP: elementwise,
        Kind.PRODUCT: _product,
    },
    {
        "constant": _constant,
        "compare": _compare,
        "amax": _largest_of_group,
        "max_pool": _largest_of_group,
        "sort": _sort,
        "softmax": softmax,
        "log_softmax": softmax,
        "layer_norm": _normalisation,
        "group_norm": _normalisation,
        "rms_norm": _normalisation,
        "vector_norm": vector_norm,
        "logsumexp": log_sum_exp,
    },
)
