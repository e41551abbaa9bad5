"""From a captured graph to the few operations and scalar functions that the checker knows.

Convolutions become patches and a matrix, wiring becomes a list of places, comparisons become ReLUs:
the vocabulary of `holdfast_check.network` stays small enough to be read.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from holdfast.certificates.proofs.values import Pick, Values, constant
from holdfast.errors import Unsupported
from holdfast.graph.comparisons import NOT_WRITTEN, with_pairs
from holdfast.graph.ir import Graph, Node
from holdfast.ops import OPS, Kind, names
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


def written() -> frozenset[str]:
    """Return the names of the operations that the checker may read, in most of their settings."""
    entry = Node("x", "input", shape=(1,))
    comparisons = {"sort", "max_pool", "amax"}  # written as such before they come here
    return frozenset({*_Lowering(Graph((entry,), "x", {})).rules, *comparisons} & OPS.keys())


def cut_points(ops: Sequence[dict[str, Any]]) -> list[int]:
    """Return the values that everything behind them is computed from."""
    found, earliest = [], len(ops)
    for k in range(len(ops) - 1, 0, -1):
        earliest = min(earliest, *ops[k]["of"])
        if earliest >= k:
            found.append(k)
    return found[::-1]


class _Lowering:
    """Walks a graph; every node becomes a pick.

    Args:
        graph: Captured model, with maxima as comparisons.

    Attributes:
        values: What has been emitted.
        picks: By the name of a node.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values = Values(math.prod(graph.perturbed_input.shape))
        self.picks = {graph.perturbed_input.name: self.values.value(0)}
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
        logits = _logits(self.graph)
        for node in self.graph.nodes:
            if node.name in self.picks or node.name == self.graph.output != logits:
                continue
            if node.op not in self.rules or any(name not in self.picks for name in node.inputs):
                why = NOT_WRITTEN.get(node.op, ("the checker does not know this operation",))[0]
                raise self._refusal(node, why)
            self.picks[node.name] = self.rules[node.op](
                node, [self.picks[name] for name in node.inputs]
            )
        last = self.values.number(self.picks[logits])
        if last != len(self.values.ops) or not last:
            self.values.take(self.values.value(last), "output")
        return self.values.ops, self.values.arrays, self.values.sizes

    def _refusal(self, node: Node, why: str) -> Unsupported:
        return Unsupported("a proof in a file", [node.obstacle(why)])

    def _shape(self, node: Node, k: int = 0) -> tuple[int, ...]:
        return self.graph[node.inputs[k]].shape

    # --- rules ----------------------------------------------------------------------------------

    def _matrix(self, node: Node, of: Sequence[Pick], groups: int = 1) -> Pick:
        """Apply a weight, its trailing dimensions as one, or its groups in turn, to every block."""
        arrays = self._stored(node, ("weight", "bias"))
        slope = float(groups) if groups > 1 else 0.0
        return self.values.emit("linear", of, arrays, math.prod(node.shape), slope)

    def _stored(self, node: Node, keys: Sequence[str]) -> list[str]:
        """Keep arrays of a layer, as the model holds them; "" for one left out."""
        found = [(f"{node.path or node.op}.{key}", node.params[key]) for key in keys]
        while found[-1][1] is None:
            found.pop()
        return ["" if array is None else self.values.keep(name, array) for name, array in found]

    def _conv(self, node: Node, of: Sequence[Pick]) -> Pick:
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

    def _conv_transpose(self, node: Node, of: Sequence[Pick]) -> Pick:
        """Multiply the channels of every position with all taps; add up what meets."""
        weight, geometry = node.params["weight"], node.params["geometry"]
        if geometry.groups != 1:
            raise self._refusal(node, "the checker knows no transposed convolution in groups")
        channels, *spatial = self._shape(node)
        positions, kernel = math.prod(spatial), weight.shape[2:]
        taps, width = math.prod(kernel), weight[0].numel()
        name = self.values.keep(f"{node.path or node.op}.weight", weight.flatten(1).T)
        source = of[0].at(_turned(channels, positions))
        product = self.values.emit("linear", [source], [name], positions * width)
        numbered = torch.arange(1, positions + 1, dtype=torch.float64).reshape(1, 1, *spatial)
        terms = []
        for tap, one in enumerate(torch.eye(taps, dtype=torch.float64).reshape(-1, 1, 1, *kernel)):
            at = conv_transpose(numbered, one, None, geometry).flatten().long() - 1
            places = at * width + torch.arange(node.shape[0])[:, None] * taps + tap
            terms.append(product.at(torch.where(at < 0, -1, places)))
        total = self.values.sum(*terms)
        bias = node.params["bias"]
        if bias is None:
            return total
        return self.values.plus(total, bias.repeat_interleave(math.prod(node.shape[1:])))

    def _batch_norm(self, node: Node, of: Sequence[Pick]) -> Pick:
        channels, positions = node.shape[0], math.prod(node.shape[1:])
        arrays = self._stored(node, ("variance", "mean", "weight", "bias"))
        source, size = of[0].at(_turned(channels, positions)), channels * positions
        normal = self.values.emit("batch_norm", [source], arrays, size, float(node.params["eps"]))
        return normal.at(_turned(positions, channels))

    def _diagonal(self, node: Node, of: Sequence[Pick]) -> Pick:
        key = {"scale": "factor", "divide": "divisor", "shift": "offset"}[node.op]
        number = node.params[key]
        number = number if isinstance(number, Tensor) else torch.tensor(number, dtype=torch.float64)
        wide = number if number.numel() == 1 else number.expand(1, *node.shape)
        name = self.values.keep(f"{node.path or node.name}.{key}", wide.flatten())
        op = "quotient" if node.op == "divide" else "diagonal"
        arrays = ["", name] if key == "offset" else [name]
        return self.values.emit(op, of, arrays, math.prod(node.shape))

    def _scalar(self, node: Node, of: Sequence[Pick]) -> Pick:
        return self.values.apply(node.op, of[0])

    def _leaky(self, node: Node, of: Sequence[Pick]) -> Pick:
        slope = -1.0 if node.op == "abs" else float(node.params["negative_slope"])
        return self.values.apply("leaky_relu", of[0], slope)

    def _prelu(self, node: Node, of: Sequence[Pick]) -> Pick:
        """Take every channel with a slope of its own."""
        slopes = node.params["weight"].tolist()
        parts = [
            self.values.apply("leaky_relu", of[0].at(places), slope)
            for places, slope in zip(
                torch.arange(len(of[0].places)).chunk(len(slopes)), slopes, strict=True
            )
        ]
        return self.values.joined(parts)

    def _gelu(self, node: Node, of: Sequence[Pick]) -> Pick:
        exact = node.params["approximate"] == "none"
        return self.values.apply("gelu" if exact else "gelu_tanh", of[0])

    def _elu(self, node: Node, of: Sequence[Pick]) -> Pick:
        """Write scale * elu of (alpha input_scale), of input_scale x, over input_scale."""
        alpha, scale, inner = (float(node.params[key]) for key in ("alpha", "scale", "input_scale"))
        exact = Fraction(alpha * inner) == Fraction(alpha) * Fraction(inner)
        if not (exact and alpha > 0 and inner > 0):
            raise self._refusal(node, "the checker knows it in its usual settings only")
        slope = 0.0 if alpha * inner == 1.0 else alpha * inner
        bent = self.values.apply("elu", self.values.by("diagonal", of[0], inner), slope)
        return self.values.by("diagonal", self.values.by("quotient", bent, inner), scale)

    def _softplus(self, node: Node, of: Sequence[Pick]) -> Pick:
        """Write softplus as that of beta x over beta; log sigmoid as -softplus(-x)."""
        beta = node.params["beta"] if node.op == "softplus" else -1.0
        bent = self.values.apply("softplus", self.values.by("diagonal", of[0], beta))
        return self.values.by("quotient", bent, beta)

    def _clamp(self, node: Node, of: Sequence[Pick]) -> Pick:
        low, high = node.params["low"], node.params["high"]
        if math.isfinite(low) and math.isfinite(high):
            return self.values.between(of[0], low, high)
        sign, end = (1.0, low) if math.isfinite(low) else (-1.0, -high)
        if not math.isfinite(end):
            return of[0]
        above = self.values.apply(
            "relu", self.values.plus(self.values.by("diagonal", of[0], sign), constant(-end))
        )
        return self.values.by("diagonal", self.values.plus(above, constant(end)), sign)

    def _hardsigmoid(self, node: Node, of: Sequence[Pick]) -> Pick:
        return self.values.by(
            "quotient", self.values.between(self.values.plus(of[0], constant(3.0)), 0.0, 6.0), 6.0
        )

    def _shrink(self, node: Node, of: Sequence[Pick]) -> Pick:
        """Subtract from x what is left out: tanh(x), or x between two ends."""
        limit = node.params.get("limit")
        out = (
            self.values.apply("tanh", of[0])
            if limit is None
            else self.values.between(of[0], -limit, limit)
        )
        return self.values.sum(of[0], self.values.minus(out))

    def _add(self, node: Node, of: Sequence[Pick]) -> Pick:
        return self.values.emit("add", of, [], math.prod(node.shape))

    def _move(self, node: Node, of: Sequence[Pick]) -> Pick:
        values = list(dict.fromkeys(k for pick in of for k in pick.of))
        parts = [
            pick.places.double().reshape(1, *self._shape(node, k))
            for k, pick in enumerate(self.values.gathered(of, values))
        ]
        places = node.facts.run(parts, filled(node.params, -1.0)).long().flatten()
        moved = self.values.trimmed(Pick(tuple(values), places))
        if not node.params.get("value"):
            return moved
        constants = node.facts.run([torch.zeros_like(part) for part in parts], node.params)
        if not bool(constants.isfinite().all()):
            raise self._refusal(node, "the checker pads with finite numbers only")
        return self.values.plus(moved, constants.flatten())

    def _compare(self, node: Node, of: Sequence[Pick]) -> Pick:
        """Return a - relu(a - b) and b + relu(a - b)."""
        (a, b), size = of, math.prod(node.shape[1:])
        gap = self.values.emit("relu", [self.values.sum(a, self.values.minus(b))], [], size)
        return self.values.joined(
            [self.values.sum(a, self.values.minus(gap)), self.values.sum(b, gap)]
        )

    def _pool(self, node: Node, of: Sequence[Pick]) -> Pick:
        """Add the entries of every window or group, and divide by what the sum is divided by."""
        places, counts = self._windows(node)
        total = self.values.sum(*(of[0].at(column) for column in places.T))
        if bool((counts == counts[0]).all()):
            return self.values.by("quotient", total, float(counts[0]))
        return self.values.emit(
            "quotient", [total], [self.values.keep("counts", counts)], len(counts)
        )

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


def _logits(graph: Graph) -> str:
    """Return the name of the output, or of what a softmax of all of it there is taken of.

    Its entries are in the same order. Where the first of two is larger, by d, it leads by more than
    in the softmax: by log p - log q = d, and p - q = (p + q) tanh(d / 2) <= d.
    """
    last = graph[graph.output]
    final = last.op in ("softmax", "log_softmax") and len(last.shape) == 1
    return last.inputs[0] if final and "mask" not in last.params else last.name


def _places(shape: Sequence[int]) -> Tensor:
    """Return the number of every entry of a row, [1, *shape], as float64."""
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(1, *shape)


def _turned(rows: int, columns: int) -> Tensor:
    """Return the places of a matrix, column by column."""
    return torch.arange(rows * columns).reshape(rows, columns).T
