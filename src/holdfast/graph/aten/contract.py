"""Translations of sums of products: matmul, einsum, resizing.

Each is a sum over named dimensions. With one operand constant it becomes one `linear`, grouped
`conv` or `scale` between permutations and reshapes: the stored numbers stay the coefficients, so
that nothing is rounded. With both moving it becomes one `matmul`.
"""

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from holdfast.graph.aten.call import (
    Builder,
    Call,
    Ref,
    Translate,
    Translation,
    alike,
)
from holdfast.ops.geometry import ConvGeometry

aten = torch.ops.aten


def _reshaped(b: Builder, call: Call, x: Ref, shape: Sequence[int]) -> Ref:
    shape = tuple(shape)
    return x if x.shape == shape else b.emit("reshape", [x], call, shape, shape=shape)


def _permuted(b: Builder, call: Call, x: Ref, names: Sequence[str], order: Sequence[str]) -> Ref:
    """Bring the dimensions of a row, which are named, into another order."""
    if list(names) == list(order):
        return x
    dims = [names.index(name) for name in order]
    shape = tuple(x.shape[dim] for dim in dims)
    return b.emit("permute", [x], call, shape, dims=(0, *(dim + 1 for dim in dims)))


def _contract(
    b: Builder, call: Call, x: Ref, constant: Tensor, names: tuple[str, str, str]
) -> Ref | None:
    """Emit the sum over all products whose dimensions are named as in `torch.einsum`.

    Args:
        b: The builder.
        call: The call.
        x: What moves, [N, ...].
        constant: The constant operand.
        names: One letter per dimension: of x (the batch first), of the constant, of the result.

    Returns:
        The sum; None where it adds up constants, or mixes rows.
    """
    moving, fixed, out = (list(part) for part in names)
    batch = moving.pop(0)
    if out[:1] != [batch] or any(len(set(p)) < len(p) for p in (moving, fixed, out[1:])):
        return None
    out = out[1:]
    # One entry along a dimension stands for all of them, as in every broadcast.
    for name in fixed[:]:
        place = fixed.index(name)
        if constant.shape[place] == 1 and (name in moving or name == batch):
            constant = constant.squeeze(place)
            fixed.remove(name)
        elif name in moving and x.shape[moving.index(name)] == 1:
            shape = [s for s, other in zip(x.shape, moving, strict=True) if other != name]
            x = _reshaped(b, call, x, shape)
            moving.remove(name)
    if batch in (*fixed, *moving) or not set(out) <= {*moving, *fixed}:
        return None
    if any(name not in moving and name not in out for name in fixed):
        return None  # the constants would be added up, which rounds
    summed = [name for name in moving if name not in fixed and name not in out]
    if summed:
        dims = tuple(moving.index(name) + 1 for name in summed)
        shape = tuple(s for k, s in enumerate(x.shape, 1) if k not in dims)
        x = b.emit("sum", [x], call, shape, dims=dims, keepdim=False)
        moving = [name for name in moving if name not in summed]
    sizes = dict(zip([*moving, *fixed], [*x.shape, *constant.shape], strict=True))
    result, order = _multiply(b, call, x, constant, (moving, fixed, out), sizes)
    result = _reshaped(b, call, result, [sizes[name] for name in order])
    return _permuted(b, call, result, order, out)


def _multiply(
    b: Builder,
    call: Call,
    x: Ref,
    constant: Tensor,
    names: tuple[list[str], list[str], list[str]],
    sizes: Mapping[str, int],
) -> tuple[Ref, list[str]]:
    """Emit the products and their sum; return it with the names of its dimensions, in order."""
    # Shared dimensions stand in both operands and in the result, added ones in the operands alone.
    moving, fixed, out = names
    shared = [name for name in moving if name in fixed and name in out]
    added = [name for name in moving if name in fixed and name not in out]
    kept = [name for name in moving if name not in fixed]
    new = [name for name in fixed if name not in moving]
    length = {
        key: math.prod(sizes[n] for n in part)
        for key, part in {"shared": shared, "added": added, "kept": kept, "new": new}.items()
    }
    weight = constant.permute([fixed.index(name) for name in (*shared, *new, *added)])
    if not added and not new:
        x = _permuted(b, call, x, moving, [*kept, *shared])
        factor = weight.reshape([sizes[name] for name in shared])
        return b.emit("scale", [x], call, x.shape, factor=factor), [*kept, *shared]
    if not shared:
        x = _permuted(b, call, x, moving, [*kept, *added])
        x = _reshaped(b, call, x, [*(sizes[name] for name in kept), length["added"]])
        matrix = weight.reshape(length["new"], length["added"])
        shape = (*x.shape[:-1], length["new"])
        return b.emit("linear", [x], call, shape, weight=matrix, bias=None), [*kept, *new]
    # A matrix for every place of the shared dimensions is a convolution of one tap, in groups.
    x = _permuted(b, call, x, moving, [*shared, *added, *kept])
    x = _reshaped(b, call, x, [length["shared"] * length["added"], length["kept"]])
    taps = weight.reshape(length["shared"] * length["new"], length["added"], 1)
    shape = (len(taps), length["kept"])
    geometry = ConvGeometry((1,), ((0, 0),), (1,), length["shared"])
    result = b.emit("conv", [x], call, shape, weight=taps, bias=None, geometry=geometry)
    return result, [*shared, *new, *kept]


