"""Sets of texts around a text: what a model answers to all of them, proved by running them."""
