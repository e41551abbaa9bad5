"""The interior point method for LipSDP on general networks."""
