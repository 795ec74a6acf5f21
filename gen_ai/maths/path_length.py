"""Path-length regularisation of a generator's styles (StyleGAN2, arXiv 1912.04958, section 3.2 and appendix B)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array

DECAY = 0.01  # of the running mean


def path_length(synthesis_fn: Callable[[Array], Array], ws: Array, noise: Array) -> Array:
  """How far an image moves for a step in its styles: ||J_w^T y||_2 for a random image y.

  As in the authors' code the squares are averaged over layers and summed over dimensions.

  Args:
    synthesis_fn: ws [B, L, D] -> x [B, H, W, C], each row from its own styles.
    ws: [B, L, D].
    noise: N(0, 1) of the shape of x; y is this over sqrt(H W).

  Returns:
    float32 [B].
  """
  y = noise / math.sqrt(noise.shape[1] * noise.shape[2])
  _, pull = jax.vjp(synthesis_fn, ws)
  (slopes,) = pull(y.astype(jnp.float32))
  square = (slopes**2).sum(-1).mean(-1)
  positive = square > 0.0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)  # the root's gradient at 0 is infinite


def path_length_penalty(lengths: Array, mean: Array) -> Array:
  """E (length - a)^2 (eq. 4), a being the running mean before this batch; 0 as long as there is none: [B], [] -> [].

  The authors' mean starts at 0 and takes hundreds of updates to reach the lengths. Until then their penalty presses the
  lengths towards 0: a long run recovers, a short one loses the variety of its images.
  """
  return jnp.where(mean > 0.0, ((lengths - mean) ** 2).mean(), 0.0)


def path_length_mean(mean: Array, of_batch: Array) -> Array:
  """The running mean a after a batch whose lengths average `of_batch`, which starts it: [], [] -> []."""
  return jnp.where(mean > 0.0, mean + DECAY * (of_batch - mean), of_batch)
