"""Sweeps: their trials, their directories, early stopping, and the launchers that run them."""
