"""Samplers of diffusion models and flows: pure functions of a denoiser, a grid of noise levels and noise handed in.

A denoiser says x0 of x_t and its `Level` (a, s), where x_t = a x0 + s eps; so it says eps = (x_t - a x0) / s, too. All
solvers walk a grid of levels from noise to data and look at nothing else: the same code serves DDPM's tables, EDM and
flows. The straight line between two levels of (a, s) is a path of noise levels itself, along which a velocity is
(a' - a) x0 + (s' - s) eps; Euler's step along it is DDIM's, and is Euler's of EDM (where only s moves) and of flows.

What clips x0 wraps the denoiser (`clipped`), so eps is always that of the clipped x0. Whatever the solver, its last
step, to a = 1 and s = 0, returns what the denoiser says.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Key, PyTree
from gen_ai.core.switch import is_off
from gen_ai.maths.diffusion import Level
from gen_ai.maths.grids import Grid, at

Denoise = Callable[[Array, Level], Array]  # x [B, ...], level of [] or [B] -> x0 [B, ...]
Noise = Callable[[Array], Array]  # number of a draw int32 [] -> standard normal [B, ...]

# Each by how many steps it needs at least: those that make a step of two x0 need two.
SOLVERS = {
  'ddpm': 1,  # ancestral, with the variance of q(x_s | x_t, x0); DDIM's with eta = 1
  'ddpm_large': 1,  # ancestral, with the variance of q(x_t | x_s)
  'ddim': 1,  # eta from 0 (no noise) to 1
  'euler': 1,  # with churn
  'heun': 2,  # with churn
  'dpmpp_2m': 2,
  'dpmpp_2m_sde': 2,
  'sde': 1,  # Euler-Maruyama along a flow, with a diffusion coefficient
}

ANCESTRAL = ('ddpm', 'ddpm_large', 'dpmpp_2m_sde')  # solvers that draw noise at every step but the last
CHURNED = ('euler', 'heun')  # those that take churn


class Churn(NamedTuple):
  """Noise that Euler's and Heun's solver add before a step (arXiv 2206.00364, algorithm 2); of levels with a = 1.

  Attributes:
    amount: S_churn; 0.0: none.
    low, high: sigmas between which it is added, both included.
    noise: S_noise, deviation of what is added.
  """

  amount: float | Array = 0.0
  low: float | Array = 0.0
  high: float | Array = math.inf
  noise: float | Array = 1.0

  def raised(self, level: Level, steps: int) -> Level:
    """The levels that steps begin from, of those of the grid."""
    more = jnp.minimum(self.amount / steps, math.sqrt(2.0) - 1.0)
    within = (self.low <= level.sigma) & (level.sigma <= self.high)
    return Level(level.a, level.s * (1.0 + jnp.where(within, more, 0.0).astype(level.s.dtype)))


NO_CHURN = Churn()


def addressed(keys: Key, shape: tuple[int, ...]) -> Noise:
  """Draws float32 [B, *shape] by the keys [B] of examples: they do not depend on the batch."""
  return lambda number: random.normal(random.stream(keys, 'sampler', number), shape)


def clipped(denoise: Denoise, bound: float | Array = 1.0) -> Denoise:
  """A denoiser whose x0 lies in [-bound, bound]."""
  return lambda x, level: jnp.clip(denoise(x, level), -bound, bound)


def check_steps(solver: str, steps: int) -> None:
  """Raises UserError for fewer steps than the solver's order needs."""
  if steps < SOLVERS[solver]:
    raise UserError(f'config.sample.steps={steps}: config.sample.solver={solver} needs at least {SOLVERS[solver]}.')


def looked_at(solver: str, grid: Grid, churn: Churn = NO_CHURN) -> Level:
  """The levels that the denoiser is called with, in order: one a step, by Heun's two but in the last."""
  steps = grid.a.shape[0] - 1
  here = at(grid, slice(0, -1))
  if solver in CHURNED and not is_off(churn.amount):
    here = churn.raised(here, steps)
  return _in_pairs(here, at(grid, slice(1, -1))) if solver == 'heun' else here


def _in_pairs(first: Level, second: Level) -> Level:
  """first[0], second[0], first[1], ...; `second` may be one shorter."""
  n = first.a.shape[0] + second.a.shape[0]
  order = np.where(np.arange(n) % 2, first.a.shape[0], 0) + np.arange(n) // 2
  return at(Level(*(jnp.concatenate(pair) for pair in zip(first, second, strict=True))), order)


def evaluations(solver: str, steps: int) -> int:
  """How often the denoiser is called; what a call costs under guidance, `guidance.evaluations` says."""
  return 2 * steps - 1 if solver == 'heun' else steps


