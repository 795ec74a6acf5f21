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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Key
from gen_ai.core.switch import is_off, is_outside
from gen_ai.maths.diffusion import NO_SIGNAL, RHO, Level, Schedule, of_log_snr

Denoise = Callable[[Array, Level], Array]  # x [B, ...], level of [] or [B] -> x0 [B, ...]
Grid = Level  # a and s [N + 1], from noise (0) to data (N), where a = 1 and s = 0
Noise = Callable[[Array], Array]  # number of a draw int32 [] -> standard normal [B, ...]

GRIDS = ('uniform', 'shifted', 'karras', 'log_snr')
# Each by how many steps it needs at least: those that make a step of two x0 need two.
SOLVERS = {
  'ddpm': 1,  # ancestral, with the variance of q(x_s | x_t, x0); DDIM's with eta = 1
  'ddpm_large': 1,  # ancestral, with the variance of q(x_t | x_s)
  'ddim': 1,  # eta from 0 (no noise) to 1
  'euler': 1,  # with churn
  'heun': 2,  # with churn
  'dpmpp_2m': 2,
  'dpmpp_2m_sde': 2,
  'sde': 1,  # with a diffusion coefficient
}


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


def at(grid: Level, index: np.ndarray | slice) -> Level:
  """Levels of a grid by their numbers."""
  return Level(*(v[index] for v in grid))


def make_grid(
  name: str,
  schedule: Schedule,
  steps: int,
  start: float | Array = 1.0,
  shift: float | Array = 1.0,
  rho: float | Array = RHO,
) -> Grid:
  """Levels [steps + 1] from the schedule's level at time `start` to data.

  At start = 1 that is the noise end of training. `uniform` is even in t: of a table the 'trailing' steps (arXiv
  2305.08891, section 3.3), of 'flow' as its schedule is shifted already. `shifted` moves these times once more, t' =
  shift t / (1 + (shift - 1) t). `karras` is even in sigma^(1 / rho) (arXiv 2206.00364, eq. 5), `log_snr` in log SNR;
  both end at the schedule's least noise, then at none.

  Args:
    name: one of GRIDS.
    schedule: of the training.
    steps: 1 or more.
    start: time in (0, 1]; below 1 where noise is added to an image that is given.
    shift: of 'shifted'; above 1 there are more steps at much noise.
    rho: of 'karras'; 7 in the paper.

  Raises:
    UserError: a grid that the schedule cannot have, fewer than one step, more steps than a table has, a start
      outside of (0, 1].
  """
  if steps < 1:
    raise UserError(f'sample.steps={steps}: a sampler needs at least 1')
  if schedule.steps and steps > schedule.steps:
    raise UserError(f'sample.steps={steps}: the schedule {schedule.name} has {schedule.steps} levels; take at most these')
  if is_off(start) or is_outside(start, 0.0, 1.0):
    raise UserError(f'a grid that starts at time {start}: take one above 0 and up to 1, the noise end of training')
  if name in ('uniform', 'shifted'):
    t = np.arange(steps, 0, -1) / steps
    if name == 'shifted':
      t = shift * t / (1.0 + (shift - 1.0) * t)
    t = start * t
    if schedule.steps:
      t = jnp.maximum(jnp.round(t * schedule.steps), 1.0) / schedule.steps
    level = schedule.level(t)
  elif schedule.name in NO_SIGNAL:
    raise UserError(
      f'sample.grid={name}: the schedule {schedule.name} starts where sigma is infinite; take uniform or shifted'
    )
  else:
    first, last = schedule.level(jnp.asarray(start)).sigma, schedule.level(jnp.asarray(_least_time(schedule))).sigma
    part = np.arange(steps) / max(steps - 1, 1)
    if name == 'karras':
      sigma = (first ** (1 / rho) + part * (last ** (1 / rho) - first ** (1 / rho))) ** rho
    else:
      assert name == 'log_snr', f'a branch for {name}'  # the config knows no other
      sigma = first * (last / first) ** part
    level = Level(jnp.ones_like(sigma), sigma) if schedule.exploding else of_log_snr(-2.0 * jnp.log(sigma))
  return Level(jnp.append(level.a, 1.0), jnp.append(level.s, 0.0))


def _least_time(schedule: Schedule) -> float:
  """Of the least noise that a network has seen."""
  return 1.0 / schedule.steps if schedule.steps else 0.0


def first_deviation(schedule: Schedule) -> float | Array:
  """Deviation of the noise that sampling starts from at time 1: s where the signal keeps its scale, else 1."""
  return schedule.level(jnp.ones(())).s if schedule.exploding else 1.0


def addressed(keys: Key, shape: tuple[int, ...]) -> Noise:
  """Draws float32 [B, *shape] by the keys [B] of examples: they do not depend on the batch."""
  return lambda number: random.normal(random.stream(keys, 'sampler', number), shape)


def clipped(denoise: Denoise, bound: float | Array = 1.0) -> Denoise:
  """A denoiser whose x0 lies in [-bound, bound]."""
  return lambda x, level: jnp.clip(denoise(x, level), -bound, bound)


def check_steps(solver: str, steps: int) -> None:
  """Raises UserError for fewer steps than the solver's order needs."""
  if steps < SOLVERS[solver]:
    raise UserError(f'sample.steps={steps}: sample.solver={solver} needs at least {SOLVERS[solver]}')


