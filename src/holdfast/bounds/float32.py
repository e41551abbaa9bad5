"""How far float32 execution can be from the exact value, entry by entry, on balls around rows.

The model of arithmetic (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, sections
2.2 and 3.1): every float32 operation errs by at most `UNIT32` relatively and `FLUSH` absolutely;
sums of products may be taken in any order, fused or not. Subnormal numbers may be flushed to zero
where they are written and where they are read, weights included. A function of the library is
taken to be within `holdfast.graph.running.ULPS` units of roundoff of max(1, |x|). A part of a
model that computes in float64 errs by less, and is rounded to float32 once.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from holdfast.bounds.interval import Interval, Spread, dual_norms, over
from holdfast.bounds.regions import middle_form
from holdfast.graph.ir import Graph, Node
from holdfast.graph.running import ULPS, Approximate, evaluate_all, offset, settings_size
from holdfast.graph.slopes import slopes_on
from holdfast.graph.walk import Reading, Rule, execute, read
from holdfast.ops import OPS, Kind, names, rules
from holdfast.ops.record import Params
from holdfast.ops.vector import group_size
from holdfast.ops.wiring import filled
from holdfast.rounding import UNIT, rows_up, up

UNIT32 = 2.0**-24
"""Unit roundoff of float32."""

FLUSH = 2.0**-126
"""Smallest normal float32: what underflow or flushing to zero can change is at most this."""

LARGEST = 2.0**120
"""Values, partial sums and settings up to this cannot overflow, with room for the inner steps of
activations."""


def gamma32(operations: int) -> float:
    """Return an upper bound of n u / (1 - n u), the relative error of n float32 operations."""
    nu = operations * UNIT32
    return math.inf if nu >= 0.5 else up(nu / (1.0 - nu))


def affine_rounding(node: Node, shape: Sequence[int]) -> float:
    """Return the relative error of one entry of an affine node, against the sum of magnitudes.

    Four operations more than in float64: batch norm folded into a factor and an offset takes 10.

    Args:
        node: Affine.
        shape: Shape of one row of its input.
    """
    return gamma32(node.facts.roundings(node.params, shape) + 4)


def activation_rounding(node: Node) -> tuple[float, float]:
    """Return (relative, absolute): an activation's own rounding is their combination.

    Args:
        node: A scalar function.

    Returns:
        Units u and v: the rounding at x is at most u |x| + v, flushing to zero included.
    """
    if node.facts.exact:
        ends = [_when_stored(node.params[end]) for end in ("low", "high") if end in node.params]
        return 0.0, max(ends, default=0.0) + FLUSH
    steep = node.facts.steepest(node.params)
    if _bends_in_the_origin(node):
        return 4.0 * UNIT32 * max(1.0, steep) + FLUSH, FLUSH
    units = ULPS * UNIT32 * settings_size(node, steep)
    return units, units


def _bends_in_the_origin(node: Node) -> bool:
    """Return whether a scalar function multiplies by one of two stored slopes, and no more."""
    known = node.facts.curve(node.params)
    return not known.curved and known.breaks == (0.0,)


def softmax_rounding(node: Node, shape: Sequence[int]) -> float:
    """Return the rounding of a softmax, its logarithm, or the logarithm of a sum of exponentials.

    Args:
        node: One of the three.
        shape: Of one row of its input.

    Returns:
        The error of any entry, per unit of max(1, |x|).
    """
    summed = group_size({"dims": node.params.get("dims", (node.params.get("dim"),))}, shape)
    return 4.0 * gamma32(summed + 64)


def _when_stored(value: float) -> float:
    """Return by how much a setting changes when it is stored as float32."""
    stored = float(torch.tensor(value, dtype=torch.float32))
    return 0.0 if stored == value else abs(stored - value)


@dataclass(frozen=True)
class Executed:
    """What is known of one node's value in float32 on a ball around each row.

    Attributes:
        error: [N, ...], float64, bounds the part of |executed - exact| that does not grow with
            the distance from the row.
        exact: Same shape: the exact value at the row.
        peak: [N]: bound of every value, partial sum and setting at the row, up to here.
        drift: [N], or [1] where nothing moves: how far an exact value in the ball, and the rest of
            the error there, can take an entry from its exact value at the row.
        ball: What more is known of the exact values on a region.
    """

    error: Tensor
    exact: Approximate
    peak: Tensor
    drift: Tensor
    ball: Spread | None = None

    @property
    def read(self) -> tuple[Tensor, Tensor]:
        """Error and magnitude of the entries as they are read, perhaps flushed to zero."""
        size = self.exact.value.abs() + self.exact.error
        return self.error + FLUSH, rows_up(size + self.error + FLUSH, 3)

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """Where exact and executed values lie in the ball."""
        room = self.exact.error + self.read[0] + over(self.drift, self.error)
        room = rows_up(room + UNIT * self.exact.value.abs(), 6)
        return self.exact.value - room, self.exact.value + room


def execution_error(
    graph: Graph, inputs: Tensor, radius: Tensor, rates: Mapping[str, float]
) -> Executed:
    """Bound the error of executing a graph in float32, on inputs that float32 represents.

    Args:
        graph: Captured model.
        inputs: [N, ...], the centres of the balls.
        radius: [N], at least 0 and finite.
        rates: By node, how fast an exact value and the growing part of the error can move: times
            the radius, a bound of every entry.

    Returns:
        What is known of the output. NaN or infinity where nothing is.

    Raises:
        Unsupported: When an op has no rule, naming every such op.
    """
    graph = graph.double()
    drifts = {
        node.name: rows_up(radius * rates[node.name], 1) for node in graph.nodes if node.perturbed
    }
    return _carried(graph, evaluate_all(graph, inputs), drifts, {})


def execution_error_within(graph: Graph, bounds: Mapping[str, Interval]) -> Executed:
    """Bound the error of executing a graph in float32, where every node's range is known.

    Args:
        graph: In float64.
        bounds: By node, of the exact values on R regions.

    Returns:
        What is known of the output anywhere on each region. NaN or infinity where nothing is.

    Raises:
        Unsupported: When an op has no rule, naming every such op.
    """
    values = {name: Approximate(*middle_form(x.low, x.high)) for name, x in bounds.items()}
    return _carried(graph, values, {}, {name: x.ball for name, x in bounds.items()})


def _carried(
    graph: Graph,
    values: Mapping[str, Approximate],
    drifts: Mapping[str, Tensor],
    balls: Mapping[str, Spread | None],
) -> Executed:
    """Carry the error through a graph, given where exact values lie and how far they drift."""

    def known(node: Node, error: Tensor, peaks: Sequence[Tensor]) -> Executed:
        still = torch.zeros(1, dtype=torch.float64)
        drift, ball = drifts.get(node.name, still), balls.get(node.name)
        found = Executed(error, values[node.name], still, drift, ball)
        return replace(found, peak=functools.reduce(torch.maximum, peaks, _largest(found.read[1])))

    def knowing(rule: Rule) -> Rule:
        """Add to what a rule finds what is known of the node."""

        def apply(node: Node, parts: Sequence[Executed]) -> Executed:
            error, reach = rule(node, parts)
            return known(node, error, [*(part.peak for part in parts), reach])

        return apply

    reading = replace(FLOAT32, rules={op: knowing(rule) for op, rule in FLOAT32.rules.items()})
    entry = graph.perturbed_input
    start = known(entry, torch.zeros_like(values[entry.name].value), [])
    with torch.no_grad():
        return read(graph, reading, {entry.name: start})[graph.output]


def _largest(values: Tensor) -> Tensor:
    """Return the largest entry of every row, [N]; NaN where there is one."""
    return values.reshape(len(values), -1).amax(1)


def _total(values: Tensor) -> Tensor:
    """Return the sum over every row, [N]."""
    return values.reshape(len(values), -1).sum(1)


Found = tuple[Tensor, Tensor]
"""Error [N, ...], and a bound [N] of what is met on the way: partial sums, settings."""


def _settings(params: Params) -> float:
    """Return the largest magnitude among settings and constants."""
    values = [v for v in params.values() if isinstance(v, Tensor | float)]
    sizes = [torch.as_tensor(v).abs() for v in values]
    return max((float(size.max()) for size in sizes if size.numel()), default=0.0)


def _constant(node: Node, parts: Sequence[Executed]) -> Found:
    value = node.params["value"].double()
    return (value - value.float().double()).abs(), _largest(value.abs())


def _affine(node: Node, parts: Sequence[Executed]) -> Found:
    """Return |T| e + gamma (|T| |x| + |b|), and what flushing to zero can lose.

    A flushed coefficient loses at most FLUSH times what it multiplies; every one of at most
    2 n operations loses at most FLUSH, doubled for what the later ones make of it.
    """
    (x,) = parts
    error, size = x.read
    shape = size.shape[1:]
    op, params = node.facts.absolute(node.params)
    count = node.facts.roundings(node.params, shape) + 8
    passed = OPS[op].run([error], params)
    reach = torch.minimum(OPS[op].run([size], params), _in_ball(node, x) + passed)
    reach = rows_up(reach, count) + offset(node, passed)
    lost = _total(size) + 8.0 * count
    if node.op == "batch_norm":
        lost = lost + float(node.params["mean"].abs().sum())
        # Below 2^-100 a flushed variance or epsilon is no longer a small relative error.
        if float(node.params["variance"].min()) + node.params["eps"] < 2.0**-100:
            reach = torch.full_like(reach, math.inf)
    lost = over(FLUSH * lost, reach)
    rounding = affine_rounding(node, shape) * reach
    total = rows_up(passed + rounding + lost, count + size[0].numel() + 8)
    largest = _largest(rows_up(reach, count + 8))
    return total, largest.clamp(min=_settings({**node.params, **params}))


def _in_ball(node: Node, x: Executed) -> Tensor:
    """Return sup |T| |x| over a ball, entry by entry: less than over the box around it."""
    lengths = None if x.ball is None else dual_norms(node, x.ball)
    if x.ball is None or lengths is None:
        return torch.full((), math.inf, dtype=torch.float64)
    op, params = node.facts.absolute(node.params)
    center = x.ball.center.value.abs() + x.ball.center.error
    return OPS[op].run([center], params) + lengths * over(x.ball.radius, lengths)


def _wiring(node: Node, parts: Sequence[Executed]) -> Found:
    params = filled(node.params, _when_stored(node.params.get("value", 0.0)))
    error = node.facts.run([part.error for part in parts], params)
    return error, _nothing(error)


def _nothing(error: Tensor) -> Tensor:
    return error.new_zeros(len(error))


def _elementwise(node: Node, parts: Sequence[Executed]) -> Found:
    """An error grows by the steepest slope in reach; the activation's own rounding is added."""
    (x,) = parts
    error, size = x.read
    relative, least = activation_rounding(node)
    low, high = slopes_on(node, *x.interval)
    slope = torch.maximum(low.abs(), high.abs())
    total = rows_up(slope * error + relative * size + least, 6)
    settings = 1.0
    if not node.facts.exact:
        settings = settings_size(node, node.facts.steepest(node.params))
    return total, torch.full_like(_nothing(total), settings)


