"""Training data with noise: a model that is to be smoothed must have seen it."""

from dataclasses import dataclass
from typing import Any

from torch import Generator

from holdfast.smoothing.noise import Noise


@dataclass(frozen=True)
class NoiseAugmentation:
    """Returns what is given with fresh noise: a transform for the rows or texts of a data set.

    It goes where transforms of torchvision go, or into a `Dataset` or a `collate_fn`. Without a
    generator the chance is that of torch, which a `DataLoader` seeds in each of its workers.

    Args:
        noise: The noise that the model will be smoothed with, such as `holdfast.Deletion(0.8)`.
        generator: Source of the chance; not together with several workers, which would all draw
            the same.

    >>> import torch, holdfast
    >>> from holdfast.train import NoiseAugmentation
    >>> fresh = NoiseAugmentation(holdfast.Deletion(0.6), torch.Generator().manual_seed(0))
    >>> [fresh("a film that one would like to see again") for _ in range(2)]
    ['a film one would like', 'would']
    """

    noise: Noise
    generator: Generator | None = None

    def __call__(self, row: Any) -> Any:
        """Return a text or a tensor with noise; of the same type and shape."""
        return self.noise.draw(row, self.generator)