def fresh_share(here: Level, there: Level) -> Array:
  """Share of the noise's variance at `there` that x at `here` does not tell: 1 - SNR(here) / SNR(there)."""
  return jnp.maximum(1.0 - (here.a * there.s / (there.a * here.s)) ** 2, 0.0)


def stepped(x: Array, x0: Array, here: Level, there: Level, eta: float | Array, z: Array | None) -> Array:
  """x at level `there` of x at `here`: DDIM's step (arXiv 2010.02502, eq. 12 and 16) for any scale of the signal.

  At eta = 1 it draws from q(x_there | x_here, x0), DDPM's posterior (arXiv 2006.11239, eq. 7).

  Args:
    x, x0: [B, ...].
    here, there: levels of [].
    eta: share of the posterior's deviation that is drawn anew; 0.0 takes no noise.
    z: standard normal [B, ...], or None.
  """
  eps = (x - here.a * x0) / here.s
  if z is None:
    return there.a * x0 + there.s * eps
  drawn = eta * there.s * jnp.sqrt(fresh_share(here, there))
  return there.a * x0 + jnp.sqrt(jnp.maximum(there.s**2 - drawn**2, 0.0)) * eps + drawn * z


def noisier(x: Array, here: Level, there: Level, z: Array) -> Array:
  """x at the noisier level `there` of x at `here`: a draw from q(x_there | x_here)."""
  return there.a / here.a * x + there.s * jnp.sqrt(fresh_share(there, here)) * z


def _extrapolation(grid: Grid) -> Array:
  """1 / (2 r) [N] of DPM-Solver++(2M), r = h' / h of the steps in log(a / s); 0 where a step must be of first order.

  These are the first and the last, whose h is infinite (arXiv 2211.01095, algorithm 2).
  """
  h = -jnp.log(grid.a[:-1] * grid.s[1:] / (grid.a[1:] * grid.s[:-1]))
  before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
  usable = (before > 0.0) & jnp.isfinite(h)
  return jnp.where(usable, h, 0.0) / (2.0 * jnp.where(usable, before, 1.0))


def sample(
  solver: str,
  denoise: Denoise,
  grid: Grid,
  x: Array,
  noise: Noise,
  eta: float | Array = 0.0,
  churn: Churn = NO_CHURN,
  diffusion: Callable[[Array], Array] = lambda t: t,
) -> Array:
  """x0 [B, ...] of noise, in one scan that calls the denoiser once an iteration (`evaluations` in all).

  DPM-Solver++(2M) is `stepped` with x0 extrapolated from the step before, deterministic or, for its SDE, at eta = 1:
  x' = s'/s x - a' (e^-h - 1) D, or s'/s e^-h x + a' (1 - e^-2h) D + s' sqrt(1 - e^-2h) z (arXiv 2211.01095).

  Args:
    solver: one of SOLVERS.
    denoise: says x0, in the type of x.
    grid: a and s [N + 1]; the last is a = 1, s = 0.
    x: [B, ...] at the first level of the grid, float32 or float64; all is computed in its type.
    noise: draw i is for step i; not called by a solver without noise.
    eta: of 'ddim'.
    churn: of 'euler' and 'heun'.
    diffusion: of 'sde', w(t) >= 0 at the flow's time t = s / (a + s): noise of variance w dt is added in the variables
      x / (a + s), and what it adds is removed along the score (arXiv 2401.08740, section 2). Every w has the same
      marginals; 0 is Euler's method. Any trained model may be given any w.

  Raises:
    UserError: fewer steps than the solver's order needs.
  """
  steps = grid.a.shape[0] - 1
  check_steps(solver, steps)
  grid = Level(*(jnp.asarray(v, x.dtype) for v in grid))
  there = at(grid, slice(1, None))
  seen, lift = looked_at(solver, grid, churn), None
  if solver in CHURNED and not is_off(churn.amount):
    base = looked_at(solver, grid)
    lift = (churn.noise * jnp.sqrt(jnp.maximum(seen.s**2 - base.s**2, 0.0))).astype(x.dtype)
  if solver == 'heun':
    numbers = np.arange(evaluations(solver, steps)) // 2

    def look(x: Array, level: Level, churned: tuple) -> tuple:
      number, lift = churned
      if lift is not None:
        x = x + lift * noise(number)
      return x, _says(denoise, x, level)

    return heun(look, _straight, x, (x, x), seen, there, (numbers, lift))
  multistep = solver.startswith('dpmpp_2m')
  ahead = _extrapolation(grid) if multistep else None
  eta = 1.0 if solver in ANCESTRAL else eta if solver == 'ddim' else 0.0

  def step(carry: Any, of: Any) -> tuple[Any, None]:
    x, before = carry
    number, level, end, lift, ahead = of
    if lift is not None:
      x = x + lift * noise(number)
    x0 = denoise(x, level)
    if solver == 'sde':
      x = _diffused(x, x0, level, end, diffusion, noise(number))
    elif solver == 'ddpm_large':
      x = stepped(x, x0, level, end, eta, jnp.where(end.s > 0.0, level.s / end.s, 0.0) * noise(number))
    else:
      target = x0 + ahead * (x0 - before) if multistep else x0
      x = stepped(x, target, level, end, eta, None if is_off(eta) else noise(number))
    return (x, x0 if multistep else None), None

  carry = (x, x if multistep else None)
  (x, _), _ = jax.lax.scan(step, carry, (np.arange(steps), seen, there, lift, ahead))
  return x


