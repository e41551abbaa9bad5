"""Distances between the hidden states of two blocks of rows.

The Euclidean distance is a matrix product of centred states, in the type of the states. Its square
carries a rounding error of at most gamma (|a| + |b|)^2 with gamma = (d + 16) u for states of d
entries and the unit roundoff u of their type (Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, section 3.1), which swamps the pairs that matter most, the near ones; those are
computed again from the differences of the rows, in float64.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.arguments import look_up
from holdfast.errors import InvalidInput
from holdfast.graph.forward import run_function

Distance = str | Callable[[Tensor, Tensor], Tensor]

# A squared distance above NEAR times its rounding error is kept, so it is right to 1 / NEAR and
# the distance to half of that; pairs below are computed again and are right to 1e-12.
NEAR = {torch.float32: 1e3, torch.float64: 1e6}


@dataclass(frozen=True, eq=False)
class StateBlock:
    """A block of hidden states, made ready once for its distances to many others.

    Attributes:
        states: [m, d], in the type that distances are computed in.
        center: [d]; the same for blocks that meet.
    """

    states: Tensor
    center: Tensor

    @functools.cached_property
    def centred(self) -> Tensor:
        """The states around the center, [m, d]."""
        return self.states - self.center

    @functools.cached_property
    def norms(self) -> Tensor:
        """Their lengths, [m]."""
        return torch.linalg.vector_norm(self.centred, dim=1)

    @functools.cached_property
    def squares(self) -> Tensor:
        """Their squared lengths, [m]."""
        return self.norms.square()

    @functools.cached_property
    def longest(self) -> float:
        """The largest of the lengths."""
        return float(self.norms.amax())


def name_of(choice: str | Callable[..., Tensor]) -> str:
    """Return the name of a named choice, or of the callable given in its place, as `name()`.

    With its parentheses no callable passes for a named choice, whatever it is called.
    """
    if isinstance(choice, str):
        return choice
    return f"{getattr(choice, '__name__', type(choice).__name__)}()"


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


def relative_error(distance: Distance, dtype: torch.dtype) -> float:
    """Return by what share of itself a distance may be wrong for rounding alone.

    Args:
        distance: As in `block_distances`.
        dtype: Type of the states.

    Returns:
        1 / `NEAR` for the Euclidean distance, which is twice what it can be; 1e-6 for the others
        (a callable answers for itself).
    """
    return 1 / NEAR[_working_type(distance, dtype)]


def _working_type(distance: Distance, dtype: torch.dtype) -> torch.dtype:
    single = distance == "euclidean" and dtype in (torch.float32, torch.bfloat16, torch.float16)
    return torch.float32 if single else torch.float64


def ready(distance: Distance, states: Tensor, center: Tensor | None = None) -> StateBlock:
    """Make a block of rows ready for its distances.

    Args:
        distance: As in `block_distances`.
        states: Hidden states [m, d].
        center: [d], from the rows' midst, so that rounding is small; None for their mean.

    Returns:
        The rows in the type that their distances are computed in.
    """
    states = states.to(_working_type(distance, states.dtype))
    return StateBlock(states, states.mean(0) if center is None else center.to(states.dtype))


def distances_between(distance: Distance, left: StateBlock, right: StateBlock) -> Tensor:
    """Return the distance from each row of one block to each row of another.

    Args:
        distance: As in `block_distances`.
        left: m rows.
        right: k rows, with the same center; the same object for the distances within a block.

    Returns:
        Distances [m, k], in the type of the states or in float64.

    Raises:
        InvalidInput: As for `block_distances`.
    """
    if distance == "euclidean" and _fit(left, right):
        return _by_product(left, right)
    distances = run_function("distance", resolve_distance(distance), left.states, right.states)
    shape = (len(left.states), len(right.states))
    if not isinstance(distances, Tensor) or distances.shape != shape:
        found = getattr(distances, "shape", type(distances).__name__)
        raise InvalidInput("distance", f"{name_of(distance)} returning {found}", f"shape {shape}")
    smallest, largest = torch.aminmax(distances)
    if not (smallest >= 0 and largest < math.inf):
        got = f"{name_of(distance)} giving values from {smallest:g} to {largest:g}"
        raise InvalidInput("distance", got, "finite distances, at least 0")
    return distances.clone() if callable(distance) else distances  # theirs may be kept


def block_distances(distance: Distance, a: Tensor, b: Tensor) -> Tensor:
    """Return the distance from each row of `a` to each row of `b`.

    Equal rows are at distance exactly 0. The Euclidean distance of float32 rows comes from a
    float32 product and has a relative error of at most 5e-4, usually about 1e-6; that of float64
    rows of at most 5e-7; near pairs (3 % of the norms or less) of 1e-12 in both. All others are
    computed in float64. The angular distance is the angle between two rows in half turns,
    arccos(cos) / pi, from 0 to 1; directions that rounding cannot tell apart are at distance 0.

    Args:
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable that takes float64
            blocks [m, d] and [k, d] and returns [m, k]; it must be symmetric and not negative.
        a: Hidden states [m, d].
        b: Hidden states [k, d]; the same object as `a` for the distances within one block.

    Returns:
        Distances [m, k], float64, in the units of the states (angular: half turns).

    Raises:
        InvalidInput: For an unknown name, for a distance that does not exist (the angle to a row
            of zeros), or if a callable does not return [m, k] finite values, at least 0.

    >>> block_distances("manhattan", torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[7.]], dtype=torch.float64)
    """
    resolve_distance(distance)
    right = ready(distance, b)
    left = right if a is b else ready(distance, a, right.center)
    return distances_between(distance, left, right).double()


def paired_distances(distance: Distance, a: Tensor, b: Tensor) -> Tensor:
    """Return the distance from each row of `a` to the same row of `b`, from their differences.

    Args:
        distance: As in `block_distances`.
        a: Hidden states [p, d].
        b: Hidden states [p, d].

    Returns:
        Distances [p], float64.
    """
    if distance in _ORDERS:
        gaps = (
            left.double() - right.double()
            for left, right in zip(*(rows.split(4096) for rows in (a, b)), strict=True)
        )
        norms = [torch.linalg.vector_norm(gap, ord=_ORDERS[distance], dim=1) for gap in gaps]
        return torch.cat([a.new_empty(0, dtype=torch.float64), *norms])
    if distance == "angular":
        left, right = _directions(a.double()), _directions(b.double())
        return _angles(torch.linalg.vector_norm(left - right, dim=1), a.shape[1])
    rows = range(len(a))
    blocks = [block_distances(distance, a[i : i + 1], b[i : i + 1])[0] for i in rows]
    return torch.cat([a.new_empty(0, dtype=torch.float64), *blocks])


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Return the l2 distances in the type of the rows."""
    right = StateBlock(b, b.mean(0))
    left = right if a is b else StateBlock(a, right.center)
    return (_by_product if _fit(left, right) else _more_precisely)(left, right)


