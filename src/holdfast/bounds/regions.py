"""Many regions of one shape and norm as one: what bounds take as their start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.rounding import next_down, rows_up
from holdfast.types import Ball, Box, Region


@dataclass(frozen=True)
class Regions:
    """R regions of one shape: all x with ||x - center[r]|| <= radius[r], or |...| entry by entry.

    With units the distance of balls is ||(x - center[r]) / units||, and where a unit is 0 nothing
    moves.

    Attributes:
        center: [R, ...], float64.
        radius: At least 0: [R, 1, ...] for balls, [R, ...], one per entry, for boxes.
        norm: 1, 2 or inf; inf for boxes.
        units: [1, ...], at least 0, for balls; None for ones.
    """

    center: Tensor
    radius: Tensor
    norm: float
    units: Tensor | None = None

    @classmethod
    def of(cls, regions: "Region | Regions | Sequence[Region]") -> "Regions":
        """Stack regions.

        Args:
            regions: One region, or several balls in one norm, or several boxes.

        Returns:
            The regions as one.

        Raises:
            InvalidInput: When there is none, or balls, boxes or norms are mixed.
        """
        if isinstance(regions, Regions):
            return regions
        listed = [regions] if isinstance(regions, Ball | Box) else list(regions)
        parts = [cls._one(region) for region in listed]
        shapes = {(part.norm, part.center.shape, part.radius.shape) for part in parts}
        if len(shapes) != 1:
            got = f"{len(shapes)} kinds" if shapes else "none"
            raise InvalidInput("region", got, "regions of one kind, shape and norm")
        centers, radii = zip(*((part.center, part.radius) for part in parts), strict=True)
        return cls(torch.cat(centers), torch.cat(radii), parts[0].norm)

    @classmethod
    def _one(cls, region: Region) -> "Regions":
        if isinstance(region, Ball):
            center = region.center.detach().double().cpu()[None]
            radius = center.new_full((1,) * center.dim(), region.radius)
            return cls(center, radius, region.norm)
        low, high = (end.detach().double().cpu()[None] for end in (region.low, region.high))
        return cls(*middle_form(low, high), math.inf)

    def box(self) -> tuple[Tensor, Tensor]:
        """Return the smallest box around each region, rounded outward."""
        reach = self.radius
        if self.units is not None:
            moves = (self.radius > 0) & (self.units > 0)
            reach = torch.where(moves, rows_up(self.radius * self.units, 1), 0.0)
        moved = reach > 0
        low, high = next_down(self.center - reach), -next_down(-self.center - reach)
        return torch.where(moved, low, self.center), torch.where(moved, high, self.center)


def middle_form(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return midpoints, and radii rounded up; everything is possible around a missing end."""
    middle = (0.5 * low + 0.5 * high).nan_to_num(0.0, 0.0, 0.0)
    reach = -next_down(torch.minimum(middle - high, low - middle))
    point = (low == high) & (middle == low)
    return middle, torch.where(point, torch.zeros_like(reach), reach)
