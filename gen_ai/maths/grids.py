"""Grids of noise levels that samplers walk, from the noise end of training to data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array
from gen_ai.core.switch import is_off, is_outside
from gen_ai.maths.diffusion import NO_SIGNAL, RHO, SIGMA_MAX, SIGMA_MIN, Level, Schedule, of_log_snr

Grid = Level  # a and s [N + 1], from noise (0) to data (N), where a = 1 and s = 0
GRIDS = ('uniform', 'shifted', 'karras', 'log_snr')
_FAR = (*NO_SIGNAL, 'cosine')  # schedules whose noise end is far beyond EDM's largest sigma


def at(grid: Level, index: np.ndarray | slice | int) -> Level:
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
  both end at the schedule's least noise, then at none. Where the noise end has hardly any signal it comes first, and
  the others begin at EDM's largest sigma, 80; where there is no least noise they end at EDM's, 0.002.

  Args:
    name: one of GRIDS.
    schedule: of the training.
    steps: 1 or more.
    start: time in (0, 1]; below 1 where noise is added to an image that is given.
    shift: of 'shifted'; above 1 there are more steps at much noise.
    rho: of 'karras'; 7 in the paper.

  Raises:
    UserError: fewer than one step, more steps than a table has, a start outside of (0, 1].
  """
  check_steps(schedule, steps)
  if is_off(start) or is_outside(start, 0.0, 1.0):
    raise UserError(f'a grid that starts at time {start}: take one above 0 and up to 1, the noise end of training')
  if name in ('uniform', 'shifted'):
    t: Any = np.arange(steps, 0, -1) / steps
    if name == 'shifted':
      t = shift * t / (1.0 + (shift - 1.0) * t)
    t = start * t
    if schedule.steps:
      t = jnp.maximum(jnp.round(t * schedule.steps), 1.0) / schedule.steps
    level = schedule.level(t)
  else:
    ends = schedule.level(jnp.asarray(start)).sigma, schedule.level(jnp.asarray(_least_time(schedule))).sigma
    alone = schedule.name in _FAR and not isinstance(start, jax.Array) and start == 1.0
    first = SIGMA_MAX if alone else jnp.where(jnp.isfinite(ends[0]), ends[0], SIGMA_MAX)
    last = jnp.where(ends[1] > 0.0, ends[1], SIGMA_MIN)
    part = np.arange(steps - alone) / max(steps - alone - 1, 1)
    if name == 'karras':
      sigma = (first ** (1 / rho) + part * (last ** (1 / rho) - first ** (1 / rho))) ** rho
    else:
      assert name == 'log_snr', f'a branch for {name}'  # the config knows no other
      sigma = first * (last / first) ** part
    level = of_log_snr(-2.0 * jnp.log(sigma), schedule.exploding)
    if alone:
      end = schedule.level(jnp.asarray(start))
      level = Level(jnp.append(end.a, level.a), jnp.append(end.s, level.s))
  return Level(jnp.append(level.a, 1.0), jnp.append(level.s, 0.0))


def check_steps(schedule: Schedule, steps: int) -> None:
  """Raises UserError for fewer than one step, or for more than the schedule has levels."""
  if steps < 1:
    raise UserError(f'config.sample.steps={steps}: a sampler needs at least 1.')
  if schedule.steps and steps > schedule.steps:
    raise UserError(
      f"config.sample.steps={steps}: config.model.schedule='{schedule.name}' has {schedule.steps} levels; take at most "
      'as many.'
    )


def ends(schedule: Schedule) -> tuple[Level, Level]:
  """The levels [] of the least and the most noise that a network has seen."""
  return schedule.level(jnp.asarray(_least_time(schedule))), schedule.level(jnp.ones(()))


def _least_time(schedule: Schedule) -> float:
  """Of the least noise that a network has seen."""
  return 1.0 / schedule.steps if schedule.steps else 0.0


def first_deviation(schedule: Schedule) -> float | Array:
  """Deviation of the noise that sampling starts from at time 1: s where the signal keeps its scale, else 1."""
  return schedule.level(jnp.ones(())).s if schedule.exploding else 1.0
