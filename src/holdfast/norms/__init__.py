"""Proved upper bounds of operator norms: matrices, convolutions, affine nodes."""
