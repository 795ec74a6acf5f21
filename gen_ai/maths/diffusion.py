"""Diffusion and flow matching in one table: how noise is added, what a network says of it, and what an error costs.

A noisy example is x_t = a x0 + s eps, for all families: a `Level` is a pair (a, s), a `Schedule` says which levels
there are. What a network says is one of PREDICTIONS; all say the same of x0, and turn into each other. A loss is a mean
square error in the space of one of them, times a weight. So DDPM, VDM, EDM and rectified flow are rows of one table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from gen_ai.core.method import Array
from gen_ai.maths import pixels

STEPS = 1000  # of DDPM's tables
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # EDM's, arXiv 2206.00364, table 1
GAMMA_MIN, GAMMA_MAX = -13.3, 5.0  # -log SNR at both ends, arXiv 2107.00630, appendix B
LOG_SNR_REACH = 20.0  # what a network is told of a level lies within this
MIN_S = 0.05  # a denominator below it would make the weight of the cleanest images explode (arXiv 2511.13720)


class Level(NamedTuple):
  """One noise level of each example, or of all: x_t = a x0 + s eps; float [B] or []."""

  a: Array
  s: Array

  @property
  def sigma(self) -> Array:
    """Noise beside a signal of scale 1; infinite where there is no signal."""
    return self.s / self.a

  @property
  def flow(self) -> Array:
    """s / (a + s): the time of a rectified flow, 0 to 1."""
    return self.s / (self.a + self.s)

  @property
  def log_snr(self) -> Array:
    """log(a^2 / s^2)."""
    return 2.0 * (jnp.log(self.a) - jnp.log(self.s))

  def over(self, x: Array) -> 'Level':
    """With axes for all of x [B, ...] that it has not."""
    return Level(*(jnp.reshape(v, jnp.shape(v) + (1,) * (x.ndim - jnp.ndim(v))) for v in self))

  def noised(self, x0: Array, eps: Array) -> Array:
    """x_t [B, ...] of an example and noise."""
    a, s = self.over(x0)
    return a * x0 + s * eps


class Schedule(NamedTuple):
  """Which noise levels there are.

  Attributes:
    name: in configs.
    level: times t, 0 (data) to 1 (noise), of any shape -> `Level`.
    steps: times that a table has; 0: t is continuous.
    condition: `Level` -> the number that a network is told, about -2.5 to 2.5.
    exploding: whether the signal keeps its scale, a = 1, so that x begins as s eps.
  """

  name: str
  level: Callable[[Array], Level]
  condition: Callable[[Level], Array]
  steps: int = 0
  exploding: bool = False


def log_condition(level: Level) -> Array:
  """log(sigma) / 4, EDM's c_noise (arXiv 2206.00364, table 1), of levels without noise or signal the nearest finite."""
  return -jnp.clip(level.log_snr, -LOG_SNR_REACH, LOG_SNR_REACH) / 8.0


def of_log_snr(log_snr: Array, exploding: bool = False) -> Level:
  """The variance-preserving level, a^2 + s^2 = 1, or the `exploding` one, a = 1."""
  if exploding:
    return Level(jnp.ones_like(log_snr), jnp.exp(-0.5 * log_snr))
  return Level(jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr)))


def linear_table() -> np.ndarray:
  """alpha_bar [STEPS] of DDPM: betas go evenly from 1e-4 to 0.02 (arXiv 2006.11239, section 4)."""
  return np.cumprod(1.0 - np.linspace(1e-4, 0.02, STEPS))


def cosine_table() -> np.ndarray:
  """alpha_bar [STEPS] of cos^2, betas at most 0.999 (arXiv 2102.09672, eq. 17)."""
  t = np.arange(STEPS + 1) / STEPS
  bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
  return np.cumprod(1.0 - np.minimum(1.0 - bar[1:] / bar[:-1], 0.999))


def zero_snr_table() -> np.ndarray:
  """alpha_bar [STEPS] of the linear table, stretched to end without any signal (arXiv 2305.08891, algorithm 1)."""
  root = np.sqrt(linear_table())
  return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


