"""Floor of sources."""
