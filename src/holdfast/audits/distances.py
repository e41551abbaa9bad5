"""The distances at which an audit states shares: chosen by the user, the data or the field."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.moves import Moves
from holdfast.sources.data import LoadedData


@dataclass(frozen=True)
class Distances:
    """Distances in input units; none of them depends on what was found about a model.

    Attributes:
        epsilon: The user's; None where none was named.
        usual: It and further ones, ascending, with the reason for each.
    """

    epsilon: float | None
    usual: tuple[tuple[float, str], ...]

    @property
    def every(self) -> list[float]:
        """All of `usual`, without the reasons."""
        return [distance for distance, _ in self.usual]

    def document(self) -> list[dict[str, Any]]:
        """Return `usual` as it stands in an audit."""
        return [{"distance": distance, "why": why} for distance, why in self.usual]


def distances_for(
    data: LoadedData, norm: float, moves: Moves, epsilon: float | None, subjects: Sequence[Any]
) -> Distances:
    """Return the distances of an audit.

    Args:
        data: The rows.
        norm: 1, 2 or inf.
        moves: The units of distances.
        epsilon: The user's distance, if any.
        subjects: What was found about the models: half the distance to a neighbour with another
            label is there, and is the same for all of them.

    Returns:
        1, 5, 10 and 25 percent of the half distance to a neighbour with another label, where rows
        have two labels; and what is usual for images with values from 0 to 1 (Croce et al.,
        "RobustBench", 2021; 36/255 since Cohen, Rosenfeld and Kolter, 2019).
    """
    known = [one["conditions"]["resolution"] for one in subjects if "conditions" in one]
    half = known[0] if known and len(data.labels.unique()) > 1 else None
    shares = [(0.01 * percent * half, f"{percent}%") for percent in (1, 5, 10, 25) if half]
    parts = {2.0: (36,), math.inf: (2, 8)}.get(norm, ())
    images = data.image is not None and moves.scale is None
    if not (images and data.inputs.min() >= 0 and data.inputs.max() <= 1):
        parts = ()
    usual = [(part / 255, f"{part}/255") for part in parts]
    asked = [] if epsilon is None else [(epsilon, "asked")]
    return Distances(epsilon, tuple(sorted(shares + usual + asked)))
