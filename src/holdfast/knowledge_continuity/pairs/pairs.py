"""The pass over all pairs of rows, tile by tile, behind k-volatility.

Memory is O(block^2 + n): no n x n tensor exists. The rows are visited by increasing loss, so that
in every tile the column's loss is the larger one: the loss change needs no absolute value, and the
row sums are at once the one-sided sums (partners whose loss is larger).
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidInput
from holdfast.knowledge_continuity.evidence.grid import Grid
from holdfast.knowledge_continuity.pairs.distance import (
    Distance,
    distances_between,
    paired_distances,
)
from holdfast.knowledge_continuity.pairs.kernels import PairFunction
from holdfast.knowledge_continuity.pairs.points import PointBlock, Points, Tile, loss_changes

SUMMED = (
    "same", "other", "distance", "collisions", "near", "near_pairs", "lifted", "same_pairs"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of every pair.

    Attributes:
        distance: A name or a callable, as in `block_distances`.
        kernel: Weight of pairs as a function of loss changes and distances.
        near: Pairs at most this far apart are also summed on their own.
        floor: Distance below which a pair counts as if it were this far apart, in a sum of its own.
        grid: Where pairs are counted; None for nowhere.
    """

    distance: Distance
    kernel: PairFunction
    near: float = 0.0
    floor: float = 0.0
    grid: Grid | None = None


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over all partners j != i of each row i, each [n] float64 in the order of the rows.

    Attributes:
        same: Kernel over the partners with the same label.
        other: Kernel over the partners with another label.
        rise: Kernel over the partners with a larger loss (the one-sided part of `total`).
        distance: Distances.
        collisions: Number of partners at distance 0.
        near: Kernel over the near partners.
        near_pairs: Number of near partners.
        lifted: What to add to `total` where distances below the floor count as the floor.
        same_pairs: Number of partners with the same label.
        other_pairs: Number of partners with another label.
        squares: Sum of the squared kernel over all ordered pairs.
        steepest: The same-label pair with the largest weight: weight, row, row; None without one.
        counts: Unordered pairs by the bins of the grid, of `Grid.shape`; None without a grid.
        ratio: Sum of the grid's kernel from 0 to 1 over unordered pairs, and of its square, [2].
    """

    same: Tensor
    other: Tensor
    rise: Tensor
    distance: Tensor
    collisions: Tensor
    near: Tensor
    near_pairs: Tensor
    lifted: Tensor
    same_pairs: Tensor
    other_pairs: Tensor
    squares: float
    steepest: tuple[float, int, int] | None
    counts: Tensor | None
    ratio: Tensor

    @property
    def total(self) -> Tensor:
        """Kernel over all partners, [n]."""
        return self.same + self.other

    @property
    def pairs(self) -> Tensor:
        """Number of partners, [n]."""
        return self.same_pairs + self.other_pairs


class PairState:
    """The sums over the pairs seen so far: `update` with tiles, `merge` what others saw, `result`.

    Args:
        points: The rows; states that are to be merged have the same ones.
        question: What is asked of every pair.
    """

    def __init__(self, points: Points, question: Question) -> None:
        self.points, self.question = points, question
        shape = (len(SUMMED), len(points))
        zeros = torch.zeros(shape, dtype=torch.float64, device=points.states.device)
        # Over partners later in the order (larger losses), and over earlier ones.
        self._rising, self._falling = zeros, zeros.clone()
        self._partners = zeros.new_zeros(len(points))
        self._squares, self._ratio = 0.0, zeros.new_zeros(2)
        self._steepest: tuple[float, int, int] | None = None
        shape = () if question.grid is None else question.grid.shape
        self._counts = zeros.new_zeros(shape, dtype=torch.int64)

    @torch.no_grad()
    def update(self, tiles: Iterable[Tile]) -> "PairState":
        """Take in every pair of some tiles.

        Args:
            tiles: From `Points.tiles`; each of them once, here or in a state to be merged.

        Returns:
            This state.

        Raises:
            InvalidInput: If the distance is unknown or not defined on these states.
        """
        fetch = functools.lru_cache(2 * self.points.side())(self._block)
        with _full_precision():
            for first, second in tiles:
                self._take(fetch(first.start, first.stop), fetch(second.start, second.stop))
        return self

    def _block(self, start: int, stop: int) -> PointBlock:
        return self.points.block(slice(start, stop), self.question.distance)

    def _take(self, here: PointBlock, there: PointBlock) -> None:
        """Take every pair of one tile once."""
        ask, on_diagonal = self.question, here is there
        distances = distances_between(ask.distance, here.states, there.states)
        if on_diagonal:  # what is no pair is infinitely far away
            distances.masked_fill_(torch.ones_like(distances, dtype=torch.bool).tril_(), math.inf)
        if ask.grid is not None:
            roles = ask.grid.roles[here.rows][:, None], ask.grid.roles[there.rows]
            self._count(ask.grid, distances, there.losses - here.losses[:, None], roles)

        def add(name: str, values: Tensor) -> None:
            kind = SUMMED.index(name)
            if on_diagonal and name in ("distance", "same_pairs"):
                values = values.triu_(1)  # these are not 0 of themselves where rows are no pair
            self._rising[kind, here.place] += values.sum(1)
            self._falling[kind, there.place] += values.sum(0)

        groups = here.groups[:, None], there.groups
        same = self._sum(distances, functools.partial(loss_changes, here, there), groups, add)
        self._note_steepest(same, here, there)
        self._partners[here.place] += len(there.rows) - on_diagonal
        self._partners[there.place] += 0 if on_diagonal else len(here.rows)

    @torch.no_grad()
    def take_pairs(self, first: Tensor, second: Tensor) -> None:
        """Take in single pairs, by their places in the order; the first of a pair comes before.

        Args:
            first: Places [p], each once.
            second: Places [p], each once and in no case where the same place of `first` is.
        """
        ask, points = self.question, self.points
        rows, partners = points.order[first], points.order[second]
        distances = paired_distances(ask.distance, points.states[rows], points.states[partners])
        changes = points.losses[partners] - points.losses[rows]
        if ask.grid is not None:
            roles = ask.grid.roles[rows], ask.grid.roles[partners]
            self._count(ask.grid, distances, changes, roles)

        def add(name: str, values: Tensor) -> None:
            kind = SUMMED.index(name)
            self._rising[kind, first] += values
            self._falling[kind, second] += values

        anew = functools.partial(changes.to, copy=True)
        self._sum(distances, anew, (points.groups[rows], points.groups[partners]), add)
        self._partners[torch.cat([first, second])] += 1

    def _count(
        self, grid: Grid, distances: Tensor, changes: Tensor, roles: tuple[Tensor, Tensor]
    ) -> None:
        self._counts += grid.count(distances, changes, roles[0] + roles[1])
        if grid.ratio is not None:
            self._ratio += grid.ratio.sums(distances, changes, roles)

    def _sum(
        self,
        distances: Tensor,
        changes_in: Callable[[torch.dtype], Tensor],
        groups: tuple[Tensor, Tensor],
        add: Callable[[str, Tensor], None],
    ) -> Tensor:
        """Sum over some pairs.

        Memory that was just written is much faster than any other, so matrices are overwritten.

        Args:
            distances: Of the pairs; infinite where there is no pair. Overwritten.
            changes_in: Returns their loss changes in a type, each time anew.
            groups: Labels, two tensors that broadcast to the pairs.
            add: Adds values to the sums of a name.

        Returns:
            The weights, 0 where labels differ.
        """
        ask = self.question
        weights = ask.kernel(changes_in(distances.dtype), distances)
        squared = _squared(weights)
        if distances.dtype != torch.float64 and not self._fits(squared, changes_in):
            return self._sum(distances.double(), changes_in, groups, add)
        self._squares += 2 * squared
        smallest = float(distances.amin())
        if smallest == 0:
            add("collisions", _mask(torch.eq, distances, 0))
        if smallest <= ask.near:
            near = _mask(torch.le, distances, ask.near)
            add("near_pairs", near)
            add("near", near.mul_(weights))
        if smallest < ask.floor:
            below = _mask(torch.lt, distances, ask.floor)
            add("lifted", changes_in(distances.dtype).div_(ask.floor).sub_(weights).mul_(below))
        add("distance", distances)
        left, right = (group.to(distances.dtype) for group in groups)
        same = torch.eq(left, right, out=distances)
        add("same_pairs", same)
        add("same", same.mul_(weights))
        add("other", weights.sub_(same))
        return same

    @staticmethod
    def _fits(squared: float, changes_in: Callable[[torch.dtype], Tensor]) -> bool:
        """Return whether weights in float32 neither overflow nor vanish by their smallness."""
        if 1e-24 < squared < math.inf:  # less may have lost digits in float32
            return True
        return squared == 0 and not bool(changes_in(torch.float64).any())

    def _note_steepest(self, same: Tensor, here: PointBlock, there: PointBlock) -> None:
        """Keep the largest weight of a same-label pair, and whose it is."""
        top = float(same.amax())
        if top > (self._steepest[0] if self._steepest else 0):
            row, column = divmod(int(same.argmax()), same.shape[1])
            self._steepest = top, int(here.rows[row]), int(there.rows[column])

    def merge(self, other: "PairState") -> "PairState":
        """Take in what another state has seen of other tiles of the same rows.

        Args:
            other: A state of the same points and question.

        Returns:
            This state.

        Raises:
            InvalidInput: If it has another number of rows.
        """
        if len(other.points) != len(self.points):
            raise InvalidInput("other", f"{len(other.points)} rows", f"{len(self.points)} rows")
        self._rising += other._rising
        self._falling += other._falling
        self._partners += other._partners
        self._squares += other._squares
        self._counts += other._counts
        self._ratio += other._ratio
        steepest = [pair for pair in (self._steepest, other._steepest) if pair is not None]
        self._steepest = max(steepest, default=None)
        return self

    def result(self, partial: bool = False) -> PairSums:
        """Return the sums, in the order in which the rows were given.

        Args:
            partial: Whether some of the pairs will do.

        Raises:
            InvalidInput: If not every pair was seen, or some twice, and that will not do.
        """
        n = len(self.points)
        if not partial and bool((self._partners != n - 1).any()):
            got = f"{int(self._partners.sum()) // 2} of {n * (n - 1) // 2} pairs"
            raise InvalidInput("tiles", got, "every tile once")
        back = self.points.order.argsort()
        sums = dict(zip(SUMMED, (self._rising + self._falling)[:, back], strict=True))
        rise = self._rising[SUMMED.index("same")] + self._rising[SUMMED.index("other")]
        return PairSums(
            **sums,
            rise=rise[back],
            other_pairs=self._partners[back] - sums["same_pairs"],
            squares=self._squares,
            steepest=self._steepest,
            counts=None if self.question.grid is None else self._counts,
            ratio=self._ratio,
        )


def pair_sums(points: Points, question: Question, block: int | None = None) -> PairSums:
    """Sum over all pairs of rows in one pass over symmetric tiles.

    Args:
        points: The rows.
        question: What is asked of every pair.
        block: Rows and columns of a tile; None chooses.

    Returns:
        The sums of each row, on the device of the states.

    Raises:
        InvalidInput: If the distance is unknown or not defined on these states.
    """
    return PairState(points, question).update(points.tiles(block)).result()


@torch.no_grad()
def sampled_sums(points: Points, question: Question, rounds: int, seed: int) -> PairSums:
    """Sum over some pairs: each round pairs up the rows at random, each row once.

    The rounds are those of a round-robin tournament after a random permutation (the circle
    method), so no pair comes twice; with an odd number of rows one sits out in each round.

    Args:
        points: The rows.
        question: What is asked of every pair.
        rounds: How many; n - 1 (n for odd n) are all pairs.
        seed: Of the permutation.

    Returns:
        The sums over the pairs that were drawn.
    """
    state = PairState(points, question)
    for first, second in _matchings(len(points), rounds, seed):
        state.take_pairs(first, second)
    return state.result(partial=True)


def _matchings(n: int, rounds: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield perfect matchings of places 0..n-1 without a common pair, the earlier place first."""
    even = n + n % 2
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for turn in range(min(rounds, even - 1)):
        circle = torch.cat(
            [torch.zeros(1).long(), 1 + (torch.arange(even - 1) + turn) % (even - 1)]
        )
        sides = torch.stack([circle[: even // 2], circle[even // 2 :].flip(0)])
        playing = shuffled[sides[:, (sides < n).all(0)]]
        yield playing.amin(0), playing.amax(0)


def _mask(compare: Callable[..., Tensor], left: Tensor, right: Tensor | float) -> Tensor:
    """Return 1.0 where a comparison of float64 values holds, else 0.0, without a boolean matrix."""
    shape = torch.broadcast_shapes(left.shape, right.shape if isinstance(right, Tensor) else ())
    compared = left.new_empty(shape)
    return compare(left, right, out=compared)


def _squared(values: Tensor) -> float:
    return float(torch.dot(values.view(-1), values.view(-1)))


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep matrix products in float32 where the user allows less (TF32, bfloat16).

    Yields:
        Once.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
