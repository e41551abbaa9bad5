"""Cells of a network: where some units keep their side, and whether any input lies there.

A cell is open: `side_i z_i(x) > 0` for the units whose pre-activation is linear in x once the
units before them keep their side. The Lipschitz constant on a convex set with interior is the
largest over the open cells that meet it, so a cell without interior may be left out. A linear
program finds a point inside, or multipliers that refute it; the multipliers are checked in exact
arithmetic (Gordan's theorem of the alternative: y >= 0, y != 0, y A = 0, y b <= 0).
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from holdfast.brackets.branching.pieces import PiecewiseNet
from holdfast.brackets.branching.rationals import RationalRow, aligned, null_vector
from holdfast.sdp.form import Array

Sides = NDArray[np.int8]
Limits = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class Cell:
    """Where some units keep their side.

    Attributes:
        pieces: The network.
        sides: [units] -1, 0 (free) or 1.
        values: Row (gradient, offset) of every unit's value that is linear in x.
        walls: Rows (gradient, offset) that are positive inside.
    """

    pieces: PiecewiseNet
    sides: Sides
    values: dict[int, RationalRow]
    walls: tuple[RationalRow, ...]

    @classmethod
    def whole(cls, pieces: PiecewiseNet) -> "Cell":
        """Return the cell of all inputs."""
        return cls(pieces, np.zeros(len(pieces.B), np.int8), {}, ())._grown()

    def split(self, unit: int, side: int) -> "Cell":
        """Return the half in which a free unit is on one side of 0."""
        sides = self.sides.copy()
        sides[unit] = side
        return Cell(self.pieces, sides, self.values, self.walls)._grown()

    def slopes(self) -> tuple[Array, Array]:
        """Return the smallest and largest slope of every unit inside."""
        left, right = self.pieces.left, self.pieces.right
        fixed = np.where(self.sides > 0, right, left)
        free = self.sides == 0
        low = np.where(free, np.minimum(left, right), fixed)
        return low, np.where(free, np.maximum(left, right), fixed)

    @cached_property
    def free(self) -> NDArray[np.int64]:
        """Units with a kink that are on neither side yet."""
        kinked = self.pieces.kinked
        return kinked[self.sides[kinked] == 0]

    def is_linear(self, unit: int) -> bool:
        """Return whether a unit's pre-activation is linear in x inside."""
        return all(place in self.values for place in self.pieces.reads(unit))

    def _grown(self) -> "Cell":
        """Follow the network as far as it is linear."""
        sides, values, walls = self.sides.copy(), dict(self.values), list(self.walls)
        grown = Cell(self.pieces, sides, values, ())
        for unit in range(len(sides)):
            if unit in values or not grown.is_linear(unit):
                continue
            row = grown._before(unit)
            if not row.integers[:-1].any():  # constant: no wall, and no side that could be empty
                sides[unit] = sides[unit] or (1 if row.integers[-1] > 0 else -1)
            elif self._bent(unit):
                if not sides[unit]:
                    continue
                walls.append(row.times(float(sides[unit])))
            slope = self.pieces.right[unit] if sides[unit] > 0 else self.pieces.left[unit]
            values[unit] = row.times(slope).over(self.pieces.divisor[unit])
        return dataclasses.replace(grown, walls=tuple(walls))

    def _bent(self, unit: int) -> bool:
        return bool(self.pieces.left[unit] != self.pieces.right[unit])

    def _before(self, unit: int) -> RationalRow:
        """Return the row of a unit's pre-activation, not divided yet, which is linear in x."""
        d = self.pieces.inputs
        line = self.pieces.B[unit]
        total = RationalRow.of([*line[:d], self.pieces.offset[unit]])
        for place in self.pieces.reads(unit):
            total = total.plus(self.values[place].times(line[d + place]))
        return total


@dataclass(frozen=True)
class Room:
    """What is known about the inputs in a cell.

    Attributes:
        empty: Proved: the cell has no interior.
        point: A point that seems to be inside; None where none was found.
    """

    empty: bool
    point: Array | None


def look_inside(cell: Cell, limits: Limits | None) -> Room:
    """Find a point of a cell, or prove that it has no interior; see `look_between`."""
    return look_between(cell.walls, cell.pieces.inputs, limits)


@np.errstate(over="ignore", invalid="ignore")
def look_between(rows: tuple[RationalRow, ...], d: int, limits: Limits | None) -> Room:
    """Find a point where all walls are positive, or prove that there is none.

    Args:
        rows: Of the walls, (gradient, offset).
        d: How many inputs there are.
        limits: Lower and upper ends of a box around the region; None for all inputs.

    Returns:
        What was found; nothing that is not proved is called empty.
    """
    from scipy.optimize import linprog  # heavy, and needed by few commands

    # Without limits, near the origin first: a point there has more digits for its slope.
    near, everywhere = ((np.full(d, -size), np.full(d, size)) for size in (1e4, np.inf))
    boxes = [limits] if limits else [near, everywhere]
    if not rows:
        return Room(False, 0.5 * boxes[0][0] + 0.5 * boxes[0][1])
    walls = np.array([wall.floats() for wall in rows])
    lengths = np.linalg.norm(walls[:, :d], axis=1)
    walls = walls / np.maximum(lengths, 1e-300)[:, None]
    if not np.isfinite(walls).all():
        return Room(False, None)
    # maximise t with A x + b >= t, t <= 1
    tight = np.hstack([-walls[:, :d], np.ones((len(walls), 1))])
    cost = np.zeros(d + 1)
    cost[d] = -1.0
    marginals = np.zeros(len(walls))
    for ends in boxes:
        box = [*zip(*ends, strict=True), (None, 1.0)]
        found = linprog(cost, tight, walls[:, d], bounds=box, method="highs-ds")
        if found.status != 0:
            return Room(False, None)
        if found.x[d] > 1e-11:
            return Room(False, found.x[:d])
        marginals = found.ineqlin.marginals
    weights = np.clip(-marginals / np.maximum(lengths, 1e-300), 0.0, 1e300)
    refuted = limits is not None and _refuted_in_box(rows, weights, limits)
    return Room(refuted or _refuted_anywhere(rows, weights), None)


def _refuted_in_box(walls: tuple[RationalRow, ...], weights: Array, ends: Limits) -> bool:
    """Prove that a weighted sum of the walls is nowhere positive in the box."""
    used = np.flatnonzero(weights > 0)
    if not len(used):
        return False
    total = walls[used[0]].times(weights[used[0]])
    for wall in used[1:]:
        total = total.plus(walls[wall].times(weights[wall]))
    sides, bottom = aligned([RationalRow.of(end) for end in ends])
    most = sum(max(g * a, g * b) for g, a, b in zip(total.integers[:-1], *sides, strict=True))
    return most + total.integers[-1] * bottom <= 0


def _refuted_anywhere(walls: tuple[RationalRow, ...], weights: Array) -> bool:
    """Prove that a weighted sum of the walls is a constant that is not positive."""
    used = np.flatnonzero(weights > 1e-9 * weights.max(initial=0.0))
    if not len(used):
        return False
    integers, _ = aligned([walls[k] for k in used])
    found = null_vector([row[:-1] for row in integers])
    if found is None:
        return False
    if found[0] < 0:
        found = [-weight for weight in found]
    if any(weight < 0 for weight in found):
        return False
    constant = sum(weight * row[-1] for weight, row in zip(found, integers, strict=True))
    return constant <= 0