def _add(node: Node, parts: Sequence[Executed]) -> Found:
    zero = torch.zeros((), dtype=torch.float64)
    error = sum((part.read[0] for part in parts), zero)
    reach = sum((part.read[1] for part in parts), zero)
    k = len(parts)
    total = rows_up(error + gamma32(k + 2) * reach + 2.0 * k * FLUSH, 2 * k + 4)
    return total, _largest(rows_up(reach, k))


def _compare(node: Node, parts: Sequence[Executed]) -> Found:
    left, right = (part.read[0] for part in parts)
    worst = torch.maximum(left, right)
    return torch.stack([worst, worst], 1), _nothing(worst)


def _largest_of_group(node: Node, parts: Sequence[Executed]) -> Found:
    """Selections from a group: no result is further off than the group's largest error."""
    error = execute(node, [parts[0].read[0]])
    return error, _nothing(error)


def _sort(node: Node, parts: Sequence[Executed]) -> Found:
    error = parts[0].read[0]
    worst = error.amax(node.params["dim"], keepdim=True).expand_as(error)
    return worst, _nothing(error)


def _softmax(node: Node, parts: Sequence[Executed]) -> Found:
    """|J| in linf is at most 1/2 (2 for the logarithm); exponentials and sums round relatively."""
    error, size = parts[0].read
    dim = node.params["dim"]
    constant = 0.5 if node.op == "softmax" else 2.0
    worst, widest = (part.amax(dim, keepdim=True) for part in (error, size))
    rounding = softmax_rounding(node, error.shape[1:])
    total = constant * worst + rounding * (widest + 1.0)
    return rows_up(total.expand_as(error), 6), _nothing(error)


