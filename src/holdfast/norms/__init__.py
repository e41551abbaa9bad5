"""Floor of norms."""
