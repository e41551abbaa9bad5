"""From a captured graph to the five operations and scalar functions that the checker knows.

Convolutions become patches and a matrix, wiring becomes a list of places, maxima and small sorts
become ReLUs: the vocabulary of `holdfast_check.network` stays small enough to be read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import Unsupported
from holdfast.graph.ir import Graph, Node
from holdfast.ops import Kind, names
from holdfast.ops.geometry import pad
from holdfast.ops.wiring import filled
from holdfast.sdp.lift import LARGEST_GROUP, places_of, sorting_rounds, windows

_SAME = ("relu", "tanh", "sigmoid")


@dataclass
class Lowered:
    """A network as the checker reads it.

    Attributes:
        ops: In order, as they stand in a certificate file.
        arrays: Matrices, offsets and places, by name.
    """

    ops: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, Tensor] = field(default_factory=dict)


def lower(graph: Graph) -> Lowered:
    """Return the operations of a network.

    Raises:
        Unsupported: When one of them is not made of what the checker knows.
    """
    return _Lowering(graph).whole()


def cut_points(ops: Sequence[dict[str, Any]]) -> list[int]:
    """Return the values that everything behind them is computed from."""
    found, earliest = [], len(ops)
    for k in range(len(ops) - 1, 0, -1):
        earliest = min(earliest, *ops[k]["of"])
        if earliest >= k:
            found.append(k)
    return found[::-1]


class _Lowering:
    """Walks a graph; every node becomes the number of a value.

    Args:
        graph: Captured model.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.result = graph, Lowered()
        self.values = {graph.perturbed_input.name: 0}
        rules = {"linear": self._linear, "conv": self._conv, "add": self._add, "sort": self._sort}
        rules |= dict.fromkeys(("shift", "scale", "divide"), self._diagonal)
        rules |= dict.fromkeys(("mean", "sum", "avg_pool"), self._pool)
        rules |= dict.fromkeys(("maximum", "minimum"), self._extreme)
        rules |= dict.fromkeys(("amax", "max_pool"), self._maxima)
        rules |= dict.fromkeys(names(Kind.WIRING), self._move)
        rules |= dict.fromkeys(_SAME, self._scalar)
        self.rules = rules | dict.fromkeys(("leaky_relu", "abs"), self._leaky)
        self.rules |= dict.fromkeys(("elu", "softplus", "gelu"), self._standard)

    def whole(self) -> Lowered:
        """Return the lowered graph; its last operation is the output."""
        for node in self.graph.nodes:
            if node.name in self.values:
                continue
            if node.op not in self.rules or any(name not in self.values for name in node.inputs):
                raise self._refusal(node, "the checker does not know this operation")
            of = [self.values[name] for name in node.inputs]
            self.values[node.name] = self.rules[node.op](node, of)
        last = self.values[self.graph.output]
        if last != len(self.result.ops) or not last:
            size = math.prod(self.graph[self.graph.output].shape)
            self._emit("take", [last], [self._keep("output", torch.arange(size))])
        return self.result

    def _refusal(self, node: Node, why: str) -> Unsupported:
        return Unsupported("a proof in a file", [node.obstacle(why)])

    def _emit(
        self, op: str, of: Sequence[int], arrays: Sequence[str] = (), slope: float = 0.0
    ) -> int:
        operation = {"op": op, "of": list(of), "arrays": list(arrays), "slope": slope.hex()}
        self.result.ops.append(operation)
        return len(self.result.ops)

    def _keep(self, name: str, tensor: Tensor) -> str:
        """Keep an array under a name of its own; one that is there already is not kept twice."""
        tensor = tensor.detach().contiguous()
        taken = self.result.arrays
        while name in taken and not (
            taken[name].dtype == tensor.dtype and torch.equal(taken[name], tensor)
        ):
            name += "'"
        taken[name] = tensor
        return name

    def _shape(self, node: Node, k: int = 0) -> tuple[int, ...]:
        return self.graph[node.inputs[k]].shape

    def _linear(self, node: Node, of: list[int]) -> int:
        return self._matrix(node, of[0])

    def _matrix(self, node: Node, value: int) -> int:
        """Apply a weight, its trailing dimensions as one, to every block of a value."""
        arrays = [
            self._keep(f"{node.path or node.op}.{key}", node.params[key])
            for key in ("weight", "bias")
            if node.params[key] is not None
        ]
        return self._emit("linear", [value], arrays)

    def _conv(self, node: Node, of: list[int]) -> int:
        geometry, kernel = node.params["geometry"], node.params["weight"].shape[2:]
        if geometry.groups != 1:
            raise self._refusal(node, "the checker does not know convolutions with groups")
        places = pad(places_of(self._shape(node)).double(), geometry.pads, geometry.mode, -1.0)[0]
        for axis, (size, step, gap) in enumerate(
            zip(kernel, geometry.stride, geometry.dilation, strict=True), 1
        ):
            places = places.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
        rank = len(kernel)
        order = [*range(1, rank + 1), 0, *range(rank + 1, 2 * rank + 1)]
        patches = self._take(node, of, places.permute(order))
        product = self._matrix(node, patches)
        channels = len(node.params["weight"])
        back = torch.arange(math.prod(node.shape)).reshape(-1, channels).T
        return self._take(node, [product], back)

    def _take(self, node: Node, of: list[int], places: Tensor) -> int:
        """Pick entries of the values `of`, one after the other."""
        places = places.long().flatten()
        sizes = [self._size(value) for value in of]
        if len(of) == 1 and torch.equal(places, torch.arange(sizes[0])):
            return of[0]
        return self._emit("take", of, [self._keep(f"{node.name}.places", places)])

    def _size(self, value: int) -> int:
        """Return how many entries a value has."""
        if value == 0:
            return math.prod(self.graph.perturbed_input.shape)
        op, arrays = self.result.ops[value - 1], self.result.arrays
        sizes = [self._size(k) for k in op["of"]]
        if op["op"] == "take":
            return len(arrays[op["arrays"][0]])
        if op["op"] == "linear":
            weight = arrays[op["arrays"][0]]
            return sizes[0] // weight[0].numel() * len(weight)
        return sizes[0]

    def _diagonal(self, node: Node, of: list[int]) -> int:
        key = {"scale": "factor", "divide": "divisor", "shift": "offset"}[node.op]
        number = node.params[key]
        number = number if isinstance(number, Tensor) else torch.tensor(number, dtype=torch.float64)
        wide = number if number.numel() == 1 else number.expand(1, *node.shape)
        name = self._keep(f"{node.path or node.name}.{key}", wide.flatten())
        if node.op == "divide":
            return self._emit("quotient", of, [name])
        return self._emit("diagonal", of, [name] if key == "factor" else ["", name])

    def _add(self, node: Node, of: list[int]) -> int:
        return self._emit("add", of)

    def _scalar(self, node: Node, of: list[int]) -> int:
        return self._emit(node.op, of)

    def _leaky(self, node: Node, of: list[int]) -> int:
        slope = -1.0 if node.op == "abs" else float(node.params["negative_slope"])
        return self._emit("leaky_relu", of, slope=slope)

    def _standard(self, node: Node, of: list[int]) -> int:
        """Take a function of several settings in its usual one."""
        usual = {"beta": 1.0, "alpha": 1.0, "scale": 1.0, "input_scale": 1.0, "approximate": "none"}
        if any(node.params[key] != usual[key] for key in usual if key in node.params):
            raise self._refusal(node, "the checker knows it in its usual setting only")
        return self._scalar(node, of)

    def _move(self, node: Node, of: list[int]) -> int:
        if node.op == "pad" and node.params["value"] != 0.0 and node.params["mode"] == "constant":
            raise self._refusal(node, "the checker pads with zeros only")
        first, parts = 0, []
        for k in range(len(of)):
            places = places_of(self._shape(node, k)).double()
            parts.append(places + first)
            first += places.numel()
        return self._take(node, of, node.facts.run(parts, filled(node.params, -1.0)))

    def _lanes(self, node: Node, value: int, places: Tensor) -> list[int]:
        """Return one value per column of the places."""
        return [self._take(node, [value], places[:, k]) for k in range(places.shape[1])]

    def _minus(self, value: int) -> int:
        minus = self._keep("minus", torch.tensor([-1.0], dtype=torch.float64))
        return self._emit("diagonal", [value], [minus])

    def _compare(self, a: int, b: int) -> tuple[int, int]:
        """Return max(a, b) = b + relu(a - b) and min(a, b) = a - relu(a - b)."""
        gap = self._emit("relu", [self._emit("add", [a, self._minus(b)])])
        return self._emit("add", [b, gap]), self._emit("add", [a, self._minus(gap)])

    def _extreme(self, node: Node, of: list[int]) -> int:
        high, low = self._compare(*of)
        return high if node.op == "maximum" else low

    def _sort(self, node: Node, of: list[int]) -> int:
        dim = node.params["dim"]
        length = self._shape(node)[dim - 1]
        if length > LARGEST_GROUP:
            raise self._refusal(node, f"groups of {length}")
        places = places_of(self._shape(node)).movedim(dim, -1).reshape(-1, length)
        lanes = self._lanes(node, of[0], places)
        for first in sorting_rounds(length):
            for k in range(first, length - 1, 2):
                lanes[k + 1], lanes[k] = self._compare(lanes[k], lanes[k + 1])
        lanes = lanes[::-1] if node.params["descending"] else lanes
        return self._take(node, lanes, places.T.flatten().argsort())

    def _windows(self, node: Node) -> Tensor:
        """Return the places that each entry of a result is made of; -1 for padding."""
        shape = self._shape(node)
        if "kernel" in node.params:
            settings = {"dilation": (1,) * len(node.params["kernel"]), **node.params}
            return torch.from_numpy(windows(settings, shape, node.shape))
        dims = [dim - 1 for dim in node.params["dims"]]
        kept = [axis for axis in range(len(shape)) if axis not in dims]
        return places_of(shape)[0].permute(*kept, *dims).reshape(math.prod(node.shape), -1)

    def _maxima(self, node: Node, of: list[int]) -> int:
        places = self._windows(node)
        places = torch.where(places < 0, places.amax(1, keepdim=True), places)
        lanes = self._lanes(node, of[0], places)
        while len(lanes) > 1:
            pairs = [lanes[k : k + 2] for k in range(0, len(lanes), 2)]
            lanes = [self._compare(*p)[0] if len(p) == 2 else p[0] for p in pairs]
        return lanes[0]

    def _pool(self, node: Node, of: list[int]) -> int:
        places = self._windows(node)
        count = places.shape[1] if node.op != "sum" else 1
        usual = {"divisor": None, "ceil_mode": False}
        plain = all(node.params.get(key, usual[key]) == usual[key] for key in usual)
        if not plain or bool((places < 0).any()) or count & (count - 1):
            raise self._refusal(node, "the checker knows averages of 2, 4, 8, ... entries only")
        total = self._emit("add", self._lanes(node, of[0], places))
        if count == 1:
            return total
        share = self._keep(f"share.{count}", torch.tensor([1.0 / count], dtype=torch.float64))
        return self._emit("diagonal", [total], [share])
