"""How fast a loss changes its gradient, and whether a training step does what that allows."""
