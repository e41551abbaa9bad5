"""Floor of bounds."""
