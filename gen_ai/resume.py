"""What may change of a run that goes on: where its data lies, and how many steps it makes. All else is another run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gen_ai import command, older_runs, provenance, record
from gen_ai import config as config_lib
from gen_ai import sweep as sweep_lib
from gen_ai.config import PLACES
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import identity
from gen_ai.data.dataset import Dataset
from gen_ai.errors import UserError
from gen_ai.optim import ends_with_run
from gen_ai.sweep import Sweep

STEPS = 'run.steps'


def changed(run_dir: str, config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """The config that the run goes on with.

  Args:
    run_dir: of the run.
    config: the recorded one.
    overrides: of the command line.

  Raises:
    UserError: a field that is fixed, fewer steps than are done, or a schedule that more steps would change.
  """
  new = config_lib.override(config, overrides)
  fields = config_lib.difference(config, new)
  for path in fields:
    if path not in (STEPS, *PLACES):
      raise UserError(f'config.{path} is fixed for {run_dir}, which would be another run with another one. What may '
                      f'change of a run that goes on is config.{STEPS} and the place of its data, config.'
                      f'{", config.".join(PLACES)}.')  # fmt: skip
  point = sweep_lib.owner(run_dir)
  if fields and point:
    way = 'copy the directory out of the sweep to go on with it alone'
    if STEPS not in fields:
      moved = {f'config.{path}': now for path, (_, now) in fields.items()}
      way = f'`{command.printed("launch.py", resume=point[0].path, **moved)}` moves them together'
    raise UserError(f'config.{next(iter(fields))}: {run_dir} is a point of the sweep {point[0].path}, whose points '
                    f'stay alike: {way}.')  # fmt: skip
  if STEPS in fields:
    _check_steps(run_dir, config, new.run.steps)
  return new


def _check_steps(run_dir: str, config: ConfigDict, steps: int) -> None:
  file = Path(run_dir) / 'status.json'
  done = record.read_status(run_dir)['step'] if file.is_file() else 0
  if steps <= done:
    raise UserError(f'config.{STEPS}={steps}: {run_dir} has done {done:,} steps already. Give more.')
  if ends_with_run(config.optim):
    raise UserError(f'config.{STEPS}={steps}: the learning rate of {run_dir} falls to its end at step '
                    f'{config.run.steps:,} (config.optim.schedule={config.optim.schedule!r} with '
                    'config.optim.decay_steps=0), so it would have been another one from the start on. Start a new run '
                    f'with --config.{STEPS}={steps}; runs that name config.optim.decay_steps or have a constant '
                    'schedule can be given more steps.')  # fmt: skip


def load_data(run_dir: str | Path, config: ConfigDict) -> Dataset:
  """The data set of a recorded run. Raises UserError as `dataset.load`, with the way out for data that moved."""
  try:
    return dataset_lib.load(config.data)
  except UserError as error:
    raise UserError(f'{str(error).rstrip(".")}. If the data of {run_dir} moved, say where it is now, with '
                    '--config.data.name=NAME or --config.data.data_dir=FOLDER.') from error  # fmt: skip


def record_changes(run: record.RunDir, config: ConfigDict, dataset: Dataset) -> dict[str, tuple[Any, Any]]:
  """Makes `config` that of the run's record; {'section.field': (before, now)} of what changed.

  Raises:
    UserError: `dataset` is not what the run was trained on, or the disk is full. Nothing is changed then.
  """
  before, _ = older_runs.read_config(run.path)
  fields = config_lib.difference(before, config)
  if not fields:
    return {}
  about = record.read_run(run.path)
  identity.check(dataset, about['data']['fingerprint'], run.path)
  tree = record.read_config(run.path)  # as it was written: fields that are newer than the run stay out of it
  for path, (_, value) in fields.items():
    section, _, name = path.partition('.')
    tree[section][name] = value
  own = identity.describe(dataset)
  place = {name: own[name] for name in ('name', 'version', 'location')}
  overrides = about.get('overrides', {})
  if isinstance(overrides, Mapping):
    overrides = {**overrides, **{path: value for path, (_, value) in fields.items()}}
  hashes = {'config_hash': provenance.config_hash(tree), 'group_hash': provenance.group_hash(tree)}
  run.change(fields, {**about, **hashes, 'overrides': overrides, 'data': {**about['data'], **place}}, tree)
  return fields


def check_move(sweep: Sweep, overrides: Mapping[str, Any]) -> None:
  """Raises UserError where `overrides` name more than the place of the data, or a field that the points differ in."""
  for path in overrides:
    if path not in PLACES:
      raise UserError(f'{sweep.path} keeps what it was started with: leave --config.{path} out. What may change is the '
                      f'place of its data, config.{", config.".join(PLACES)}.')  # fmt: skip
    if any(path in point.overrides for point in sweep.points):
      raise UserError(f'the points of {sweep.path} differ in config.{path}: no one value can replace them.')


def move_sweep(sweep: Sweep, overrides: Mapping[str, Any]) -> None:
  """Makes `overrides` the place of a sweep's data, in its record and in those of the points that have started.

  Args:
    sweep: whose lease is held.
    overrides: of the command line, as `check_move` lets them pass.

  Raises:
    UserError: the data there is other data. Nothing is changed then.
  """
  started: list[tuple[record.RunDir, ConfigDict, Dataset]] = []
  datasets: dict[str, Dataset] = {}
  for point in sweep.points:
    config, run = config_lib.override(point.config, overrides), record.RunDir(sweep.run_dir(point))
    if (run.path / 'config.json').is_file():
      data = config.data.to_json()
      datasets[data] = datasets.get(data) or load_data(run.path, config)
      identity.check(datasets[data], record.read_run(run.path)['data']['fingerprint'], run.path)
      started.append((run, config, datasets[data]))
  sweep.move(overrides)
  for run, config, dataset in started:
    with run.lease():
      record_changes(run, config, dataset)
