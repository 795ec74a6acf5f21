"""Guidance of a denoiser by another, less informed or less trained one."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.method import Array
from gen_ai.core.switch import is_off
from gen_ai.maths.diffusion import Level
from gen_ai.maths.samplers import Denoise


def guided(
  conditional: Denoise, guide: Denoise, scale: float | Array, low: float | Array = 0.0, high: float | Array = 0.0
) -> Denoise:
  """A denoiser that says D = D_guide + scale (D_conditional - D_guide), of all channels; at scale 1 as without guide.

  The guide without classes is classifier-free guidance (arXiv 2207.12598, whose w is scale - 1), a smaller or earlier
  model autoguidance (arXiv 2406.02507, eq. 3). Where sigma lies in (low, high] only, the guide is called at all (arXiv
  2404.07724); under vmap with bounds of its own for each run it is called everywhere, with the same result.

  Args:
    conditional: the denoiser to be moved away from the guide.
    guide: the denoiser of the same shapes.
    scale: [] or [B, ...]; 1: none.
    low: sigma s / a up to which the guide is not asked; 0.0: of no noise.
    high: sigma above which it is not asked; 0.0: of no noise.
  """

  def denoise(x: Array, level: Level) -> Array:
    x0 = conditional(x, level)

    def moved() -> Array:
      away_from = guide(x, level)
      return away_from + scale * (x0 - away_from)

    if is_off(low) and is_off(high):
      return moved()
    inside = _inside(level.sigma, low, high)
    if jnp.ndim(inside):  # each example at a level of its own
      return jnp.where(inside.reshape(inside.shape + (1,) * (x.ndim - 1)), moved(), x0)
    return jax.lax.cond(inside, moved, lambda: x0)

  return denoise


def _inside(sigma: Array, low: float | Array, high: float | Array) -> Array:
  return (sigma > low) & (sigma <= high if not is_off(high) else True)


def evaluations(levels: Level, low: float = 0.0, high: float = 0.0, guides: int = 1) -> int:
  """Calls of networks by a denoiser with `guides` at `levels` [E] (of `samplers.looked_at`).

  One at each level, and one of each guide inside the interval.
  """
  sigma = levels.sigma
  if is_off(low) and is_off(high):
    return (1 + guides) * sigma.shape[0]
  return sigma.shape[0] + guides * int(np.sum(np.asarray(_inside(sigma, low, high))))