def _diffused(x: Array, x0: Array, here: Level, there: Level, diffusion: Callable[[Array], Array], z: Array) -> Array:
  """A step of Euler and Maruyama along a flow with noise; none in the last, which would stay in the sample."""
  t, eps = here.flow, (x - here.a * x0) / here.s
  variance = diffusion(t) * (t - there.flow)
  moved = jnp.sqrt(variance) * z - 0.5 * variance / t * eps  # the score of x / (a + s) is -eps / t
  return there.a * x0 + there.s * eps + jnp.where(there.s > 0.0, there.a + there.s, 0.0) * moved


def _says(denoise: Denoise, x: Array, level: Level) -> tuple[Array, Array]:
  """x0 and eps."""
  x0 = denoise(x, level)
  return x0, (x - level.a * x0) / level.s


def _straight(x: Array, first: tuple, second: tuple, here: Level, there: Level) -> Array:
  """x moved along the line between two levels, by the mean of two findings; without noise there, x0 itself."""
  x0, eps = (0.5 * (one + other) for one, other in zip(first, second, strict=True))
  return jnp.where(there.s > 0.0, x + (there.a - here.a) * x0 + (there.s - here.s) * eps, x0)


def heun(look: Callable, move: Callable, y: PyTree, blank: PyTree, seen: Level, ends: Level, more: PyTree) -> PyTree:
  """Heun's method, an evaluation an iteration: a step's first predicts its end, the second looks there and corrects.

  Args:
    look: (y, level, more) -> y that the step starts from, what is found there.
    move: (y, found at level, found at end, level, end) -> y at `end`; a prediction is given the first finding twice.
    y: at the first level.
    blank: of the structure of what is found.
    seen: levels [E], two a step; one of the last where that is not corrected.
    ends: [N] of the steps.
    more: [E, ...] handed to `look`.
  """
  number = np.arange(seen.a.shape[0])

  def evaluate(carry: Any, of: Any) -> tuple[Any, None]:
    y, start, first = carry
    corrects, level, begin, end, more = of
    y, found = look(y, level, more)
    start = jax.tree.map(partial(jnp.where, corrects), start, y)
    first = jax.tree.map(partial(jnp.where, corrects), first, found)
    return (move(start, first, found, begin, end), start, first), None

  over = (number % 2 == 1, seen, at(seen, number - number % 2), at(ends, number // 2), more)
  carry, _ = jax.lax.scan(evaluate, (y, y, blank), over)
  return carry[0]


def backwards(grid: Grid, dtype: DTypeLike) -> tuple[Level, Level]:
  """Levels [2 (N - 1)] that Heun's method looks at from the least noise of a grid to the most, and ends [N - 1].

  Raises:
    UserError: a grid of one step.
  """
  if grid.a.shape[0] < 3:
    raise UserError('config.sample.steps=1: the way from data to noise takes at least 2')
  levels = Level(*(jnp.asarray(v, dtype)[-2::-1] for v in grid))
  ends = at(levels, slice(1, None))
  return _in_pairs(at(levels, slice(0, -1)), ends), ends


def invert(denoise: Denoise, grid: Grid, x0: Array) -> Array:
  """The noise [B, ...] at the grid's first level that leads to x0 without noise on the way: Heun's method backwards.

  It begins at the least noise of the grid, where x is taken to be a x0: what it would have there of noise is of the
  order of s^2. 2 (N - 1) evaluations.

  Raises:
    UserError: a grid of one step.
  """
  seen, ends = backwards(grid, x0.dtype)
  x = seen.a[0] * x0
  return heun(lambda x, level, _: (x, _says(denoise, x, level)), _straight, x, (x, x), seen, ends, None)