NO_SIGNAL = ('zero_snr', 'flow')  # schedules whose noise end has a = 0
TABLES = {'linear': linear_table, 'cosine': cosine_table, 'zero_snr': zero_snr_table}
SCHEDULES = (*TABLES, 'vdm', 'edm', 'flow')


def schedule(name: str, shift: float | Array = 1.0, ends: tuple[Any, Any] = (GAMMA_MIN, GAMMA_MAX)) -> Schedule:
  """The schedule of that name, one of SCHEDULES.

  'linear', 'cosine' and 'zero_snr' are DDPM's tables: level k / STEPS is the one after k steps, t goes to the nearest.
  'vdm' has log SNR fall evenly (arXiv 2107.00630); 'edm' keeps the signal and spaces sigma as Karras' grid does (arXiv
  2206.00364, eq. 5); 'flow' goes straight, a = 1 - t (arXiv 2210.02747), with t shifted (arXiv 2403.03206, eq. 23).

  Args:
    name: of it.
    shift: of 'flow': above 1 there is more noise at any time.
    ends: of 'vdm': -log SNR at t = 0 and t = 1, arrays [] where they are learned.
  """
  if name in TABLES:
    bar = np.concatenate([[1.0], TABLES[name]()])  # level 0 has no noise
    a, s = (np.sqrt(v) for v in (bar, 1.0 - bar))

    def tabled(t: Array) -> Level:
      at = jnp.clip(jnp.round(jnp.asarray(t) * STEPS), 0, STEPS).astype(jnp.int32)
      return Level(jnp.asarray(a, jnp.result_type(float))[at], jnp.asarray(s, jnp.result_type(float))[at])

    return Schedule(name, tabled, log_condition, STEPS)
  if name == 'vdm':
    low, high = ends
    return Schedule(name, lambda t: of_log_snr(-(low + (high - low) * t)), log_condition)
  if name == 'edm':
    first, last = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)

    def karras(t: Array) -> Level:
      sigma = (first + (last - first) * jnp.asarray(t)) ** RHO
      return Level(jnp.ones_like(sigma), sigma)

    return Schedule(name, karras, log_condition, exploding=True)
  assert name == 'flow', f'a branch for {name}'  # the config knows no other

  def straight(t: Array) -> Level:
    # Not a = 1 - s: rounding would leave some signal, or less than none, at t = 1.
    whole = (1.0 - t) + shift * t
    return Level((1.0 - t) / whole, shift * t / whole)

  return Schedule(name, straight, lambda level: level.flow)


# What a network may say of x_t = a x0 + s eps. 'v' is a eps - s x0 (arXiv 2202.00512, section 4), 'velocity' eps - x0,
# a flow's dx/dt, 'F' the network inside of EDM's preconditioning (arXiv 2206.00364, eq. 7) for x_t of any scale.
PREDICTIONS = ('x', 'eps', 'v', 'velocity', 'F')


def input_scale(level: Level, sd: float | Array) -> Array:
  """EDM's c_in: what makes x_t of data with deviation `sd` one of deviation 1."""
  return 1.0 / jnp.sqrt(level.s**2 + (level.a * sd) ** 2)


def slope(kind: str, level: Level, sd: float | Array = 1.0, floor: float = 0.0) -> Array:
  """How much what is said moves with x0 where x_t is given, |d said / d x0|: an error of x0 times it is an error there.

  Args:
    kind: one of PREDICTIONS.
    level: of any shape.
    sd: of the data, of 'F'.
    floor: least s that is divided by.
  """
  a, s = level.a, jnp.maximum(level.s, floor)
  if kind == 'x':
    return jnp.ones_like(a)
  if kind == 'F':
    return 1.0 / (s * sd * input_scale(Level(a, s), sd))
  return {'eps': a, 'v': a**2 + level.s**2, 'velocity': a + level.s}[kind] / s


