"""Distances between the hidden states of two blocks of rows, in float64.

The Euclidean distance is a matrix product of centred states. Its square carries a rounding error
of at most gamma (|a| + |b|)^2 with gamma about (d + 4) 2^-53 (Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, section 3.1), which swamps the pairs that matter most, the near ones;
those are computed again from the differences of the rows.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.names import look_up

Distance = str | Callable[[Tensor, Tensor], Tensor]

UNIT_ROUNDOFF = 2.0**-53
# A squared distance above NEAR times its rounding error is right to 1e-6, so the distance to 5e-7.
NEAR = 1e6
# From this share of near pairs on, differences of all rows are cheaper than picking the pairs.
MANY = 1 / 16
# Entries that one batch of row differences may hold (32 MB in float64).
DIFFERENCES = 2**22


def name_of(choice: str | Callable[..., Tensor]) -> str:
    """Return the name of a named choice, or of the callable given in its place."""
    if isinstance(choice, str):
        return choice
    return getattr(choice, "__name__", type(choice).__name__)


def resolve_distance(distance: Distance) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function behind a distance.

    Args:
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable.

    Returns:
        A function of float64 blocks [m, d] and [k, d] that gives the distances [m, k].

    Raises:
        InvalidInput: If no distance has this name.
    """
    return distance if callable(distance) else look_up("distance", distance, DISTANCES)


def block_distances(distance: Distance, a: Tensor, b: Tensor) -> Tensor:
    """Return the distance from each row of `a` to each row of `b`.

    Equal rows are at distance exactly 0. The Euclidean distance has a relative error of at most
    1e-6, and usually far less. The angular distance is the angle between two rows in half turns,
    arccos(cos) / pi, from 0 to 1; directions that rounding cannot tell apart are at distance 0.

    Args:
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable that takes float64
            blocks [m, d] and [k, d] and returns [m, k]; it must be symmetric and not negative.
        a: Hidden states [m, d].
        b: Hidden states [k, d].

    Returns:
        Distances [m, k], float64, in the units of the states (angular: half turns).

    Raises:
        InvalidInput: For an unknown name, for a distance that does not exist (the angle to a row
            of zeros), or if a callable does not return [m, k] finite values, at least 0.

    >>> block_distances("manhattan", torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[7.]], dtype=torch.float64)
    """
    distances = resolve_distance(distance)(a.double(), b.double())
    shape = (len(a), len(b))
    if not isinstance(distances, Tensor) or distances.shape != shape:
        found = getattr(distances, "shape", type(distances).__name__)
        raise InvalidInput("distance", f"{name_of(distance)} returning {found}", f"shape {shape}")
    smallest, largest = torch.aminmax(distances)
    if not (smallest >= 0 and largest < math.inf):
        got = f"{name_of(distance)} giving values from {smallest:g} to {largest:g}"
        raise InvalidInput("distance", got, "finite distances, at least 0")
    return distances.double()


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Return the l2 distances by a matrix product, near pairs from their differences."""
    center = b.mean(0)
    left, right = a - center, b - center
    left_squares, right_squares = left.square().sum(1), right.square().sum(1)
    squares = torch.addmm(right_squares, left, right.T, alpha=-2).add_(left_squares[:, None])
    near = _near_pairs(squares, left_squares.sqrt(), right_squares.sqrt(), a.shape[1])
    if len(near) > MANY * squares.numel():
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    distances = squares.clamp_(min=0).sqrt_()
    for rows, columns in (part.T for part in near.split(max(1, DIFFERENCES // a.shape[1]))):
        distances[rows, columns] = torch.linalg.vector_norm(a[rows] - b[columns], dim=1)
    return distances


def _near_pairs(squares: Tensor, left: Tensor, right: Tensor, width: int) -> Tensor:
    """Return the index pairs [p, 2] whose squared distance is too close to its rounding error.

    Args:
        squares: Squared distances [m, k] by matrix product.
        left: Norms [m] of the rows.
        right: Norms [k] of the columns.
        width: Entries per row.
    """
    limit = NEAR * (width + 4) * UNIT_ROUNDOFF
    # One comparison for the whole tile first: most tiles hold no near pair.
    if squares.min() > limit * (left.max() + right.max()).square():
        return squares.new_empty((0, 2), dtype=torch.long)
    return (squares <= limit * (left[:, None] + right).square()).nonzero()


def _angular(a: Tensor, b: Tensor) -> Tensor:
    """Return the angles in half turns from the chords |u - v|, which keep small angles exact."""
    chords = _euclidean(_directions(a), _directions(b))
    rounding = 2 * (a.shape[1] + 4) * UNIT_ROUNDOFF
    chords.masked_fill_(chords <= rounding, 0.0)
    return chords.mul_(0.5).clamp_(max=1).asin_().mul_(2 / math.pi)


def _directions(rows: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    zeros = int((norms == 0).sum())
    if zeros:
        wanted = "rows that are not zero, as a row of zeros has no angle; or another distance"
        raise InvalidInput("distance", f"'angular' on {zeros} rows of zeros", wanted)
    return rows / norms


def _manhattan(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, p=1.0)


def _chebyshev(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, p=math.inf)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "euclidean": _euclidean,
    "manhattan": _manhattan,
    "chebyshev": _chebyshev,
    "angular": _angular,
}
