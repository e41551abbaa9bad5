"""Counts of pairs, and the certificates that follow from them."""
