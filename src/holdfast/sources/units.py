"""Input units: normalisation in front of a model belongs to what is certified."""

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidInput
from holdfast.sources.query import numbers


class Normalised(nn.Module):
    """A model behind (x - mean) / std, so that distances are in the units before it.

    The quotient is a product with 1 / std, rounded once to the model's type: that product is the
    stored model, and what is proved is about it.

    Args:
        model: Takes normalised inputs.
        mean: One number, or one for every channel, [C].
        std: As `mean`, above zero.
    """

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.factor: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("factor", (1.0 / std.double()).to(std.dtype))
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return what the model makes of normalised rows, [N, C, ...] or [N, ...]."""
        mean, factor = (_per_channel(each, x.dim() - 1) for each in (self.mean, self.factor))
        return self.model((x - mean) * factor)


def _per_channel(values: Tensor, rank: int) -> Tensor:
    return values.reshape(-1, *[1] * (rank - 1)) if values.numel() > 1 else values.reshape(())


def normalised(model: nn.Module, mean: str, std: str, dtype: torch.dtype) -> nn.Module:
    """Return a model that takes inputs before normalisation.

    Args:
        model: Takes normalised inputs.
        mean: Numbers separated by commas, as the user wrote them.
        std: As `mean`.
        dtype: Type that the model computes in.

    Raises:
        InvalidInput: When they are not as many numbers as each other, or std is not above zero.
    """
    centres, spreads = numbers("model", "mean", mean), numbers("model", "std", std)
    if len(centres) != len(spreads) or not min(spreads) > 0:
        got = f"mean={mean}&std={std}"
        raise InvalidInput("model", got, "as many numbers in both, std above zero")
    stored = Normalised(
        model, torch.tensor(centres, dtype=dtype), torch.tensor(spreads, dtype=dtype)
    )
    if not bool(torch.isfinite(stored.factor).all() and (stored.factor > 0).all()):
        raise InvalidInput("model", f"std={std}", f"numbers that {dtype} can divide by")
    return stored.eval()
