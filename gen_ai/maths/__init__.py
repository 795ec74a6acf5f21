"""Densities, adversarial losses and other formulas: functions of arrays and callables, free of Flax."""