def _log_sum_exp(node: Node, parts: Sequence[Executed]) -> Found:
    """As for a softmax, with |J| in linf at most 1."""
    worst, widest = (
        part.amax(node.params["dims"], node.params["keepdim"]) for part in parts[0].read
    )
    rounding = softmax_rounding(node, parts[0].error.shape[1:])
    return rows_up(worst + rounding * (widest + 1.0), 6), _nothing(worst)


FLOAT32 = Reading(
    "float32 execution",
    rules(
        {
            Kind.AFFINE: _affine,
            Kind.WIRING: _wiring,
            Kind.SUM: _add,
            Kind.SCALAR: _elementwise,
        },
        {
            "constant": _constant,
            "compare": _compare,
            "amax": _largest_of_group,
            "max_pool": _largest_of_group,
            "sort": _sort,
            "softmax": _softmax,
            "log_softmax": _softmax,
            "logsumexp": _log_sum_exp,
        },
    ),
    dict.fromkeys(
        (
            *("layer_norm", "group_norm", "rms_norm", "vector_norm"),
            *names(Kind.STEEP, Kind.PRODUCT),
        ),
        ("has no bound of its rounding in float32", "use semantics='real'"),
    ),
    constants=True,
)
"""Which ops have a bound of their rounding; a rule returns what it found, see `Found`."""
