"""How fast the difference of two outputs can change: one constant for every pair of classes.

With logits f = W h(x) + b and h of constant L, |(f_i - f_j)(x) - (f_i - f_j)(x')| is at most
L ||w_i - w_j||_dual ||x - x'|| (Leino, Wang, Fredrikson, "Globally-robust neural networks", 2021);
LipSDP on the one row w_i - w_j is tighter, and is solved for every pair where that is affordable.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.brackets.gain import gain_upper
from holdfast.brackets.semidefinite import MOST_UNITS, row_upper, spectral_constant_upper
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph
from holdfast.lipsdp.lift import normal_form
from holdfast.lipsdp.normal_form import NormalForm
from holdfast.rounding import coarse_up, gamma, sqrt_up
from holdfast.types import dual

PAIRS_WORK = 6e9
"""Pairs times the cube of the problem's size up to which every pair gets its own LipSDP."""


@dataclass(frozen=True)
class Rates:
    """Upper bounds of how fast outputs can change.

    Attributes:
        constant: Of the whole network, in the norm on both sides.
        pairs: [classes, classes] float64: of the difference of two outputs; 0 on the diagonal.
    """

    constant: float
    pairs: Tensor


def rates_upper(graph: Graph, norm: float) -> Rates:
    """Bound the change of the logits and of every difference of two of them.

    The result depends on the weights alone, not on threads or on the time that it takes.

    Args:
        graph: A classifier: one row of logits per input.
        norm: 1, 2 or inf.

    Returns:
        Bounds that hold for all inputs.

    Raises:
        Unsupported: When an op has no known constant.
    """
    constant = gain_upper(graph, norm)
    pairs = _by_rows(graph, norm, constant)
    if norm != 1.0 and math.isfinite(constant):
        if norm == 2.0:
            constant = min(constant, spectral_constant_upper(graph))
        pairs = torch.minimum(pairs, _by_pairs(graph, norm))
    return Rates(coarse_up(constant), pairs)


def _by_rows(graph: Graph, norm: float, whole: float) -> Tensor:
    """Bound every pair by the constant before the last linear layer and the rows' difference."""
    last = graph[graph.output]
    classes = last.shape[0]
    if last.op != "linear" or len(graph[last.inputs[0]].shape) != 1:
        # The difference of two entries: the dual norm of e_i - e_j.
        apart = {1.0: 1.0, 2.0: sqrt_up(2.0), math.inf: 2.0}[norm]
        lengths = torch.full((classes, classes), apart, dtype=torch.float64)
        lengths.fill_diagonal_(0.0)
        return _times(lengths, whole)
    body, _ = graph.cut_at(last.inputs[0])
    constant = gain_upper(body, norm)
    if norm == 2.0 and math.isfinite(constant):
        constant = min(constant, spectral_constant_upper(body))
    weight = last.params["weight"].double()
    rows = [torch.linalg.vector_norm(row - weight, ord=dual(norm), dim=1) for row in weight]
    lengths = torch.stack(rows) * (1.0 + 2.0 * gamma(weight.shape[1] + 8))
    return _times(lengths, constant)


def _times(lengths: Tensor, constant: float) -> Tensor:
    """Multiply rounding up; where the rows are equal nothing changes, whatever the constant."""
    product = torch.where(lengths == 0.0, 0.0, lengths * coarse_up(constant))
    return torch.nextafter(product, torch.full_like(product, math.inf)) * (product > 0)


def _by_pairs(graph: Graph, norm: float) -> Tensor:
    """Bound every pair by LipSDP on its own row; inf where that is not affordable."""
    classes = graph[graph.output].shape[0]
    pairs = torch.full((classes, classes), math.inf, dtype=torch.float64)
    try:
        form = normal_form(graph, MOST_UNITS)
    except Unsupported:
        return pairs
    size = form.units + (min(form.inputs, form.units) if norm == 2.0 else form.inputs)
    if classes * (classes - 1) / 2 * size**3 > PAIRS_WORK:
        return pairs
    for i in range(classes):
        for j in range(i):
            pairs[i, j] = pairs[j, i] = coarse_up(row_upper(_difference(form, i, j), norm))
    return pairs


def _difference(form: NormalForm, i: int, j: int) -> NormalForm:
    """Return the form whose one output is the difference of two outputs.

    The subtraction rounds every entry by one unit, which goes into the error row.
    """
    row = form.C[i] - form.C[j]
    B_error, C_error = form.errors()
    d = form.inputs
    error = C_error[i] + C_error[j]
    rounding = gamma(2) * abs(row)
    error[0] += float((rounding[:d] ** 2).sum()) ** 0.5
    error[1:] += rounding[d:]
    return dataclasses.replace(
        form, C=row[None], B_error=B_error, C_error=error[None] * (1.0 + gamma(8))
    )
