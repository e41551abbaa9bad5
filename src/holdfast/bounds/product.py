"""Products of two values that both move, on boxes: the range of every entry, and the tangent.

With a in [m - r, m + r] and b in [n - s, n + s],

    a b = n a + m b - m n + (a - m)(b - n),    |(a - m)(b - n)| <= r s.

The tangent is the mean of two of McCormick's planes ("Computability of global solutions to
factorable nonconvex programs", 1976): in the middle of the box it is as far off as each of them, of
which none is better there. A product of matrices is a sum of such products.
"""

from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor

from holdfast.bounds.regions import middle_form
from holdfast.bounds.tangent import Ends, Tangent
from holdfast.graph.ir import Node
from holdfast.graph.walk import execute
from holdfast.rounding import SMALLEST, UNIT, gamma, next_down, rows_up


def product_range(node: Node, parts: Sequence[Ends]) -> Ends:
    """Return bounds of the entries of a product on boxes.

    Args:
        node: `product` or `matmul`.
        parts: Ends of the entries of both factors, [R, ...], float64.

    Returns:
        Bounds below and above, [R, ...]; infinite where nothing is known.
    """
    if node.op == "product":
        a, b = parts
        corners = torch.stack(torch.broadcast_tensors(*[x * y for x in a for y in b]))
        low, high = next_down(corners.amin(0)), -next_down(-corners.amax(0))
    else:
        (m, r), (n, s) = (middle_form(*part) for part in parts)
        value, size = execute(node, [m, n]), execute(node, [m.abs(), n.abs()])
        reach = execute(node, [m.abs() + r, s]) + execute(node, [r, n.abs()])
        count = node.facts.roundings(node.params, m.shape[1:]) + 8
        reach = reach + 2.0 * gamma(count) * (size + reach) + 4.0 * count * SMALLEST
        low, high = next_down(value - reach), -next_down(-value - reach)
    return low.nan_to_num(-inf, inf, -inf), high.nan_to_num(inf, inf, -inf)


def product_tangent(node: Node, parts: Sequence[Ends]) -> Tangent:
    """Return linear maps beside a product on boxes; arguments as `product_range`."""
    if node.op == "product":
        return _by_terms(parts, lambda terms: terms, _pull_entries)
    (left, _), (right, _) = parts
    if left.numel() * right.shape[-1] <= 2**21:  # every term, in some tens of MB
        a, b = parts
        terms = [
            (a[0][..., :, None, :], a[1][..., :, None, :]),
            (b[0].mT[..., None, :, :], b[1].mT[..., None, :, :]),
        ]
        return _by_terms(terms, lambda terms: terms.sum(-1), _pull_matrices)
    return _in_the_middle(node, parts)


def _by_terms(
    parts: Sequence[Ends],
    total: Callable[[Tensor], Tensor],
    pull: Callable[[Tensor, Tensor, Tensor], list[Tensor]],
) -> Tangent:
    """Return maps with slopes of their own for every term of a sum of products.

    With d = a - m and e = b - n, d e >= k (s d + r e) - r s for every k in [-1, 1], and
    d e <= k (s d - r e) + r s: two planes of McCormick's, and all between. In the middle all are as
    good. Of the slopes n + k s and m + k r those are taken for which (n + k s) a' + (m + k r) b' is
    shortest, where a' and b' are the gradients of a and b. As their lengths are about r and s,
    k = -(n r + m s) / (2 r s) is best, whatever the angle between them; above, with -m for m.

    Args:
        parts: Ends of both factors of each term, [R, ..., terms].
        total: Adds the terms up.
        pull: From rows and the slopes of a and of b, to rows of both factors.

    Returns:
        The maps.
    """
    (m, r), (n, s) = (middle_form(*part) for part in parts)
    a, b = (torch.maximum(low.abs(), high.abs()) for low, high in parts)
    count, area = 2 * m.shape[-1] + 16, (2.0 * r * s).clamp(min=SMALLEST)
    slopes, shifts, rests = [], [], []
    for sign in (1.0, -1.0):
        k = (-(n * r + sign * m * s) / area).clamp(-1.0, 1.0).nan_to_num(0.0)
        slopes.append((n + k * s, m + sign * k * r))
        # Both sums round by a unit of their size, and that acts on d and e.
        off = 4.0 * UNIT * ((n.abs() + s) * r + (m.abs() + r) * s)
        parts_of = [m * n, slopes[-1][0] * m, slopes[-1][1] * n]
        shifts.append(total(parts_of[0] - parts_of[1] - parts_of[2]))
        size = sum((part.abs() for part in parts_of), r * s)
        rounding = 4.0 * gamma(count) * size + 4.0 * count * SMALLEST
        rests.append(rows_up(total(r * s + off + rounding), count))
    reach = [total(x.abs() * a + y.abs() * b) for x, y in slopes]

    def back(lower: Tensor, upper: Tensor) -> list[Tensor]:
        found = [pull(rows, *pair) for rows, pair in zip((lower, upper), slopes, strict=True)]
        return [below + above for below, above in zip(*found, strict=True)]

    size = rows_up(torch.maximum(*reach), count)
    return Tangent(back, total(m * n), (shifts[0], shifts[1]), rests[0], rests[1], size)


def _pull_entries(rows: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    return [rows * a[:, None], rows * b[:, None]]


def _pull_matrices(rows: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
    """Add up over the terms, [R, ..., i, j, l], that hold an entry of one factor."""
    return [
        torch.einsum("rk...ij,r...ijl->rk...il", rows, a),
        torch.einsum("rk...ij,r...ijl->rk...lj", rows, b),
    ]


def _in_the_middle(node: Node, parts: Sequence[Ends]) -> Tangent:
    """Return the tangent in the middle, for products of matrices of too many terms."""
    (m, r), (n, s) = (middle_form(*part) for part in parts)
    a, b = (torch.maximum(low.abs(), high.abs()) for low, high in parts)

    def pull(lower: Tensor, upper: Tensor) -> list[Tensor]:
        rows = lower + upper
        return [rows @ n[:, None].mT, m[:, None].mT @ rows]

    at = execute(node, [m, n])
    count = node.facts.roundings(node.params, m.shape[1:]) + 8
    size = rows_up(execute(node, [m.abs(), b]) + execute(node, [a, n.abs()]), count)
    rounding = 4.0 * gamma(count) * execute(node, [m.abs(), n.abs()]) + 4.0 * count * SMALLEST
    rest = rows_up(execute(node, [r, s]) + rounding, count)
    return Tangent(pull, at, (-at, -at), rest, rest, size)
