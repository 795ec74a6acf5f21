"""Sweeps: which points there are, what may share a program, and the directory that holds them.

A sweep directory is `sweep.json`, written once, and one ordinary run directory a point. Everything else about a sweep
is read from the points' own records, so that any engine, a person or a later day can go on from it. No JAX here.
"""

import contextlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai import idle, older_runs, record, space
from gen_ai.errors import UserError
from gen_ai.lease import Lease

FILE = 'sweep.json'
SEEDS = ('run.seed', 'data.seed')  # differ between the lanes of one program, as traced floats do
ENDED = ('done', 'diverged', 'pruned')  # nothing is left to do there
MOST_POINTS = 100_000  # of a sweep: a slip of the finger asks for more, and would be planned for hours
MOST_DRAWN = 10_000  # every point is held against those before it
_NAME_LENGTH = 80


@dataclass(frozen=True)
class Point:
  """One run of a sweep."""

  number: int
  overrides: dict[str, Any]  # {'section.field': value} over the sweep's base config
  config: ConfigDict
  name: str  # of its directory


# What points there are.


def sweeps_of(module: ModuleType) -> dict[str, Callable[[], Iterable[Mapping[str, Any]]]]:
  """{'lr': sweep_lr, ...} of a config file."""
  found = {name.removeprefix('sweep_'): fn for name, fn in vars(module).items() if name.startswith('sweep_')}
  return {name: fn for name, fn in found.items() if callable(fn)}


def declared(reference: str, name: str) -> list[dict[str, Any]]:
  """The points of sweep_<name>() in the config file.

  Raises:
    UserError: an unknown name, an empty sweep, or points that are no dicts.
  """
  path, _ = config_lib.split_reference(reference)
  known = sweeps_of(config_lib.load_module(path))
  if name not in known:
    listed = ', '.join(sorted(known)) or 'none'
    raise UserError(f"{path} has no sweep '{name}'.{config_lib.nearest(name, list(known))} It has: {listed}. Define "
                    f'`def sweep_{name}(): yield {{"section.field": value}}`, or use --axis=FIELD=V1,V2.')  # fmt: skip
  points = config_lib.call(path, f'sweep_{name}()', lambda: list(known[name]() or ()))
  if not points:
    raise UserError(f'sweep_{name}() of {path} yields no point.')
  for point in points:
    if not isinstance(point, Mapping):
      raise UserError(f'sweep_{name}() of {path} yields {point!r}, which is no point: '
                      'yield {"section.field": value}.')  # fmt: skip
  return [dict(point) for point in points]


def _split(text: str) -> list[str]:
  """'a,(1,2),b' as ['a', '(1,2)', 'b']: commas inside brackets do not count."""
  parts, depth = [''], 0
  for char in text:
    depth += (char in '([') - (char in ')]')
    if char == ',' and depth == 0:
      parts.append('')
    else:
      parts[-1] += char
  return [part.strip() for part in parts]


def axis(text: str) -> list[dict[str, Any]]:
  """The points of --axis=FIELD=V1,V2 or, for whole numbers, --axis=FIELD=START:STOP[:STEP] (STOP left out)."""
  path, equals, values = text.partition('=')
  path = path.removeprefix('config.')
  if not equals or not path:
    raise UserError(f"--axis='{text}' must read --axis=FIELD=V1,V2 or --axis=FIELD=START:STOP.")
  whole = re.fullmatch(r'(-?\d+):(-?\d+)(?::(\d+))?', values)
  if whole:
    start, stop, step = int(whole[1]), int(whole[2]), int(whole[3] or 1)
    numbers = range(start, stop, step) if step else range(0)
    if numbers[MOST_POINTS:]:  # a range knows its length without counting
      raise UserError(f'--axis={text} gives more than {MOST_POINTS:,} points: ask for fewer.')
    found = [str(number) for number in numbers]
  else:
    found = _split(values) if values.strip() else []
  if not found:
    raise UserError(f'--axis={text} has no value: write FIELD=V1,V2 or FIELD=START:STOP[:STEP], with STOP left out.')
  return [{path: value} for value in found]


