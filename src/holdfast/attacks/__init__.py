"""Attacks: inputs near a row that the model answers differently."""
