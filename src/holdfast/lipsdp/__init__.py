"""LipSDP: the tightest known Lipschitz bound from slopes alone, its solvers and its proofs."""
