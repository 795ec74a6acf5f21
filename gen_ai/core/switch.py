"""What is known before tracing: a weight of exactly 0 removes its term from the program; a number out of its range."""

import math
from typing import Any

import jax


def is_off(weight: object) -> bool:
  """Whether `weight` is a Python number equal to 0, so that its term need not be compiled at all.

  A traced or array value is never off, whatever it holds: its term is computed and multiplied.
  """
  return isinstance(weight, int | float) and weight == 0


def is_outside(value: Any, low: float, high: float = math.inf) -> bool:
  """Whether `value` is known to lie outside [low, high]. A traced value is not known."""
  return not isinstance(value, jax.core.Tracer) and not low <= value <= high