def drawn(reference: str, n: int, seed: int) -> list[dict[str, Any]]:
  """`n` points from the space() of the config file."""
  path, _ = config_lib.split_reference(reference)
  module = config_lib.load_module(path)
  if not hasattr(module, 'space'):
    raise UserError(f'--sample={n} draws from space(), which {path} does not define: `def space(): return '
                    '{"optim.lr": log_uniform(1e-5, 1e-2)}` with gen_ai.space.')  # fmt: skip
  if not 1 <= n <= MOST_DRAWN:
    raise UserError(f'--sample={n} must be from 1 to {MOST_DRAWN:,}.')
  return space.draw(config_lib.call(path, 'space()', module.space), n, seed)


def product(parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
  """All combinations. Raises UserError where two parts set one field."""
  owner: dict[str, str] = {}
  for part, points in parts.items():
    for path in sorted({path for point in points for path in point}):
      if owner.setdefault(path, part) != part:
        raise UserError(f'{owner[path]} and {part} both set {path}: leave one of them out.')
  if math.prod(map(len, parts.values())) > MOST_POINTS:
    raise UserError(f'{" and ".join(parts)} give more than {MOST_POINTS:,} points: ask for fewer.')
  combined = []
  for combination in itertools.product(*parts.values()):
    combined.append({path: value for point in combination for path, value in point.items()})
  return combined


def resolve(base: ConfigDict, overrides: Sequence[Mapping[str, Any]], fixed: Iterable[str] = ()) -> list[Point]:
  """Points over `base`, every one validated.

  Args:
    base: what all share.
    overrides: a point each; text is parsed to the field's type.
    fixed: fields that the command line sets, which no point may set as well.

  Raises:
    UserError: a misspelt field, a value no run could have, two points alike; names the point.
  """
  points: list[Point] = []
  seen: dict[str, int] = {}
  names: set[str] = set()
  for number, changes in enumerate(overrides):
    clash = sorted(set(changes) & set(fixed))
    if clash:
      raise UserError(f'--config.{clash[0]} and the sweep both set {clash[0]}: leave one of them out.')
    try:
      config = config_lib.override(base, {path: _scalar(value) for path, value in changes.items()})
      config_lib.validate(config)
      config_lib.experiment(config)
      idle.refuse(config, changes)
    except UserError as error:
      raise UserError(f'point {number} ({_label(changes)}): {error} Nothing was started.') from error
    flat = config_lib.flatten(config)
    typed = {path: flat[path] for path in changes}
    key = record.dumps(config_lib.to_json(config))
    if key in seen:
      raise UserError(f'points {seen[key]} and {number} are the same run ({_label(typed)}): leave one of them out.')
    seen[key] = number
    names.add(name := _directory(number, typed, names))
    points.append(Point(number, typed, config, name))
  for path in fixed:
    if points and all(idle.reason(point.config, path) for point in points):  # what one point reads is not idle
      idle.refuse(points[0].config, [path])
  return points


def _scalar(value: Any) -> Any:
  """A NumPy scalar, as np.logspace yields, as the Python number; anything else as it is."""
  return value.item() if hasattr(value, 'item') and getattr(value, 'ndim', None) == 0 else value


def _label(overrides: Mapping[str, Any]) -> str:
  return ','.join(f'{path}={text_of(value)}' for path, value in overrides.items()) or 'the config as it is'


def text_of(value: Any) -> str:
  """A value as tables and directory names show it: 0.0001, not 1e-04; shortest where nothing is lost."""
  return f'{value:g}' if isinstance(value, float) and float(f'{value:g}') == value else str(value)


def _directory(number: int, overrides: Mapping[str, Any], taken: set[str]) -> str:
  name = re.sub(r'[^\w.+=,-]', '_', _label(overrides) if overrides else f'point-{number}', flags=re.ASCII)
  return name if len(name) <= _NAME_LENGTH and name not in taken else f'{name[: _NAME_LENGTH - 6]}-{number:05d}'


# What may share a program.


def signature(config: ConfigDict) -> str:
  """Equal for configs that can be lanes of one program: all but traced floats and seeds is the same."""
  flat = config_lib.flatten(config)
  structure = {path: value for path, value in flat.items() if path not in SEEDS}
  return record.dumps({**structure, **dict.fromkeys(config_lib.traced(config), '')})


def groups(points: Iterable[Point]) -> list[list[Point]]:
  """Points that differ in traced values alone, together; in order."""
  found: dict[str, list[Point]] = {}
  for point in points:
    found.setdefault(signature(point.config), []).append(point)
  return list(found.values())


def packable(config: ConfigDict) -> str:
  """Why runs of `config` cannot be lanes; '' where they can."""
  mesh = config.mesh
  if config.parallel != 'jit':
    return f"config.parallel='{config.parallel}'"
  if mesh.fsdp * mesh.tensor != 1 or mesh.data not in (-1, 1):
    return f'config.mesh splits one run over devices (data={mesh.data}, fsdp={mesh.fsdp}, tensor={mesh.tensor})'
  return ''


# The directory.


@dataclass(frozen=True)
class PointStatus:
  """Where a point stands, as its record says."""

  state: str  # 'waiting' | one of gen_ai.record.STATES | 'lost' (was running, and its process is gone)
  step: int
  total: int
  message: str
  host: str


class Sweep:
  """A sweep directory."""

  def __init__(self, path: Path, about: Mapping[str, Any]):
    self.path, self.about = Path(path), about
    whose, file = f'{path} was recorded by another version', about.get('config_file') or {}
    base, _ = older_runs.complete(about['base'], whose, file)
    self.points = [
      Point(point['number'], point['overrides'], config_lib.override(base, point['overrides']), point['dir'])
      for point in about['points']
    ]

  @classmethod
  def create(cls, runs_dir: str, label: str, base: ConfigDict, points: Sequence[Point],
             about: Mapping[str, Any]) -> 'Sweep':  # fmt: skip
    """A new directory runs_dir/<run.name>/<utc time>-<label>-<4 hex> with its sweep.json.

    Args:
      runs_dir: as for runs.
      label: what the sweep is called.
      base: config that all points share.
      points: from `resolve`.
      about: recorded as it is (argv, config file, engine, ...).

    Raises:
      UserError: the place cannot be written or hold runs, or the disk is full. Nothing is left there.
    """
    record.check_path(runs_dir)
    planned = cls.planned(runs_dir, label, base, points, about)
    path = planned.path
    with record.disk_errors(path / FILE, path):
      try:
        path.mkdir(parents=True)
      except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f'cannot make the sweep directory {path}: {error.filename} is in the way') from error
      try:
        record.write_atomic(path / FILE, record.dumps(planned.about, indent=2) + '\n')
      except OSError:
        planned.discard()
        raise
    return cls.open(path)

  @classmethod
  def planned(cls, runs_dir: str, label: str, base: ConfigDict, points: Sequence[Point],
              about: Mapping[str, Any]) -> 'Sweep':  # fmt: skip
    """The sweep that `create` would make of these arguments; nothing is written."""
    stamp = datetime.now(UTC).strftime('%Y%m%d-%H%M%S')
    label = re.sub(r'[^\w.+=-]', '_', label)[:40]
    path = Path(runs_dir) / base.run.name / f'{stamp}-{label}-{secrets.token_hex(2)}'
    whole = {
      'version': 1, 'name': label, 'created': datetime.now(UTC).isoformat(timespec='seconds'), **about,
      'base': config_lib.to_json(base),
      'points': [{'number': p.number, 'dir': p.name, 'overrides': p.overrides} for p in points],
    }  # fmt: skip
    return cls(path, whole)

  def discard(self) -> None:
    """Removes the directory of a sweep of which nothing was started, and the folder that it was made in if empty."""
    shutil.rmtree(self.path, ignore_errors=True)
    with contextlib.suppress(OSError):
      self.path.parent.rmdir()

  def started(self) -> bool:
    """Whether any point was ever started, or handed over to Slurm."""
    traces = [*map(self.run_dir, self.points), *map(self.log, self.points), self.path / 'slurm' / 'jobs.jsonl']
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
    with record.disk_errors(self.path / FILE, self.path):
      record.write_atomic(self.path / FILE, record.dumps(about, indent=2) + '\n')

  def run_dir(self, point: Point) -> Path:
    """Where `point` is recorded."""
    return self.path / point.name

  def status(self, point: Point) -> PointStatus:
    """Where `point` stands: what its run says, or its engine where that is newer (`record_failure`)."""
    path, total = self.run_dir(point), point.config.run.steps
    own, found = path / 'status.json', PointStatus('waiting', 0, total, '', '')
    if own.is_file():
      try:
        run = record.read_status(path)
      except UserError as error:  # the others of the sweep can still be told of
        return replace(found, state='failed', message=str(error))
      state = 'lost' if run['state'] == 'running' and not Lease(path).held() else run['state']
      found = PointStatus(state, run['step'], total, run['message'], run['host'])
    failure = self._failure(point)
    if found.state in (*ENDED, 'running') or not failure.is_file():
      return found
    newer = not own.is_file() or failure.stat().st_mtime >= own.stat().st_mtime
    return replace(found, **json.loads(failure.read_text())) if newer else found

  def _failure(self, point: Point) -> Path:
    return self.path / 'failures' / f'{point.number}.json'

  def record_failure(self, point: Point, state: str, message: str) -> None:
    """An engine's word on a worker that ended without saying why in its run; `state` is 'failed' or 'lost'.

    It holds until the run records a status of its own.
    """
    file = self._failure(point)
    with record.disk_errors(file, self.path):
      file.parent.mkdir(exist_ok=True)
      record.write_atomic(file, record.dumps({'state': state, 'message': message}))

  def clear_failure(self, point: Point) -> None:
    """Takes `record_failure` back: the point is started again."""
    self._failure(point).unlink(missing_ok=True)

  def unfinished(self, retry_failed: bool = False, running: bool = False) -> list[Point]:
    """Points that an engine is to start or to go on with: those that have not ended.

    Args:
      retry_failed: also those that failed.
      running: also those that some process still runs, as workers do for a moment after their launcher was killed.
    """
    skipped = (*ENDED, *(() if running else ('running',)), *(() if retry_failed else ('failed',)))
    return [point for point in self.points if self.status(point).state not in skipped]

  def command(self, point: Point, *flags: str) -> list[str]:
    """Arguments after `python` of the worker of `point`: every engine starts this."""
    return ['launch.py', f'--run_dir={self.run_dir(point).absolute()}', *flags]

  def log(self, point: Point) -> Path:
    """Where an engine keeps what the workers of `point` print, in a folder that it makes."""
    return self.path / 'logs' / f'{point.number}.log'

  def lease(self) -> Lease:
    """The right to launch this sweep, as a context manager: a second launcher is refused."""
    return Lease(self.path)

  # Stopping by files: the one signal that reaches workers of every engine, on any machine.

  def request_stop(self, numbers: Iterable[int] = ()) -> None:
    """Asks the points `numbers`, or all, to save and leave."""
    folder = self.path / 'stop'
    with record.disk_errors(folder, self.path):
      folder.mkdir(exist_ok=True)
      for name in [str(number) for number in numbers] or ['all']:
        (folder / name).touch()

  def clear_stop(self) -> None:
    """Withdraws all requests to stop."""
    for file in (self.path / 'stop').glob('*'):
      file.unlink(missing_ok=True)

  def stop_files(self, point: Point) -> list[Path]:
    """Files whose existence asks `point` to stop."""
    return [self.path / 'stop' / 'all', self.path / 'stop' / str(point.number)]

  def stop_requested(self, point: Point) -> bool:
    """Whether `point` is asked to stop."""
    return any(file.exists() for file in self.stop_files(point))


def is_sweep(path: str | os.PathLike) -> bool:
  """Whether `path` is a sweep directory."""
  return (Path(path) / FILE).is_file()


def owner(run_dir: str | os.PathLike) -> tuple[Sweep, Point] | None:
  """The sweep and the point that `run_dir` belongs to; None for a run of its own."""
  path = Path(run_dir).absolute()
  if not is_sweep(path.parent):
    return None
  sweep = Sweep.open(path.parent)
  return next(((sweep, point) for point in sweep.points if point.name == path.name), None)
