"""Log-likelihood of examples under the flow that a diffusion model defines (arXiv 2011.13456, eq. 39).

In the variables y = x / (a + s) and t = s / (a + s), which a rectified flow has anyway, every model is one flow from
data at t = 0 to noise, dy/dt = (y - x0) / t. Its divergence is (D - trace dx0/dy) / t, of D dimensions.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.method import Array, Key
from gen_ai.maths.diffusion import Level
from gen_ai.maths.grids import Grid
from gen_ai.maths.samplers import Denoise, backwards, heun


def rademacher(keys: Key, count: int, shape: tuple[int, ...]) -> Array:
  """Probes float32 [K, B, *shape] of signs, by the keys [B] of examples; for any D, with the least variance."""
  return jnp.moveaxis(jax.vmap(lambda key: jax.random.rademacher(key, (count, *shape), jnp.float32))(keys), 1, 0)


def basis(like: Array) -> Array:
  """Probes [D, B, ...] of x [B, ...] whose mean is the trace itself: for few dimensions, as each costs a derivative."""
  shape, D = like.shape, like[0].size
  units = (np.sqrt(D) * np.eye(D)).reshape(D, 1, *shape[1:])
  return jnp.broadcast_to(jnp.asarray(units, like.dtype), (D, *shape))


def evaluations(steps: int) -> int:
  """How often the denoiser is called; each with a backward pass a probe."""
  return 2 * (steps - 1)


def log_prob(denoise: Denoise, grid: Grid, x: Array, probes: Array, deviation: float | Array = 1.0) -> Array:
  """Estimates of log p(x) in nats [K, B], one a probe; the mean over probes is unbiased (Hutchinson's trace).

  The flow starts at the grid's least noise, sigma = s / a: p is the density of samples with noise of this deviation, so
  the grid must end well below the distances that matter. Heun's method moves y. Of the divergence, t times it is taken
  to be linear in t within a step, which is exact where x0 does not move and where it is x.

  Of pixels, whose density is unbounded, ask at x + u, u uniform over the width w of a level (2 / 255 in [-1, 1])
  and drawn anew for each. E log p(x + u) + D log w is at most the log-probability of the pixels (arXiv
  1511.01844, section 3.1); bits per dimension are minus that, over D log 2.

  Args:
    denoise: says x0; differentiable in x.
    grid: a and s [N + 1] from noise to data, N at least 2.
    x: [B, ...] float32 or float64.
    probes: [K, B, ...] of `rademacher` or `basis`; the same all along the way.
    deviation: of the noise that sampling starts from, `grids.first_deviation`.

  Raises:
    UserError: fewer than two steps.
  """
  seen, ends = backwards(grid, x.dtype)
  own = tuple(range(1, x.ndim))  # axes of one example
  D = x[0].size
  probes = probes.astype(x.dtype)

  def look(state: tuple, level: Level, _: None) -> tuple:
    """dy/dt [B, ...] and t times its divergence [K, B]."""
    y, _ = state
    # Backwards, although forwards costs less: kernels of attention on GPUs have no other derivative.
    x0, pull = jax.vjp(lambda y: denoise((level.a + level.s) * y, level), y)
    trace = jax.vmap(lambda probe: (probe * pull(probe)[0]).sum(own))(probes)
    return state, ((y - x0) / level.flow, D - trace)

  def move(state: tuple, first: tuple, second: tuple, here: Level, there: Level) -> tuple:
    (y, total), step, ratio = state, there.flow - here.flow, jnp.log(there.flow / here.flow)
    late = 1.0 - here.flow / step * ratio
    divergence = (ratio - late) * first[1] + late * second[1]
    return y + 0.5 * step * (first[0] + second[0]), total + divergence

  first = seen.a[0] / (seen.a[0] + seen.s[0])
  y, nothing = first * x, jnp.zeros((probes.shape[0], x.shape[0]), x.dtype)
  y, along = heun(look, move, (y, nothing), (y, nothing), seen, ends, None)
  last = deviation / (ends.a[-1] + ends.s[-1])
  noise = -0.5 * (y / last) ** 2 - jnp.log(last) - 0.5 * np.log(2.0 * np.pi)
  return noise.sum(own) + along + D * jnp.log(first)


def mean_and_error(estimates: Array) -> tuple[Array, Array]:
  """Mean [B] over probes of [K, B], and its standard error [B]; infinite of one probe, which tells nothing of it."""
  K = estimates.shape[0]
  if K == 1:
    return estimates[0], jnp.full_like(estimates[0], jnp.inf)
  return estimates.mean(0), estimates.std(0, ddof=1) / np.sqrt(K)