def _fit(left: StateBlock, right: StateBlock) -> bool:
    """Return whether no squared distance overflows."""
    longest = left.longest + right.longest
    return longest * longest < torch.finfo(right.states.dtype).max / 4


def _by_product(left: StateBlock, right: StateBlock) -> Tensor:
    """Return the l2 distances by a matrix product, near pairs from their differences."""
    squares = left.squares[:, None] + right.squares
    squares.addmm_(left.centred, right.centred.T, alpha=-2)
    if left is right:
        squares.fill_diagonal_(math.inf)  # not a pair; 0 at the end
    near = _near_pairs(squares, left, right)
    # From this share of near pairs on, the next better way for all is cheaper than picking.
    if len(near) > squares.numel() / (64 if squares.dtype == torch.float32 else 16):
        return _more_precisely(left, right)
    distances = squares.sqrt_()
    most = max(1, 2**22 // len(left.center))  # differences of rows in 32 MB
    for rows, columns in (part.T for part in near.split(most)):
        gaps = left.states[rows].double() - right.states[columns].double()
        distances[rows, columns] = torch.linalg.vector_norm(gaps, dim=1).to(distances.dtype)
    return distances.fill_diagonal_(0) if left is right else distances


def _more_precisely(left: StateBlock, right: StateBlock) -> Tensor:
    """Return the l2 distances in float64, and if they are already, from differences."""
    if left.states.dtype == torch.float64:
        way = "donot_use_mm_for_euclid_dist"
        return torch.cdist(left.states, right.states, compute_mode=way)
    wide = StateBlock(right.states.double(), right.center.double())
    return _by_product(
        wide if left is right else StateBlock(left.states.double(), wide.center), wide
    )


def _near_pairs(squares: Tensor, left: StateBlock, right: StateBlock) -> Tensor:
    """Return the index pairs [p, 2] whose squared distance is too close to its rounding error.

    Args:
        squares: Squared distances [m, k] by matrix product.
        left: The m rows.
        right: The k rows.
    """
    number, width = torch.finfo(squares.dtype), len(left.center)
    limit = NEAR[squares.dtype] * (width + 16) * number.eps / 2
    # What underflows to less than this has lost digits of its own.
    floor = NEAR[squares.dtype] * width * number.tiny
    # One comparison for the whole tile first: most tiles hold no near pair.
    longest = left.longest + right.longest
    if squares.amin() > limit * longest * longest + floor:
        return squares.new_empty((0, 2), dtype=torch.long)
    far = squares > limit * (left.norms[:, None] + right.norms).square() + floor
    return far.logical_not_().nonzero()


def _angular(a: Tensor, b: Tensor) -> Tensor:
    """Return the angles in half turns from the chords |u - v|, which keep small angles exact."""
    left = _directions(a)
    return _angles(_euclidean(left, left if a is b else _directions(b)), a.shape[1])


def _angles(chords: Tensor, width: int) -> Tensor:
    """Return the angles that belong to chords between directions of so many entries."""
    rounding = (width + 4) * torch.finfo(chords.dtype).eps
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

_ORDERS: dict[Distance, float] = {"euclidean": 2.0, "manhattan": 1.0, "chebyshev": math.inf}
