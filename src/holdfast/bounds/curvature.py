"""Every operation near one point: a linear map of stored numbers, and how far secants are from it.

Around a point c of its inputs an operation f is replaced by a linear map A. Between two points x
and x' of a convex set around c, f(x) - f(x') is (A + D)(x - x') with D the mean of J - A over the
segment from x' to x, J the Jacobian (for functions of one number: the slope of the secant, so that
kinks need no care). Where the set is a product of balls of radii e_b around the blocks b of c,
`Curvature.spread` bounds the blocks of D; each bound grows with the second derivative of f.
Operations that are affine have no D but their rounding.

Functions of one number: D is diagonal, and its entries are bounded by the slopes of secants on
intervals. Products: a b - a' b' is mean(a) (b - b') + mean(b) (a - a'), so that D has the
coefficients mean(a) - a_c and mean(b) - b_c, at most e_a and e_b; of matrices, the Frobenius norm
of (mean(A) - A_c)(B - B') is at most e_A ||B - B'||.

Softmax, J(p) = diag(p) - p p^T: with d = p - p_c and m = (p + p_c) / 2, D is the mean of matrices
diag(d) - d m^T - m d^T, which are symmetric and 0 on the vector of ones, as the shares add up to 1.
So their norm is at most their largest absolute row sum, and also, with m' = m - 1/n, at most
max|d| + 2 ||d|| ||m'||, since the part of m along the ones meets nothing that is left of d or y.
The shares d are bounded entry by entry on the box of radii e, and by what J(p) makes of a change of
length e: ||d|| <= e ||J(p)||, |d_i| <= e times the length of row i of J(p).

Normalisation, z = y / s with y = x or x less its mean, s^2 = ||y||^2 / d + eps: z / sqrt(d) is the
first part of u(Y) = Y / ||Y|| at Y = (y, sqrt(d eps)), and ||Y|| = s sqrt(d). In the plane of v and
Y with the angle t between them, the second derivative of u in the unit directions v and w is M w /
||Y||^2, where M has the matrix [[0, -sin t], [-sin t, -cos t]] in the plane and is -cos t across
it. So ||M|| = (|cos t| + sqrt(4 - 3 cos^2 t)) / 2, largest at cos^2 t = 1/3: it is 2 / sqrt 3.
Directions within y, the first part of u and the projection off the mean make nothing larger, hence
||J(x) - J(c)|| <= 2 e / (sqrt(3 d) s^2) for the smallest s in the ball; s changes by at most
e / sqrt(d).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.bounds.backward import adjoint, adjoint_terms
from holdfast.bounds.normalisation import standardised_on
from holdfast.bounds.regions import middle_form
from holdfast.bounds.softmax import softmax_range
from holdfast.graph.ir import Node
from holdfast.graph.slopes import slopes_on
from holdfast.norms.matrix import spectral_upper
from holdfast.norms.node import OperatorNorms, absolute_norm_upper
from holdfast.ops import OPS, Kind
from holdfast.rounding import (
    SMALLEST,
    UNIT,
    add_up,
    gamma,
    lengths_up,
    mul_up,
    next_down,
    rows_up,
    sqrt_up,
)

Push = Callable[[Sequence[Tensor | None]], Tensor]
Pull = Callable[[Tensor], Sequence[Tensor]]
Blocks = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curvature:
    """How far the secants of an operation are from its linear map.

    Attributes:
        radii: Per input, from [K, *shape] to [K, blocks, entries]: the blocks whose distance from
            the point is asked for.
        parts: Per input, the same: the blocks that D maps.
        result: The blocks that D maps them to, of values of the result.
        spread: From the distances of the blocks `radii` and those of `parts`, both per input, to
            bounds of D, per input: block b of D y is no longer than the sum over the inputs of
            spread[b] ||y[b]||.
        weight: [*shape of the result]: what D makes is multiplied by it; None for 1.
    """

    radii: Sequence[Blocks]
    parts: Sequence[Blocks]
    result: Blocks
    spread: Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]
    weight: Tensor | None = None

    @property
    def largest(self) -> float:
        """The largest absolute weight."""
        return 1.0 if self.weight is None else float(self.weight.abs().max())


@dataclass(frozen=True)
class Linearised:
    """One operation near a point, as a linear map A of stored numbers.

    Attributes:
        push: A on changes [K, *shape] of each input, None for no change; rounded.
        pull: The transpose of A on rows [K, *shape of the result], for each input; rounded.
        gains: Upper bounds of the norm of A, for each input.
        absolute: Upper bound of the norm of |A|, for every input; 0 where nothing rounds.
        terms: Rounded operations behind an entry of what `push` and `pull` return.
        curvature: Where A is not all there is.
    """

    push: Push
    pull: Pull
    gains: tuple[float, ...]
    absolute: float
    terms: int
    curvature: Curvature | None = None


def linearised(node: Node, values: Sequence[Tensor], norms: OperatorNorms) -> Linearised | None:
    """Return an operation near a point.

    Args:
        node: Of a graph in float64.
        values: [1, *shape] per input: the point.
        norms: Norms of affine operations, in l2.

    Returns:
        The linear map; None where the operation has none here.
    """
    if node.kind is Kind.AFFINE:
        return _affine(node, tuple(values[0].shape[1:]), norms)
    rules: Mapping[object, Callable[..., Linearised | None]] = {
        Kind.WIRING: _wiring,
        Kind.SUM: _sum,
        Kind.SCALAR: _scalar,
        Kind.STEEP: _scalar,
        Kind.PRODUCT: _product,
        "softmax": _softmax,
        **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), _normalisation),
    }
    rule = rules.get(node.op, rules.get(node.kind))
    return None if rule is None else rule(node, *values)


def _sum(node: Node, *values: Tensor) -> Linearised:
    count = len(values)
    return Linearised(_total, lambda rows: [rows] * count, (1.0,) * count, 1.0, count + 2)


def _total(parts: Sequence[Tensor | None]) -> Tensor:
    """Add up the changes of the inputs that change."""
    moving = [part for part in parts if part is not None]
    total = moving[0]
    for part in moving[1:]:
        total = total + part
    return total


def _affine(node: Node, shape: tuple[int, ...], norms: OperatorNorms) -> Linearised:
    op, params = node.facts.linear(node.params)
    terms = max(node.facts.roundings(node.params, shape), adjoint_terms(node)) + 8
    with torch.enable_grad():  # sums of columns are a gradient
        gain, absolute = norms.of(node, shape), absolute_norm_upper(node, shape, 2.0)
    return Linearised(
        lambda parts: OPS[op].run([_total(parts)], params),
        lambda rows: [part[0] for part in adjoint(node, rows[None], [shape])],
        (gain,),
        absolute,
        terms,
    )


def _wiring(node: Node, *values: Tensor) -> Linearised:
    op, params = node.facts.linear(node.params)
    shapes = [tuple(value.shape[1:]) for value in values]

    def push(parts: Sequence[Tensor | None]) -> Tensor:
        filled = [
            torch.zeros(1, *shape, dtype=torch.float64) if part is None else part
            for part, shape in zip(parts, shapes, strict=True)
        ]
        return OPS[op].run(filled, params)

    def pull(rows: Tensor) -> list[Tensor]:
        return [part[0] for part in adjoint(node, rows[None], shapes)]

    # An entry that is read k times has norm sqrt(k).
    ones = torch.ones(1, *node.shape, dtype=torch.float64)
    gains = tuple(sqrt_up(float(part.max()) if part.numel() else 0.0) for part in pull(ones))
    rounds = max(gains) if max(gains) > 1.0 else 0.0
    return Linearised(push, pull, gains, rounds, adjoint_terms(node))


def _by_entry(values: Tensor) -> Tensor:
    return flat_rows(values)[..., None]


def _scalar(node: Node, value: Tensor) -> Linearised | None:
    slope, _ = middle_form(*slopes_on(node, value, value))
    if not bool(slope.isfinite().all()):
        return None

    def spread(radii: Sequence[Tensor], reach: Sequence[Tensor]) -> list[Tensor]:
        off = radii[0].reshape(value.shape)
        low, high = next_down(value - off), -next_down(-value - off)
        least, most = slopes_on(node, low, high)
        return [rows_up(torch.maximum(most - slope, slope - least).flatten(), 2)]

    blocks = [_by_entry]
    steepest = float(slope.abs().max())
    return Linearised(
        lambda parts: _total(parts) * slope,
        lambda rows: [rows * slope],
        (steepest,),
        steepest,
        2,
        Curvature(blocks, blocks, _by_entry, spread),
    )


def _product(node: Node, a: Tensor, b: Tensor) -> Linearised | None:
    def spread(radii: Sequence[Tensor], reach: Sequence[Tensor]) -> list[Tensor]:
        return [radii[1], radii[0]]

    if node.op == "product":
        if a.shape[1:] != b.shape[1:]:
            return None
        gains = float(b.abs().max()), float(a.abs().max())
        blocks = [_by_entry, _by_entry]
        return Linearised(
            lambda parts: _total([_times(parts[0], b), _times(parts[1], a)]),
            lambda rows: [rows * b, rows * a],
            gains,
            max(gains),
            4,
            Curvature(blocks, blocks, _by_entry, spread),
        )
    if a.shape[:-2] != b.shape[:-2]:
        return None
    blocks = [_by_matrix, _by_matrix]
    wide = [float(lengths_up(_by_matrix(part)[0]).max()) for part in (a, b)]
    return Linearised(
        lambda parts: _total(
            [
                None if parts[0] is None else parts[0] @ b,
                None if parts[1] is None else a @ parts[1],
            ]
        ),
        lambda rows: [rows @ b.mT, a.mT @ rows],
        (spectral_upper(b), spectral_upper(a)),
        max(wide),
        max(a.shape[-1], *node.shape[-2:]) + 8,
        Curvature(blocks, blocks, _by_matrix, spread),
    )


def _times(part: Tensor | None, factor: Tensor) -> Tensor | None:
    return None if part is None else part * factor


def _by_matrix(values: Tensor) -> Tensor:
    """Take each matrix of the last two dimensions as one block."""
    return values.reshape(len(values), -1, values.shape[-2] * values.shape[-1])


def _others(values: Tensor) -> Tensor:
    """Return for each entry, at least 0, an upper bound of the sum of the others."""
    total = values.sum(-1, keepdim=True)
    return total - values + 2.0 * gamma(values.shape[-1] + 4) * total


def _softmax(node: Node, value: Tensor) -> Linearised:
    dim, n = node.params["dim"], node.shape[node.params["dim"] - 1]
    shares = node.facts.run([value], node.params)

    def by_row(values: Tensor) -> Tensor:
        return values.movedim(dim, -1).reshape(len(values), -1, n)

    def apply(rows: Tensor) -> Tensor:
        return shares * (rows - (shares * rows).sum(dim, keepdim=True))

    row = by_row(shares)[0]
    # A share that is left out is 0, and so are its row and column.
    kept = by_row(node.params.get("mask", torch.ones(()) > 0).expand_as(value))[0]
    count = kept.sum(-1, keepdim=True)
    uneven = rows_up(lengths_up(torch.where(kept, row - 1.0 / count, 0.0)) + 4.0 * n * UNIT, 2)
    stored = [by_row(part)[0] for part in softmax_range(node, value, value)]
    blur = lengths_up(torch.maximum(stored[1] - row, row - stored[0]).clamp(min=0.0))

    def spread(radii: Sequence[Tensor], reach: Sequence[Tensor]) -> list[Tensor]:
        off = radii[0].reshape(value.shape)
        ends = softmax_range(node, next_down(value - off), -next_down(-value - off))
        low, high = (by_row(part)[0] for part in ends)
        moved = rows_up(torch.maximum(high - row, row - low).clamp(min=0.0), 2)
        others = _others(high)
        squares = _others(high.square())
        steep = high * ((1.0 - low).square() + squares).sqrt()  # lengths of the rows of J
        norm = torch.minimum(high.amax(-1), (high * (1.0 - low + others)).amax(-1))
        farthest = torch.minimum(moved.amax(-1), rows_up(reach[0] * steep.amax(-1), n + 16))
        length = torch.minimum(lengths_up(moved), rows_up(reach[0] * norm, n + 16))
        apart = farthest + 2.0 * length * (uneven + 0.5 * length)
        mean = rows_up(0.5 * high + 0.5 * row, 2)
        across = torch.maximum((1.0 - low - row).abs(), (1.0 - high - row).abs()) + 4.0 * UNIT
        sums = (moved * (across + _others(mean)) + mean * _others(moved)).amax(-1)
        # The stored shares differ from those of the stored point by `blur`.
        return [rows_up(torch.minimum(sums, apart) + 4.0 * blur, n + 16)]

    sums = row * ((1.0 - row).abs() + row.sum(-1, keepdim=True) - row)
    gain = float(rows_up(sums + 4.0 * n * UNIT, n + 8).max())
    absolute = add_up(float(row.max()), float(rows_up(row.square().sum(-1), n + 2).max()))
    return Linearised(
        lambda parts: apply(parts[0]),  # type: ignore[arg-type]
        lambda rows: [apply(rows)],
        (gain,),
        absolute,
        n + 8,
        Curvature([_by_entry], [by_row], by_row, spread),
    )


def _normalisation(node: Node, value: Tensor) -> Linearised | None:
    weight, ends, slopes, flat = standardised_on(node, value, value)
    (z, z_error), (steep, steep_error) = middle_form(*ends), middle_form(*slopes)
    if not bool(steep.isfinite().all()) or not bool((slopes[1] < math.inf).all()):
        return None
    d, root = flat[-1], math.sqrt(flat[-1])

    def by_group(values: Tensor) -> Tensor:
        return values.reshape(len(values), -1, d)

    def apply(rows: Tensor) -> Tensor:
        rows = rows.reshape(len(rows), *flat[1:])
        rest = rows if node.op == "rms_norm" else rows - rows.mean(-1, keepdim=True)
        return (steep * (rest - z * (z * rows).mean(-1, keepdim=True))).reshape(-1, *node.shape)

    # ||z|| <= sqrt(d); what the stored z is off by turns z z^T / d by at most `turned`.
    error = lengths_up(z_error).flatten()
    turned = rows_up((2.0 * root * error + error.square()) / d, 8)
    steepest = steep.flatten()
    off = rows_up(steep_error.flatten() + steepest * turned, 4)
    smallest = (1.0 - 16.0 * UNIT) / slopes[1].flatten()
    eps = float(node.params["eps"])
    eps = min(eps, torch.tensor(eps, dtype=torch.float32).item())  # a float32 model may round it
    floor = math.sqrt(eps) * (1.0 - 8.0 * UNIT)

    def spread(radii: Sequence[Tensor], reach: Sequence[Tensor]) -> list[Tensor]:
        # 1.1547005383792517 rounds 2 / sqrt(3) up
        least = (smallest - rows_up(radii[0] / root, 4)).clamp(min=floor)
        curved = 1.1547005383792517 * radii[0] / (root * least.square())
        # What there is at all: no Jacobian is longer than 1 / s.
        apart = 1.0 / least + steepest * (1.0 + turned)
        found = rows_up(torch.minimum(curved + off, apart), 16)
        return [torch.where(least > 0.0, found, math.inf).nan_to_num(math.inf, math.inf)]

    entries = weight.abs().expand(1, *node.shape)[0]
    largest = float(entries.max())
    gain = mul_up(largest, float(rows_up(steepest * (1.0 + turned), 4).max()))
    spare = 2.0 + float(rows_up(z.square().sum(-1) / d, d + 4).max())
    absolute = mul_up(largest, float(steepest.max()), spare)
    return Linearised(
        lambda parts: apply(parts[0]) * weight,  # type: ignore[arg-type]
        lambda rows: [apply(rows * weight)],
        (gain,),
        absolute,
        2 * d + 16,
        Curvature([by_group], [by_group], by_group, spread, entries),
    )


def rounding_of(step: Linearised, size: float, entries: int) -> float:
    """Bound the Frobenius norm of what rounding does to a result of `push` or `pull`.

    Args:
        step: The operation.
        size: Bound of the Frobenius norm of what it is applied to, summed over the inputs.
        entries: Of the result.

    Returns:
        The bound.
    """
    if step.absolute == 0.0:
        return 0.0
    lost = mul_up(float(step.terms), SMALLEST, sqrt_up(float(entries)), add_up(1.0, size))
    return add_up(mul_up(2.0 * gamma(step.terms), step.absolute, size), lost)
