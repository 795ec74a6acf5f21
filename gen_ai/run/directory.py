"""The run directory: the only record of a run, made of plain files that any program can read.

A `RunDir` writes (on rank 0 alone); the `read_*` functions read, also while the run is being written. Nothing is
global: one process may hold many run directories.

  run.json       identity and provenance, written once        config.json    the resolved config, written once
  status.json    atomic: where the run stands                  attempts.jsonl start and end of every attempt, and
                 what of the config changed between two, as more steps do (`gen_ai.train.resume`)
  metrics.jsonl  one row a line; NaN and infinities as strings summary.json   final figures
  evaluations.jsonl  one row an evaluation of a checkpoint on a split, every figure with its stamp
  samples/  checkpoints/  logs/  tb/
  averages/      snapshots of averages of the parameters, where config.run.ema_snapshots keeps any
"""

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gen_ai.core import files
from gen_ai.core.errors import UserError
from gen_ai.run import older_names
from gen_ai.run.lease import Lease

CONFIG_FILE = 'config.json'
# Of a row of evaluations.jsonl that is one of a curve, in its `axis`: the length of the average, which is no field.
AXIS_EMA = 'ema'

STATES = ('running', 'done', 'stopped', 'diverged', 'pruned', 'failed')  # pruned: ended by early stopping
# What a row holds besides the figures of the model.
CLOCKED = ('step', 'kind', 'attempt', 'seconds', 'examples_per_second', 'input_stall_percent')
_RENAMED = {'gradient_norm': 'grad_norm'}  # metrics that older runs call otherwise


def check_path(path: str | os.PathLike) -> None:
  """Raises UserError for a place where checkpoints could be written and never be read again.

  TensorStore, which stores the arrays, takes a backslash for a slash; Orbax takes a folder `gs:` for a bucket; the
  record is UTF-8.
  """
  whole = os.path.realpath(path)
  what = ''
  if '\\' in whole:
    what = 'holds a backslash'
  elif any(part.endswith('gs:') for part in whole.split('/')):
    what = "holds a folder whose name ends in 'gs:', as addresses of buckets do"
  elif any('\ud800' <= char <= '\udfff' for char in whole):
    what = 'is no UTF-8 text'
  if what:
    raise UserError(f'{whole!r} {what}, so a run there could not be restored: name another folder.')


