"""Float32 arithmetic carried out in rationals: any order of summation, fused, flushed or not."""

import random
from collections.abc import Callable, Sequence
from fractions import Fraction

from tests.nets import Residual
from torch import nn

_NORMAL = Fraction(1, 2**126)


def rounded(value: Fraction) -> Fraction:
    """Return the nearest float32, ties to even; subnormal numbers included, overflow not."""
    if value == 0:
        return value
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return round(value / unit) * unit


class Machine:
    """Executes small nets as some float32 hardware might.

    Args:
        seed: Decides the order of every sum.
        fused: Products are added without being rounded first.
        flush: Subnormal numbers count as zero where they are read and written.
    """

    def __init__(self, seed: int, fused: bool, flush: bool) -> None:
        self.random = random.Random(seed)
        self.fused, self.flush = fused, flush

    def read(self, value: Fraction) -> Fraction:
        return Fraction(0) if self.flush and abs(value) < _NORMAL else value

    def write(self, value: Fraction) -> Fraction:
        return self.read(rounded(value))

    def linear(self, layer: nn.Linear, values: Sequence[Fraction]) -> list[Fraction]:
        values = [self.read(value) for value in values]
        bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
        rows = zip(layer.weight.tolist(), bias, strict=True)
        return [
            self._sum([self.read(Fraction(w)) for w in row], values, self.read(Fraction(b)))
            for row, b in rows
        ]

    def _sum(self, row: list[Fraction], values: list[Fraction], bias: Fraction) -> Fraction:
        pairs = list(zip(row, values, strict=True))
        self.random.shuffle(pairs)
        if self.fused:
            first = self.random.random() < 0.5
            total = bias if first else Fraction(0)
            for weight, value in pairs:
                total = self.write(total + weight * value)
            return total if first else self.write(total + bias)
        terms = [self.write(weight * value) for weight, value in pairs] + [bias]
        while len(terms) > 1:
            self.random.shuffle(terms)
            terms.append(self.write(terms.pop() + terms.pop()))
        return terms[0]

    def run(self, net: nn.Module, values: list[Fraction]) -> list[Fraction]:
        """Execute a net of linear, piecewise linear and residual layers."""
        if isinstance(net, nn.Linear):
            return self.linear(net, values)
        if isinstance(net, Residual):
            moved = self.run(net.body, values)
            pairs = zip(values, moved, strict=True)
            return [self.write(self.read(a) + self.read(b)) for a, b in pairs]
        if isinstance(net, nn.Sequential):
            for layer in net:
                values = self.run(layer, values)
            return values
        if isinstance(net, nn.LeakyReLU):
            slope = rounded(Fraction(net.negative_slope))
            return [v if (v := self.read(u)) > 0 else self.write(v * slope) for u in values]
        return [_SELECTIONS[type(net)](net, self.read(value)) for value in values]


_SELECTIONS: dict[type, Callable] = {
    nn.ReLU: lambda net, v: max(v, Fraction(0)),
    nn.Hardtanh: lambda net, v: min(
        max(v, rounded(Fraction(net.min_val))), rounded(Fraction(net.max_val))
    ),
}


def exact(net: nn.Module, values: list[Fraction]) -> list[Fraction]:
    """Evaluate the real function of the stored weights."""
    if isinstance(net, nn.Linear):
        bias = [0.0] * net.out_features if net.bias is None else net.bias.tolist()
        return [
            sum((Fraction(w) * v for w, v in zip(row, values, strict=True)), Fraction(b))
            for row, b in zip(net.weight.tolist(), bias, strict=True)
        ]
    if isinstance(net, Residual):
        return [a + b for a, b in zip(values, exact(net.body, values), strict=True)]
    if isinstance(net, nn.Sequential):
        for layer in net:
            values = exact(layer, values)
        return values
    if isinstance(net, nn.LeakyReLU):
        return [v if v > 0 else v * Fraction(net.negative_slope) for v in values]
    low, high = Fraction(0), None
    if isinstance(net, nn.Hardtanh):
        low, high = Fraction(net.min_val), Fraction(net.max_val)
    return [max(v, low) if high is None else min(max(v, low), high) for v in values]


def distance_within(x: Sequence[float], y: Sequence[float], radius: float, norm: float) -> bool:
    """Decide ||x - y|| <= radius exactly."""
    gaps = [abs(Fraction(a) - Fraction(b)) for a, b in zip(x, y, strict=True)]
    if norm == 2:
        return sum(gap * gap for gap in gaps) <= Fraction(radius) ** 2
    return (sum(gaps) if norm == 1 else max(gaps)) <= Fraction(radius)
