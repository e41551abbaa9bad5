"""Exact rows of rational numbers: sums, products and quotients of floats never round."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

Integers = np.ndarray
"""One-dimensional, of Python integers (dtype object)."""


@dataclass(frozen=True, eq=False)
class RationalRow:
    """The numbers `integers / bottom`.

    Attributes:
        integers: Python integers.
        bottom: Positive; a power of two until something is divided by another number.
    """

    integers: Integers
    bottom: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "RationalRow":
        """Return finite floating-point numbers, exactly."""
        ratios = [float(value).as_integer_ratio() for value in values]
        bottom = max((own for _, own in ratios), default=1)  # all are powers of two
        scaled = [top * (bottom // own) for top, own in ratios]
        return cls(np.array(scaled, dtype=object), bottom)

    def times(self, factor: float) -> "RationalRow":
        """Return the row times a finite floating-point number."""
        top, bottom = float(factor).as_integer_ratio()
        return RationalRow(self.integers * top, self.bottom * bottom)

    def over(self, divisor: float) -> "RationalRow":
        """Return the row divided by a positive finite floating-point number."""
        top, bottom = float(divisor).as_integer_ratio()
        return RationalRow(self.integers * bottom, self.bottom * top)

    def plus(self, other: "RationalRow") -> "RationalRow":
        """Return the sum of two rows of one length."""
        (left, right), bottom = aligned((self, other))
        return RationalRow(left + right, bottom)

    @cached_property
    def nearest(self) -> Tensor:
        """The numbers rounded to nearest, as `floats`."""
        return torch.tensor(self.floats(), dtype=torch.float64)

    def floats(self) -> list[float]:
        """Return the numbers rounded to nearest; all infinite where one is beyond float64."""
        try:
            return [top / self.bottom for top in self.integers]
        except OverflowError:
            return [math.inf] * len(self.integers)


def aligned(rows: Sequence[RationalRow]) -> tuple[list[Integers], int]:
    """Return rows as integers over one positive integer, and that integer."""
    bottom = math.lcm(*(row.bottom for row in rows))
    return [row.integers * (bottom // row.bottom) for row in rows], bottom


def null_vector(rows: list[Integers]) -> list[int] | None:
    """Return whole weights, not all 0, with which rows of integers sum to 0.

    Args:
        rows: Of one length, at least one.

    Returns:
        The weights, the only ones up to a factor; None where there are none, or several.
    """
    matrix = [list(column) for column in zip(*rows, strict=True)]
    unknowns, rank = len(rows), 0
    pivots: list[int] = []
    last = 1
    for column in range(unknowns):
        place = next((i for i in range(rank, len(matrix)) if matrix[i][column]), None)
        if place is None:
            continue
        matrix[rank], matrix[place] = matrix[place], matrix[rank]
        pivot = matrix[rank]
        for i, line in enumerate(matrix):
            if i != rank:
                # Fraction-free elimination (Bareiss, 1968): the division leaves no rest.
                factor = line[column]
                matrix[i] = [
                    (pivot[column] * a - factor * b) // last
                    for a, b in zip(line, pivot, strict=True)
                ]
        last = pivot[column]
        pivots.append(column)
        rank += 1
    if rank != unknowns - 1:
        return None
    (free,) = set(range(unknowns)) - set(pivots)
    weights = [0] * unknowns
    weights[free] = last
    for line, column in zip(matrix, pivots, strict=False):
        weights[column] = -line[free]
    return weights
