"""Floor of lipschitz."""
