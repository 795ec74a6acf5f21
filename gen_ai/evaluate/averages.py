"""The length of a run's average, chosen after training: made of the averages that it tracked and their snapshots."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from gen_ai.config import LONGEST_AVERAGE
from gen_ai.core.averages import in_place
from gen_ai.core.errors import UserError
from gen_ai.core.method import PyTree, State
from gen_ai.maths import power_ema
from gen_ai.parallel.program import Program
from gen_ai.run.checkpoint import AVERAGES, Checkpoints

LARGEST_ERROR = 0.05  # of a combination (`gen_ai.maths.power_ema.combination`), beyond which it is another average


class Recipe(NamedTuple):
  """How the average of one length is made.

  Attributes:
    length: sigma_rel.
    parts: {update: weights float64 [lengths of the run]} of the averages that were kept after it.
    snapshots: the folder that holds them, but for those of the checkpoint itself.
  """

  length: float
  parts: Mapping[int, np.ndarray]
  snapshots: Path


def check(run_dir: str | os.PathLike, config: ConfigDict, length: float) -> None:
  """Raises UserError where no average of this length can be had of a run of `config`, whatever snapshots it kept."""
  if not config.optim.ema_lengths:
    raise UserError(
      f'--ema={length:g}: {run_dir} tracked no averages of which other lengths can be made '
      '(config.optim.ema_lengths=()): train with --config.optim.ema_lengths="(0.05,0.1)", or leave --ema out.'
    )
  if not 0 < length <= LONGEST_AVERAGE:
    raise UserError(
      f'--ema={length:g} must be more than 0 and at most {LONGEST_AVERAGE:g}: it is a relative deviation.'
    )


def recipe(run_dir: str | os.PathLike, config: ConfigDict, step: int, length: float) -> Recipe:
  """How the average of `length` after update `step` of a run is made: from the checkpoint of it and older snapshots.

  Raises:
    UserError: see `check`; or the length is none of those that were tracked, and no snapshots were kept, or too few of
      them.
  """
  check(run_dir, config, length)
  tracked, folder = config.optim.ema_lengths, Path(run_dir) / AVERAGES
  if length in tracked:
    return Recipe(length, {step: np.equal(tracked, length).astype(np.float64)}, folder)
  has = f'it has {" and ".join(f"{one:g}" for one in tracked)}'
  if not folder.is_dir():
    raise UserError(
      f'--ema={length:g}: {run_dir} kept no snapshots of its averages, of which another length could be made '
      f'(config.run.ema_snapshots={config.run.ema_snapshots}): {has}.'
    )
  snapshots = Checkpoints(folder, keep=None, read_only=True)
  at = [*(one for one in snapshots.steps() if one < step), step]
  snapshots.close()
  weights, error = power_ema.combination(np.repeat(at, len(tracked)).tolist(), [*tracked] * len(at), step, length)
  if error > LARGEST_ERROR:
    raise UserError(
      f'--ema={length:g}: of {len(at) - 1} snapshots of {run_dir} and the averages after step {step:,} this length can '
      f'be made only with an error of {100 * error:.1f} %, and {100 * LARGEST_ERROR:g} % are allowed: {has}; choose '
      'one that is nearer, or train with more config.run.ema_snapshots.'
    )
  return Recipe(length, dict(zip(at, weights.reshape(len(at), -1), strict=True)), folder)


def applied(recipe: Recipe, config: ConfigDict, program: Program, state: State) -> State:
  """`state` with the average of the recipe as its only one, by which tasks and evaluations then run.

  Sums are taken in float64, one snapshot after the other.

  Raises:
    UserError: a snapshot is damaged.
  """
  abstract = program.abstract_state().ema
  total: PyTree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), abstract[0])
  for step, weights in recipe.parts.items():
    kept = state.ema if step == int(state.step) else _snapshot(recipe.snapshots, step, abstract)
    for weight, average in zip(weights, kept, strict=True):
      total = jax.tree.map(lambda sum_, leaf, w=weight: sum_ + w * np.asarray(leaf, np.float64), total, average)

  def placed(value: np.ndarray, like: jax.Array) -> jax.Array:
    value = value.astype(like.dtype)
    return jax.make_array_from_callback(value.shape, like.sharding, value.__getitem__)

  return state._replace(ema=in_place(config, jax.tree.map(placed, total, state.ema[0])))


def _snapshot(folder: Path, step: int, abstract: PyTree) -> PyTree:
  snapshots = Checkpoints(folder, keep=None, read_only=True)
  try:
    return snapshots.restore(abstract, step)[1]
  except UserError as error:
    raise UserError(f'{error}. Without {folder / str(step)} the other snapshots may do: move it away.') from error
  finally:
    snapshots.close()
