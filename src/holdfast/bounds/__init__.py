"""What a graph's values can be on a region: intervals, linear functions, rounding errors."""
