"""Floor of graph."""