def looked_at(solver: str, grid: Grid, churn: Churn = NO_CHURN) -> Level:
  """The levels that the denoiser is called with, one after another: one a step, by Heun's solver two but in the last."""
  steps = grid.a.shape[0] - 1
  here = at(grid, slice(0, -1))
  if not is_off(churn.amount):
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
  x' = s'/s x - a' (e^-h - 1) D, or s'/s e^-h x + a' (1 - e^-2h) D + s' sqrt(1 - e^-2h) z (arXiv 2211.01095, algorithm 2
  and appendix A).

  Args:
    solver: one of SOLVERS.
    denoise: says x0, in the type of x.
    grid: a and s [N + 1]; the last is a = 1, s = 0.
    x: [B, ...] at the first level of the grid, float32 or float64; all is computed in its type.
    noise: draw i is for step i; not called by a solver without noise.
    eta: of 'ddim'.
    churn: of 'euler' and 'heun'.
    diffusion: of 'sde', w(t) >= 0 at the flow's time t = s / (a + s): noise of variance w dt is added in the variables
      x / (a + s), and what it adds is removed along the score (arXiv 2401.08740, eq. 5). Every w has the same
      marginals; 0 is Euler's method. Any trained model may be given any w.

  Raises:
    UserError: fewer steps than the solver's order needs.
  """
  steps = grid.a.shape[0] - 1
  check_steps(solver, steps)
  grid = Level(*(jnp.asarray(v, x.dtype) for v in grid))
  here, there = at(grid, slice(0, -1)), at(grid, slice(1, None))
  seen = looked_at(solver, grid, churn)
  churns = not is_off(churn.amount)
  if solver == 'heun':
    lift = None
    if churns:
      lift = jnp.sqrt(jnp.maximum(seen.s**2 - _in_pairs(here, at(there, slice(0, -1))).s ** 2, 0.0)) * churn.noise
    return _heun(denoise, seen, there, x, noise, lift)
  lift = jnp.sqrt(jnp.maximum(seen.s**2 - here.s**2, 0.0)) * churn.noise if churns else None
  multistep = solver.startswith('dpmpp_2m')
  eta = 1.0 if solver in ('ddpm', 'ddpm_large', 'dpmpp_2m_sde') else eta if solver == 'ddim' else 0.0

  def step(carry: tuple, of: tuple) -> tuple:
    x, before = carry
    number, here, there, lift, ahead = of
    if lift is not None:
      x = x + lift.astype(x.dtype) * noise(number)
    x0 = denoise(x, here)
    target = x0 + ahead * (x0 - before) if multistep else x0
    if solver == 'sde':
      x = _diffused(x, x0, here, there, diffusion, noise(number))
    elif solver == 'ddpm_large':
      z = jnp.where(there.s > 0.0, here.s / there.s, 0.0) * noise(number)
      x = stepped(x, x0, here, there, eta, z)
    else:
      x = stepped(x, target, here, there, eta, None if is_off(eta) else noise(number))
    return (x, x0 if multistep else None), None

  ahead = _extrapolation(grid) if multistep else None
  start = (x, jnp.zeros_like(x) if multistep else None)
  (x, _), _ = jax.lax.scan(step, start, (jnp.arange(steps), seen, there, lift, ahead))
  return x


def _diffused(
  x: Array, x0: Array, here: Level, there: Level, diffusion: Callable[[Array], Array], z: Array
) -> Array:
  """A step of Euler and Maruyama along a flow with noise; none in the last, which would stay in the sample."""
  t, eps = here.flow, (x - here.a * x0) / here.s
  variance = diffusion(t) * (t - there.flow)
  moved = jnp.sqrt(variance) * z - 0.5 * variance / t * eps  # the score of x / (a + s) is -eps / t
  return there.a * x0 + there.s * eps + jnp.where(there.s > 0.0, there.a + there.s, 0.0) * moved


def _heun(denoise: Denoise, seen: Level, there: Level, x: Array, noise: Noise | None, lift: Array | None) -> Array:
  """Heun's method, an evaluation an iteration: a step's first predicts its end, the second looks there and corrects.

  Args:
    denoise: the denoiser.
    seen: [E], two levels a step; one of the last where that is not corrected.
    there: [N] the ends of the steps.
    x: [B, ...].
    noise: as in `sample`; with it `lift` [E], deviation of the noise that is added before an evaluation.
    lift: or None.
  """
  number = np.arange(seen.a.shape[0])

  def evaluate(carry: tuple, of: tuple) -> tuple:
    x, start, x0_first, eps_first = carry
    number, second, level, origin, end, lift = of
    if lift is not None:
      x = x + lift.astype(x.dtype) * noise(number)
    x0 = denoise(x, level)
    eps = (x - level.a * x0) / level.s
    start = jnp.where(second, start, x)
    along = (end.a - origin.a) * (x0_first + x0) + (end.s - origin.s) * (eps_first + eps)
    x = jnp.where(second, start + 0.5 * along, end.a * x0 + end.s * eps)
    return (x, start, x0, eps), None

  over = (number // 2, number % 2 == 1, seen, at(seen, number - number % 2), at(there, number // 2), lift)
  (x, *_), _ = jax.lax.scan(evaluate, (x, x, x, x), over)
  return x


def invert(denoise: Denoise, grid: Grid, x0: Array) -> Array:
  """The noise [B, ...] at the grid's first level that leads to x0 without noise on the way: Heun's method backwards.

  It begins at the least noise of the grid, where x is taken to be a x0: what it would have there of noise is of the
  order of s^2. 2 (N - 1) evaluations.
  """
  if grid.a.shape[0] < 3:
    raise UserError('sample.steps=1: to find the noise behind an image takes at least 2')
  path = Level(*(jnp.asarray(v, x0.dtype)[-2::-1] for v in grid))
  here, there = at(path, slice(0, -1)), at(path, slice(1, None))
  return _heun(denoise, _in_pairs(here, there), there, here.a[0] * x0, None, None)
