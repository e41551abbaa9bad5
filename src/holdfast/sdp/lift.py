"""From a captured graph to the normal form: differences of two inputs, unit by unit.

Maxima and sorted groups become absolute values and ReLUs, which have slopes: with h = (a - b) / 2,
max(a, b) = (a + b) / 2 + |h| and min(a, b) = (a + b) / 2 - |h|. For pairs (MaxMin) this says what
the quadratic constraints of Pauli et al., "Novel quadratic constraints for extending LipSDP beyond
slope-restricted activations" (2024), say: the sum is kept and the difference does not grow.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.graph.walk import Reading, read
from holdfast.ops import OPS, Kind, rules
from holdfast.ops.record import Params
from holdfast.rounding import gamma
from holdfast.sdp.form import HEADROOM, Array, NormalForm, may_underflow, norm_rows

Places = NDArray[np.int64]

LARGEST_GROUP = 8
"""Groups of a sort longer than this take too many comparators to be worth it."""


@dataclass(frozen=True)
class Signal:
    """A value of the network as a linear map of the coordinates (x, v) seen so far.

    Attributes:
        rows: [entries, inputs + units so far].
        error: Rounding error of the rows, [entries, 1 + units so far], as in `NormalForm`.
    """

    rows: Array
    error: Array


Ranges = Mapping[str, tuple[Tensor, Tensor]]
"""Smallest and largest slope of every entry of an elementwise node, by its name."""


def normal_form(graph: Graph, most_units: int, ranges: Ranges | None = None) -> NormalForm:
    """Return the normal form of a captured network, not yet reduced.

    Args:
        graph: Captured model, or a part of one.
        most_units: Give up beyond so many activations: the matrices grow with their square.
        ranges: Slopes that hold on a convex region; those over the real line where missing.

    Returns:
        The form; its output is the network's, flattened.

    Raises:
        Unsupported: When an op is not made of linear maps and slopes, or there are too many units.
    """
    return _Lift(graph.double(), most_units, ranges or {}).form()


class _Lift:
    """Walks the graph and records its activations.

    Args:
        graph: In float64.
        most_units: Give up beyond so many.
        ranges: Slopes by node.
    """

    def __init__(self, graph: Graph, most_units: int, ranges: Ranges) -> None:
        self.graph, self.most_units, self.ranges = graph, most_units, ranges
        self.inputs = math.prod(graph.perturbed_input.shape)
        self.units = 0
        self._activated: list[tuple[Signal, Array, Array]] = []

    def form(self) -> NormalForm:
        """Return the normal form of the whole graph."""
        table = rules(
            {
                Kind.AFFINE: self._affine,
                Kind.WIRING: self._move,
                Kind.SUM: self._add,
                Kind.SCALAR: self._elementwise,
            },
            {
                "maximum": self._extreme,
                "minimum": self._extreme,
                "amax": self._amax,
                "max_pool": self._max_pool,
                "sort": self._sort,
            },
        )
        reading: Reading[Signal | None] = Reading("LipSDP", table, {})
        start = Signal(np.eye(self.inputs), np.zeros((self.inputs, 1)))
        env = read(self.graph, reading, {self.graph.perturbed_input.name: start})
        output = self._wide(env.get(self.graph.output), self.graph[self.graph.output].shape)
        wide = [self._widen(signal) for signal, _, _ in self._activated]
        width = self.inputs + self.units
        B = np.vstack([np.zeros((0, width)), *[signal.rows for signal in wide]])
        B_error = np.vstack([np.zeros((0, 1 + self.units)), *[signal.error for signal in wide]])
        low = np.concatenate([np.zeros(0), *[low for _, low, _ in self._activated]])
        high = np.concatenate([np.zeros(0), *[high for _, _, high in self._activated]])
        exact = not (B_error.any() or output.error.any())
        errors = (None, None) if exact else (B_error, output.error)
        return NormalForm(B, output.rows, low, high, self.inputs, *errors)

    def _widen(self, signal: Signal) -> Signal:
        """Give a signal columns for all units so far."""
        missing = self.inputs + self.units - signal.rows.shape[1]
        if not missing:
            return signal
        pad = ((0, 0), (0, missing))
        return Signal(np.pad(signal.rows, pad), np.pad(signal.error, pad))

    def _wide(self, signal: Signal | None, shape: Sequence[int]) -> Signal:
        """Return a signal with all columns; one that nothing moves is zero."""
        if signal is not None:
            return self._widen(signal)
        entries = math.prod(shape)
        zeros = np.zeros((entries, self.inputs + self.units))
        return Signal(zeros, np.zeros((entries, 1 + self.units)))

    def _shape(self, node: Node, k: int = 0) -> tuple[int, ...]:
        return self.graph[node.inputs[k]].shape

    def _affine(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        signal = self._wide(signals[0], self._shape(node))
        shape = self._shape(node)
        rows = _apply(node.facts.linear(node.params), signal.rows, shape)
        bound = node.facts.absolute(node.params)
        error = _apply(bound, signal.error, shape) * HEADROOM
        # Applied to single coordinates, stored coefficients come out unrounded.
        if not node.facts.stored or not _single_coordinates(signal.rows):
            coefficients = [part for part in bound[1].values() if isinstance(part, Tensor)]
            if may_underflow(signal.rows, *(part.double().numpy() for part in coefficients)):
                raise Unsupported("LipSDP", [node.obstacle("weights whose products underflow")])
            sizes = _apply(bound, norm_rows(signal.rows, self.inputs), shape)
            count = node.facts.roundings(node.params, shape) + 8
            error = (error + gamma(count) * sizes) * HEADROOM
        return Signal(rows, error)

    def _move(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        shapes = [self._shape(node, k) for k in range(len(node.inputs))]
        wide = [self._wide(s, shape) for s, shape in zip(signals, shapes, strict=True)]
        op, params = node.facts.linear(node.params)

        def moved(parts: list[Array]) -> Array:
            columns = [_columns(part, shape) for part, shape in zip(parts, shapes, strict=True)]
            return OPS[op].run(columns, params).flatten(1).T.contiguous().numpy()

        return Signal(moved([s.rows for s in wide]), moved([s.error for s in wide]))

    def _elementwise(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        signal = self._wide(signals[0], self._shape(node))
        if node.name not in self.ranges:
            return self._activate(node, signal, *node.facts.slopes(node.params))
        low, high = (side.flatten().numpy() for side in self.ranges[node.name])
        return self._activate(node, signal, low, high)

    def _activate(
        self, node: Node, signal: Signal, low: float | Array, high: float | Array
    ) -> Signal:
        """Add one unit per entry and return their outputs."""
        size, before = len(signal.rows), self.units
        if before + size > self.most_units:
            why = f"more than {self.most_units} activations"
            raise Unsupported("LipSDP", [node.obstacle(why)])
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise Unsupported("LipSDP", [node.obstacle("no finite slopes")])
        self._activated.append((signal, np.full(size, low), np.full(size, high)))
        self.units += size
        rows = np.zeros((size, self.inputs + self.units))
        rows[:, self.inputs + before :] = np.eye(size)
        return Signal(rows, np.zeros((size, 1 + self.units)))

    def _sum(self, left: Signal, right: Signal, factors: tuple[float, float]) -> Signal:
        """Return a combination with factors that are powers of two, so that only the sum rounds."""
        left, right = self._widen(left), self._widen(right)
        a, b = (abs(factor) for factor in factors)
        rows = factors[0] * left.rows + factors[1] * right.rows
        overlap = (left.rows != 0) & (right.rows != 0)
        sizes = np.where(overlap, np.abs(left.rows) * a + np.abs(right.rows) * b, 0.0)
        error = (a * left.error + b * right.error) * HEADROOM
        return Signal(rows, error + gamma(2) * norm_rows(sizes, self.inputs))

    def _add(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        moving = [signal for signal in signals if signal is not None]
        total = moving[0]
        for signal in moving[1:]:
            total = self._sum(total, signal, (1.0, 1.0))
        return total

    def _extreme(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        a, b = (self._wide(signal, node.shape) for signal in signals)
        high, low = self._compare(node, a, b)
        return high if node.op == "maximum" else low

    def _compare(self, node: Node, a: Signal, b: Signal) -> tuple[Signal, Signal]:
        """Return max(a, b) and min(a, b) through one absolute value per entry."""
        size = self._activate(node, self._sum(a, b, (0.5, -0.5)), -1.0, 1.0)
        middle = self._sum(a, b, (0.5, 0.5))
        return self._sum(middle, size, (1.0, 1.0)), self._sum(middle, size, (1.0, -1.0))

    def _largest(self, node: Node, a: Signal, b: Signal) -> Signal:
        """Return max(a, b) = a + relu(b - a)."""
        return self._sum(a, self._activate(node, self._sum(b, a, (1.0, -1.0)), 0.0, 1.0), (1, 1))

    def _sort(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        """Sort every group by a network of comparators, in rounds of odd and even neighbours."""
        shape, dim = self._shape(node), node.params["dim"]
        length = shape[dim - 1]
        if length > LARGEST_GROUP:
            raise Unsupported("LipSDP", [node.obstacle(f"groups of {length}")])
        signal = self._wide(signals[0], shape)
        places = places_of(shape).movedim(dim, -1).reshape(-1, length).numpy()
        lanes = [_take(signal, places[:, k]) for k in range(length)]
        for first in sorting_rounds(length):
            for k in range(first, length - 1, 2):
                high, low = self._compare(node, lanes[k], lanes[k + 1])
                lanes[k], lanes[k + 1] = low, high
        if node.params["descending"]:
            lanes.reverse()
        return self._place(lanes, places)

    def _place(self, lanes: list[Signal], places: Places) -> Signal:
        """Put the lanes of all groups back to their places."""
        wide = [self._widen(lane) for lane in lanes]
        order = np.argsort(places.T.flatten())
        rows = np.vstack([lane.rows for lane in wide])[order]
        return Signal(rows, np.vstack([lane.error for lane in wide])[order])

    def _amax(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        shape = self._shape(node)
        dims = [dim - 1 for dim in node.params["dims"]]
        kept = [axis for axis in range(len(shape)) if axis not in dims]
        places = places_of(shape)[0].permute(*kept, *dims).reshape(math.prod(node.shape), -1)
        return self._window_maxima(node, self._wide(signals[0], shape), places.numpy())

    def _max_pool(self, node: Node, signals: Sequence[Signal | None]) -> Signal:
        shape = self._shape(node)
        places = windows(node.params, shape, node.shape)
        return self._window_maxima(node, self._wide(signals[0], shape), places)

    def _window_maxima(self, node: Node, signal: Signal, places: Places) -> Signal:
        """Return the maximum of every window, by a tree; place -1 repeats the window's first."""
        first = places.max(axis=1, keepdims=True)
        places = np.where(places < 0, first, places)
        lanes = [_take(signal, places[:, k]) for k in range(places.shape[1])]
        while len(lanes) > 1:
            pairs = [lanes[k : k + 2] for k in range(0, len(lanes), 2)]
            lanes = [self._largest(node, *p) if len(p) == 2 else p[0] for p in pairs]
        return lanes[0]


