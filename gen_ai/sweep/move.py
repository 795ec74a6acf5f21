"""Moving the data of a sweep: where it lies is all that may change of one that has started."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.config import PLACES
from gen_ai.core.errors import UserError
from gen_ai.data.dataset import Dataset
from gen_ai.run import data_identity, directory, info
from gen_ai.sweep.directory import Sweep
from gen_ai.train.resume import load_data, record_changes


def check_move(sweep: Sweep, overrides: Mapping[str, Any]) -> None:
  """Raises UserError where `overrides` name more than the place of the data, or a field that the trials differ in."""
  for path in overrides:
    if path not in PLACES:
      raise UserError(
        f'{sweep.path} keeps what it was started with: leave --config.{path} out. What may change is the '
        f'place of its data, config.{", config.".join(PLACES)}.'
      )
    if any(path in trial.overrides for trial in sweep.trials):
      raise UserError(f'the trials of {sweep.path} differ in config.{path}: no one value can replace them.')


def move_sweep(sweep: Sweep, overrides: Mapping[str, Any]) -> None:
  """Makes `overrides` the place of a sweep's data, in its record and in those of the trials that have started.

  Args:
    sweep: whose lease is held.
    overrides: of the command line, as `check_move` lets them pass.

  Raises:
    UserError: the data there is other data. Nothing is changed then.
  """
  started: list[tuple[directory.RunDir, ConfigDict, Dataset]] = []
  datasets: dict[str, Dataset] = {}
  for trial in sweep.trials:
    config, run = config_lib.override(trial.config, overrides), directory.RunDir(sweep.run_dir(trial))
    if directory.is_run(run.path):
      data = config.data.to_json()
      datasets[data] = datasets.get(data) or load_data(run.path, config)
      data_identity.check(datasets[data], info.trained_on(run.path).fingerprint, run.path)
      started.append((run, config, datasets[data]))
  sweep.move(overrides)
  for run, config, dataset in started:
    with run.lease():
      record_changes(run, config, dataset)
