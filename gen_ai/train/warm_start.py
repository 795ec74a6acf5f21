"""A run that begins from the weights of another, on other data, sizes or heads: what is taken, what is not."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core.averages import average_of
from gen_ai.core.errors import UserError
from gen_ai.core.method import State
from gen_ai.core.names import Part
from gen_ai.evaluate import restored
from gen_ai.parallel.program import Program
from gen_ai.run import directory, info, older_runs

PARTS = ('params', 'ema', 'stats')  # of a state; optimiser state and step begin anew


@dataclasses.dataclass(frozen=True)
class Parent:
  """The weights that a run begins from.

  Attributes:
    run_dir: of the run that they are of.
    step: completed updates of its checkpoint.
    config_hash: of its config.
    spec: what its data was like, as its record has it.
    leaves: {path in the state: array}; adapters (`gen_ai.nets.lora`) are part of the kernels that they change, and of
      averages of several lengths only the one is there by which the run is evaluated. For a method that inherits (see
      `gen_ai.core.method.Method.inherits`), what it does, by its own names.
  """

  run_dir: str
  step: int
  config_hash: str
  spec: Mapping[str, Any]
  leaves: Mapping[str, np.ndarray]


def read(reference: str, inherits: Callable[[Any, State], Any] | None = None) -> Parent:
  """The parent that --init_from=RUN_DIR or RUN_DIR@STEP names.

  Args:
    reference: to it.
    inherits: of the method that begins from it.

  Raises:
    UserError: no such run or checkpoint.
  """
  run_dir, step = directory.split_step(reference)
  config, spec = restored.open_config(run_dir, {}, ()), restored.recorded_spec(run_dir)
  program, state, at = restored.restore(run_dir, config, spec, step or 'latest')
  merged = program.method().merged
  state = state._replace(params=merged(state.params), ema=merged(average_of(config, state.ema)))
  if inherits:
    state = State(state.step, inherits(config, state), ())
  return Parent(run_dir, at, info.read(run_dir).config_hash, info.trained_on(run_dir).spec, _leaves(state))


def require(trains: Part | None, parent: Mapping[str, Any]) -> None:
  """Raises UserError where only the part `trains` of the parameters is trained, and the others come from no parent."""
  if trains and not parent:
    raise UserError(
      f'{trains.setting} trains only a part of its parameters, beside those of {trains.beside}: name it with '
      '--init_from=RUN_DIR.'
    )


def begin_from(
  program: Program, config: ConfigDict, parent: Mapping[str, Any], spec: Mapping[str, Any], begun: bool = False
) -> dict[str, Any]:
  """Makes new states of `program` begin from the weights of `parent`; returns the report of `beginning`, {} without.

  Args:
    program: of one run.
    config: of it.
    parent: {'run_dir', 'step'} or a report; {}: none.
    spec: of the data of the run, as its record has it.
    begun: whether the run has checkpoints. They hold all of its weights: the parent, which may be gone by now, is then
      read only where none of them can be restored.

  Raises:
    UserError: there is no parent where one is needed, or its weights do not fit.
  """
  require(program.trains, parent)
  if not parent:
    return {}
  if begun:
    program.begin = lambda state: _beginning(program, config, parent, spec)[0](state)
    return dict(parent)
  program.begin, report = _beginning(program, config, parent, spec)
  program.init()  # refuses what does not fit, and fills the report
  return report


def _beginning(
  program: Program, config: ConfigDict, parent: Mapping[str, Any], spec: Mapping[str, Any]
) -> tuple[Callable[[State], State], dict[str, Any]]:
  """`beginning` of the weights that `parent` names now. Raises UserError where they are not for such a run."""
  run_dir, inherits = parent['run_dir'], program.method().inherits
  directory.RunDir.open(run_dir)  # refuses what is no run, or no more
  config_lib.check_inherited(config, older_runs.read_config(run_dir)[0], run_dir)
  source = read(f'{run_dir}@{parent["step"]}', inherits)
  if (then := parent.get('config_hash', source.config_hash)) != source.config_hash:
    raise UserError(
      f'--init_from={run_dir} is another run than the one that was begun from: the hash of its config is '
      f'{source.config_hash[:12]}, and was {then[:12]}.'
    )
  if program.trains and not inherits:
    _check_data(source, spec, program.trains)
  return beginning(source, program.trains)


def _check_data(parent: Parent, spec: Mapping[str, Any], trains: Part) -> None:
  """Raises UserError where weights that stay as they are were made for data of another kind: another vocabulary."""
  names = sorted((spec.keys() | parent.spec.keys()) - {'shape'})
  wrong = [name for name in names if spec.get(name) != parent.spec.get(name)]
  if wrong:
    raise UserError(
      f'--init_from={parent.run_dir}: its data has another {wrong[0]} than that of this run, and {trains.setting} '
      'leaves its weights as they are: give config.data what makes them alike.'
    )


def _leaves(state: State) -> dict[str, Any]:
  parts = {part: getattr(state, part) for part in PARTS}
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(parts)
  }


def beginning(parent: Parent, trains: Part | None = None) -> tuple[Callable[[State], State], dict[str, Any]]:
  """(what makes an initial state begin from the parent, the report that it fills: {'taken', 'new', 'skipped'}).

  A leaf is taken where path and shape agree. An average that the parent has not kept begins where its parameter does.
  Where only `trains` is trained, parameters and averages both begin from what the parent is evaluated by: its averages
  where it has kept any, which weights that stay would not move to.

  The function raises UserError where nothing fits, or where a parameter that the run does not train (those of `trains`
  alone are, if given) would not be the parent's.
  """
  report: dict[str, Any] = {'run_dir': parent.run_dir, 'step': parent.step, 'config_hash': parent.config_hash}

  def begin(state: State) -> State:
    own = _leaves(state)
    powers = isinstance(state.ema, tuple)  # an average a length, which all begin from the one of the parent
    there = {path: re.sub(r'^ema/\d+/', 'ema/', path) if powers else path for path in own}
    there = {path: _evaluated(at, parent.leaves) if trains else at for path, at in there.items()}
    fits = {
      path: there[path]
      for path, leaf in own.items()
      if there[path] in parent.leaves and np.shape(parent.leaves[there[path]]) == np.shape(leaf)
    }
    if trains:
      _refuse_missing(parent, own, fits, trains)
    if not any(path.startswith('params/') for path in fits):
      raise UserError(
        f'--init_from={parent.run_dir}: none of its parameters has the name and shape of one of this '
        'run: take a run of the same network.'
      )
    twins = _twins((path for path in own.keys() - fits if path.startswith('ema/')), own)
    source = fits | {path: fits[twin] for path, twin in twins.items() if twin in fits}
    report['taken'] = sorted(source)
    report['new'] = sorted(f'{path} {list(np.shape(own[path]))}' for path in own.keys() - source.keys())
    left = parent.leaves.keys() - set(source.values())
    report['skipped'] = sorted(f'{path} {list(np.shape(parent.leaves[path]))}' for path in left)

    def place(path: Any, leaf: Any) -> Any:
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      if name not in source:
        return leaf
      value = np.asarray(parent.leaves[source[name]]).astype(leaf.dtype)
      return jax.make_array_from_callback(value.shape, leaf.sharding, value.__getitem__)

    parts = {part: getattr(state, part) for part in PARTS}
    return state._replace(**jax.tree_util.tree_map_with_path(place, parts))

  return begin, report


def _refuse_missing(parent: Parent, own: Mapping[str, Any], fits: Mapping[str, str], trains: Part) -> None:
  """Raises UserError where a parameter that stays as it is does not come from the parent."""
  fixed = {path for path in own if path.startswith('params/') and not trains.holds(path)}
  for path in sorted(fixed - fits.keys()):
    there = parent.leaves.get(path)
    shape = 'is not there' if there is None else f'has the shape {list(np.shape(there))} there'
    raise UserError(
      f'--init_from={parent.run_dir}: {path.removeprefix("params/")} {shape} and {list(np.shape(own[path]))} here, and '
      f'{trains.setting} leaves it as it is: give the config the sizes of that run.'
    )


def _evaluated(path: str, leaves: Mapping[str, Any]) -> str:
  """Where the leaves of a parent hold what its evaluations use at `path` of a state: in its averages, if it has any."""
  part, _, name = path.partition('/')
  if part not in ('params', 'ema'):
    return path
  return f'ema/{name}' if f'ema/{name}' in leaves else f'params/{name}'


def _twins(paths: Iterable[str], own: Mapping[str, Any]) -> dict[str, str]:
  """{average of an initial state: the parameter that it is a copy of}, of those of `paths` that are copies of one.

  Several parameters may begin alike, as biases do: theirs is the one that lies where the averages of others come from.
  """
  alike: dict[str, list[str]] = {}
  for path in paths:
    name, value = path.rpartition('/')[2], np.asarray(own[path])
    alike[path] = [
      other
      for other, leaf in own.items()
      if other.startswith('params/') and other.rpartition('/')[2] == name and np.shape(leaf) == value.shape
      if np.array_equal(np.asarray(leaf), value)
    ]
  places = collections.Counter(_apart(path, *found) for path, found in alike.items() if len(found) == 1)
  twins = {}
  for path, found in alike.items():
    if votes := {other: places[_apart(path, other)] for other in found}:
      twins[path] = max(votes, key=votes.__getitem__)
  return twins


def _apart(one: str, other: str) -> tuple[str, str]:
  """Two paths without the names that both end in: where one tree lies, and where the other."""
  first, second = one.split('/'), other.split('/')
  while first and second and first[-1] == second[-1]:
    first.pop()
    second.pop()
  return '/'.join(first), '/'.join(second)


def summary(report: Mapping[str, Any]) -> str:
  """One line on what was taken."""
  words = {'new': 'new', 'skipped': 'of it skipped'}
  rest = [f'{len(report[name])} {word}' for name, word in words.items() if report[name]]
  parts = [f'{len(report["taken"])} arrays taken', *rest]
  return f'{report["run_dir"]} after step {report["step"]:,}: {", ".join(parts)} (see parent in run.json)'
