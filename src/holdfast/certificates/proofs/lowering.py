"""From a captured graph to the five operations and scalar functions that the checker knows.

Convolutions become patches and a matrix, wiring becomes a list of places, comparisons become ReLUs:
the vocabulary of `holdfast_check.network` stays small enough to be read.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import Unsupported
from holdfast.graph.comparisons import NOT_WRITTEN, window_places, with_pairs
from holdfast.graph.ir import Graph, Node
from holdfast.ops import Kind, names
from holdfast.ops.geometry import pad
from holdfast.ops.wiring import filled


def lower(graph: Graph) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return a network as the checker reads it.

    Returns:
        Operations in order, as they stand in a certificate file; and the matrices, offsets and
        places that they name.

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
        rules = {"linear": self._matrix, "conv": self._conv, "add": self._scalar}
        rules |= {"compare": self._compare}
        rules |= dict.fromkeys(("shift", "scale", "divide"), self._diagonal)
        rules |= dict.fromkeys(("mean", "sum", "avg_pool"), self._pool)
        rules |= dict.fromkeys(names(Kind.WIRING), self._move)
        rules |= dict.fromkeys(("relu", "tanh", "sigmoid"), self._scalar)
        self.rules = rules | dict.fromkeys(("leaky_relu", "abs"), self._leaky)
        self.rules |= dict.fromkeys(("elu", "softplus", "gelu"), self._standard)

    def whole(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return operations and arrays of the whole graph; the last operation is the output."""
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
        return self.ops, self.arrays

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

    def _matrix(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Apply a weight, its trailing dimensions as one, to every block of a value."""
        arrays = [
            self._keep(f"{node.path or node.op}.{key}", node.params[key])
            for key in ("weight", "bias")
            if node.params[key] is not None
        ]
        return self._emit("linear", of, arrays, math.prod(node.shape))

    def _conv(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        geometry, kernel = node.params["geometry"], node.params["weight"].shape[2:]
        if geometry.groups != 1:
            raise self._refusal(node, "the checker does not know convolutions with groups")
        places = pad(_places(self._shape(node)), geometry.pads, geometry.mode, -1.0)[0]
        for axis, (size, step, gap) in enumerate(
            zip(kernel, geometry.stride, geometry.dilation, strict=True), 1
        ):
            places = places.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
        rank = len(kernel)
        order = [*range(1, rank + 1), 0, *range(rank + 1, 2 * rank + 1)]
        product = self._matrix(node, [of[0].at(places.permute(order))])
        return product.at(torch.arange(math.prod(node.shape)).reshape(-1, node.shape[0]).T)

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
        return self._emit(node.op, of, [], math.prod(node.shape))

    def _leaky(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        slope = -1.0 if node.op == "abs" else float(node.params["negative_slope"])
        return self._emit("leaky_relu", of, [], math.prod(node.shape), slope)

    def _standard(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Take a function of several settings in its usual one."""
        usual = {"beta": 1.0, "alpha": 1.0, "scale": 1.0, "input_scale": 1.0, "approximate": "none"}
        if any(node.params[key] != usual[key] for key in usual if key in node.params):
            raise self._refusal(node, "the checker knows it in its usual setting only")
        return self._scalar(node, of)

    def _move(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        if node.op == "pad" and node.params["value"] != 0.0 and node.params["mode"] == "constant":
            raise self._refusal(node, "the checker pads with zeros only")
        values = list(dict.fromkeys(k for pick in of for k in pick.of))
        parts = [
            pick.places.double().reshape(1, *self._shape(node, k))
            for k, pick in enumerate(self._gathered(of, values))
        ]
        places = node.facts.run(parts, filled(node.params, -1.0)).long().flatten()
        return self._trimmed(_Pick(tuple(values), places))

    def _compare(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Return a - relu(a - b) and b + relu(a - b)."""
        (a, b), size = of, math.prod(node.shape[1:])
        gap = self._emit("relu", [self._sum(a, self._minus(b))], [], size)
        return self._joined([self._sum(a, self._minus(gap)), self._sum(b, gap)])

    def _sum(self, *of: _Pick) -> _Pick:
        return self._emit("add", of, [], len(of[0].places))

    def _minus(self, of: _Pick) -> _Pick:
        array = self._keep("minus", torch.tensor([-1.0], dtype=torch.float64))
        return self._emit("diagonal", [of], [array], len(of.places))

    def _joined(self, of: Sequence[_Pick]) -> _Pick:
        values = [self._number(pick) for pick in of]
        return _Pick(tuple(values), torch.arange(sum(self.sizes[k] for k in values)))

    def _pool(self, node: Node, of: Sequence[_Pick]) -> _Pick:
        """Add the entries of every window or group, and divide by their number."""
        places = self._windows(node)
        count = places.shape[1] if node.op != "sum" else 1
        usual = {"divisor": None, "ceil_mode": False}
        plain = all(node.params.get(key, usual[key]) == usual[key] for key in usual)
        if not plain:
            raise self._refusal(node, "the checker knows averages over whole windows only")
        total = self._sum(*(of[0].at(column) for column in places.T))
        if count == 1:
            return total
        array = self._keep(f"count.{count}", torch.tensor([count], dtype=torch.float64))
        return self._emit("quotient", [total], [array], len(total.places))

    def _windows(self, node: Node) -> Tensor:
        """Return the places of the entries that are added up, [results, entries]."""
        shape, params = self._shape(node), node.params
        if "kernel" not in params:
            dims = [dim - 1 for dim in params["dims"]]
            kept = [axis for axis in range(len(shape)) if axis not in dims]
            return _places(shape)[0].permute(*kept, *dims).reshape(math.prod(node.shape), -1)
        once = {"dilation": (1,) * len(params["kernel"])}
        table, padded = window_places({**once, **params}, shape[1:], node.shape[1:])
        if bool(padded.any()):
            raise self._refusal(node, "the checker knows averages without padding only")
        channels = torch.arange(shape[0])[:, None, None] * math.prod(shape[1:])
        return (channels + table).flatten(0, 1)


def _places(shape: Sequence[int]) -> Tensor:
    """Return the number of every entry of a row, [1, *shape], as float64."""
    return torch.arange(math.prod(shape), dtype=torch.float64).reshape(1, *shape)
