"""RePaint: what is hidden of an image, drawn by a model that was never trained for it (arXiv 2201.09865)."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array
from gen_ai.core.switch import is_off
from gen_ai.maths.diffusion import Level
from gen_ai.maths.grids import Grid, at
from gen_ai.maths.samplers import Denoise, Noise, noisier, stepped


def path(steps: int, jump: int, resamplings: int) -> tuple[np.ndarray, np.ndarray]:
  """Where x lies before each step, and which step it is: numbers of the grid, int [E] and int [E].

  Every `jump` steps x is made as noisy again as it was `jump` steps before, `resamplings` - 1 times, the last
  time from data. Where both numbers are equal nothing is added.

  Raises:
    UserError: a jump that does not fit into the steps, or less than one resampling.
  """
  if resamplings < 1 or jump < 1:
    raise UserError(f'sample.resamplings={resamplings}, sample.jump={jump}: both are at least 1')
  if resamplings > 1 and jump >= steps:
    raise UserError(f'sample.jump={jump}: take less than sample.steps={steps}, or sample.resamplings=1')
  left = {steps - back: resamplings - 1 for back in range(0, steps - jump, jump)}  # jumps that begin at a level
  lies, step, here = [0], [0], 1
  while here < steps or left.get(here):
    lies.append(here)
    if left.get(here):
      left[here] -= 1
      here -= jump
    step.append(here)
    here += 1
  return np.array(lies), np.array(step)


def evaluations(steps: int, jump: int, resamplings: int) -> int:
  """How often the denoiser is called."""
  return len(path(steps, jump, resamplings)[0])


def repaint(
  denoise: Denoise,
  grid: Grid,
  x: Array,
  image: Array,
  hidden: Array,
  noise: Noise,
  jump: int = 10,
  resamplings: int = 10,
  eta: float | Array = 1.0,
) -> Array:
  """A completion [B, ...] of `image`, whose known pixels are exactly those of the image.

  After each step the known pixels are those of the image at that noise, sqrt(1 - alpha_bar) of it (Algorithm 1's line
  5 says 1 - alpha_bar, which eq. 8a does not). What was drawn then agrees better with them after it was made noisy
  and drawn again.

  Args:
    denoise: says x0.
    grid: a and s [N + 1].
    x: noise [B, ...] at its first level.
    image: [B, ...], of any values where it is hidden.
    hidden: 1 where a pixel is drawn, 0 where it is known; broadcast against x.
    noise: draws 2 i and 2 i + 1 are for evaluation i: to make x noisy again, and for its step.
    jump, resamplings: of `path`, as `evaluations` counts; 10 and 10 in the paper, of 250 steps. (N, 1): no resampling.
    eta: of the step, 1: DDPM's.

  Raises:
    UserError: as `path`.
  """
  grid = Level(*(jnp.asarray(v, x.dtype) for v in grid))
  lies, first = path(grid.a.shape[0] - 1, jump, resamplings)
  image = jnp.where(hidden > 0, 0.0, image).astype(x.dtype)

  def step(x: Array, of: tuple) -> tuple[Array, None]:
    number, lies, here, there = of
    if resamplings > 1:
      x = jnp.where(lies.s < here.s, noisier(x, lies, here, noise(2 * number)), x)
    z = noise(2 * number + 1)
    drawn = stepped(x, denoise(x, here), here, there, eta, None if is_off(eta) else z)
    return jnp.where(hidden > 0, drawn, there.noised(image, z)), None

  x, _ = jax.lax.scan(step, x, (np.arange(len(lies)), at(grid, lies), at(grid, first), at(grid, first + 1)))
  return x
