"""Pixel conventions: uint8 levels 0..255, x in [-1, 1] for the networks, unit in [0, 1] for Bernoulli likelihoods.

Every function takes NumPy or JAX arrays of any shape and returns its argument's kind.
"""

from typing import Any

import numpy as np

LEVELS = 256  # values that a stored channel can take
HALF_RANGE = 127.5  # levels in one unit of x: x = level / 127.5 - 1


def to_signed(image: Any) -> Any:
  """x float32 in [-1, 1] of uint8 `image`."""
  return image.astype(np.float32) / HALF_RANGE - 1.0


def to_unit(image: Any) -> Any:
  """float32 in [0, 1] of uint8 `image`."""
  return image.astype(np.float32) / (LEVELS - 1.0)


def to_uint8(x: Any) -> Any:
  """The nearest uint8 level of x in [-1, 1]; what lies outside is clipped."""
  return ((x.astype(np.float32) + 1.0) * HALF_RANGE).round().clip(0, LEVELS - 1).astype(np.uint8)
