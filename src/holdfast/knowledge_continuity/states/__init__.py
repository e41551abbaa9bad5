"""Hidden states and losses of every row: how they are collected and kept."""
