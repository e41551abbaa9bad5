"""Products of two values that both move, on boxes: the range of every entry, and the tangent.

With a in [m - r, m + r] and b in [n - s, n + s],

    a b = n a + m b - m n + (a - m)(b - n),    |(a - m)(b - n)| <= r s.

The tangent is the mean of two of McCormick's planes ("Computability of global solutions to
factorable nonconvex programs", 1976): in the middle of the box it is as far off as each of them, of
which none is better there, and at the corners half as far. A product of matrices is a sum of such
products.
"""

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from holdfast.bounds.regions import middle_form
from holdfast.bounds.tangent import Ends, Tangent
from holdfast.graph.ir import Node
from holdfast.graph.walk import execute
from holdfast.rounding import SMALLEST, gamma, next_down, rows_up


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
    """Return the tangent of a product in the middle of boxes; arguments as `product_range`."""
    (m, r), (n, s) = (middle_form(*part) for part in parts)
    a, b = (torch.maximum(low.abs(), high.abs()) for low, high in parts)

    def pull(rows: Tensor) -> list[Tensor]:
        if node.op == "product":
            return [rows * n[:, None], rows * m[:, None]]
        return [rows @ n[:, None].mT, m[:, None].mT @ rows]

    at = execute(node, [m, n])
    count = node.facts.roundings(node.params, m.shape[1:]) + 8
    size = rows_up(execute(node, [m.abs(), b]) + execute(node, [a, n.abs()]), count)
    rounding = 4.0 * gamma(count) * execute(node, [m.abs(), n.abs()]) + 4.0 * count * SMALLEST
    rest = rows_up(execute(node, [r, s]) + rounding, count)
    return Tangent(pull, at, -at, rest, rest, size)
