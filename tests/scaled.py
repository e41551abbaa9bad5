"""Small nets with layers of any scale, their Lipschitz constants and class changes in rationals.

Every net has two inputs. With ReLUs and without offsets it is linear on sectors of the plane, which
are cut further layer by layer: the Jacobians found are exactly those that occur.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from holdfast.graph.ir import Graph, Node
from holdfast.ops.geometry import ConvGeometry

Vector = Sequence[Fraction]
Matrix = Sequence[Vector]
Sector = tuple[Vector, Vector, Matrix]
"""The points between two rays, less than half a turn apart, and the linear map there."""


def rationals(values: Tensor) -> list[Fraction]:
    """Return the entries of a vector, exactly."""
    return [Fraction(value) for value in values.double().flatten().tolist()]


def dot(left: Vector, right: Vector) -> Fraction:
    """Return the sum of products."""
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))


def plus(left: Vector, right: Vector) -> list[Fraction]:
    """Return the sum of two vectors."""
    return [a + b for a, b in zip(left, right, strict=True)]


def product(left: Matrix, right: Matrix) -> Matrix:
    """Return the product of two matrices."""
    return [[dot(row, column) for column in zip(*right, strict=True)] for row in left]


def power(vector: Vector, norm: float) -> Fraction:
    """Return the norm of a vector, squared for l2, so that all comparisons stay rational."""
    if norm == 2.0:
        return dot(vector, vector)
    sizes = [abs(entry) for entry in vector]
    return sum(sizes, Fraction(0)) if norm == 1.0 else max(sizes)


def powered(value: float, norm: float) -> Fraction:
    """Return a claimed norm as `power` returns a true one."""
    return Fraction(value) ** (2 if norm == 2.0 else 1)


def exceeds(value: float, jacobian: Matrix, norm: float) -> bool:
    """Return whether a number is larger than the operator norm of a matrix with two columns."""
    return all(entry > 0 for entry in _excess(value, jacobian, norm))


def reaches(value: float, jacobian: Matrix, norm: float) -> bool:
    """Return whether a number is at least the operator norm."""
    return math.isinf(value) or all(entry >= 0 for entry in _excess(value, jacobian, norm))


def _excess(value: float, jacobian: Matrix, norm: float) -> list[Fraction]:
    """Return numbers that are all positive where the value is larger, and at least 0 where equal.

    For l2 they are minors of value^2 I - J^T J.
    """
    columns = list(zip(*jacobian, strict=True))
    if norm != 2.0:
        rows = jacobian if norm == math.inf else columns
        return [Fraction(value) - max(power(row, 1.0) for row in rows)]
    a, d = (Fraction(value) ** 2 - dot(column, column) for column in columns)
    return [a, d, a * d - dot(*columns) ** 2]


@dataclass
class ScaledNet:
    """A graph and its function in rationals, built layer by layer.

    Attributes:
        dtype: Of the weights.
        image: Whether values are images of one pixel, and matrices convolutions.
        nodes: Of the graph.
        layers: Weight, offset, and whether a ReLU follows.
    """

    dtype: torch.dtype
    image: bool = False
    nodes: list[Node] = field(default_factory=list)
    layers: list[tuple[Matrix, Vector, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nodes.append(Node("input", "input", shape=(2, 1, 1) if self.image else (2,)))

    @property
    def width(self) -> int:
        """Number of entries of the last value."""
        return self.nodes[-1].shape[0]

    def _emit(self, op: str, *inputs: str, width: int = 0, **params: object) -> None:
        shape = (width or self.width, *self.nodes[-1].shape[1:])
        before = inputs or (self.nodes[-1].name,)
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(Node(name, op, before, params, shape, path=name))

    def _keep(self, matrix: Matrix, offset: Vector | None = None, relu: bool = False) -> None:
        self.layers.append((matrix, offset or [Fraction(0)] * len(matrix), relu))

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Multiply by a matrix, and add."""
        if self.image:
            geometry = ConvGeometry((1, 1), ((0, 0), (0, 0)), (1, 1))
            kernel = weight[:, :, None, None]
            self._emit("conv", width=len(weight), weight=kernel, bias=bias, geometry=geometry)
        else:
            self._emit("linear", width=len(weight), weight=weight, bias=bias)
        self._keep([rationals(row) for row in weight], None if bias is None else rationals(bias))

    def residual(self, weight: Tensor) -> None:
        """Add a matrix times the value to the value."""
        before = self.nodes[-1].name
        self.linear(weight)
        self._emit("add", before, self.nodes[-1].name)
        matrix, *_ = self.layers.pop()
        self._keep([plus(row, unit) for row, unit in zip(matrix, _unit(self.width), strict=True)])

    def scale(self, factors: Tensor) -> None:
        """Multiply every entry by a number of its own."""
        self._emit("scale", factor=factors.reshape(-1, *[1] * (len(self.nodes[-1].shape) - 1)))
        self._keep(_diagonal(rationals(factors)))

    def divide(self, divisor: float) -> None:
        """Divide by a Python number."""
        self._emit("divide", divisor=divisor)
        self._keep(_diagonal([1 / Fraction(divisor)] * self.width))

    def batch_norm(self, weight: Tensor, exponent: int) -> None:
        """Normalise by a standard deviation of exactly 2^exponent."""
        zeros = torch.zeros(self.width, dtype=self.dtype)
        settings = {"mean": zeros, "bias": zeros, "weight": weight, "eps": 0.0}
        self._emit("batch_norm", variance=zeros + 4.0**exponent, **settings)
        self._keep(_diagonal([w / Fraction(2) ** exponent for w in rationals(weight)]))

    def relu(self) -> None:
        """Set negative entries to 0."""
        self._emit("relu")
        self._keep(_unit(self.width), relu=True)

    def head(self, weight: Tensor, bias: Tensor) -> None:
        """End with a linear layer on the flattened value."""
        if self.image:
            self._emit("reshape", shape=(self.width,))
            self.nodes[-1] = dataclasses.replace(self.nodes[-1], shape=(self.width,))
            self.image = False
        self.linear(weight, bias)

    def graph(self) -> Graph:
        """Return the graph."""
        return Graph(tuple(self.nodes), self.nodes[-1].name, {}, "", self.dtype)

    def value(self, point: Vector) -> Vector:
        """Return the output at a point."""
        for matrix, offset, relu in self.layers:
            point = plus([dot(row, point) for row in matrix], offset)
            point = [max(entry, Fraction(0)) for entry in point] if relu else point
        return point

    def sectors(self) -> list[Sector]:
        """Return the sectors on which the net without its offsets is linear."""
        rays = [[Fraction(a), Fraction(b)] for a, b in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        found: list[Sector] = [(rays[k], rays[(k + 1) % 4], _unit(2)) for k in range(4)]
        for matrix, _, relu in self.layers:
            found = [(a, b, product(matrix, M)) for a, b, M in found]
            found = [part for sector in found for part in _bent(sector)] if relu else found
        return found

    def flips(self, point: Vector, label: int) -> Iterator[tuple[float, Vector]]:
        """Yield steps (with the norm in which they are short) to where the label is not alone."""
        for _, _, M in self.sectors():
            offset = self.layers[-1][1]
            for other in range(len(M)):
                slope = [a - b for a, b in zip(M[other], M[label], strict=True)]
                gap = offset[label] - offset[other] - dot(slope, point)
                if other == label or gap <= 0 or not any(slope):
                    continue
                for norm, step in _steps(slope, gap):
                    value = self.value(plus(point, step))
                    if value[other] >= value[label]:
                        yield norm, step


def _steps(slope: Vector, gap: Fraction) -> Iterator[tuple[float, Vector]]:
    """Yield the shortest steps with <slope, step> = gap."""
    steepest = max(range(2), key=lambda k: abs(slope[k]))
    yield 1.0, [gap / slope[steepest] if k == steepest else Fraction(0) for k in range(2)]
    yield 2.0, [gap * a / dot(slope, slope) for a in slope]
    yield math.inf, [gap / power(slope, 1.0) * ((a > 0) - (a < 0)) for a in slope]


def _unit(size: int) -> Matrix:
    return _diagonal([Fraction(1)] * size)


def _diagonal(entries: Vector) -> Matrix:
    return [
        [a if i == j else Fraction(0) for j in range(len(entries))] for i, a in enumerate(entries)
    ]


def _bent(sector: Sector) -> Iterator[Sector]:
    """Cut a sector where a row of its map changes sign, and set the negative rows to 0."""
    first, last, M = sector
    rays = [first, last]
    for row in M:
        cut: list[Vector] = []
        for a, b in itertools.pairwise(rays):
            cut.append(a)
            if dot(row, a) * dot(row, b) < 0:
                across = [-row[1], row[0]]
                cut.append(across if _turns_left(a, across) else [-entry for entry in across])
        rays = [*cut, last]
    for a, b in itertools.pairwise(rays):
        between = plus([x / power(a, math.inf) for x in a], [x / power(b, math.inf) for x in b])
        yield a, b, [row if dot(row, between) > 0 else [Fraction(0)] * 2 for row in M]


def _turns_left(a: Vector, b: Vector) -> bool:
    return a[0] * b[1] > a[1] * b[0]
