"""Training for knowledge continuity, and for models that are to be smoothed."""

from holdfast.train.augmentation import NoiseAugmentation
from holdfast.train.penalty import KnowledgePenalty

__all__ = ["KnowledgePenalty", "NoiseAugmentation"]
