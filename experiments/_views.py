"""How families lay out their visualizations: rows of examples, and paths between latents."""

from collections.abc import Callable

import jax.numpy as jnp

from gen_ai.core.method import Array

COLUMNS = 8  # of a picture


def rows_of(images: Array, shape: tuple[int, ...]) -> Array:
  """Whole rows of COLUMNS images, of less than a row the same ones again: [rows, COLUMNS, H, W, C]."""
  rows = max(images.shape[0] // COLUMNS, 1)
  return images[jnp.arange(rows * COLUMNS) % images.shape[0]].reshape(-1, COLUMNS, *shape)


def interpolate(path: Callable[[Array, Array, Array], Array], top: Array) -> Array:
  """Paths of COLUMNS points between the first half of `top` [B, Z] and the second: [B / 2, COLUMNS, Z], 1 to 4."""
  pairs = min(max(top.shape[0] // 2, 1), 4)
  t = jnp.linspace(0.0, 1.0, COLUMNS)[:, None]
  ends = top[jnp.arange(2 * pairs) % top.shape[0], None]
  return path(ends[:pairs], ends[pairs:], t)