def sorting_rounds(length: int) -> Iterator[int]:
    """Yield the first lane of every round of odd-even transposition sort."""
    rounds = 1 if length == 2 else length
    return itertools.islice(itertools.cycle((0, 1)), rounds)


def _take(signal: Signal, places: Places) -> Signal:
    return Signal(signal.rows[places], signal.error[places])


def places_of(shape: Sequence[int]) -> Tensor:
    """Return the number of every entry of a row, [1, *shape]."""
    return torch.arange(math.prod(shape)).reshape(1, *shape)


def windows(settings: Params, shape: Sequence[int], result: Sequence[int]) -> Places:
    """Return the entries in every window of a pooling, [outputs, window]; -1 for padding."""
    names = ("kernel", "stride", "padding", "dilation")
    axes = list(zip(*(settings[name] for name in names), strict=True))
    places = places_of(shape)
    for axis, (kernel, stride, padding, dilation) in enumerate(axes):
        outputs = result[1 + axis]
        starts = torch.arange(outputs) * stride - padding
        held = starts[:, None] + torch.arange(kernel) * dilation
        inside = (held >= 0) & (held < shape[1 + axis])
        taken = places.index_select(2 + axis, held.clamp(0, shape[1 + axis] - 1).flatten())
        taken = taken.unflatten(2 + axis, (outputs, kernel)).movedim(3 + axis, -1)
        mask = inside.reshape(outputs, *[1] * (taken.dim() - 4 - axis), kernel)
        places = torch.where(mask, taken, -1)
    return places.reshape(math.prod(result), -1).numpy()


def _columns(rows: Array, shape: Sequence[int]) -> Tensor:
    """Return the columns of a signal as a batch of values of the given shape."""
    return torch.from_numpy(np.ascontiguousarray(rows.T)).reshape(-1, *shape)


def _apply(operation: tuple[str, Params], rows: Array, shape: Sequence[int]) -> Array:
    """Apply a linear operation to every column."""
    op, params = operation
    return OPS[op].run([_columns(rows, shape)], params).flatten(1).T.contiguous().numpy()


def _single_coordinates(rows: Array) -> bool:
    """Return whether every entry is one coordinate, and every coordinate in at most one entry."""
    return bool(np.isin(rows, (0.0, 1.0)).all() and ((rows != 0).sum(0) <= 1).all())
