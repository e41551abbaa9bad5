"""Floor of run."""
