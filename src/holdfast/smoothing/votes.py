"""What was counted of every row, from which its radius follows without the model."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from holdfast.smoothing.noise import Deletion
from holdfast.smoothing.options import SmoothingOptions


@dataclass(frozen=True, eq=False)
class Votes:
    """The counts of smoothing, row by row.

    Attributes:
        options: Noise, distance, samples, confidence and seed.
        votes: [N] int64, samples that got the predicted class; 0 where none were counted.
        drawn: [N] int64, samples that were counted; those that chose the class are others.
        seeds: [N] int64, of the samples of each row: those that choose, then those that count.
    """

    options: SmoothingOptions
    votes: Annotated[Tensor, torch.int64]
    drawn: Annotated[Tensor, torch.int64]
    seeds: Annotated[Tensor, torch.int64]

    def __len__(self) -> int:
        return len(self.votes)

    def __getitem__(self, place: Tensor) -> "Votes":
        return Votes(self.options, self.votes[place], self.drawn[place], self.seeds[place])

    @property
    def p_lower(self) -> Tensor:
        """Lower bound of the probability of the predicted class, [N] float64; 0 without samples."""
        options, pairs = self.options, zip(self.votes.tolist(), self.drawn.tolist(), strict=True)
        bounds = [options.lower(*each, options.alpha) if each[1] else 0.0 for each in pairs]
        return torch.tensor(bounds, dtype=torch.float64)

    @property
    def radius(self) -> Tensor:
        """How far the predicted class holds, [N] float64, in the noise's distance, rounded down."""
        return self._each("radius")

    @property
    def deletions(self) -> Tensor | None:
        """Within how many deletions it holds, [N] float64; None for other noise."""
        return self._each("deletions") if isinstance(self.options.noise, Deletion) else None

    @property
    def insertions(self) -> Tensor | None:
        """Within how many insertions it holds, [N] float64; None for other noise."""
        return self._each("insertions") if isinstance(self.options.noise, Deletion) else None

    def _each(self, what: str) -> Tensor:
        answer = getattr(self.options.noise, what)
        radii = [answer(p) if p > 0.5 else 0 for p in self.p_lower.tolist()]
        return torch.tensor(radii, dtype=torch.float64)

    def coherent(self, rows: int) -> bool:
        """Return whether there are counts of so many rows, which can be counts."""
        columns = (self.votes, self.drawn, self.seeds)
        if any(len(column) != rows for column in columns):
            return False
        most = self.options.samples
        fits = (self.votes >= 0) & (self.votes <= self.drawn) & (self.drawn <= most)
        if self.options.epsilon is None:
            fits &= (self.drawn == 0) | (self.drawn == most)
        return bool(fits.all()) and bool((self.seeds >= 0).all())
