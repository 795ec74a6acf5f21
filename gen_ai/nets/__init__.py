"""Flax Linen networks: arrays in, arrays out."""