def _product(
    b: Builder, call: Call, operands: Sequence[object], names: Sequence[str]
) -> Translation:
    """Emit a product of two operands; names are theirs and the result's."""
    (x, constant), (first, second, out) = operands, names
    if isinstance(x, Ref) and isinstance(constant, Ref):
        return _contract_both(b, call, (x, constant), names)
    if isinstance(constant, Ref):
        x, constant, first, second = constant, x, second, first
    if not isinstance(x, Ref) or not isinstance(constant, Tensor) or constant.dtype != call.dtype:
        return None
    return _contract(b, call, x, constant, (first, second, out))


def _contract_both(
    b: Builder, call: Call, operands: tuple[Ref, Ref], names: Sequence[str]
) -> Translation:
    """Emit the sum over products of two operands that both move, as a product of matrices.

    Args:
        b: The builder.
        call: The call.
        operands: Both, [N, ...].
        names: One letter per dimension, as in `_contract`.

    Returns:
        The sum; None where it mixes rows.
    """
    *inner, out = ([*part] for part in names)
    if any(part[:1] != [names[2][:1]] or len({*part}) < len(part) for part in (*inner, out)):
        return None
    first, second = (
        {n: s for n, s in zip(part[1:], ref.shape, strict=True)}
        for part, ref in zip(inner, operands, strict=True)
    )
    out = out[1:]
    if not {*out} <= {*first, *second} or any(ref.at_one is not None for ref in operands):
        return None
    sizes = {n: max(first.get(n, 1), second.get(n, 1)) for n in (*first, *second)}
    # One entry along a dimension stands for all of them; what one operand has alone is added up.
    held = [{n for n, s in part.items() if s == sizes[n]} for part in (first, second)]
    x, y = (
        _held(b, call, (ref, [*part]), mine, mine & (rest | {*out}))
        for ref, part, mine, rest in zip(operands, (first, second), held, held[::-1], strict=True)
    )
    if x[1] == y[1] and {*x[1]} == {*held[0]} and alike(b, x[0], y[0], call) and {*out} <= {*x[1]}:
        return _squares(b, call, x, out)
    shared = [n for n in x[1] if n in y[1] and n in out]
    added = [n for n in x[1] if n in y[1] and n not in out]
    kept, new = ([n for n in mine if n not in rest] for mine, rest in ((x[1], y[1]), (y[1], x[1])))
    front = [sizes[n] for n in shared]
    length = [math.prod(sizes[n] for n in part) for part in (kept, added, new)]
    left = _permuted(b, call, *x, [*shared, *kept, *added])
    right = _permuted(b, call, *y, [*shared, *added, *new])
    left = _reshaped(b, call, left, [*front, *length[:2]])
    right = _reshaped(b, call, right, [*front, *length[1:]])
    result = b.emit("matmul", [left, right], call, (*front, length[0], length[2]))
    order = [*shared, *kept, *new]
    result = _reshaped(b, call, result, [sizes[n] for n in order])
    return _permuted(b, call, result, order, out)


def _held(
    b: Builder, call: Call, part: tuple[Ref, list[str]], mine: set[str], left: set[str]
) -> tuple[Ref, list[str]]:
    """Drop the dimensions of one entry that are not held, and add up those that are not left."""
    x, names = part
    wide = [(n, s) for n, s in zip(names, x.shape, strict=True) if n in mine]
    x = _reshaped(b, call, x, [s for _, s in wide])
    dims = tuple(k for k, (n, _) in enumerate(wide, 1) if n not in left)
    kept = [(n, s) for n, s in wide if n in left]
    if dims:
        x = b.emit("sum", [x], call, tuple(s for _, s in kept), dims=dims, keepdim=False)
    return x, [n for n, _ in kept]


def _squares(b: Builder, call: Call, part: tuple[Ref, list[str]], out: list[str]) -> Ref:
    """Emit sums of squares, along the dimensions that the result lacks."""
    x, names = part
    square = b.emit("power", [x], call, x.shape, exponent=2)
    dims = tuple(k for k, n in enumerate(names, 1) if n not in out)
    kept = [(n, s) for n, s in zip(names, x.shape, strict=True) if n in out]
    if dims:
        shape = tuple(s for _, s in kept)
        square = b.emit("sum", [square], call, shape, dims=dims, keepdim=False)
    return _permuted(b, call, square, [n for n, _ in kept], out)