def said(kind: str, x0: Array, eps: Array, level: Level, sd: float | Array = 1.0) -> Array:
  """What a perfect network says of x_t = a x0 + s eps, [B, ...]: the target of training."""
  a, s = level.over(x0)
  if kind == 'x':
    return x0
  if kind == 'eps':
    return eps
  if kind == 'v':
    return a * eps - s * x0
  if kind == 'velocity':
    return eps - x0
  assert kind == 'F', f'a branch for {kind}'  # the config knows no other
  # (x0 - c_skip x_t / a) / c_out, both sides by the level's own scale; x_t / a would have no value without signal.
  return input_scale(Level(a, s), sd) * (s / sd * x0 - a * sd * eps)


def to_x(kind: str, out: Array, x: Array, level: Level, sd: float | Array = 1.0) -> Array:
  """x0 [B, ...] of what a network says of x = x_t [B, ...].

  Of noise alone 'eps' says nothing of x0: `check_pair` refuses schedules that go so far.
  """
  a, s = level.over(x)
  if kind == 'x':
    return out
  if kind == 'eps':
    return (x - s * out) / a
  if kind == 'v':
    return (a * x - s * out) / (a**2 + s**2)
  if kind == 'velocity':
    return (x - s * out) / (a + s)
  assert kind == 'F', f'a branch for {kind}'  # the config knows no other
  scale = input_scale(Level(a, s), sd)
  return (scale * sd) ** 2 * a * x + scale * sd * s * out


def of_x(kind: str, x0: Array, x: Array, level: Level, sd: float | Array = 1.0) -> Array:
  """What says that x0 [B, ...] lies behind x = x_t; the inverse of `to_x`. Levels without noise have no answer."""
  a, s = level.over(x)
  return said(kind, x0, (x - a * x0) / s, level, sd)


WEIGHTS = ('one', 'min_snr', 'bound')


def weight(
  name: str, space: str, level: Level, sd: float | Array = 1.0, gamma: float | Array = 5.0, floor: float = 0.0
) -> Array:
  """Weight [B] of a mean square error in `space`.

  'one' is 1; 'min_snr' is min(SNR, gamma) of errors of x0 (arXiv 2303.09556, eq. 8), in another space divided by its
  slope squared: by SNR for eps, by SNR + 1 for v. 'bound' makes it an error of eps, which a variational bound weighs
  by half of the rate of -log SNR (arXiv 2107.00630, section 5), even in 'vdm'. No s below `floor` is divided by.
  """
  if name == 'one':
    return jnp.ones_like(level.a)
  # SNR over the slope squared; of eps, whose slope is the root of SNR, it is 1 without signal, too.
  a, s = level.a, jnp.maximum(level.s, floor)
  bound = jnp.ones_like(a) if space == 'eps' else (a / (s * slope(space, Level(a, s), sd))) ** 2
  if name == 'bound':
    return bound
  assert name == 'min_snr', f'a branch for {name}'  # the config knows no other
  return jnp.minimum(1.0, gamma * (s / a) ** 2) * bound


TIMES = ('uniform', 'logit_normal', 'lognormal')


def quantiles(first: Array, B: int) -> Array:
  """Numbers [B] in (0, 1), evenly apart from a random first one [] in [0, 1): a loss of them varies less.

  "Variational Diffusion Models", arXiv 2107.00630, appendix I.1.
  """
  u = (first + jnp.arange(B) / B) % 1.0
  return jnp.clip(u, 1e-6, 1.0 - 1e-6)


def quantiles_by_number(first: Array, index: Array) -> Array:
  """Numbers [B] in (0, 1) by those of examples int32 [B]: evenly apart over any run of them, in any batches.

  Multiples of the golden ratio, modulo 1, from `first` []; in whole numbers, as floats would round large multiples.
  """
  golden = index.astype(jnp.uint32) * jnp.uint32(2_654_435_769)  # (5^1/2 - 1) / 2 in units of 2^-32
  return jnp.clip((first + golden.astype(jnp.float32) * 2.0**-32) % 1.0, 1e-6, 1.0 - 1e-6)


