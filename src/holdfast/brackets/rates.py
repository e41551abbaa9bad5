"""How fast the difference of two outputs can change: one constant for every pair of classes.

With logits f = W h(x) + b and h of constant L, |(f_i - f_j)(x) - (f_i - f_j)(x')| is at most
L ||w_i - w_j||_dual ||x - x'|| (Leino, Wang, Fredrikson, "Globally-robust neural networks", 2021);
LipSDP on the one row w_i - w_j is tighter, and is solved for a pair when somebody asks for it.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.brackets.gain import GainReading
from holdfast.brackets.semidefinite import MOST_UNITS, row_upper, spectral_constant_upper
from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph
from holdfast.rounding import coarse_up, gamma, lengths_up, next_down, sqrt_up
from holdfast.sdp.form import TOO_EXTREME, NormalForm
from holdfast.sdp.lift import normal_form
from holdfast.sdp.steepest import steepest_estimate
from holdfast.types import dual


class Rates:
    """Upper bounds of how fast outputs can change, for all inputs.

    They depend on the weights alone, not on threads or on the time that they take.

    Args:
        graph: A classifier: one row of logits per input.
        norm: 1, 2 or inf.

    Attributes:
        constant: Of the whole network, in the norm on both sides.
        pairs: [classes, classes] float64: of the difference of two outputs; 0 on the diagonal.
        final: [classes, classes]: none of `pairs` will ever be smaller than this.

    Raises:
        Unsupported: When an op has no known constant.
    """

    def __init__(self, graph: Graph, norm: float) -> None:
        gains = GainReading(graph, norm)
        constant = gains.output
        self.pairs = _by_rows(gains)
        if norm == 2.0 and math.isfinite(constant):
            constant = min(constant, spectral_constant_upper(graph))
        self.constant = coarse_up(constant)
        self.final = self.pairs.clone()
        self._norm = norm
        self._form = _affordable(graph, norm) if norm != 1.0 and math.isfinite(constant) else None
        if self._form is not None:
            self._look_ahead(self._form)

    def _look_ahead(self, form: NormalForm) -> None:
        """Estimate what LipSDP on each pair cannot go below; without that it is not solved."""
        upper, lower = torch.tril_indices(len(self.pairs), len(self.pairs), -1)
        rows = [(int(i), int(j)) for i, j in zip(upper, lower, strict=True)]
        ahead = torch.zeros_like(self.pairs)
        try:
            steepest = steepest_estimate(_differences(form, rows), self._norm)
            # Lowered by more than rounding can raise it.
            ahead[upper, lower] = steepest * (1.0 - 2.0**-20)
        except TOO_EXTREME:
            self._form = None
        else:
            # an estimate that overflowed (NaN) says nothing
            self.final = torch.minimum(self.final, (ahead + ahead.T).nan_to_num(math.inf, math.inf))

    @classmethod
    def unknown(cls, classes: int) -> "Rates":
        """Return bounds that say nothing."""
        rates = cls.__new__(cls)
        rates.constant, rates._form = math.inf, None
        pairs = torch.full((classes, classes), math.inf, dtype=torch.float64)
        rates.pairs = rates.final = pairs.fill_diagonal_(0.0)
        return rates

    def tighten(self, i: int, j: int) -> None:
        """Bound one pair as tightly as is known how; afterwards its rate is final."""
        if self._form is not None and self.final[i, j] < self.pairs[i, j]:
            found = coarse_up(row_upper(_differences(self._form, [(i, j)]), self._norm))
            self.pairs[i, j] = self.pairs[j, i] = min(float(self.pairs[i, j]), found)
        self.final[i, j] = self.final[j, i] = self.pairs[i, j]


def _by_rows(gains: GainReading) -> Tensor:
    """Bound every pair by the constant before the last linear layer and the rows' difference."""
    graph, norm = gains.graph, gains.norm
    last = graph[graph.output]
    classes = last.shape[0]
    if last.op != "linear" or len(graph[last.inputs[0]].shape) != 1:
        # The difference of two entries: the dual norm of e_i - e_j.
        apart = {1.0: 1.0, 2.0: sqrt_up(2.0), math.inf: 2.0}[norm]
        lengths = torch.full((classes, classes), apart, dtype=torch.float64)
        lengths.fill_diagonal_(0.0)
        return _times(lengths, gains.output)
    constant = gains.of(last.inputs[0])
    if norm == 2.0 and math.isfinite(constant):
        body, _ = graph.cut_at(last.inputs[0])
        constant = min(constant, spectral_constant_upper(body))
    weight = last.params["weight"].double()
    lengths = torch.stack([lengths_up(row - weight, dual(norm)) for row in weight])
    return _times(lengths * (1.0 + 2.0 * gamma(4)), constant)


def _times(lengths: Tensor, constant: float) -> Tensor:
    """Multiply rounding up; where the rows are equal nothing changes."""
    if constant == 0.0:
        return torch.zeros_like(lengths)
    if math.isinf(constant):  # there may be inputs where what comes before has no value at all
        return torch.full_like(lengths, math.inf).fill_diagonal_(0.0)
    above = -next_down(-lengths * coarse_up(constant))
    return torch.where(lengths == 0.0, 0.0, above)


def _affordable(graph: Graph, norm: float) -> NormalForm | None:
    """Return the normal form where LipSDP for every pair is affordable."""
    classes = graph[graph.output].shape[0]
    try:
        form = normal_form(graph, MOST_UNITS)
    except (Unsupported, *TOO_EXTREME):
        return None
    size = form.units + (min(form.inputs, form.units) if norm == 2.0 else form.inputs)
    # So many operations take some seconds.
    return form if classes * (classes - 1) / 2 * size**3 <= 6e9 else None


def _differences(form: NormalForm, pairs: Sequence[tuple[int, int]]) -> NormalForm:
    """Return the form whose outputs are differences of two outputs.

    The subtraction rounds every entry by one unit, which goes into the error rows.
    """
    first, second = (list(ends) for ends in zip(*pairs, strict=True))
    rows = form.C[first] - form.C[second]
    B_error, C_error = form.errors()
    d = form.inputs
    error = C_error[first] + C_error[second]
    rounding = gamma(2) * abs(rows)
    error[:, 0] += (rounding[:, :d] ** 2).sum(1) ** 0.5
    error[:, 1:] += rounding[:, d:]
    return dataclasses.replace(form, C=rows, B_error=B_error, C_error=error * (1.0 + gamma(8)))
