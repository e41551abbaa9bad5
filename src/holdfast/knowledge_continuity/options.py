"""How knowledge is measured: the options of the verb."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.arguments import check_choice, check_number, check_seed, check_threshold, check_whole
from holdfast.knowledge_continuity.evidence.edges import Levels, check_levels
from holdfast.knowledge_continuity.pairs.distance import Distance, resolve_distance
from holdfast.knowledge_continuity.pairs.kernels import resolve_kernel
from holdfast.knowledge_continuity.states.losses import LOSSES, Loss
from holdfast.knowledge_continuity.states.pooling import POOLING, Pooling
from holdfast.moves import check_nothing_moves


@dataclass(frozen=True)
class KnowledgeOptions:
    """How pairs are measured, and how hidden states are taken.

    Attributes:
        loss: `cross_entropy`, `zero_one`, `brier`, `margin`, for targets `mse`, or a callable
            with one loss per row.
        distance: `euclidean`, `manhattan`, `chebyshev`, `angular`, or a callable that takes float64
            blocks [m, d] and [k, d] and returns [m, k]; it must be symmetric and not negative.
        pooling: `mean`, `first` or `last` over the real tokens, or a callable of states [b, T, d]
            and mask [b, T]; for token models, whose inputs are a mapping.
        kernel: `inverse`, change / distance (Definition 2), or `one_plus`, change / (1 + distance)
            (the paper's scripts). Normalising `one_plus` costs two passes more.
        clip: Smallest distance, in the units of the distance: shorter ones count as this one, and
            pairs at distance 0 take part.
        pairs: `all`, or in how many rounds the rows are paired up at random.
        near: Share of pairs that count as near.
        grid: Distances and loss changes at which certificates are counted, fixed beforehand.
        seed: Of the choice of anchors and of random pairs.
        repeats: What rows are that repeat an anchor or one another: `copies` of one example, which
            certificates count once, or separate `draws` from data with few different examples.
        threshold: A model of one logit means class 1 where it is above this.

    Raises:
        InvalidInput: When one of them is something else.
    """

    loss: Loss = "cross_entropy"
    distance: Distance = "euclidean"
    pooling: Pooling = "mean"
    kernel: str = "inverse"
    clip: float | None = None
    pairs: Literal["all"] | int = "all"
    near: float = 0.01
    grid: Levels | None = None
    seed: int = 0
    repeats: Literal["copies", "draws"] = "copies"
    threshold: float = 0.0

    @classmethod
    def named(cls, options: Mapping[str, Any], **fixed: Any) -> "KnowledgeOptions":
        """Return options from keywords as users type them.

        Args:
            options: The keywords.
            fixed: Fields that have an argument of their own, or no meaning here.

        Raises:
            InvalidInput: When a keyword does not exist, or its value is something else.
        """
        moves = ("free", "scale", "onehot")
        check_nothing_moves("knowledge", **{k: v for k, v in options.items() if k in moves})
        names = [field.name for field in dataclasses.fields(cls) if field.name not in fixed]
        for name in options:
            check_choice("option", name, names)
        return cls(**options, **fixed)

    def __post_init__(self) -> None:
        if not callable(self.loss):
            check_choice("loss", self.loss, LOSSES)
        resolve_distance(self.distance)
        if not callable(self.pooling):
            check_choice("pooling", self.pooling, POOLING)
        kernel = resolve_kernel(self.kernel, self.clip)
        object.__setattr__(self, "clip", kernel.clip or None)
        if self.pairs != "all":
            check_whole("pairs", self.pairs, "'all', or a number of rounds", 1)
        wanted = "a share of pairs, above 0 and at most 1"
        near = check_number("near", self.near, lambda share: 0 < share <= 1, wanted)
        object.__setattr__(self, "near", near)
        if self.grid is not None:
            check_levels(self.grid)
        check_seed(self.seed)
        object.__setattr__(self, "threshold", check_threshold(self.threshold))
        check_choice("repeats", self.repeats, ("copies", "draws"))
