"""Averages of parameters (EMA): which a run keeps, and how they follow the parameters update by update.

Three kinds exclude one another: by a decay (config.optim.ema_decay), by a half-life in examples
(config.optim.ema_halflife), and by a power of time, of one length or of several (config.optim.ema_lengths; arXiv
2312.02696, section 3). A power average weighs the parameters after update t of T by t^gamma, so that it always looks
back on the same share of a run, and from kept snapshots of two lengths others can be made after training
(`gen_ai.maths.power_ema`).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_ai.core.method import Array, PyTree
from gen_ai.core.switch import is_off


def is_averaged(config: ConfigDict) -> bool:
  """Whether a run of `config` keeps averages of its parameters (EMA), by one of which it is evaluated then."""
  optim = config.optim
  return not (is_off(optim.ema_decay) and is_off(optim.ema_halflife)) or bool(optim.ema_lengths)


def length_of(gamma: float) -> float:
  """The relative standard deviation sigma_rel of t/T under the weights t^gamma (arXiv 2312.02696, equation 3)."""
  return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def gamma_of(length: float) -> float:
  """The power whose average has this length: the inverse of `length_of`, for lengths from 0 to 12^-0.5.

  The square of equation 3, (gamma + 2)^2 (gamma + 3) = (gamma + 1) / length^2, is a cubic. Its largest root is the one
  that is not negative.
  """
  inverse = float(length) ** -2
  return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def power_share(gamma: float, step: Array) -> Array:
  """1 - beta(t) = 1 - (1 - 1/t)^(gamma + 1), the share of the new parameters after update t = `step` (from 1).

  arXiv 2312.02696, section 3.1. It is 1 after the first update. In float32 beta itself would leave it few digits.
  """
  return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / step.astype(float)))


def decay_share(decay: float | Array, step: Array) -> Array:
  """The share of the new parameters by a decay: 1 - min(decay, (1 + step) / (10 + step)).

  Early on the average follows, so that a short run is not stuck with its initialisation.
  """
  return 1 - jnp.minimum(decay, (1 + step) / (10 + step))


def halflife_share(halflife: float | Array, rampup: float | Array, step: Array) -> Array:
  """The share by a half-life of `halflife` updates, but of `rampup` times those made so far at most.

  Update `step` (from 1) is one of those made. EDM is trained so (arXiv 2206.00364), with a ramp-up of 0.05.
  """
  return -jnp.expm1(-math.log(2) / jnp.minimum(halflife, rampup * step))


def moved(average: PyTree, new: PyTree, share: Array) -> PyTree:
  """`average` after it went the way to `new` by `share`, in the precision of the average."""
  return jax.tree.map(lambda a, n: a + share * (n.astype(a.dtype) - a), average, new)


class Averages:
  """The averages of one tree that a run of `config` keeps in `State.ema`: a tree, or a tuple of one a length.

  Args:
    config: of the run; its floats may be traced.
    batches_per_step: batches of data in one update, by which a half-life in examples is counted.
  """

  def __init__(self, config: ConfigDict, batches_per_step: int = 1):
    optim = config.optim
    self._kept, self._decay, self._rampup = is_averaged(config), optim.ema_decay, optim.ema_rampup
    self._gammas = [gamma_of(length) for length in optim.ema_lengths]
    self._halflife = 0.0  # in updates
    if not is_off(optim.ema_halflife):
      examples = config.data.batch_size * batches_per_step
      self._halflife, self._decay = optim.ema_halflife / examples, 0.5 ** (examples / optim.ema_halflife)

  def start(self, tree: PyTree) -> PyTree:
    """Before the first update: copies of `tree`, as a buffer that programs are given cannot be given twice; or ()."""
    if self._gammas:
      return tuple(jax.tree.map(jnp.copy, tree) for _ in self._gammas)
    return jax.tree.map(jnp.copy, tree) if self._kept else ()

  def advance(self, ema: PyTree, tree: PyTree, step: Array) -> PyTree:
    """After update `step` (from 1), which has left `tree`."""
    if self._gammas:
      pairs = zip(ema, self._gammas, strict=True)
      return tuple(moved(average, tree, power_share(gamma, step)) for average, gamma in pairs)
    if not self._kept:
      return ()
    if not is_off(self._halflife) and not is_off(self._rampup):
      return moved(ema, tree, halflife_share(self._halflife, self._rampup, step))
    return moved(ema, tree, decay_share(self._decay, step))

  def evaluated(self, ema: PyTree, tree: PyTree) -> PyTree:
    """What samples and evaluations use: the average, of several the first; `tree` where none is kept."""
    if self._gammas:
      return ema[0]
    return ema if self._kept else tree


def snapshot_steps(config: ConfigDict) -> tuple[int, ...]:
  """Updates after which the averages of config.optim.ema_lengths are kept: evenly spaced, the last one among them.

  They are multiples of config.run.log_every, and so fewer than config.run.ema_snapshots in a run of few chunks.
  """
  run = config.run
  count = run.ema_snapshots if config.optim.ema_lengths else 0
  chunks = (-(-number * run.steps // (count * run.log_every)) for number in range(1, count + 1))
  return tuple(dict.fromkeys(run.log_every * chunk for chunk in chunks))


def average_of(config: ConfigDict, ema: PyTree) -> PyTree:
  """The average in `State.ema` by which a run of `config` is evaluated; () where it keeps none."""
  return ema[0] if config.optim.ema_lengths else ema


def in_place(config: ConfigDict, average: PyTree) -> PyTree:
  """`average` as a `State.ema` by which tasks of a run of `config` run: the inverse of `average_of`."""
  return (average,) if config.optim.ema_lengths else average
