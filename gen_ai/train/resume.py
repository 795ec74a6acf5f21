"""What may change of a run that goes on: where its data lies, and how many steps it makes. All else is another run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.config import PLACES
from gen_ai.core import command_line
from gen_ai.core.errors import UserError
from gen_ai.core.optim import ends_with_run
from gen_ai.data import dataset as dataset_lib
from gen_ai.data.dataset import Dataset
from gen_ai.run import data_identity, directory, info, older_runs, provenance

STEPS = 'run.steps'


def changed(run_dir: str, config: ConfigDict, overrides: Mapping[str, Any], sweep: str | Path = '') -> ConfigDict:
  """The config that the run goes on with.

  Args:
    run_dir: of the run.
    config: the recorded one.
    overrides: of the command line.
    sweep: directory of the sweep that the run belongs to; '' for a run of its own.

  Raises:
    UserError: a field that is fixed, fewer steps than are done, or a schedule that more steps would change.
  """
  new = config_lib.override(config, overrides)
  fields = config_lib.difference(config, new)
  for path in fields:
    if path not in (STEPS, *PLACES):
      raise UserError(
        f'config.{path} is fixed for {run_dir}, which would be another run with another one. What may '
        f'change of a run that goes on is config.{STEPS} and the place of its data, config.'
        f'{", config.".join(PLACES)}.'
      )
  if fields and sweep:
    way = 'copy the directory out of the sweep to go on with it alone'
    if STEPS not in fields:
      moved = {f'config.{path}': now for path, (_, now) in fields.items()}
      way = f'`{command_line.printed("launch.py", resume=sweep, **moved)}` moves them together'
    raise UserError(
      f'config.{next(iter(fields))}: {run_dir} is a trial of the sweep {sweep}, whose trials stay alike: {way}.'
    )
  if STEPS in fields:
    _check_steps(run_dir, config, new.run.steps)
  return new


def _check_steps(run_dir: str, config: ConfigDict, steps: int) -> None:
  file = Path(run_dir) / 'status.json'
  done = directory.read_status(run_dir)['step'] if file.is_file() else 0
  if steps <= done:
    raise UserError(f'config.{STEPS}={steps}: {run_dir} has done {done:,} steps already. Give more.')
  if ends_with_run(config.optim):
    raise UserError(
      f'config.{STEPS}={steps}: the learning rate of {run_dir} falls to its end at step '
      f'{config.run.steps:,} (config.optim.schedule={config.optim.schedule!r} with '
      'config.optim.decay_steps=0), so it would have been another one from the start on. Start a new run '
      f'with --config.{STEPS}={steps}; runs that name config.optim.decay_steps or have a constant '
      'schedule can be given more steps.'
    )


def load_data(run_dir: str | Path, config: ConfigDict) -> Dataset:
  """The data set of a recorded run. Raises UserError as `dataset.load`, with the way out for data that moved."""
  try:
    return dataset_lib.load(config.data)
  except UserError as error:
    raise UserError(
      f'{str(error).rstrip(".")}. If the data of {run_dir} moved, say where it is now, with '
      '--config.data.name=NAME or --config.data.data_dir=FOLDER.'
    ) from error


def record_changes(run: directory.RunDir, config: ConfigDict, dataset: Dataset) -> dict[str, tuple[Any, Any]]:
  """Makes `config` that of the run's record; {'section.field': (before, now)} of what changed.

  Raises:
    UserError: `dataset` is not what the run was trained on, or the disk is full. Nothing is changed then.
  """
  before, _ = older_runs.read_config(run.path)
  fields = config_lib.difference(before, config)
  if not fields:
    return {}
  about = info.read(run.path)
  data_identity.check(dataset, about.data.fingerprint, run.path)
  tree = directory.read_config(run.path)  # as it was written: fields that are newer than the run stay out of it
  for path, (_, value) in fields.items():
    section, _, name = path.partition('.')
    tree[section][name] = value
  own = data_identity.describe(dataset)
  data = dataclasses.replace(about.data, name=own.name, version=own.version, location=own.location)
  overrides = about.overrides
  if isinstance(overrides, Mapping):
    overrides = {**overrides, **{path: value for path, (_, value) in fields.items()}}
  hashes: dict[str, Any] = {
    'config_hash': provenance.config_hash(tree),
    'group_hash': provenance.group_hash(tree, about.parent),
  }
  run.change(fields, dataclasses.replace(about, **hashes, overrides=overrides, data=data).to_json(), tree)
  return fields
