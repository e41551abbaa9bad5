"""LipSDP: the semidefinite bound of a network's Lipschitz constant, solvers and proofs."""
