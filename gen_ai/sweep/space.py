"""Distributions of a random search: what the `space()` of a config file gives its fields.

def space():
  return {'optim.lr': log_uniform(1e-5, 1e-2), 'loss.kind': choice('hinge', 'wasserstein')}
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gen_ai.core.errors import UserError

Draw = Callable[[np.random.Generator], Any]
_TRIES = 100  # draws for a trial that is not there yet


def uniform(low: float, high: float) -> Draw:
  """A float between `low` and `high`."""
  if not low < high:
    raise UserError(f'uniform({low}, {high}) is empty: the first bound must be below the second.')
  return lambda generator: float(generator.uniform(low, high))


def log_uniform(low: float, high: float) -> Draw:
  """A float between `low` and `high`, its logarithm uniform; rounded to 4 significant digits."""
  if not 0 < low < high:
    raise UserError(f'log_uniform({low}, {high}) needs 0 < low < high.')
  return lambda generator: float(f'{math.exp(generator.uniform(math.log(low), math.log(high))):.4g}')


def choice(*values: Any) -> Draw:
  """One of `values`, all alike."""
  if not values:
    raise UserError('choice() has nothing to choose from.')
  return lambda generator: values[int(generator.integers(len(values)))]


def draw(space: dict[str, Draw], n: int, seed: int) -> list[dict[str, Any]]:
  """`n` different trials {field: value}; the first k of n are the k that a smaller n would give.

  Raises:
    UserError: an empty space, a field without a distribution, a negative seed, or fewer trials to be had than `n`.
  """
  if not space:
    raise UserError('space() of the config file gives no field: return {"section.field": log_uniform(...)}.')
  for path, value in space.items():
    if not callable(value):
      raise UserError(
        f"space() gives '{path}' the value {value!r}: give a distribution of gen_ai.sweep.space, such as "
        f'choice({value!r}), or set it with --config.{path}={value}.'
      )
  if seed < 0:
    raise UserError(f'--sample_seed={seed} must not be negative.')
  generator = np.random.default_rng(seed)
  trials: list[dict[str, Any]] = []
  for _ in range(_TRIES * n):
    trial = {path: value(generator) for path, value in space.items()}
    if trial not in trials:
      trials.append(trial)
    if len(trials) == n:
      return trials
  raise UserError(f'space() of the config file seems to hold {len(trials)} different trials only: ask for no more.')
