"""A finished or stopped run, opened again to sample or to evaluate it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.config import idle
from gen_ai.core import command_line, surroundings
from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec, State, Task
from gen_ai.parallel.layouts import make_layout
from gen_ai.parallel.program import Program
from gen_ai.run import data_identity, directory, info, older_runs
from gen_ai.run.checkpoint import Checkpoints


def open_config(run_dir: str, overrides: Mapping[str, Any], sections: tuple[str, ...]) -> ConfigDict:
  """The recorded config with `overrides` in `sections` (or fields), laid out for this machine rather than the run's.

  Raises:
    UserError: no run directory, a value that no run could mean, or an override outside `sections`: it would describe
      another run.
  """
  directory.RunDir.open(run_dir)
  surroundings.start()
  check_free(run_dir, overrides, sections)
  config, added = older_runs.read_config(run_dir)
  if added:
    print(f'note: {older_runs.note(run_dir, added)}', file=sys.stderr)
  devices = jax.device_count()
  alone = {} if config.eval.batch_size % devices == 0 and config.data.batch_size % devices == 0 else {'mesh.data': 1}
  layout = {'parallel': 'jit', 'mesh.data': -1, 'mesh.fsdp': 1, 'mesh.expert': 1, 'mesh.tensor': 1, **alone}
  config = config_lib.override(config, {**layout, **overrides})
  config_lib.validate(config)
  idle.refuse(config, overrides)
  return config


def check_free(run_dir: str, overrides: Mapping[str, Any], sections: tuple[str, ...]) -> None:
  """Raises UserError for an override outside `sections` (or fields)."""
  for path in overrides:
    if path not in sections and path.split('.')[0] not in sections:
      names = ', '.join(f'config.{name}' if '.' in name else f'config.{name}.*' for name in sections)
      free = f'; what may be given here is {names}' if sections else ''
      raise UserError(f'config.{path} belongs to the training of {run_dir} and is fixed{free}.')


def recorded_spec(run_dir: str) -> Spec:
  """What the run's data was like, without reading the data."""
  return data_identity.spec_of(info.trained_on(run_dir))


class Recorded(NamedTuple):
  """A run by its record: nothing is restored for it."""

  path: Path
  config: ConfigDict
  spec: Spec
  tasks: dict[str, Task]


def recorded(run_dir: str) -> Recorded:
  """What is on the record of a run, and what it can do. Raises UserError where there is no run."""
  directory.RunDir.open(run_dir)
  surroundings.start()
  config, spec = older_runs.read_config(run_dir)[0], recorded_spec(run_dir)
  return Recorded(Path(run_dir), config, spec, dict(config_lib.builder(config)(config, spec).tasks))


def tasks(run_dir: str) -> dict[str, Task]:
  """What the run can do. Raises UserError where there is no run."""
  return recorded(run_dir).tasks


def task_sections(run_dir: str) -> tuple[str, ...]:
  """Sections of the config that any of the run's tasks may be run again under."""
  return tuple(dict.fromkeys(section for task in tasks(run_dir).values() for section in task.settings))


def restore(run_dir: str, config: ConfigDict, spec: Spec, which: str) -> tuple[Program, State, int]:
  """(program, state, step) of a checkpoint.

  Args:
    run_dir: the run.
    config: from `open_config`.
    spec: of its data.
    which: 'latest', 'best' (by config.eval.best) or a step.

  Raises:
    UserError: no such checkpoint, or none that is whole.
  """
  devices = jax.devices()[: 1 if config.mesh.data == 1 else None]
  program = Program(config, config_lib.builder(config), spec, make_layout(config, devices))
  metric, _, mode = config.eval.best.rpartition(':')
  checkpoints = Checkpoints(
    Path(run_dir) / 'checkpoints', config.run.keep, (metric, mode) if metric else None, read_only=True
  )
  if not checkpoints.steps():
    raise UserError(
      f'{run_dir} has no checkpoint yet: let it train to its first save (config.run.save_every), or resume it with '
      f'`{command_line.printed("launch.py", resume=run_dir)}`.'
    )
  step: int | None = None
  if which == 'best':
    step = checkpoints.best_step()
    if step is None:
      raise UserError(
        f"{run_dir} has no best checkpoint: config.eval.best='{config.eval.best}'. Take the latest: --step=latest, in "
        "Python step='latest'."
      )
  elif which != 'latest':
    if not which.isdigit():
      raise UserError(f"--step={which} is neither 'latest', 'best' nor the number of a step.")
    step = int(which)
  at, state = checkpoints.restore(program.abstract_state(), step)
  checkpoints.close()
  return program, program.layout.join([state]), at


def one_argument(arguments: list[str], module: str) -> str:
  """The run directory among the positional arguments. Raises UserError unless there is exactly one."""
  if len(arguments) != 1:
    raise UserError(f'{module} takes one run directory: python -m {module} RUN_DIR (got {arguments or "none"}).')
  return arguments[0]
