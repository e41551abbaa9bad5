"""Knowledge continuity: how fast the loss changes per unit of movement in a hidden layer."""
