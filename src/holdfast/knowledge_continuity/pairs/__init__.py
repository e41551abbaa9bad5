"""The pass over all pairs of rows, and the volatilities that it gives."""
