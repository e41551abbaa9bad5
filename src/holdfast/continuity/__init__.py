"""Knowledge continuity: how much the loss moves per unit of movement in a hidden layer."""
