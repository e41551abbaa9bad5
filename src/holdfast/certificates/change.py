"""How far the outputs and the loss of each row can move within a distance: a promise without class.

On the ball around a row every output, and every difference of two logits, lies between the bounds
of `holdfast.bounds.linear`; the change is at most the distance from the value at the centre to the
farther bound. Where those do not apply, the global constant K gives K epsilon.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from holdfast.bounds.interval import Interval
from holdfast.bounds.linear import Relaxed
from holdfast.certificates.local import balls_around, batches, differences
from holdfast.errors import Unsupported
from holdfast.gradients import with_gradients
from holdfast.graph.ir import Graph
from holdfast.graph.running import Approximate
from holdfast.rounding import UNIT, check_subnormals, gamma, lengths_up, next_down


@dataclass(frozen=True)
class Changes:
    """A model, rows, and what is known at the rows.

    Attributes:
        graph: One row of outputs per input.
        inputs: [N, ...], as they were given.
        labels: [N] classes, or [N, outputs] float64 targets.
        outputs: At the rows, [N, outputs], with errors.
        norm: 1, 2 or inf.
        units: Of one row's shape, as `Moves.units` gives them.
    """

    graph: Graph
    inputs: Tensor
    labels: Tensor
    outputs: Approximate
    norm: float
    units: Tensor | None = None

    @cached_property
    def has_classes(self) -> bool:
        """Whether labels are classes."""
        return not self.labels.is_floating_point()

    def __getitem__(self, rows: Tensor) -> "Changes":
        """Return the same about some of the rows, by their numbers."""
        outputs = Approximate(self.outputs.value[rows], self.outputs.error[rows])
        some = {"inputs": self.inputs[rows], "labels": self.labels[rows], "outputs": outputs}
        return replace(self, **some)

    def output(self, epsilon: float) -> Tensor:
        """Return a bound of ||f(x') - f(x)|| over the ball, [N]; inf where nothing is proved."""
        return self._over_rows(epsilon, self._output)

    def loss(self, epsilon: float) -> Tensor:
        """Return a bound of how far cross entropy, or squared error, moves over the ball, [N]."""
        return self._over_rows(epsilon, self._cross_entropy if self.has_classes else self._error)

    @with_gradients()
    @torch.no_grad()
    def _over_rows(self, epsilon: float, part: Callable[[Relaxed, Tensor], Tensor]) -> Tensor:
        check_subnormals("a bound of change")
        graph, found = self.graph.double(), []
        for rows in batches(graph, len(self.inputs)):
            x = self.inputs[rows].double().nan_to_num(0.0, 0.0, 0.0)
            balls = balls_around(x, x.new_full((len(x),), epsilon), self.norm, self.units)
            try:
                found.append(part(Relaxed(graph, balls), rows))
            except Unsupported:
                return torch.full((len(self.inputs),), math.inf, dtype=torch.float64)
        return torch.cat(found).nan_to_num(math.inf, math.inf)

    def _output(self, relaxed: Relaxed, rows: Tensor) -> Tensor:
        bounds = relaxed.bounds()
        at = self._at(rows)
        moved = _up(torch.maximum(_up(bounds.high - at.low), _up(at.high - bounds.low)))
        return lengths_up(moved, self.norm)

    def _at(self, rows: Tensor) -> Interval:
        value, error = self.outputs.value[rows], self.outputs.error[rows]
        return Interval(next_down(value - error), _up(value + error))

    def _error(self, relaxed: Relaxed, rows: Tensor) -> Tensor:
        """Bound the change of the mean squared error, output by output."""
        bounds, targets, at = relaxed.bounds(), self.labels[rows], self._at(rows)
        before = _squares(at.low, at.high, targets)
        after = _squares(bounds.low, bounds.high, targets)
        moved = torch.maximum(_up(after.high - before.low), _up(before.high - after.low))
        count = moved.shape[1]
        return _up(moved.mean(1) * (1.0 + 4.0 * gamma(count + 8)))

    def _cross_entropy(self, relaxed: Relaxed, rows: Tensor) -> Tensor:
        """Bound the change of log sum exp(f_j - f_label), which grows in every difference."""
        labels, value, error = self.labels[rows], self.outputs.value[rows], self.outputs.error[rows]
        spec = -differences(labels, value.shape[1])
        bounds = relaxed.bounds(spec)
        leads = (spec @ value[:, :, None])[:, :, 0]
        noise = (spec.abs() @ error[:, :, None])[:, :, 0] * (1.0 + 16.0 * UNIT)
        noise = noise + 4.0 * UNIT * (spec.abs() @ value.abs()[:, :, None])[:, :, 0]
        before = _log_sums(Interval(next_down(leads - noise), _up(leads + noise)))
        after = _log_sums(Interval(bounds.low, bounds.high))
        return torch.maximum(_up(after.high - before.low), _up(before.high - after.low))


def _up(values: Tensor) -> Tensor:
    return -next_down(-values)


def _squares(low: Tensor, high: Tensor, targets: Tensor) -> Interval:
    """Bound (f - t)^2 for f in [low, high]."""
    below, above = next_down(targets - high), next_down(low - targets)
    apart = torch.maximum(below, above).clamp(min=0.0)
    farthest = torch.maximum(-next_down(low - targets), -next_down(targets - high))
    return Interval(next_down(apart.square()).clamp(min=0.0), _up(farthest.square()))


def _log_sums(differences: Interval) -> Interval:
    """Bound log(1 + sum exp(d)) for differences between bounds, [R]."""
    # With the largest term taken out, every exponential is within 64 units of roundoff and their
    # sum, between 1 and n, within gamma_(n + 64) n; the logarithm adds a unit of its size.
    ends = []
    for d in (differences.low, differences.high):
        terms = torch.cat([torch.zeros_like(d[:, :1]), d], 1)
        total = torch.logsumexp(terms, 1)
        largest = terms.abs().nan_to_num(0.0, 0.0, 0.0).amax(1)
        count = terms.shape[1]
        ends.append((total, 4.0 * gamma(count + 128) * count + 8.0 * UNIT * (largest + 64.0)))
    (low, under), (high, over) = ends
    return Interval(next_down(low - under).clamp(min=0.0), _up(high + over))
