"""Lipschitz constants between two proved ends: a steep pair below, an operator bound above."""
