"""Branch and bound over the linear pieces of a network, to its exact constant."""
