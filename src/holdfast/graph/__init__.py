"""From a PyTorch module to one immutable graph, and the walker that every method uses."""
