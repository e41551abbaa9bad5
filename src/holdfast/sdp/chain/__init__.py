"""LipSDP on plain chains of layers, by a Riccati recursion from block to block."""
