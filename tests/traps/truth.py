"""The true distance to a change of class, in exact rationals, and what must hold on both sides.

Every net here leaves its class exactly on a union of half-spaces, which a test writes down by hand
or reads off by pushing unit vectors through an affine net. The distance to a half-space is known
in l1, l2 and linf, so a certificate can be compared with the truth without any tolerance.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

import holdfast
from holdfast.certificates.certify import CertifyOptions, certify_graph

NORMS = (1.0, 2.0, math.inf)
Half = tuple[Sequence[Fraction], Fraction]
"""A slope and an offset: the class is left where <slope, x> + offset >= 0."""


class Function(nn.Module):
    """A function of one tensor as a module in eval mode."""

    def __init__(self, function: Callable[[Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(x)


def dyadic(seed: int, *shape: int) -> Tensor:
    """Return numbers k/8, |k| <= 8: sums of a few products of them are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=generator).float() / 8


def with_dyadic(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module such weights."""
    for place, parameter in enumerate(module.parameters()):
        parameter.data = dyadic(seed + place, *parameter.shape)
    return module.eval()


def threshold(body: nn.Module, weights: Tensor, bias: float) -> nn.Sequential:
    """Return a net of class 0 while `<weights, body(x)> < bias`."""
    head = nn.Linear(len(weights), 2)
    head.weight.data = torch.stack([torch.zeros_like(weights), weights])
    head.bias.data = torch.tensor([bias, 0.0])
    return nn.Sequential(body, nn.Flatten(), head).eval()


def affine_halves(model: nn.Module, x: Tensor, label: int) -> list[Half]:
    """Read the half-spaces of an affine net off by pushing unit vectors through it.

    In float64 this is exact for the nets here, whose values have few digits.
    """
    double, count = _double(model), x[0].numel()
    points = torch.cat([torch.zeros(1, count), torch.eye(count)]).double().reshape(-1, *x.shape[1:])
    with torch.no_grad():
        values = double(points)
    _double(model, back=True)
    offset, matrix = values[0], (values[1:] - values[0]).T
    halves = []
    for j in range(len(offset)):
        slope = [Fraction(a) - Fraction(b) for a, b in zip(*_rows(matrix, j, label), strict=True)]
        if j != label and any(slope):
            halves.append((slope, Fraction(float(offset[j])) - Fraction(float(offset[label]))))
    return halves


def sums_of_largest(choices: Iterable[Sequence[Half]], bias: Fraction) -> list[Half]:
    """Return the half-spaces of `sum of max over choices >= bias`: one for each selection."""
    halves = []
    for selection in itertools.product(*choices):
        slope = [sum(entries) for entries in zip(*(part[0] for part in selection), strict=True)]
        if any(slope):
            halves.append((slope, sum(part[1] for part in selection) - bias))
    return halves


def power(value: Fraction, norm: float) -> Fraction:
    """Return the value, squared for l2, so that all comparisons stay rational."""
    return value * value if norm == 2 else value


def distance_and_witness(
    halves: Sequence[Half], point: Sequence[Fraction], norm: float
) -> tuple[Fraction, list[Fraction]]:
    """Return `power(distance)` to the union of half-spaces, and the step to its nearest point."""
    return min((_to_half(half, point, norm) for half in halves), key=lambda found: found[0])


def _to_half(half: Half, point: Sequence[Fraction], norm: float) -> tuple[Fraction, list[Fraction]]:
    slope, offset = half
    gap = -(sum(a * b for a, b in zip(slope, point, strict=True)) + offset)
    assert gap > 0, "the row itself must be of its class"
    if norm == 2:
        square = sum(a * a for a in slope)
        return gap * gap / square, [gap * a / square for a in slope]
    if norm == 1:
        steepest = max(range(len(slope)), key=lambda i: abs(slope[i]))
        step = [gap / a if i == steepest else Fraction(0) for i, a in enumerate(slope)]
        return gap / abs(slope[steepest]), step
    length = gap / sum(abs(a) for a in slope)
    return length, [length * ((a > 0) - (a < 0)) for a in slope]


def exact(x: Tensor) -> list[Fraction]:
    """Return the entries of a row as rationals."""
    return [Fraction(value) for value in x.double().flatten().tolist()]


def check_both_sides(
    model: nn.Module, x: Tensor, halves: Sequence[Half], executed: bool = True, label: int = 0
) -> None:
    """Compare the net and its certificates with the true distance, in every norm.

    The net flips just beyond the distance and nowhere that is tried at 0.999 of it; the larger of
    the global and the local certificate does not exceed it, and is above 0.
    """
    graph = holdfast.capture(model, x)
    semantics = ("real", "float32") if executed else ("real",)
    for norm, kind in itertools.product(NORMS, semantics):
        true, step = distance_and_witness(halves, exact(x), norm)
        _check_net(model, x, step, norm, label)
        options = CertifyOptions(norm, "auto", kind)
        radius = Fraction(float(certify_graph(graph, x, torch.tensor([label]), options).radius))
        assert 0 < power(radius, norm) <= true, options


def every_radius(graph: holdfast.Graph, x: Tensor, labels: Tensor, norm: float) -> Tensor:
    """Return the radii of every method and semantics, [6, N]."""
    kinds = itertools.product(("auto", "global", "local"), ("real", "float32"))
    return torch.stack(
        [certify_graph(graph, x, labels, CertifyOptions(norm, *kind)).radius for kind in kinds]
    )


def _check_net(model: nn.Module, x: Tensor, step: list[Fraction], norm: float, label: int) -> None:
    move = torch.tensor([float(entry) for entry in step], dtype=torch.float64).reshape(x.shape)
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(500, *x.shape[1:], generator=generator, dtype=torch.float64)
    if norm == math.inf:
        others = others.sign()
    length = torch.linalg.vector_norm(move, ord=norm)
    lengths = torch.linalg.vector_norm(others.flatten(1), ord=norm, dim=1)
    others *= (length / lengths).reshape(-1, *[1] * (x.dim() - 1))
    double = _double(model)
    with torch.no_grad():
        beyond = double(x.double() + 1.001 * move).argmax(1)
        within = double(x.double() + 0.999 * torch.cat([move, others])).argmax(1)
    _double(model, back=True)
    assert int(beyond) != label
    assert bool((within == label).all())


def _double(model: nn.Module, back: bool = False) -> nn.Module:
    return model.float() if back else model.double()


def _rows(matrix: Tensor, *places: int) -> list[list[float]]:
    return [matrix[place].tolist() for place in places]
