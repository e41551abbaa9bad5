"""ONNX layers: products with weights, and normalisations.

The names of a function's parameters are those of the operator's attributes; its positional ones
are the operator's inputs in order. `Static` marks inputs that must be known from the file alone.
"""

import string
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.sources.onnx.rows import (
    Operand,
    RowValue,
    along,
    combined,
    counted,
    per_image,
    renewed,
    reshaped,
    settle,
    shape_of,
)

# --- products ---------------------------------------------------------------------------------


def gemm(  # noqa: PLR0913 - the attributes of the operator
    x: Operand,
    weight: Operand,
    bias: Operand | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> RowValue:
    """Return alpha * x' * weight' + beta * bias."""
    left = _turned(x) if transA else x
    right = _turned(weight) if transB else weight
    if isinstance(left, RowValue) and isinstance(right, Tensor) and isinstance(bias, Tensor):
        same_for_all = bias.dim() < 2 or len(bias) == 1
        if same_for_all and alpha == beta == 1.0:
            row = bias.reshape(-1).expand(right.shape[1])
            return RowValue(F.linear(left.tensor, right.T, row), left.batched)
    product = matmul(left, right)
    if alpha != 1.0:
        product = product.map(lambda t: t * alpha)
    if bias is None or beta == 0.0:
        return product
    scaled = bias if beta == 1.0 else _scaled(bias, beta)
    return combined(torch.add, product, scaled)


def _scaled(x: Operand, factor: float) -> Operand:
    return x * factor if isinstance(x, Tensor) else x.map(lambda t: t * factor)


def _turned(x: Operand) -> Operand:
    """Return a matrix transposed."""
    return x.T if isinstance(x, Tensor) else settle(x.free().transpose(1, 2))


def matmul(a: Operand, b: Operand) -> RowValue:
    """Return the product, broadcast over leading axes as in NumPy."""
    if isinstance(a, RowValue) and isinstance(b, Tensor) and b.dim() == 2:
        return RowValue(F.linear(a.tensor, b.T), a.batched)
    if isinstance(a, Tensor) and isinstance(b, RowValue) and a.dim() == 2:
        if len(b.shape) == 1:
            return RowValue(F.linear(b.tensor, a), b.batched)
        turned = b.free().transpose(-1, -2)
        return settle(F.linear(turned, a).transpose(-1, -2))
    if len(shape_of(a)) == 1:  # a row, and the axis of one goes again
        product = matmul(_matrix(a, (1, *shape_of(a))), b)
        return reshaped(product, (*product.shape[:-2], product.shape[-1]))
    if len(shape_of(b)) == 1:
        product = matmul(a, _matrix(b, (*shape_of(b), 1)))
        return reshaped(product, product.shape[:-1])
    rank = max(len(shape_of(a)), len(shape_of(b)))
    left, right = (_raised(x, rank) for x in (a, b))
    return settle(torch.matmul(left, right))


def _matrix(vector: Operand, shape: tuple[int, ...]) -> Operand:
    return reshaped(vector, shape) if isinstance(vector, RowValue) else vector.reshape(shape)


def _raised(x: Operand, rank: int) -> Tensor:
    """Return an operand with axes of size one in front, batch first."""
    full = x.free() if isinstance(x, RowValue) else x.unsqueeze(0)
    missing = rank - (full.dim() - 1)
    return full.reshape(full.shape[0], *[1] * missing, *full.shape[1:]) if missing else full


def einsum(*operands: Operand, equation: str) -> RowValue:
    """Return the sum of products that the letters say; every row has its own.

    Raises:
        ValueError: When the equation is not one for these operands, or has no letter to spare.
    """
    inputs, arrow, result = "".join(equation.split()).partition("->")
    terms = inputs.split(",")
    if not arrow:  # NumPy's rule: what stands once, in the order of the alphabet
        letters = inputs.replace(",", "").replace(".", "")
        dots = "..." if "..." in inputs else ""
        result = dots + "".join(sorted(c for c in {*letters} if letters.count(c) == 1))
    spare = {*string.ascii_letters} - {*equation}
    if len(terms) != len(operands) or not spare:
        raise ValueError(f"equation {equation!r} of {len(operands)} inputs")
    row = min(spare)
    moving = [isinstance(x, RowValue) for x in operands]
    terms = [row + term if moves else term for term, moves in zip(terms, moving, strict=True)]
    tensors = [x.free() if isinstance(x, RowValue) else x for x in operands]
    return settle(torch.einsum(f"{','.join(terms)}->{row}{result}", *tensors))


# --- normalisations ---------------------------------------------------------------------------


def batch_norm(  # noqa: PLR0913 - the attributes of the operator
    x: RowValue,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> RowValue:
    """Normalise every channel with the statistics in the file.

    Returns:
        RowValue of the same shape.

    Raises:
        ValueError: In training mode, where rows would influence each other.
    """
    if training_mode or not spatial:
        raise ValueError("training mode, or statistics of every pixel")
    statistics = (running_mean, running_var, weight, bias)
    return per_image(lambda t: F.batch_norm(t, *statistics, False, momentum, epsilon), x)


def layer_norm(
    x: RowValue,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> RowValue:
    """Normalise every row over its last axes."""
    (first,) = counted([axis], len(x.shape))
    moved, dims = along(x, range(first, len(x.shape)))
    shape = [moved.tensor.shape[dim] for dim in dims]
    scale = weight.expand(shape)
    shift = bias if bias is None else bias.expand(shape)
    return renewed(moved, F.layer_norm(moved.tensor, shape, scale, shift, epsilon))


def group_norm(
    x: RowValue,
    weight: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> RowValue:
    """Normalise groups of channels; weights are per channel, as from opset 21.

    Returns:
        RowValue of the same shape.

    Raises:
        ValueError: For weights per group, as in opset 18.
    """
    if len(weight) != x.shape[1]:
        raise ValueError("weights per group (opset 18)")
    return per_image(lambda t: F.group_norm(t, num_groups, weight, bias, epsilon), x)


def instance_norm(x: RowValue, weight: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> RowValue:
    """Normalise every channel of every row: a group norm with one channel a group."""
    groups = x.shape[1]
    return per_image(lambda t: F.group_norm(t, groups, weight, bias, epsilon), x)


def lp_normalization(x: RowValue, *, axis: int = -1, p: int = 2) -> RowValue:
    """Divide by the length along an axis."""
    moved, (dim,) = along(x, [axis])
    length = torch.linalg.vector_norm(moved.tensor, p, dim, keepdim=True)
    return renewed(moved, moved.tensor / length)


def local_response_norm(
    x: RowValue, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> RowValue:
    """Divide every channel by a power of the squares of its neighbours.

    Returns:
        RowValue of the same shape.

    Raises:
        ValueError: For an even number of neighbours, where torch takes other ones.
    """
    if size % 2 == 0:
        raise ValueError(f"size {size}, wanted an odd one")
    return per_image(lambda t: F.local_response_norm(t, size, alpha, beta, bias), x)


def softmax(function: Callable[..., Tensor]) -> Callable[..., RowValue]:
    """Return softmax or its logarithm, along one axis or, before opset 13, all from one on."""

    def apply(x: RowValue, *, axis: int | None = None, opset: int) -> RowValue:
        axis = (-1 if opset >= 13 else 1) if axis is None else axis
        (first,) = counted([axis], len(x.shape))
        if opset < 13 and first != len(x.shape) - 1:
            full = x.free()
            flat = function(full.flatten(first + 1), -1)
            return settle(flat.reshape(full.shape))
        moved, (dim,) = along(x, [axis])
        return renewed(moved, function(moved.tensor, dim))

    return apply


LAYERS: Mapping[str, Callable[..., RowValue]] = {
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LpNormalization": lp_normalization,
    "LRN": local_response_norm,
    "Softmax": softmax(torch.softmax),
    "LogSoftmax": softmax(torch.log_softmax),
}
"""Functions by operator."""
