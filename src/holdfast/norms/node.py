"""The operator norm of one affine node, or of a run of them, for l1, l2 and linf."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.graph.ir import Graph, Node
from holdfast.norms.conv import conv_transpose_upper, conv_upper
from holdfast.norms.matrix import row_sums_upper, spectral_upper
from holdfast.ops import OPS, Kind
from holdfast.rounding import (
    TINY,
    UNIT,
    add_up,
    exponent_of,
    gamma,
    ldexp_up,
    mul_up,
    scaled,
    sqrt_up,
    up,
)


class OperatorNorms:
    """Operator norms of nodes and of runs of them, each computed once.

    Args:
        norm: 1, 2 or inf, on both sides.
    """

    def __init__(self, norm: float) -> None:
        self.norm = norm
        self._known: dict[tuple[Node, ...], float] = {}

    def of(self, node: Node, shape: Sequence[int]) -> float:
        """Return `operator_norm_upper` of a node."""
        if (node,) not in self._known:
            self._known[node,] = operator_norm_upper(node, shape, self.norm)
        return self._known[node,]

    def of_run(self, nodes: tuple[Node, ...], shape: Sequence[int]) -> float:
        """Return `chain_norm_upper` of several nodes, each reading the one before."""
        if nodes not in self._known:
            self._known[nodes] = chain_norm_upper(nodes, shape)
        return self._known[nodes]


def operator_norm_upper(node: Node, shape: Sequence[int], norm: float) -> float:
    """Return a proved upper bound of the operator norm of an affine node's linear part.

    Args:
        node: Affine.
        shape: Shape of one row of its input.
        norm: 1, 2 or inf, on both sides.

    Returns:
        sup ||T x|| / ||x||.
    """
    if norm != 2.0 or node.facts.by_entry:
        return absolute_norm_upper(node, shape, norm)
    if node.op == "linear":
        return spectral_upper(node.params["weight"].double())
    if node.op in ("conv", "conv_transpose"):
        return _conv_norm(node, shape)
    return absolute_norm_upper(node, shape, norm)


def absolute_norm_upper(node: Node, shape: Sequence[int], norm: float) -> float:
    """Return an upper bound of the norm of an affine node with all coefficients non-negative.

    Args:
        node: Affine.
        shape: Shape of one row of its input.
        norm: 1, 2 or inf, on both sides.

    Returns:
        sup || |T| x || / ||x||, at least that of the linear part itself.
    """
    if node.facts.by_entry:
        return _factor_norm(node)
    if norm != 2.0:
        return _absolute_norm(node, shape, norm)
    # Riesz-Thorin: the l2 norm is at most the geometric mean of the l1 and linf norms.
    one, infinity = (_absolute_norm(node, shape, p) for p in (1.0, math.inf))
    return _geometric_mean_up(one, infinity)


def _geometric_mean_up(first: float, second: float) -> float:
    product = mul_up(first, second)
    if product == 0.0 or 2.0**-900 < product < math.inf:
        return sqrt_up(product)
    return mul_up(sqrt_up(first), sqrt_up(second))


def _factor_norm(node: Node) -> float:
    """Return the norm of a node that multiplies every entry by a factor of its own."""
    op, params = node.facts.absolute({k: _double(v) for k, v in node.params.items()})
    factor = OPS[op].run([torch.ones(1, *node.shape, dtype=torch.float64)], params)
    # 5 roundings at most stand between the stored statistics and the factor.
    norm = mul_up(float(factor.max()), 1.0 + 2.0 * gamma(8))
    underflow = 0.0 if node.facts.stored(node.params) or norm == 0.0 else TINY
    return add_up(norm, underflow)


def _conv_norm(node: Node, shape: Sequence[int]) -> float:
    """Return the l2 norm of a convolution: dense where small, from its symbol where not."""
    columns, rows = math.prod(shape), math.prod(node.shape)
    if worth_writing_out(columns, rows):
        return chain_norm_upper([node], shape)
    weight, geometry = node.params["weight"], node.params["geometry"]
    if node.op == "conv":
        return conv_upper(weight, geometry, shape[1:])
    return conv_transpose_upper(weight, geometry, node.shape[1:])


def worth_writing_out(columns: int, rows: int) -> bool:
    """Return whether an operator is small enough to be written out as a matrix."""
    # One input at a time is pushed through; the entries take 256 MB; the cost of a norm grows with
    # the cube of the smaller side.
    return columns <= 4096 and columns * rows <= 2**25 and min(columns, rows) <= 2048


def _absolute_norm(node: Node, shape: Sequence[int], norm: float) -> float:
    """Return the l1 or linf norm: the largest column or row sum of the absolute operator.

    Row sums are the absolute operator applied to ones, column sums its adjoint applied to ones.
    """
    op, params = node.facts.absolute({k: _double(v) for k, v in node.params.items()})
    ones = torch.ones(1, *shape, dtype=torch.float64, requires_grad=norm == 1.0)
    result = OPS[op].run([ones], params)
    if norm == 1.0:
        (result,) = torch.autograd.grad(result.sum(), ones)
        operations = max(node.facts.roundings(node.params, shape), math.prod(node.shape))
    else:
        operations = node.facts.roundings(node.params, shape)
    return mul_up(float(result.max()), 1.0 + 2.0 * gamma(operations + 2))


def _double(value: object) -> object:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def chain_norm_upper(nodes: Sequence[Node], shape: Sequence[int]) -> float:
    """Return a bound of the l2 norm of several nodes in a row, written out as one matrix.

    Args:
        nodes: Affine or wiring nodes, each reading the one before.
        shape: Shape of one row of the first one's input.
    """
    matrix, magnitude, operations, exponent = _matrix(nodes, shape)
    # The entries are rounded; the error is at most gamma times the product of magnitudes.
    sums = row_sums_upper(magnitude), row_sums_upper(magnitude.mT)
    rounding = mul_up(2.0 * gamma(operations), _geometric_mean_up(*sums))
    return ldexp_up(up(spectral_upper(matrix) + rounding), exponent)


def _matrix(nodes: Sequence[Node], shape: Sequence[int]) -> tuple[Tensor, Tensor, int, int]:
    """Return the matrix, the one of absolute values, the roundings of an entry, and an exponent.

    Both matrices are to be multiplied by two to that exponent: what is multiplied next is always
    scaled by a power of two to entries around 1. What underflows all the same is put into the
    magnitudes, in units of the relative rounding.
    """
    columns = math.prod(shape)
    basis = torch.eye(columns, dtype=torch.float64).reshape(columns, *shape)
    values, magnitudes, operations, exponent = basis, basis, 2, 0
    for node in nodes:
        params = {name: _double(value) for name, value in node.params.items()}
        if node.kind is Kind.WIRING:
            values, magnitudes = (_wire(node, part) for part in (values, magnitudes))
            shape = node.shape
            continue
        count = node.facts.roundings(params, shape)
        size = exponent_of(magnitudes)
        values, magnitudes = scaled(values, -size), scaled(magnitudes, -size) + TINY / UNIT
        op, linear = node.facts.linear(params)
        values = OPS[op].run([values], linear)
        op, linear = node.facts.absolute(params)
        magnitudes = OPS[op].run([magnitudes], linear) + 3.0 * count * TINY / UNIT
        operations, exponent, shape = operations + count, exponent + size, node.shape
    return flat_rows(values).mT, flat_rows(magnitudes).mT, operations, exponent


def _wire(node: Node, part: Tensor) -> Tensor:
    """Move entries; a constant of the wiring (the value of a padding) is no part of the map."""
    op, params = node.facts.linear(node.params)
    return OPS[op].run([part], params)


def affine_run(graph: Graph, node: Node) -> tuple[Node, ...]:
    """Return the longest run of affine and single-input wiring nodes that ends at `node`."""
    run = [node]
    while True:
        before = graph[run[0].inputs[0]]
        wiring = before.kind is Kind.WIRING and len(before.inputs) == 1
        if not (before.kind is Kind.AFFINE or wiring):
            return tuple(run)
        run.insert(0, before)
