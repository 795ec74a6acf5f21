"""The directory of a sweep: `sweep.json`, written once, and one ordinary run directory a trial.

Everything else about a sweep is read from the trials' own records, so that any launcher, a person or a later day can go
on from it. No JAX here.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import files
from gen_ai.core.errors import UserError
from gen_ai.run import directory, info, older_names, older_runs
from gen_ai.run.lease import Lease
from gen_ai.sweep.trials import Trial

FILE = 'sweep.json'
ENDED = ('done', 'diverged', 'pruned')  # nothing is left to do there


@dataclass(frozen=True)
class TrialStatus:
  """Where a trial stands, as its record says."""

  state: str  # 'waiting' | one of gen_ai.run.directory.STATES | 'lost' (was running, and its process is gone)
  step: int
  total: int
  message: str
  host: str


class Sweep:
  """A sweep directory."""

  def __init__(self, path: Path, about: Mapping[str, Any]):
    self.path, self.about = Path(path), older_names.sweep(about)
    self.config_file = info.config_file(about.get('config_file') or {})
    whose = f'{path} was recorded by another version'
    base, _ = older_runs.complete_base(self.about['base'], whose, self.config_file)
    self.trials = [
      Trial(trial['number'], trial['overrides'], older_runs.trial_config(base, trial['overrides']), trial['dir'])
      for trial in self.about['trials']
    ]

  @property
  def launcher(self) -> str:
    """Name of the launcher that it was started with."""
    return self.about['launcher']

  @property
  def parent(self) -> dict[str, Any]:
    """{'run_dir', 'step'} of the run from whose weights all trials begin; {} where there is none."""
    return self.about.get('parent') or {}

  @classmethod
  def create(
    cls, runs_dir: str, label: str, base: ConfigDict, trials: Sequence[Trial], about: Mapping[str, Any]
  ) -> 'Sweep':
    """A new directory runs_dir/<run.name>/<utc time>-<label>-<4 hex> with its sweep.json.

    Args:
      runs_dir: as for runs.
      label: what the sweep is called.
      base: config that all trials share.
      trials: from `resolve`.
      about: recorded as it is (argv, config file, launcher, ...).

    Raises:
      UserError: the place cannot be written or hold runs, or the disk is full. Nothing is left there.
    """
    directory.check_path(runs_dir)
    planned = cls.planned(runs_dir, label, base, trials, about)
    path = planned.path
    with files.disk_errors(path / FILE, path):
      try:
        path.mkdir(parents=True)
      except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f'cannot make the sweep directory {path}: {error.filename} is in the way') from error
      try:
        files.write_atomic(path / FILE, files.dumps(planned.about, indent=2) + '\n')
      except OSError:
        planned.discard()
        raise
    return cls.open(path)

  @classmethod
  def planned(
    cls, runs_dir: str, label: str, base: ConfigDict, trials: Sequence[Trial], about: Mapping[str, Any]
  ) -> 'Sweep':
    """The sweep that `create` would make of these arguments; nothing is written."""
    stamp = datetime.now(UTC).strftime('%Y%m%d-%H%M%S')
    label = re.sub(r'[^\w.+=-]', '_', label)[:40]
    path = Path(runs_dir) / base.run.name / f'{stamp}-{label}-{secrets.token_hex(2)}'
    whole = {
      'version': 1,
      'name': label,
      'created': datetime.now(UTC).isoformat(timespec='seconds'),
      **about,
      'base': config_lib.to_json(base),
      'trials': [{'number': p.number, 'dir': p.name, 'overrides': p.overrides} for p in trials],
    }
    return cls(path, whole)

  def discard(self) -> None:
    """Removes the directory of a sweep of which nothing was started, and the folder that it was made in if empty."""
    shutil.rmtree(self.path, ignore_errors=True)
    with contextlib.suppress(OSError):
      self.path.parent.rmdir()

  def started(self) -> bool:
    """Whether any trial was ever started, or handed over to Slurm."""
    traces = [*map(self.run_dir, self.trials), *map(self.log, self.trials), self.path / 'slurm' / 'jobs.jsonl']
    return any(trace.exists() for trace in traces)

  @classmethod
  def open(cls, path: str | os.PathLike) -> 'Sweep':
    """The sweep at `path`. Raises UserError where there is none or its sweep.json is damaged."""
    path = Path(path)
    if not is_sweep(path):
      raise UserError(f'{path} is not a sweep directory: it has no {FILE}.')
    try:
      return cls(path, json.loads((path / FILE).read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise UserError(f'{path / FILE} is damaged ({error}): put a copy back.') from error

  def move(self, places: Mapping[str, Any]) -> None:
    """Records where the data lies from now on: `places` in sweep.json, which tells what they were before as well."""
    about = json.loads(json.dumps(self.about))
    before = config_lib.flatten(about['base'])
    for path, value in places.items():
      section, _, name = path.partition('.')
      about['base'][section][name] = value
    changed = {path: [before.get(path), value] for path, value in places.items()}
    about['changed'] = [*about.get('changed', ()), changed]
    with files.disk_errors(self.path / FILE, self.path):
      files.write_atomic(self.path / FILE, files.dumps(about, indent=2) + '\n')

  def run_dir(self, trial: Trial) -> Path:
    """Where `trial` is recorded."""
    return self.path / trial.name

  def status(self, trial: Trial) -> TrialStatus:
    """Where `trial` stands: what its run says, or its launcher where that is newer (`record_failure`)."""
    path, total = self.run_dir(trial), trial.config.run.steps
    own, found = path / 'status.json', TrialStatus('waiting', 0, total, '', '')
    if own.is_file():
      try:
        run = directory.read_status(path)
      except UserError as error:  # the others of the sweep can still be told of
        return replace(found, state='failed', message=str(error))
      state = 'lost' if run['state'] == 'running' and not Lease(path).held() else run['state']
      found = TrialStatus(state, run['step'], total, run['message'], run['host'])
    failure = self._failure(trial)
    if found.state in (*ENDED, 'running') or not failure.is_file():
      return found
    newer = not own.is_file() or failure.stat().st_mtime >= own.stat().st_mtime
    return replace(found, **json.loads(failure.read_text())) if newer else found

  def _failure(self, trial: Trial) -> Path:
    return self.path / 'failures' / f'{trial.number}.json'

  def record_failure(self, trial: Trial, state: str, message: str) -> None:
    """What a launcher knows of a worker that ended without saying why in its run; `state` is 'failed' or 'lost'.

    It holds until the run records a status of its own.
    """
    file = self._failure(trial)
    with files.disk_errors(file, self.path):
      file.parent.mkdir(exist_ok=True)
      files.write_atomic(file, files.dumps({'state': state, 'message': message}))

  def clear_failure(self, trial: Trial) -> None:
    """Takes `record_failure` back: the trial is started again."""
    self._failure(trial).unlink(missing_ok=True)

  def unfinished(self, retry_failed: bool = False, running: bool = False) -> list[Trial]:
    """Trials that a launcher is to start or to go on with: those that have not ended.

    Args:
      retry_failed: also those that failed.
      running: also those that some process still runs, as workers do for a moment after their launcher was killed.
    """
    skipped = (*ENDED, *(() if running else ('running',)), *(() if retry_failed else ('failed',)))
    return [trial for trial in self.trials if self.status(trial).state not in skipped]

  def command(self, trial: Trial, *flags: str) -> list[str]:
    """Arguments after `python` of the worker of `trial`: every launcher starts this."""
    return ['launch.py', f'--run_dir={self.run_dir(trial).absolute()}', *flags]

  def log(self, trial: Trial) -> Path:
    """Where a launcher keeps what the workers of `trial` print, in a folder that it makes."""
    return self.path / 'logs' / f'{trial.number}.log'

  def lease(self) -> Lease:
    """The right to launch this sweep, as a context manager: a second launcher is refused."""
    return Lease(self.path)

  # Stopping by files: the one signal that reaches workers of every launcher, on any machine.

  def request_stop(self, numbers: Iterable[int] = ()) -> None:
    """Asks the trials `numbers`, or all, to save and leave."""
    folder = self.path / 'stop'
    with files.disk_errors(folder, self.path):
      folder.mkdir(exist_ok=True)
      for name in [str(number) for number in numbers] or ['all']:
        (folder / name).touch()

  def clear_stop(self) -> None:
    """Withdraws all requests to stop."""
    for file in (self.path / 'stop').glob('*'):
      file.unlink(missing_ok=True)

  def stop_files(self, trial: Trial) -> list[Path]:
    """Files whose existence asks `trial` to stop."""
    return [self.path / 'stop' / 'all', self.path / 'stop' / str(trial.number)]

  def stop_requested(self, trial: Trial) -> bool:
    """Whether `trial` is asked to stop."""
    return any(file.exists() for file in self.stop_files(trial))


def is_sweep(path: str | os.PathLike) -> bool:
  """Whether `path` is a sweep directory."""
  return (Path(path) / FILE).is_file()


def owner(run_dir: str | os.PathLike) -> tuple[Sweep, Trial] | None:
  """The sweep and the trial that `run_dir` belongs to; None for a run of its own."""
  path = Path(run_dir).absolute()
  if not is_sweep(path.parent):
    return None
  sweep = Sweep.open(path.parent)
  return next(((sweep, trial) for trial in sweep.trials if trial.name == path.name), None)