class RunDir:
  """Writes one run's record. Only the holder of its `lease()` may write."""

  def __init__(self, path: str | os.PathLike):
    self.path = Path(path)
    self.attempt = 0  # the first attempt is 1
    self._seconds = 0.0  # of training before the clock was started
    self._clock: float | None = None
    self._lease: Lease | None = None

  samples = property(lambda self: self.path / 'samples')
  checkpoints = property(lambda self: self.path / 'checkpoints')
  logs = property(lambda self: self.path / 'logs')
  tb = property(lambda self: self.path / 'tb')

  @classmethod
  def create(cls, runs_dir: str | os.PathLike, name: str, now: datetime | None = None) -> 'RunDir':
    """A new directory runs_dir/<name>/<utc time>-<4 hex>; never one that exists.

    Raises:
      UserError: the name is no plain directory name, or the place cannot be written or is full.
    """
    if not re.fullmatch(r'\w[\w.+=,-]*', name):
      raise UserError(f'run.name {name!r} cannot name a directory: use letters, digits and . _ + = , - only')
    stamp = (now or datetime.now(UTC)).astimezone(UTC).strftime('%Y%m%d-%H%M%S')
    while True:
      path = Path(runs_dir) / name / f'{stamp}-{secrets.token_hex(2)}'
      try:
        return cls.make(path)
      except UserError as error:
        cause = error.__cause__  # another run of this second may have the same four digits
        if not isinstance(cause, FileExistsError) or cause.filename != os.fspath(path):
          raise

  @classmethod
  def make(cls, path: str | os.PathLike, adopt: bool = False) -> 'RunDir':
    """A new run directory at `path`; with `adopt` also one left by a process that was killed before its first record.

    Raises:
      UserError: there is something at `path` already, it cannot be written, the disk is full, or see `check_path`.
    """
    check_path(path)
    run = cls(path)
    with files.disk_errors(run.path, run.path):
      try:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        run.path.mkdir(exist_ok=adopt and run._is_unused())
        for folder in (run.samples, run.checkpoints, run.logs):
          folder.mkdir(exist_ok=adopt)
      except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f'cannot make the run directory {run.path}: {error.filename} is in the way') from error
    return run

  @classmethod
  def open(cls, path: str | os.PathLike) -> 'RunDir':
    """An existing run directory. Raises UserError, naming what is missing, when `path` is none."""
    path = Path(path)
    if not path.is_dir():
      where = '' if path.is_absolute() else f' in {Path.cwd()}'
      raise UserError(f'{path} is not a run directory: there is no such directory{where}')
    missing = [name for name in ('run.json', CONFIG_FILE) if not (path / name).is_file()]
    if missing:
      raise UserError(f'{path} is not a run directory: it has no {" and no ".join(missing)}')
    return cls(path)

  def _is_unused(self) -> bool:
    """Whether the directory holds nothing but what is made before config.json, the first thing worth keeping."""
    before = {'samples', 'checkpoints', 'logs', 'run.json', 'uncommitted.patch', 'lease.json', '.lease.lock'}
    return self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= before

  def lease(self, **options: Any) -> Lease:
    """The right to write here, as a context manager (see `gen_ai.run.lease.Lease`)."""
    self._lease = Lease(self.path, attempt=_last_attempt(self.path) + 1, **options)
    return self._lease

  def check_lease(self) -> None:
    """Raises UserError when another process has taken the directory over, or it was deleted or replaced."""
    if self._lease is not None:
      self._lease.refresh()

  def write_run(self, run: Mapping[str, Any]) -> None:
    """Identity and provenance, once. Raises FileExistsError when already written."""
    self._write_once('run.json', run)

  def write_config(self, config: Mapping[str, Any]) -> None:
    """The resolved config, once: a resume uses it. Raises FileExistsError when already written."""
    self._write_once(CONFIG_FILE, config)

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    """Final figures of the run, in place of earlier ones."""
    self._write('summary.json', summary)

  def status(self, state: str, step: int, total: int, message: str = '') -> None:
    """Where the run stands: `step` completed updates of `total`; `state` is one of `STATES`."""
    if state not in STATES:
      raise ValueError(f'unknown state {state!r}, not one of {STATES}')
    now = _utc_now()
    where = {'host': socket.gethostname(), 'pid': os.getpid(), 'attempt': self.attempt, 'heartbeat': now}
    self._write('status.json', {'state': state, 'step': step, 'total': total, 'message': message, **where})

  def begin_attempt(self, step: int, **info: Any) -> int:
    """Records that training starts (again) from `step` and starts the clock. Returns the attempt, counted from 1.

    Rows that earlier attempts wrote past `step` are superseded from here on. `info` (versions, devices, ...) is kept.
    """
    for name in ('attempts.jsonl', 'metrics.jsonl'):
      with files.disk_errors(self.path / name, self.path):
        files.repair(self.path / name)
    self.attempt = _last_attempt(self.path) + 1
    self._record_attempt('start', step, info)
    self._seconds = max((row['seconds'] for row in read_metrics(self.path)), default=0.0)
    self.start_clock()
    return self.attempt

  def change(self, fields: Mapping[str, tuple[Any, Any]], run: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes run.json and config.json anew for a run that goes on, and what changed as a line of attempts.jsonl.

    Args:
      fields: {'section.field': (before, now)} of the config.
      run: identity and provenance, with what changed.
      config: the config to go on with.
    """
    with files.disk_errors(self.path / 'attempts.jsonl', self.path):
      files.repair(self.path / 'attempts.jsonl')
    rows = read_attempts(self.path)
    self.attempt = _last_attempt(self.path)
    self._record_attempt('change', rows[-1]['step'] if rows else 0, {'changed': fields})
    self._write('run.json', run)
    self._write(CONFIG_FILE, config)

  def end_attempt(self, exit_code: int, step: int, **info: Any) -> None:
    """Records how this attempt ended: an exit code of `gen_ai.core.errors` and the completed updates."""
    self._record_attempt('end', step, {'exit': exit_code, **info})

  def start_clock(self) -> None:
    """Counts training seconds from now on. Call it once more when compilation shall not count."""
    self._clock = time.monotonic()

  def append_metrics(self, row: Mapping[str, Any]) -> None:
    """Adds one row to metrics.jsonl, completed by `attempt` and `seconds` (of training, over all attempts).

    Args:
      row: `step` (completed updates), `kind` ('train' | 'eval') and float metrics by name with unit.

    Raises:
      UserError: the disk is full. No part of the row is left behind.
    """
    if self._clock is None:
      raise RuntimeError('append_metrics before begin_attempt: the row would belong to no attempt')
    seconds = self._seconds + time.monotonic() - self._clock
    head = {'step': int(row['step']), 'kind': row['kind'], 'attempt': self.attempt, 'seconds': round(seconds, 3)}
    line = json.dumps(files.plain({**head, **{k: v for k, v in row.items() if k not in head}}), allow_nan=False)
    files.append_line(self.path / 'metrics.jsonl', line, self.path)

  def _record_attempt(self, event: str, step: int, info: Mapping[str, Any]) -> None:
    where = {'time': _utc_now(), 'host': socket.gethostname(), 'pid': os.getpid()}
    line = files.dumps({**info, 'attempt': self.attempt, 'event': event, 'step': int(step), **where})
    files.append_line(self.path / 'attempts.jsonl', line, self.path)

  def _write_once(self, name: str, value: Mapping[str, Any]) -> None:
    if (self.path / name).exists():
      raise FileExistsError(f'{self.path / name} is written once and exists')
    self._write(name, value)

  def _write(self, name: str, value: Mapping[str, Any]) -> None:
    text = (files.dumps(value, indent=2) + '\n').encode()
    with files.disk_errors(self.path / name, self.path, needed=len(text)):
      files.write_atomic(self.path / name, text)


def _utc_now() -> str:
  return datetime.now(UTC).isoformat(timespec='seconds')


class _Told(dict):
  """What a file of the record tells. A field that it lacks, as in a run of another version, is told in one line."""

  def __init__(self, content: Mapping[str, Any], file: Path, prefix: str = ''):
    super().__init__(
      {
        name: _Told(value, file, f'{prefix}{name}.') if isinstance(value, dict) else value
        for name, value in content.items()
      }
    )
    self._file, self._prefix = file, prefix

  def __missing__(self, name: str) -> Any:
    raise UserError(
      f'{self._file} was written by {writer(self._file.parent)} and says nothing of '
      f'{self._prefix}{name}: go on with the version that wrote it.'
    )


def is_run(path: str | os.PathLike) -> bool:
  """Whether `path` is a run directory: config.json is what makes one. '' is none."""
  return bool(os.fspath(path)) and (Path(path) / CONFIG_FILE).is_file()


def split_step(reference: str) -> tuple[str, str]:
  """(run directory, step or '') of 'RUN_DIR' or 'RUN_DIR@STEP'."""
  run_dir, _, step = reference.rpartition('@') if '@' in reference.rpartition('/')[2] else (reference, '', '')
  return run_dir, step


def has_checkpoint(path: str | os.PathLike) -> bool:
  """Whether the run directory `path` has a checkpoint, sound or not."""
  return any(child.name.isdigit() for child in (Path(path) / 'checkpoints').glob('*'))


def writer(run_dir: str | os.PathLike) -> str:
  """Which version of gen_ai recorded a run: 'commit 0123456789ab', 'another version' where that is not known."""
  file = Path(run_dir) / 'run.json'
  commit = (_read_json(file).get('git') or {}).get('commit', '') if file.is_file() else ''
  return f'commit {commit[:12]}' if commit else 'another version'


def _read_json(path: Path) -> dict[str, Any]:
  try:
    content = files.from_plain(json.loads(path.read_text(encoding='utf-8')))
  except FileNotFoundError as error:
    raise UserError(
      f'{path.parent} has no {path.name}: it is no run directory, or the run never got that far'
    ) from error
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise UserError(f'{path} is damaged, it is not JSON: {error}') from error
  if not isinstance(content, dict):
    raise UserError(f'{path} is damaged, it is no JSON object: put a copy back.')
  return _Told(content, path)


def _last_attempt(path: Path) -> int:
  return max((row['attempt'] for row in read_attempts(path)), default=0)


def read_run(path: str | os.PathLike) -> dict[str, Any]:
  """run.json of a run directory as it lies there: `gen_ai.run.info` knows its fields.

  Raises UserError when it is missing or damaged, as all readers do.
  """
  return _read_json(Path(path) / 'run.json')


def read_config(path: str | os.PathLike) -> dict[str, Any]:
  """config.json of a run directory, with the names that fields have today."""
  return older_names.config(_read_json(Path(path) / CONFIG_FILE))


def read_status(path: str | os.PathLike) -> dict[str, Any]:
  """status.json of a run directory."""
  return _read_json(Path(path) / 'status.json')


def read_summary(path: str | os.PathLike) -> dict[str, Any]:
  """summary.json of a run directory."""
  return _read_json(Path(path) / 'summary.json')


def read_attempts(path: str | os.PathLike) -> list[dict[str, Any]]:
  """attempts.jsonl of a run directory: `start`, `end` and `change` events in the order they were written."""
  return files.read_jsonl(Path(path) / 'attempts.jsonl')


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of metrics.jsonl that still hold, in the order they were written.

  Rows of an attempt past the step where a later attempt began are left out: that later attempt computed them again.
  """
  begins = {row['attempt']: row['step'] for row in read_attempts(path) if row['event'] == 'start'}
  last_step: dict[int, float] = {}
  bound = float('inf')  # the first step of any later attempt
  for attempt in sorted(begins, reverse=True):
    last_step[attempt] = bound
    bound = min(bound, begins[attempt])
  rows = files.read_jsonl(Path(path) / 'metrics.jsonl')
  kept = [row for row in rows if row['step'] <= last_step.get(row['attempt'], float('inf'))]
  return [{_RENAMED.get(n, n): v for n, v in row.items()} if _RENAMED.keys() & row.keys() else row for row in kept]


def axis_name(setting: str) -> str:
  """A setting of a curve as people know it: 'config.sample.truncation', 'ema'."""
  return setting if setting == AXIS_EMA else f'config.{setting}'


def append_evaluation(run_dir: str | os.PathLike, row: Mapping[str, Any]) -> None:
  """Adds one row to evaluations.jsonl: an evaluation of a checkpoint on a split.

  Args:
    run_dir: the run directory.
    row: `time` (UTC, ISO 8601), `step`, `split`, `seconds`; `stamp`, the flat fields that all figures share; `figures`
      {name: {value, and where known low, high (95% interval), error (standard error), stamp (more fields)}};
      `pictures` {name: path in the run directory}, `texts` {name: [text]} and `notes` [text] where there are any;
      `axis` {'section.field': value} of one of a curve over settings, in which AXIS_EMA may stand for a field.

  Raises:
    UserError: the disk is full or may not be written. No part of the row is left behind.
  """
  path = Path(run_dir) / 'evaluations.jsonl'
  try:
    files.repair(path)
    files.append(path, (files.dumps(row) + '\n').encode())
  except OSError as error:
    raise UserError(
      f'{path} cannot be written ({error.strerror}): --out=FILE.json keeps the evaluation elsewhere.'
    ) from error


def _figure(figure: Mapping[str, Any]) -> dict[str, Any]:
  stamp = figure.get('stamp')
  named = {'stamp': older_names.renamed(stamp, older_names.STAMP)} if isinstance(stamp, Mapping) else {}
  return {**figure, **named}


def read_evaluations(run_dir: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of evaluations.jsonl in the order they were written, none where there is no file.

  A last line cut short is left out; NaN and infinities of the figures are numbers again.

  Raises:
    UserError: a row is damaged (names the line), or tells no time, step, split and figures.
  """
  path = Path(run_dir) / 'evaluations.jsonl'
  rows = files.read_jsonl(path)
  for number, row in enumerate(rows, 1):
    figures, words = row.get('figures'), (row.get('time'), row.get('split'))
    known = isinstance(row.get('step'), int) and all(isinstance(word, str) for word in words)
    if not known or not isinstance(figures, dict) or not all(isinstance(f, dict) for f in figures.values()):
      raise UserError(f'{path} line {number} is no evaluation (time, step, split, figures): delete the line')
    row['figures'] = {name: _figure(figure) for name, figure in files.from_plain(figures).items()}
  return rows