def drawn_level(times: str, schedule: Schedule, u: Array, mean: float | Array, deviation: float | Array) -> Level:
  """Levels by quantiles u in (0, 1) of their distribution.

  Args:
    times: 'uniform' in t; 'logit_normal', t = sigmoid(mean + deviation n) (arXiv 2403.03206, section 3.1);
      'lognormal', sigma = exp(mean + deviation n) (arXiv 2206.00364, table 1), of 'edm'.
    schedule: of the levels.
    u: [B].
    mean, deviation: of the normal variable.
  """
  normal = mean + deviation * ndtri(u)
  if times == 'lognormal':
    sigma = jnp.exp(normal)
    return Level(jnp.ones_like(sigma), sigma)
  assert times in ('uniform', 'logit_normal'), f'a branch for {times}'  # the config knows no other
  t = u if times == 'uniform' else jax.nn.sigmoid(normal)
  # Of a table its next step: evenly drawn each is as likely, and level 0, which has no noise, is none of them.
  return schedule.level(jnp.ceil(t * schedule.steps) / schedule.steps if schedule.steps else t)


def mean_square(x: Array) -> Array:
  """float32 [B] of [B, ...]."""
  return jnp.square(x.astype(jnp.promote_types(jnp.float32, x.dtype))).reshape(x.shape[0], -1).mean(1)


# --- The variational bound of VDM, arXiv 2107.00630 ---


def level_log_probs(eps: Array, level: Level, x: Array) -> Array:
  """log p(x | z_0) in nats [B] of x in [-1, 1] on its 256 levels, given z_0 = a x + s eps, by its noise eps [B, ...].

  "Variational Diffusion Models", arXiv 2107.00630, section 3.3. Each value's probability is proportional to the density
  of its noise, over the 256 values that there are: it sums to 1 for every pixel, at the ends of the range, too.
  """
  a, s = level.over(x)
  values = jnp.arange(pixels.LEVELS) / pixels.HALF_RANGE - 1.0
  # Not of z_0 - a x: s is a thousandth at least noise, and the rounding of z_0 a thousand times as large beside it.
  logits = -0.5 * jnp.square((a / s)[..., None] * (x[..., None] - values) + eps[..., None])
  here = -0.5 * jnp.square(eps)
  return (here - jax.nn.logsumexp(logits, -1)).reshape(x.shape[0], -1).sum(1)


def prior_nats(x: Array, level: Level) -> Array:
  """KL(q(z_1 | x) || N(0, I)) in nats [B] at the noisiest level (arXiv 2107.00630, section 3.5)."""
  a, s = level.over(x)
  return 0.5 * ((a * x) ** 2 + s**2 - 2.0 * jnp.log(s) - 1.0).reshape(x.shape[0], -1).sum(1)


def continuous_nats(error: Array, rate: float | Array) -> Array:
  """The bound's diffusion term [B] of a time drawn evenly (arXiv 2107.00630, section 5): rate / 2 ||eps - eps_hat||^2.

  Args:
    error: ||eps - eps_hat||^2 [B], a sum.
    rate: d(-log SNR) / dt [B] or [].
  """
  return 0.5 * rate * error


def discrete_nats(error: Array, difference: Array, steps: int) -> Array:
  """The same with `steps` levels (arXiv 2107.00630, section 4): steps / 2 expm1(-log SNR_t + log SNR_s) ||.||^2, [B].

  Args:
    error: ||eps - eps_hat||^2 [B] at level t.
    difference: of -log SNR from level s = t - 1 / steps to t, [B] or [].
    steps: of the chain.
  """
  return 0.5 * steps * jnp.expm1(difference) * error


def check_pair(schedule_name: str, predicts: str) -> str:
  """Why a network cannot say this under that schedule; '' where it can."""
  if predicts == 'eps' and schedule_name in NO_SIGNAL:
    return 'ends without any signal, where noise says nothing of the image'
  return ''
