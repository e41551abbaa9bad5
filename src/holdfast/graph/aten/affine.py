"""Translations of affine ATen operations: layers, arithmetic with constants, averages."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from holdfast.graph.aten.call import (
    Builder,
    Call,
    Ref,
    Translate,
    Translation,
    broadcast,
    feature_dim,
    per_row,
    reduce,
    spread,
    with_args,
)
from holdfast.graph.aten.contract import outer
from holdfast.graph.aten.patterns import softsign, tanhshrink
from holdfast.graph.aten.products import product
from holdfast.ops.geometry import ConvGeometry

aten = torch.ops.aten


def _fixed(weight: object, bias: object) -> bool:
    """Return whether weight and bias are constants: what no input reaches."""
    return isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))


def _linear(b: Builder, call: Call) -> Translation:
    x, weight, bias = call.args
    if not (isinstance(x, Ref) and x.shape and _fixed(weight, bias) and weight.dim() == 2):
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    return b.emit("linear", [x], call, call.shape, weight=weight, bias=bias)


def _addmm(b: Builder, call: Call) -> Translation:
    bias, x, weight, beta, alpha = call.args
    if not (isinstance(x, Ref) and isinstance(bias, Tensor) and _fixed(weight, bias)):
        return None
    if (beta, alpha) != (1, 1) or bias.shape != weight.shape[1:]:
        return None
    return b.emit("linear", [x], call, call.shape, weight=weight.T, bias=bias)


def _conv(b: Builder, call: Call) -> Translation:
    x, weight, bias, stride, padding, dilation, groups = call.args
    if not (isinstance(x, Ref) and _fixed(weight, bias)) or len(x.shape) != weight.dim() - 1:
        return None
    rank = weight.dim() - 2
    dilation = spread(dilation, rank)
    x, pads, mode = _padding_before(b, x, _pads(padding, weight, dilation))
    geometry = ConvGeometry(spread(stride, rank), pads, dilation, groups, mode)
    return b.emit("conv", [x], call, call.shape, weight=weight, bias=bias, geometry=geometry)


def _pads(
    padding: str | Sequence[int], weight: Tensor, dilation: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Return (before, after) per spatial dimension; "same" puts the odd one after."""
    rank = weight.dim() - 2
    if padding == "valid":
        return ((0, 0),) * rank
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return tuple((total // 2, total - total // 2) for total in reach)
    amounts = spread([int(amount) for amount in padding], rank)
    return tuple((amount, amount) for amount in amounts)


def _padding_before(
    b: Builder, x: Ref, pads: tuple[tuple[int, int], ...]
) -> tuple[Ref, tuple[tuple[int, int], ...], str]:
    """Absorb a padding that feeds a convolution which pads nothing itself."""
    node = b.nodes[x.node]
    if node.op != "pad" or any(low or high for low, high in pads):
        return x, pads, "constant"
    if len(node.params["pads"]) != len(pads) or node.params["value"] != 0.0:
        return x, pads, "constant"
    source = b.nodes[node.inputs[0]]
    return Ref(source.name, source.shape), node.params["pads"], node.params["mode"]


def _conv_transpose(b: Builder, call: Call) -> Translation:
    x, weight, bias, stride, padding, output_padding, groups, dilation = call.args
    if not (isinstance(x, Ref) and _fixed(weight, bias)) or len(x.shape) != weight.dim() - 1:
        return None
    rank = weight.dim() - 2
    geometry = ConvGeometry(
        spread(stride, rank),
        tuple((amount, amount) for amount in spread(padding, rank)),
        spread(dilation, rank),
        groups,
        output_padding=spread(output_padding, rank),
    )
    return b.emit(
        "conv_transpose", [x], call, call.shape, weight=weight, bias=bias, geometry=geometry
    )


def _batch_norm(b: Builder, call: Call) -> Translation:
    x, weight, bias, mean, variance, training, _, eps, _ = call.args  # momentum, cuDNN
    if training or not (isinstance(x, Ref) and _fixed(mean, weight) and _fixed(variance, bias)):
        return None
    statistics = {"mean": mean, "variance": variance, "weight": weight, "bias": bias, "eps": eps}
    return b.emit("batch_norm", [x], call, x.shape, **statistics)


def _batch_norm_written_out(b: Builder, call: Call) -> Translation:
    """Translate what the second pass of torch.export makes of a batch norm in eval mode."""
    *statistics, momentum, eps = call.args
    result = _batch_norm(b, with_args(call, [*statistics, False, momentum, eps, False]))
    # ATen returns a tuple whose first entry is the result.
    return [result] if isinstance(result, Ref) else None


def _add(sign: float) -> Translate:
    def translate(b: Builder, call: Call) -> Translation:
        left, right, alpha = call.args
        factor = sign * alpha
        if not isinstance(left, Ref):
            return _affine(b, call, right, factor, left)
        if isinstance(right, Ref) and right.at_one is not None:
            return None
        if not isinstance(right, Ref):
            return _add_constant(b, call, left, right, factor)
        return _sum(b, call, left, right, factor)

    return translate


def _sum(b: Builder, call: Call, left: Ref, right: Ref, factor: float) -> Translation:
    """Emit left + factor * right."""
    if factor == -1 and (whole := tanhshrink(b, call)):
        return whole
    if factor != 1:
        right = b.emit("scale", [right], call, right.shape, factor=factor)
    first, second = broadcast(b, call, left), broadcast(b, call, right)
    if first is None or second is None:
        return None
    return b.emit("add", [first, second], call, call.shape)


def _constant(value: object, call: Call) -> Tensor | float | None:
    """Return a constant operand that broadcasts along the batch, or None; a mask is 0 and 1."""
    return per_row(value, Ref("", call.shape))


def _add_constant(b: Builder, call: Call, x: Ref, value: object, factor: float) -> Translation:
    """Emit x + factor * value; a product that rounds is left to nodes that carry its error."""
    offset, wide = _constant(value, call), broadcast(b, call, x)
    if offset is None or wide is None:
        return None
    if abs(factor) == 1:
        return b.emit("shift", [wide], call, call.shape, offset=offset * factor)
    if not isinstance(offset, Tensor):
        return None
    constant = b.constant(offset.expand(1, *call.shape), call)
    scaled = b.emit("scale", [constant], call, call.shape, factor=factor)
    return b.emit("add", [wide, scaled], call, call.shape)


def _affine(b: Builder, call: Call, x: Ref, factor: float, value: object) -> Translation:
    """Emit value + factor * x."""
    offset, wide = _constant(value, call), broadcast(b, call, x)
    if offset is None or wide is None:
        return None
    scaled = wide if factor == 1 else b.emit("scale", [wide], call, call.shape, factor=factor)
    return b.emit("shift", [scaled], call, call.shape, offset=offset)


def _rsub(b: Builder, call: Call) -> Translation:
    x, offset, alpha = call.args
    return _affine(b, call, x, -float(alpha), offset)


def _mul(b: Builder, call: Call) -> Translation:
    left, right = call.args[:2]
    x, factor = (left, right) if isinstance(left, Ref) else (right, left)
    if isinstance(factor, Ref):
        return product(b, call, x, factor)
    factor = _constant(factor, call)
    if isinstance(factor, Tensor) and call.shape != x.shape:
        narrow = factor.to(call.dtype)  # of whole numbers
        return outer(b, call, x, narrow) if torch.equal(narrow.double(), factor.double()) else None
    return None if factor is None else b.emit("scale", [x], call, call.shape, factor=factor)


def _div(b: Builder, call: Call) -> Translation:
    x, divisor = call.args[:2]
    if isinstance(divisor, Ref):
        return _div_by_moving(b, call)
    divisor, wide = _constant(divisor, call), broadcast(b, call, x)
    if divisor is None or wide is None:
        return None
    number = torch.as_tensor(divisor, dtype=torch.float64)
    if bool((number == 0).any()):
        return None
    factor = 1.0 / divisor
    powers = bool((number.frexp().mantissa.abs() == 0.5).all())  # of two: the factor is exact
    if powers and bool(torch.as_tensor(factor).isfinite().all()):  # not beyond the largest number
        return b.emit("scale", [wide], call, call.shape, factor=factor)
    return b.emit("divide", [wide], call, call.shape, divisor=divisor)


def _div_by_moving(b: Builder, call: Call) -> Translation:
    """Translate a quotient whose divisor moves: a product with its reciprocal."""
    x, divisor = call.args[:2]
    if divisor.at_one is not None:
        return None  # a number that follows the batch
    if whole := softsign(b, call):
        return whole
    inverse = b.emit("reciprocal", [divisor], call, divisor.shape)
    return _mul(b, with_args(call, [x, inverse]))


def _cumsum(b: Builder, call: Call) -> Translation:
    x, dim, _ = call.args
    feature = feature_dim(x, dim)
    return None if feature is None else b.emit("cumsum", [x], call, x.shape, dim=feature)


def _avg_pool(rank: int) -> Translate:
    def translate(b: Builder, call: Call) -> Translation:
        x, kernel, stride, padding, ceil_mode, count_include_pad, *rest = call.args
        divisor = rest[0] if rest else None
        if len(x.shape) != rank + 1 or (divisor is not None and divisor <= 0):
            return None
        return b.emit(
            "avg_pool",
            [x],
            call,
            call.shape,
            kernel=spread(kernel, rank),
            stride=spread(stride or kernel, rank),
            padding=spread(padding, rank),
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor=divisor,
        )

    return translate


def _adaptive_avg_pool(rank: int) -> Translate:
    def translate(b: Builder, call: Call) -> Translation:
        x, size = call.args
        if len(x.shape) != rank + 1:
            return None
        return b.emit("adaptive_avg_pool", [x], call, call.shape, size=tuple(size))

    return translate


AFFINE: Mapping[object, Translate] = {
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    aten.conv1d.default: _conv,
    aten.conv1d.padding: _conv,
    aten.conv2d.default: _conv,
    aten.conv2d.padding: _conv,
    aten.conv3d.default: _conv,
    aten.conv3d.padding: _conv,
    aten.conv_transpose1d.default: _conv_transpose,
    aten.conv_transpose2d.input: _conv_transpose,
    aten.conv_transpose3d.input: _conv_transpose,
    aten.batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm_written_out,
    aten.add.Tensor: _add(1.0),
    aten.add.Scalar: _add(1.0),
    aten.sub.Tensor: _add(-1.0),
    aten.sub.Scalar: _add(-1.0),
    aten.rsub.Scalar: _rsub,
    aten.mul.Tensor: _mul,
    aten.mul.Scalar: _mul,
    aten.div.Tensor: _div,
    aten.div.Scalar: _div,
    aten.mean.dim: reduce("mean"),
    aten.sum.dim_IntList: reduce("sum"),
    aten.cumsum.default: _cumsum,
    aten.avg_pool1d.default: _avg_pool(1),
    aten.avg_pool2d.default: _avg_pool(2),
    aten.avg_pool3d.default: _avg_pool(3),
    aten.adaptive_avg_pool1d.default: _adaptive_avg_pool(1),
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool(2),
    aten.adaptive_avg_pool3d.default: _adaptive_avg_pool(3),
    aten.neg.default: lambda b, call: b.emit(
        "scale", [call.args[0]], call, call.args[0].shape, factor=-1.0
    ),
}
"""Translations by ATen overload."""
