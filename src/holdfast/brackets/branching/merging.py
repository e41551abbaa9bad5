"""Kinks that are there more than once, merged: a graph of the same function with each kink once.

Networks that compute minima and maxima by ReLU layers hold relu(z) beside relu(-z), and pairs of
equal values whose difference has no kink. To bounds these are units that move on their own; here
every value is a sum of inputs and of distinct units relu(z), in exact numbers, where
relu(-z) = relu(z) - z. As in value numbering (Alpern, Wegman, Zadeck, "Detecting equality of
variables in programs", 1988), rows that are equal make one unit.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.bounds.forward import ramp
from holdfast.graph.ir import Graph, Node
from holdfast.norms.node import worth_writing_out
from holdfast.ops import Kind

Row = dict[int, Fraction]
"""Coefficients by place: inputs, then units; the constant at -1."""


class _InexactError(Exception):
    """A value is no sum of inputs and units, a coefficient no float64, or a sum too long."""


def exact_map(node: Node, shape: Sequence[int]) -> tuple[NDArray, NDArray, NDArray] | None:
    """Return the matrix [outputs, inputs], divisors and offsets [outputs] of an affine node.

    Args:
        node: In float64.
        shape: Of one row of its input.

    Returns:
        Exact numbers; None where the coefficients are no quotients of stored numbers.
    """
    count, outputs = math.prod(shape), math.prod(node.shape)
    offset = node.facts.run([torch.zeros(1, *shape, dtype=torch.float64)], node.params)
    offset = offset.flatten().numpy()
    if node.op == "linear" and len(shape) == 1:
        return node.params["weight"].numpy(), np.ones(outputs), offset
    if not worth_writing_out(count, outputs):
        return None
    ratios = node.facts.ratios(node.params, shape)
    return None if ratios is None else (ratios[0].numpy(), ratios[1].numpy(), offset)


def merged(graph: Graph, terms: int = 2**17) -> Graph:
    """Return a graph of the same function without kinks that are there twice.

    Args:
        graph: In float64, with all maxima as comparisons.
        terms: How many terms of sums to look at; each takes about 8 microseconds.

    Returns:
        The graph; the one given where nothing is saved, not every number stays a float64, or there
        are more terms.
    """
    bent = [n for n in graph.nodes if n.perturbed and (n.kind is Kind.SCALAR or n.op == "compare")]
    if not bent:
        return graph
    try:
        units = _Units(graph, terms)
        rows = units.run()
        kinks = sum(math.prod(n.shape[n.op == "compare" :]) for n in bent)
        members = units.needed(rows)
        fewer = sum(bool(units.units[k]) for k in members) < kinks
        return _written(graph, units, rows, members) if fewer else graph
    except (_InexactError, OverflowError, ValueError):  # the last two: beyond float64, NaN
        return graph


class _Units:
    """The distinct units of a graph.

    Args:
        graph: In float64, with all maxima as comparisons.
        terms: How many terms to look at.
    """

    def __init__(self, graph: Graph, terms: int) -> None:
        self.graph = graph
        self.inputs = math.prod(graph.perturbed_input.shape)
        self.units: list[tuple[Row, ...]] = []
        self.levels: list[int] = []
        self._terms = terms
        self._known: dict[frozenset[tuple[int, Fraction]], int] = {}
        self._pairs: dict[frozenset[frozenset[tuple[int, Fraction]]], int] = {}
        self._values: dict[str, list[Row]] = {}

    def run(self) -> list[Row]:
        """Return the rows of the output."""
        entry = self.graph.perturbed_input
        self._values[entry.name] = [{k: Fraction(1)} for k in range(self.inputs)]
        for node in self.graph.nodes:
            if node.name != entry.name:
                self._values[node.name] = self._of(node)
        return self._values[self.graph.output]

    def needed(self, output: list[Row]) -> list[int]:
        """Return the units that the output depends on, in order."""
        found: set[int] = set()
        pending = list(output)
        while pending:
            for key in pending.pop():
                place = key - self.inputs
                # the larger end of a pair stands behind the smaller one, which has the rows
                place -= place > 0 and not self.units[place] if place >= 0 else 0
                if place >= 0 and place not in found:
                    found.add(place)
                    pending += self.units[place]
        return sorted(found)

    def level(self, row: Row) -> int:
        """Return how many units one after the other a row needs at most."""
        places = [key - self.inputs for key in row if key >= self.inputs]
        return max((self.levels[place] for place in places), default=0)

    def _of(self, node: Node) -> list[Row]:
        parts = [self._values[name] for name in node.inputs]
        if node.op == "constant":
            self._spend(node.params["value"].numel())
            return [_constant(value) for value in node.params["value"].flatten().tolist()]
        if node.kind is Kind.AFFINE:
            return self._affine(node, parts[0])
        if node.kind is Kind.WIRING and node.op != "pad":
            return self._moved(node, parts)
        if node.kind is Kind.SUM:
            return [self._total(rows) for rows in zip(*self._wide(node, node.shape), strict=True)]
        if node.op == "compare":
            return self._compared(node)
        if node.kind is Kind.SCALAR:
            return self._bent(node, parts[0])
        raise _InexactError

    def _total(self, rows: Sequence[Row]) -> Row:
        self._spend(sum(map(len, rows)))
        return _sum(rows)

    def _wide(self, node: Node, shape: Sequence[int]) -> list[list[Row]]:
        """Return the entries of all inputs of a node, broadcast to a shape."""
        found = []
        for name in node.inputs:
            own = self.graph[name].shape
            places = np.broadcast_to(np.arange(math.prod(own)).reshape(own), shape)
            found.append([self._values[name][place] for place in places.flat])
        return found

    def _affine(self, node: Node, rows: list[Row]) -> list[Row]:
        if node.op == "shift":
            zero = torch.zeros(1, *node.shape, dtype=torch.float64)
            offsets = node.facts.run([zero], node.params).flatten().tolist()
            return [_sum([r, _constant(b)]) for r, b in zip(rows, offsets, strict=True)]
        known = exact_map(node, self.graph[node.inputs[0]].shape)
        if known is None:
            raise _InexactError
        matrix, divisors, offsets = known
        found: list[Row] = []
        for line, divisor, offset in zip(matrix, divisors.tolist(), offsets.tolist(), strict=True):
            used = np.flatnonzero(line)
            self._spend(sum(len(rows[k]) for k in used))
            terms = [_times(rows[k], Fraction(float(line[k]))) for k in used]
            row = _times(_sum(terms), 1 / Fraction(divisor))
            found.append(self._paired(_sum([row, _constant(offset)])))
        return found

    def _spend(self, terms: int) -> None:
        """Count terms that are looked at.

        Raises:
            _InexactError: When there are too many.
        """
        self._terms -= terms
        if self._terms < 0:
            raise _InexactError

    def _moved(self, node: Node, parts: Sequence[list[Row]]) -> list[Row]:
        first, numbers = 0, []
        for name, rows in zip(node.inputs, parts, strict=True):
            shape = self.graph[name].shape
            numbers.append(torch.arange(first, first + len(rows)).reshape(1, *shape).double())
            first += len(rows)
        every = [row for rows in parts for row in rows]
        return [every[k] for k in node.facts.run(numbers, node.params).flatten().long().tolist()]

    def _bent(self, node: Node, rows: list[Row]) -> list[Row]:
        """Return left z + (right - left) relu(z)."""
        slopes = ramp(node)
        if slopes is None:
            raise _InexactError
        found = []
        sides = (slope.flatten().tolist() for slope in slopes)
        for row, left, right in zip(rows, *sides, strict=True):
            self._spend(len(row))
            bend = _times(self._ramp(row), Fraction(right) - Fraction(left))
            found.append(_sum([_times(row, Fraction(left)), bend]))
        return found

    def _compared(self, node: Node) -> list[Row]:
        """Return the smaller ends of pairs, then the larger ones."""
        pairs = list(zip(*self._wide(node, node.shape[1:]), strict=True))
        return [self._pair(a, b, larger) for larger in (False, True) for a, b in pairs]

    def _ramp(self, row: Row) -> Row:
        """Return relu of a row."""
        places = [key for key in row if key >= 0]
        if not places:
            return {key: value for key, value in row.items() if value > 0}
        if len(row) == 1 and row[places[0]] == 1 and self._is_ramp(places[0]):
            return row
        key, opposite = (frozenset(_times(row, Fraction(sign)).items()) for sign in (1, -1))
        if opposite in self._known:
            return _sum([row, {self._known[opposite]: Fraction(1)}])
        if key not in self._known:
            self._known[key] = self._new((row,))
        return {self._known[key]: Fraction(1)}

    def _new(self, rows: tuple[Row, ...]) -> int:
        """Add a unit and return its place."""
        self.units.append(rows)
        self.levels.append(max(map(self.level, rows)) + 1)
        return self.inputs + len(self.units) - 1

    def _is_ramp(self, place: int) -> bool:
        return place >= self.inputs and len(self.units[place - self.inputs]) == 1

    def _paired(self, row: Row) -> Row:
        """Return r + c relu(z) as the larger or smaller of r and r + c z where both are short."""
        ramps = [key for key in row if self._is_ramp(key)]
        for key in sorted(ramps, key=lambda key: -self.levels[key - self.inputs]):
            (z,) = self.units[key - self.inputs]
            if len(row) > len(z) + 1:
                continue
            self._spend(len(row))
            first = {other: value for other, value in row.items() if other != key}
            # What only one of the two has stays.
            if not any(other >= 0 for other in first) or len(first.keys() ^ z.keys()) > len(z):
                continue
            second = _sum([first, _times(z, row[key])])
            # max(r, 0) and |r| are often parts of a row that is a smaller or larger end.
            if second == _times(first, Fraction(-1)) or not any(other >= 0 for other in second):
                continue
            if max(len(first), len(second)) <= len(z):
                return self._pair(self._paired(first), self._paired(second), row[key] > 0)
        return row

    def _pair(self, first: Row, second: Row, larger: bool) -> Row:
        """Return the larger or the smaller of two rows."""
        if first == second:
            return first
        ends = frozenset(frozenset(row.items()) for row in (first, second))
        if ends not in self._pairs:
            low = self._new((first, second))
            self.units.append(())  # the larger end, beside the smaller
            self.levels.append(self.levels[-1])
            self._pairs[ends] = low
        return {self._pairs[ends] + larger: Fraction(1)}


def _constant(value: float) -> Row:
    if not math.isfinite(value):
        raise _InexactError
    return {-1: Fraction(value)} if value else {}


def _times(row: Row, factor: Fraction) -> Row:
    if factor == 1:
        return row
    return {key: value * factor for key, value in row.items()} if factor else {}


def _sum(rows: Sequence[Row]) -> Row:
    total: Row = {}
    for row in rows:
        for key, value in row.items():
            total[key] = total.get(key, 0) + value
    return {key: value for key, value in total.items() if value}


def _written(graph: Graph, units: _Units, output: list[Row], needed: list[int]) -> Graph:
    """Write units, level by level, and the output as sums, selections, pairs and ReLUs."""
    entry, size = graph.perturbed_input, (units.inputs,)
    levels = {k: units.levels[k] for k in needed}
    # the last level that reads a value
    readers = [(row, level) for k, level in levels.items() for row in units.units[k]]
    readers = [*readers, *((row, math.inf) for row in output)]
    last = {key: level for row, level in sorted(readers, key=lambda r: r[1]) for key in row}
    sheet = _Sheet([entry, Node("merged:input", "reshape", (entry.name,), {"shape": size}, size)])
    sheet.columns = {k: k for k in range(units.inputs)}
    for level in sorted(set(levels.values())):
        members = [k for k in needed if levels[k] == level]
        ramps = [k for k in members if len(units.units[k]) == 1]
        pairs = [k for k in members if len(units.units[k]) == 2]
        now, parts = sheet.nodes[-1].name, []
        if ramps:
            line = sheet.rows(f"linear{level}", now, [units.units[k][0] for k in ramps])
            parts.append(sheet.add(f"relu{level}", "relu", (line,), (len(ramps),)))
        if pairs:
            both = [
                sheet.rows(f"{name}{level}", now, [units.units[k][i] for k in pairs])
                for i, name in enumerate(("first", "second"))
            ]
            ends = sheet.add(f"pair{level}", "compare", both, (2, len(pairs)))
            flat = (2 * len(pairs),)
            parts.append(sheet.add(f"ends{level}", "reshape", (ends,), flat, shape=flat))
        places = [*ramps, *pairs, *(k + 1 for k in pairs)]
        kept = [key for key in sheet.columns if last.get(key, 0) > level]
        if kept:
            old = sheet.select(f"kept{level}", now, [sheet.columns[key] for key in kept])
            parts.insert(0, old)
        keys = [*kept, *(units.inputs + k for k in places)]
        sheet.add(f"cat{level}", "cat", parts, (len(keys),), dim=1)
        sheet.columns = {key: i for i, key in enumerate(keys)}
    line = sheet.rows("output", sheet.nodes[-1].name, output)
    shape = graph[graph.output].shape
    end = Node(graph.output, "reshape", (line,), {"shape": shape}, shape)
    others = [node for node in graph.inputs if node is not entry]
    return dataclasses.replace(graph, nodes=(*others, *sheet.nodes, end), layers={})


@dataclass
class _Sheet:
    """Nodes that are written one after the other.

    Attributes:
        nodes: So far.
        columns: Where the last node to be read has which input or unit.
    """

    nodes: list[Node]
    columns: dict[int, int] = field(default_factory=dict)

    def add(
        self, name: str, op: str, inputs: Sequence[str], shape: Sequence[int], /, **params: object
    ) -> str:
        """Add a node and return its name."""
        self.nodes.append(Node(f"merged:{name}", op, tuple(inputs), params, tuple(shape)))
        return self.nodes[-1].name

    def rows(self, name: str, source: str, rows: list[Row]) -> str:
        """Write rows of a node's values: what is one of them is selected, the others are summed.

        Returns:
            The name of the last node.

        Raises:
            _InexactError: When a number is no float64, or there are too many.
        """
        sums = [row for row in rows if not self._is_value(row)]
        if sums:
            used = sorted({key for row in sums for key in row if key >= 0})
            used = used or [next(iter(self.columns))]  # constants read any column
            read = self.select(f"{name}:read", source, [self.columns[key] for key in used])
            params = _matrix(sums, {key: i for i, key in enumerate(used)})
            line = self.add(f"{name}:sums", "linear", (read,), (len(sums),), **params)
            if len(sums) == len(rows):
                return line
            size = len(self.columns) + len(sums)
            source = self.add(f"{name}:all", "cat", (source, line), (size,), dim=1)
        behind = itertools.count(len(self.columns))  # the sums, in their order
        places = [
            self.columns[next(iter(row))] if self._is_value(row) else next(behind) for row in rows
        ]
        return self.select(name, source, places)

    def select(self, name: str, source: str, places: list[int]) -> str:
        """Add a selection of a node's values and return its name."""
        index = torch.tensor(places, dtype=torch.int64)
        return self.add(name, "index_select", (source,), (len(places),), dim=1, index=index)

    @staticmethod
    def _is_value(row: Row) -> bool:
        return len(row) == 1 and all(key >= 0 and value == 1 for key, value in row.items())


def _matrix(rows: list[Row], columns: dict[int, int]) -> dict[str, Tensor]:
    """Return the weight and bias of rows.

    Raises:
        _InexactError: When a number is no float64, or there are too many.
    """
    if len(rows) * len(columns) > 2**24:
        raise _InexactError
    weight, bias = np.zeros((len(rows), len(columns))), np.zeros(len(rows))
    for k, row in enumerate(rows):
        for key, value in row.items():
            number = float(value)
            if Fraction(number) != value:
                raise _InexactError
            if key < 0:
                bias[k] = number
            else:
                weight[k, columns[key]] = number
    return {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
