"""Certified radii, row by row, and whether asking for them makes sense."""
