"""LipSDP on chains of blocks by a backward recursion: for nets too deep for one large matrix."""
