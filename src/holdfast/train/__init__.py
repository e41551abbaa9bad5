"""Training for knowledge continuity."""

from holdfast.train.penalty import KnowledgePenalty

__all__ = ["KnowledgePenalty"]
