"""Pairs of inputs with a steep slope: the lower ends of brackets."""
