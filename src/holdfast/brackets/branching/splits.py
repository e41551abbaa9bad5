"""How to split a part of a box: halve a side, or hold a unit on either side of its kink."""

import bisect
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from holdfast.batches import flat_rows
from holdfast.bounds.forms import Forms
from holdfast.bounds.forward import Forward, Held, Kink
from holdfast.brackets.branching.walls import Sides

Side = tuple[str, int, float]
"""A unit that is held: its node, its place there, and -1.0 or 1.0."""


Unit = tuple[str, int, tuple[float, Tensor, float]]
"""A unit to split by: its node, its place there, and its value (center, slopes, error)."""


class Choices:
    """How to split each part of one pass.

    Args:
        forward: Just read.
        out: What it returned.
        count: Of parts.
    """

    def __init__(self, forward: Forward, out: Forms, count: int) -> None:
        kinks = forward.kinks
        self.sides = {name: kink.sides().expand(count, -1).numpy() for name, kink in kinks.items()}
        self._axes: list[int | None] = [None] * count
        self._units: list[Unit | None] = [None] * count
        if kinks and out.reach.requires_grad:  # else the outputs read none of them
            self._choose(kinks, out, count)

    def of(self, k: int) -> tuple[int | None, Unit | None]:
        """Return the moving entry to halve, or the unit to split by; neither where none matters."""
        return self._axes[k], self._units[k]

    def sides_of(self, k: int, held: Sequence[Side]) -> Sides:
        """Return the sides of all units of the k-th part."""
        found = {name: table[k] for name, table in self.sides.items()}
        for name, place, side in held:
            found[name] = found[name].copy()
            found[name][place] = int(side)
        return found

    def _choose(self, kinks: Mapping[str, Kink], out: Forms, count: int) -> None:
        """Compare what halving each entry decides with what splitting by a unit decides."""
        reaches = [kink.reach for kink in kinks.values()]
        # Where rows of bounded length bound more than boxes do, it is their length that counts.
        total = out.length.sum() + 1e-3 * out.reach.sum()
        rates = torch.autograd.grad(total, reaches, allow_unused=True)
        parts = [
            flat_rows(torch.zeros_like(reach) if rate is None else reach * rate).expand(count, -1)
            for reach, rate in zip(reaches, rates, strict=True)
        ]
        weights = torch.cat(parts, 1).detach().nan_to_num(0.0, 0.0)
        # How much of the reach of the Jacobian comes from each unit; the largest are enough.
        weights, places = weights.topk(min(64, weights.shape[1]), 1)
        weights = weights.where(weights > 1e-9 * weights.sum(1, keepdim=True), 0.0)
        d = out.jacobian.shape[1]
        center, error = (
            torch.cat([flat_rows(part).expand(count, -1) for part in parts], 1).gather(1, places)
            for parts in zip(*((k.gap.center, k.gap.apart(d)) for k in kinks.values()), strict=True)
        )
        slopes = [flat_rows(k.gap.slope[:, :d], 2).expand(count, -1, -1) for k in kinks.values()]
        slope = torch.cat(slopes, 2).gather(2, places[:, None].expand(-1, d, -1))
        sizes, swing = slope.abs(), slope.abs().sum(1)
        # In one of the halves, the other one decides on nothing.
        decided = (center.abs()[:, None] + sizes > (swing + error)[:, None]).double()
        gains = 0.5 * (decided * weights[:, None]).sum(2)
        # Where nothing is decided, halve what moves the units most.
        moved = (sizes / (swing + error).clamp(min=1e-300)[:, None] * weights[:, None]).sum(2)
        axes = (gains + 1e-3 * moved).argmax(1).tolist()
        # A unit has a wall where it reads no other unit that is open.
        room = 1e-9 * swing + 1e-13 * center.abs()
        gain, best = weights.where(error <= room, 0.0).max(1)
        split = (gain > 0.0) & (gain >= gains.amax(1))
        starts = [0, *itertools.accumulate(part.shape[1] for part in parts)]
        names = list(kinks)
        for k in range(count):
            index = int(best[k])
            if bool(split[k]):
                number = bisect.bisect_right(starts, int(places[k, index])) - 1
                place = int(places[k, index]) - starts[number]
                value = float(center[k, index]), slope[k, :, index], float(error[k, index])
                self._units[k] = names[number], place, value
            elif bool(weights[k].any()):
                self._axes[k] = axes[k]


def held_units(sides: Sequence[Sequence[Side]]) -> Held:
    """Return the held units of a batch by node."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for k, part in enumerate(sides):
        for name, place, side in part:
            found.setdefault(name, []).append((k, place, side))
    held: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, rows in found.items():
        boxes, places, ends = (torch.tensor(column) for column in zip(*rows, strict=True))
        held[name] = boxes, places, ends
    return held