def outer(b: Builder, call: Call, x: Ref, constant: Tensor) -> Translation:
    """Emit a product by entry that repeats entries of x, as dimensions of 1 stand for all."""
    names = string.ascii_lowercase[: len(call.shape) + 1]
    if len(x.shape) != len(call.shape) or constant.dim() > len(names):
        return None
    fixed = names[len(names) - constant.dim() :]
    return _contract(b, call, x, constant, (names, fixed, names))


def _rank(operand: Any) -> int:
    return len(operand.shape) + isinstance(operand, Ref)


def matmul(b: Builder, call: Call) -> Translation:
    """Translate a product of matrices: its dimensions line up from the right."""
    left, right = call.args[:2]
    ranks = [_rank(left), _rank(right)]
    if 0 in ranks or max(ranks) > 20:
        return None
    lead = string.ascii_lowercase[: max(ranks)]
    first = lead[len(lead) - max(ranks[0] - 2, 0) :] + ("IJ" if ranks[0] > 1 else "J")
    second = lead[len(lead) - max(ranks[1] - 2, 0) :] + ("JK" if ranks[1] > 1 else "J")
    longest = lead[len(lead) - max(*ranks, 2) + 2 :]
    out = longest + ("I" if ranks[0] > 1 else "") + ("K" if ranks[1] > 1 else "")
    return _product(b, call, (left, right), (first, second, out))


def _einsum(b: Builder, call: Call) -> Translation:
    equation, operands = call.args[0].replace(" ", ""), call.args[1]
    inputs, arrow, out = equation.partition("->")
    names = inputs.split(",")
    if len(names) != len(operands) or len(operands) > 2:
        return None
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    dots = [
        _rank(item) - len(part) + 3 if "..." in part else 0
        for part, item in zip(names, operands, strict=True)
    ]
    if max(dots) > len(unused):
        return None
    longest = unused[: max(dots)]
    names = [
        part.replace("...", "".join(longest[len(longest) - count :]))
        for part, count in zip(names, dots, strict=True)
    ]
    if not arrow:
        letters = inputs.replace(",", "").replace("...", "")
        out = "..." + "".join(sorted(n for n in set(letters) if letters.count(n) == 1))
    out = out.replace("...", "".join(longest))
    if len(operands) == 1:
        operands, names = [*operands, torch.ones((), dtype=call.dtype)], [*names, ""]
    return _product(b, call, operands, (*names, out))


def _tensordot(b: Builder, call: Call) -> Translation:
    left, right, first, second = call.args
    names = [
        list(string.ascii_lowercase[: _rank(left)]),
        list(string.ascii_uppercase[: _rank(right)]),
    ]
    for one, other in zip(first, second, strict=True):
        names[1][other] = names[0][one]
    both = set(names[0]) & set(names[1])
    out = "".join(name for name in (*names[0], *names[1]) if name not in both)
    return _product(b, call, (left, right), ("".join(names[0]), "".join(names[1]), out))


def _resize(target: torch._ops.OpOverload, rank: int) -> Translate:
    """Translate a linear resize, which is one matrix along every spatial dimension."""
    # The coefficients are what torch computes. Only where they are the same in float32 and float64,
    # in 256ths, are they the function that is meant, and the products of up to three of them exact.

    def translate(b: Builder, call: Call) -> Translation:
        given, _, corners, factors = call.args
        if len(given.shape) != rank + 1:
            return None
        x: Ref | None = given
        for axis in range(1, rank + 1):
            if x is None:
                return None
            length, size = x.shape[axis], call.shape[axis]
            basis, factor = torch.eye(length).reshape(length, 1, length), None
            if factors is not None:
                factor = [factors[axis - 1]]
            settings = (None if factor else [size], corners, factor)
            short, long = (
                target(basis.to(kind), *settings) for kind in (torch.float32, torch.float64)
            )
            if short.shape[-1] != size or not torch.equal(short.double(), long):
                return None
            if not torch.equal((long * 256).round(), long * 256):
                return None
            matrix = long[:, 0].T.contiguous().to(call.dtype)
            names = string.ascii_lowercase[: rank + 2]
            name = names[axis + 1]
            out = names.replace(name, "Z")
            x = _contract(b, call, x, matrix, (names, f"Z{name}", out))
        return x

    return translate


CONTRACTIONS: Mapping[object, Translate] = {
    aten.mm.default: matmul,
    aten.bmm.default: matmul,
    aten.mv.default: matmul,
    aten.matmul.default: matmul,
    aten.einsum.default: _einsum,
    aten.tensordot.default: _tensordot,
    aten.upsample_linear1d.vec: _resize(aten.upsample_linear1d.vec, 1),
    aten.upsample_bilinear2d.vec: _resize(aten.upsample_linear1d.vec, 2),
    aten.upsample_trilinear3d.vec: _resize(aten.upsample_linear1d.vec, 3),
}
"""Translations by ATen overload."""
