"""LipSDP block by block, then the product over blocks: for nets too large for one matrix."""
