"""A run that begins from the weights of another, on other data, sizes or heads: what is taken, what is not."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gen_ai.core.errors import UserError
from gen_ai.core.method import State
from gen_ai.evaluate import restored
from gen_ai.run import info

PARTS = ('params', 'ema', 'stats')  # of a state; optimiser state and step begin anew


@dataclasses.dataclass(frozen=True)
class Parent:
  """The weights that a run begins from.

  Attributes:
    run_dir: of the run that they are of.
    step: completed updates of its checkpoint.
    config_hash: of its config.
    leaves: {path in the state: array}.
  """

  run_dir: str
  step: int
  config_hash: str
  leaves: Mapping[str, np.ndarray]


def read(reference: str) -> Parent:
  """The parent that --init_from=RUN_DIR or RUN_DIR@STEP names.

  Raises:
    UserError: no such run or checkpoint.
  """
  run_dir, _, step = reference.rpartition('@') if '@' in reference.rpartition('/')[2] else (reference, '', '')
  config, spec = restored.open_config(run_dir, {}, ()), restored.recorded_spec(run_dir)
  _, state, at = restored.restore(run_dir, config, spec, step or 'latest')
  return Parent(run_dir, at, info.read(run_dir).config_hash, _leaves(state))


def _leaves(state: State) -> dict[str, Any]:
  parts = {part: getattr(state, part) for part in PARTS}
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts)
  }


def beginning(parent: Parent) -> tuple[Callable[[State], State], dict[str, Any]]:
  """(what makes an initial state begin from the parent, the report that it fills: {'taken', 'new', 'skipped'}).

  A leaf is taken where path and shape agree. An average that the parent has not kept begins where its parameter does.

  The function raises UserError where nothing fits.
  """
  report: dict[str, Any] = {'run_dir': parent.run_dir, 'step': parent.step, 'config_hash': parent.config_hash}

  def begin(state: State) -> State:
    own = _leaves(state)
    fits = {
      path for path, leaf in own.items() if path in parent.leaves and np.shape(parent.leaves[path]) == np.shape(leaf)
    }
    if not any(path.startswith('params/') for path in fits):
      raise UserError(
        f'--init_from={parent.run_dir}: none of its parameters has the name and shape of one of this '
        'run: take a run of the same network.'
      )
    new = dict.fromkeys(own.keys() - fits)
    twins = {path: _twin(path, own) for path in new if path.startswith('ema/')}
    source = {path: path for path in fits} | {path: twin for path, twin in twins.items() if twin in fits}
    report['taken'] = sorted(source)
    report['new'] = sorted(f'{path} {list(np.shape(own[path]))}' for path in own.keys() - source.keys())
    report['skipped'] = sorted(f'{path} {list(np.shape(parent.leaves[path]))}' for path in parent.leaves.keys() - fits)

    def place(path: Any, leaf: Any) -> Any:
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      if name not in source:
        return leaf
      value = np.asarray(parent.leaves[source[name]]).astype(leaf.dtype)
      return jax.make_array_from_callback(value.shape, leaf.sharding, value.__getitem__)

    parts = {part: getattr(state, part) for part in PARTS}
    return state._replace(**jax.tree_util.tree_map_with_path(place, parts))

  return begin, report


def _twin(path: str, own: Mapping[str, Any]) -> str:
  """The parameter that an average of an initial state is a copy of; '' where there is none."""
  name, value = path.rpartition('/')[2], np.asarray(own[path])
  for other, leaf in own.items():
    same = other.startswith('params/') and other.rpartition('/')[2] == name and np.shape(leaf) == value.shape
    if same and np.array_equal(np.asarray(leaf), value):
      return other
  return ''


def summary(report: Mapping[str, Any]) -> str:
  """One line on what was taken."""
  words = {'new': 'new', 'skipped': 'of it skipped'}
  rest = [f'{len(report[name])} {word}' for name, word in words.items() if report[name]]
  parts = [f'{len(report["taken"])} arrays taken', *rest]
  return f'{report["run_dir"]} after step {report["step"]:,}: {", ".join(parts)} (see parent in run.json)'
