"""One row of states per input from states of tokens, over the real ones."""

from collections.abc import Callable

import torch
from torch import Tensor

Pooling = str | Callable[[Tensor, Tensor], Tensor]


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    places = mask.long().argmax(1)
    return states[torch.arange(len(states), device=states.device), places]


def _last(states: Tensor, mask: Tensor) -> Tensor:
    places = mask.shape[1] - 1 - mask.long().flip(1).argmax(1)
    return states[torch.arange(len(states), device=states.device), places]


POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "first": _first,
    "last": _last,
}
