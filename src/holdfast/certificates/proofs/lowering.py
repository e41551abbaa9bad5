"""From a captured graph to the few operations and scalar functions that the checker knows.

Convolutions become patches and a matrix, wiring becomes a list of places, comparisons become ReLUs:
the vocabulary of `holdfast_check.network` stays small enough to be read.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import Unsupported
from holdfast.graph.comparisons import NOT_WRITTEN, with_pairs
from holdfast.graph.ir import Graph, Node
from holdfast.ops import Kind, names
from holdfast.ops.geometry import conv_transpose, pad
from holdfast.ops.wiring import filled


def lower(graph: Graph) -> tuple[list[dict[str, Any]], dict[str, Tensor], list[int]]:
    """Return a network as the checker reads it.

    Returns:
        Operations in order, as they stand in a certificate file; the matrices, offsets and places
        that they name; and the sizes of all values, the input first.

    Raises:
        Unsupported: When one of them is not made of what the checker knows.
    """
    return _Lowering(with_pairs(graph)).whole()


def cut_points(ops: Sequence[dict[str, Any]]) -> list[int]:
    """Return the values that everything behind them is computed from."""
    found, earliest = [], len(ops)
    for k in range(len(ops) - 1, 0, -1):
        earliest = min(earliest, *ops[k]["of"])
        if earliest >= k:
            found.append(k)
    return found[::-1]


@dataclass(eq=False)
class _Pick:
    """Entries of values, one after the other: wiring costs nothing until an operation reads it.

    Attributes:
        of: Numbers of the values.
        places: [entries], counted through all of them; -1 for a zero.
        number: Of the value that holds these entries, where one has been made.
    """

    of: tuple[int, ...]
    places: Tensor
    number: int | None = None

    def at(self, places: Tensor) -> "_Pick":
        """Return some of the entries; -1 for a zero."""
        places = places.long().flatten()
        picked = self.places[places.clamp(min=0)]
        return _Pick(self.of, torch.where(places < 0, -1, picked))


class _Lowering:
    """Walks a graph; every node becomes a pick.

    Args:
        graph: Captured model, with maxima as comparisons.

    Attributes:
        ops: What has been emitted, as `lower` returns it.
        arrays: By name.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ops: list[dict[str, Any]] = []
        self.arrays: dict[str, Tensor] = {}
        self.sizes = [math.prod(graph.perturbed_input.shape)]
        self.picks = {graph.perturbed_input.name: self._value(0)}
        rules = {"linear": self._matrix, "conv": self._conv, "add": self._add}
        rules |= {"compare": self._compare, "batch_norm": self._batch_norm}
        rules |= {"conv_transpose": self._conv_transpose, "cumsum": self._pool}
        rules |= dict.fromkeys(("shift", "scale", "divide"), self._diagonal)
        rules |= dict.fromkeys(("mean", "sum", "avg_pool", "adaptive_avg_pool"), self._pool)
        rules |= dict.fromkeys(names(Kind.WIRING), self._move)
        rules |= dict.fromkeys(
            ("relu", "tanh", "sigmoid", "atan", "sin", "cos", "erf", "silu", "mish", "softsign"),
            self._scalar,
        )
        rules |= {"hardswish": self._scalar, "log1p_relu": self._scalar}
        rules |= {"leaky_relu": self._leaky, "abs": self._leaky, "prelu": self._prelu}
        rules |= {"gelu": self._gelu, "elu": self._elu, "softplus": self._softplus}
        rules |= {"logsigmoid": self._softplus, "hardtanh": self._clamp}
        rules |= {"hardsigmoid": self._hardsigmoid}
        self.rules = rules | dict.fromkeys(("softshrink", "tanhshrink"), self._shrink)

    def whole(self) -> tuple[list[dict[str, Any]], dict[str, Tensor], list[int]]:
        """Return what `lower` does for the whole graph; the last operation is the output."""
        for node in self.graph.nodes:
            if node.name in self.picks:
                continue
            if node.op not in self.rules or any(name not in self.picks for name in node.inputs):
                why = NOT_WRITTEN.get(node.op, ("the checker does not know this operation",))[0]
                raise self._refusal(node, why)
            self.picks[node.name] = self.rules[node.op](
                node, [self.picks[name] for name in node.inputs]
            )
        last = self._number(self.picks[self.graph.output])
        if last != len(self.ops) or not last:
            self._take(self._value(last), "output")
        return self.ops, self.arrays, self.sizes

    def _refusal(self, node: Node, why: str) -> Unsupported:
        return Unsupported("a proof in a file", [node.obstacle(why)])

    # --- values ---------------------------------------------------------------------------------

    def _value(self, number: int) -> _Pick:
        return _Pick((number,), torch.arange(self.sizes[number]), number)

    def _number(self, pick: _Pick) -> int:
        """Return the number of the value that holds a pick's entries; make one where needed."""
        if pick.number is None:
            pick = self._trimmed(pick)
            whole = len(pick.of) == 1 and torch.equal(
                pick.places, torch.arange(self.sizes[pick.of[0]])
            )
            pick.number = pick.of[0] if whole else self._take(pick, "places")
        return pick.number

    def _trimmed(self, pick: _Pick) -> _Pick:
        """Leave out the values that no entry is from; `pick` itself where there are none."""
        ends = torch.tensor([self.sizes[k] for k in pick.of]).cumsum(0)
        held = torch.searchsorted(ends, pick.places.clamp(min=0), right=True)
        used = torch.unique(held[pick.places >= 0]).tolist() or [0]
        if len(used) == len(pick.of):
            return pick
        return self._gathered([pick], [pick.of[k] for k in used])[0]

    def _gathered(self, picks: Sequence[_Pick], of: Sequence[int]) -> list[_Pick]:
        """Return the picks with places counted through the values `of`, where they are there."""
        sizes = [self.sizes[k] for k in of]
        starts = dict(zip(of, itertools.accumulate([0, *sizes]), strict=False))
        found = []
        for pick in picks:
            tables = [starts.get(k, -1) + torch.arange(self.sizes[k]) for k in pick.of]
            table = torch.cat(tables)
            places = torch.where(pick.places < 0, -1, table[pick.places.clamp(min=0)])
            found.append(_Pick(tuple(of), places))
        return found

    def _take(self, pick: _Pick, name: str) -> int:
        """Emit the picking of entries and return its number."""
        places = [self._keep(name, pick.places)]
        return self._emit("take", [self._value(k) for k in pick.of], places, len(pick.places)).of[0]

    def _emit(
        self, op: str, of: Sequence[_Pick], arrays: Sequence[str], size: int, slope: float = 0.0
    ) -> _Pick:
        numbers = [self._number(pick) for pick in of]
        operation = {"op": op, "of": numbers, "arrays": list(arrays), "slope": slope.hex()}
        self.ops.append(operation)
        self.sizes.append(size)
        return self._value(len(self.ops))

    def _keep(self, name: str, tensor: Tensor) -> str:
        """Keep an array under a name of its own; one that is there already is not kept twice."""
        tensor = tensor.detach().contiguous()
        taken = self.arrays
        while name in taken and not (
            taken[name].dtype == tensor.dtype and torch.equal(taken[name], tensor)
        ):
            name += "'"
        taken[name] = tensor
        return name

    def _shape(self, node: Node, k: int = 0) -> tuple[int, ...]:
        return self.graph[node.inputs[k]].shape

    # --- rules ----------------------------------------------------------------------------------

    def _matrix(self, node: Node, of: Sequence[_Pick], groups: int = 1) -> _Pick:
        """Apply a weight, its trailing dimensions as one, or its groups in turn, to every block."""
        arrays = self._stored(node, ("weight", "bias"))
        slope = float(groups) if groups > 1 else 0.0
        return self._emit("linear", of, arrays, math.prod(node.shape), slope)

    def _stored(self, node: Node, keys: Sequence[str]) -> list[str]:
        """Keep arrays of a layer, as the model holds them; "" for one left out."""
        found = [(f"{node.path or node.op}.{key}", node.params[key]) for key in keys]
        while found[-1][1] is None:
            found.pop()
        return ["" if array is None else self._keep(name, array) for name, array in found]

    def _conv(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        geometry, kernel = node.params["geometry"], node.params["weight"].shape[2:]
        places = pad(_places(self._shape(node)), geometry.pads, geometry.mode, -1.0)[0]
        for axis, (size, step, gap) in enumerate(
            zip(kernel, geometry.stride, geometry.dilation, strict=True), 1
        ):
            places = places.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
        rank = len(kernel)
        order = [*range(1, rank + 1), 0, *range(rank + 1, 2 * rank + 1)]
        product = self._matrix(node, [of[0].at(places.permute(order))], geometry.groups)
        return product.at(_turned(math.prod(node.shape[1:]), node.shape[0]))

    def _conv_transpose(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Multiply the channels of every position with all taps; add up what meets."""
        weight, geometry = node.params["weight"], node.params["geometry"]
        if geometry.groups != 1:
            raise self._refusal(node, "the checker knows no transposed convolution in groups")
        channels, *spatial = self._shape(node)
        positions, kernel = math.prod(spatial), weight.shape[2:]
        taps, width = math.prod(kernel), weight[0].numel()
        name = self._keep(f"{node.path or node.op}.weight", weight.flatten(1).T)
        source = of[0].at(_turned(channels, positions))
        product = self._emit("linear", [source], [name], positions * width)
        numbered = torch.arange(1, positions + 1, dtype=torch.float64).reshape(1, 1, *spatial)
        terms = []
        for tap, one in enumerate(torch.eye(taps, dtype=torch.float64).reshape(-1, 1, 1, *kernel)):
            at = conv_transpose(numbered, one, None, geometry).flatten().long() - 1
            places = at * width + torch.arange(node.shape[0])[:, None] * taps + tap
            terms.append(product.at(torch.where(at < 0, -1, places)))
        total = self._sum(*terms)
        bias = node.params["bias"]
        if bias is None:
            return total
        return self._plus(total, bias.repeat_interleave(math.prod(node.shape[1:])))

    def _batch_norm(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        channels, positions = node.shape[0], math.prod(node.shape[1:])
        arrays = self._stored(node, ("variance", "mean", "weight", "bias"))
        source, size = of[0].at(_turned(channels, positions)), channels * positions
        normal = self._emit("batch_norm", [source], arrays, size, float(node.params["eps"]))
        return normal.at(_turned(positions, channels))

    def _diagonal(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        key = {"scale": "factor", "divide": "divisor", "shift": "offset"}[node.op]
        number = node.params[key]
        number = number if isinstance(number, Tensor) else torch.tensor(number, dtype=torch.float64)
        wide = number if number.numel() == 1 else number.expand(1, *node.shape)
        name = self._keep(f"{node.path or node.name}.{key}", wide.flatten())
        op = "quotient" if node.op == "divide" else "diagonal"
        arrays = ["", name] if key == "offset" else [name]
        return self._emit(op, of, arrays, math.prod(node.shape))

    def _scalar(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        return self._apply(node.op, of[0])

    def _leaky(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        slope = -1.0 if node.op == "abs" else float(node.params["negative_slope"])
        return self._apply("leaky_relu", of[0], slope)

    def _prelu(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Take every channel with a slope of its own."""
        slopes = node.params["weight"].tolist()
        parts = [
            self._apply("leaky_relu", of[0].at(places), slope)
            for places, slope in zip(
                torch.arange(len(of[0].places)).chunk(len(slopes)), slopes, strict=True
            )
        ]
        return self._joined(parts)

    def _gelu(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        exact = node.params["approximate"] == "none"
        return self._apply("gelu" if exact else "gelu_tanh", of[0])

    def _elu(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Write scale * elu of (alpha input_scale), of input_scale x, over input_scale."""
        alpha, scale, inner = (float(node.params[key]) for key in ("alpha", "scale", "input_scale"))
        exact = Fraction(alpha * inner) == Fraction(alpha) * Fraction(inner)
        if not (exact and alpha > 0 and inner > 0):
            raise self._refusal(node, "the checker knows it in its usual settings only")
        slope = 0.0 if alpha * inner == 1.0 else alpha * inner
        bent = self._apply("elu", self._by("diagonal", of[0], inner), slope)
        return self._by("diagonal", self._by("quotient", bent, inner), scale)

    def _softplus(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Write softplus as that of beta x over beta; log sigmoid as -softplus(-x)."""
        beta = node.params["beta"] if node.op == "softplus" else -1.0
        bent = self._apply("softplus", self._by("diagonal", of[0], beta))
        return self._by("quotient", bent, beta)

    def _clamp(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        low, high = node.params["low"], node.params["high"]
        if math.isfinite(low) and math.isfinite(high):
            return self._between(of[0], low, high)
        sign, end = (1.0, low) if math.isfinite(low) else (-1.0, -high)
        if not math.isfinite(end):
            return of[0]
        above = self._apply("relu", self._plus(self._by("diagonal", of[0], sign), _constant(-end)))
        return self._by("diagonal", self._plus(above, _constant(end)), sign)

    def _hardsigmoid(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        return self._by("quotient", self._between(self._plus(of[0], _constant(3.0)), 0.0, 6.0), 6.0)

    def _shrink(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Subtract from x what is left out: tanh(x), or x between two ends."""
        limit = node.params.get("limit")
        out = self._apply("tanh", of[0]) if limit is None else self._between(of[0], -limit, limit)
        return self._sum(of[0], self._minus(out))

    def _apply(self, op: str, of: _Pick, slope: float = 0.0) -> _Pick:
        return self._emit(op, [of], [], len(of.places), slope)

    def _between(self, of: _Pick, low: float, high: float) -> _Pick:
        ends = self._keep("ends", torch.tensor([low, high], dtype=torch.float64))
        return self._emit("clamp", [of], [ends], len(of.places))

    def _add(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        return self._emit("add", of, [], math.prod(node.shape))

    def _move(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        values = list(dict.fromkeys(k for pick in of for k in pick.of))
        parts = [
            pick.places.double().reshape(1, *self._shape(node, k))
            for k, pick in enumerate(self._gathered(of, values))
        ]
        places = node.facts.run(parts, filled(node.params, -1.0)).long().flatten()
        moved = self._trimmed(_Pick(tuple(values), places))
        if not node.params.get("value"):
            return moved
        constants = node.facts.run([torch.zeros_like(part) for part in parts], node.params)
        if not bool(constants.isfinite().all()):
            raise self._refusal(node, "the checker pads with finite numbers only")
        return self._plus(moved, constants.flatten())

    def _compare(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Return a - relu(a - b) and b + relu(a - b)."""
        (a, b), size = of, math.prod(node.shape[1:])
        gap = self._emit("relu", [self._sum(a, self._minus(b))], [], size)
        return self._joined([self._sum(a, self._minus(gap)), self._sum(b, gap)])

    def _sum(self, *of: _Pick) -> _Pick:
        return self._emit("add", of, [], len(of[0].places))

    def _minus(self, of: _Pick) -> _Pick:
        return self._by("diagonal", of, -1.0)

    def _by(self, op: str, of: _Pick, number: float) -> _Pick:
        """Multiply by a number, or divide by it (`quotient`)."""
        if number == 1.0:
            return of
        named = {-1.0: "minus"} if op == "diagonal" else {number: f"count.{number:g}"}
        array = self._keep(named.get(number, "factor"), _constant(number))
        return self._emit(op, [of], [array], len(of.places))

    def _plus(self, of: _Pick, offset: Tensor) -> _Pick:
        return self._emit("diagonal", [of], ["", self._keep("offset", offset)], len(of.places))

    def _joined(self, of: Sequence[_Pick]) -> _Pick:
        values = [self._number(pick) for pick in of]
        return _Pick(tuple(values), torch.arange(sum(self.sizes[k] for k in values)))

    def _pool(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Add the entries of every window or group, and divide by what the sum is divided by."""
        places, counts = self._windows(node)
        total = self._sum(*(of[0].at(column) for column in places.T))
        if bool((counts == counts[0]).all()):
            return self._by("quotient", total, float(counts[0]))
        return self._emit("quotient", [total], [self._keep("counts", counts)], len(counts))

    def _windows(self, node: Node) -> tuple[Tensor, Tensor]:
        """Return the places of what is added up, [results, entries], -1 for none, and divisors."""
        shape, params = self._shape(node), node.params
        ones, size = torch.ones(math.prod(node.shape), dtype=torch.float64), math.prod(shape[1:])
        if "dims" in params:
            dims = [dim - 1 for dim in params["dims"]]
            kept = [axis for axis in range(len(shape)) if axis not in dims]
            groups = _places(shape)[0].permute(*kept, *dims).reshape(len(ones), -1)
            return groups, ones * (groups.shape[1] if node.op == "mean" else 1)
        if node.op == "cumsum":
            dim = params["dim"] - 1
            before = torch.ones(shape[dim], shape[dim], dtype=torch.bool).tril()
            along = _places(shape)[0].movedim(dim, -1)[..., None, :]
            return torch.where(before, along, -1.0).movedim(-2, dim).flatten(0, -2), ones
        known = size <= 4096 and (params.get("divisor") or 1) > 0  # the matrix has `size` columns
        ratios = node.facts.ratios(params, (1, *shape[1:])) if known else None
        if ratios is None:
            raise self._refusal(node, "the checker knows averages of at most 4096 places only")
        matrix, divisors = ratios
        taps = int(matrix.sum(1).amax())
        inside, order = matrix.sort(dim=1, descending=True, stable=True)
        table = torch.where(inside > 0, order, -1)[:, :taps]
        channels = torch.arange(shape[0])[:, None, None] * size
        return torch.where(table < 0, -1, channels + table).flatten(0, 1), divisors.repeat(shape[0])


def _places(shape: Sequence[int]) -> Tensor:
    """Return the number of every entry of a row, [1, *shape], as float64."""
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(1, *shape)


def _turned(rows: int, columns: int) -> Tensor:
    """Return the places of a matrix, column by column."""
    return torch.arange(rows * columns).reshape(rows, columns).T


def _constant(number: float) -> Tensor:
    return torch.tensor([number], dtype=torch.float64)
