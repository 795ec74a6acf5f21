"""The ways to run a sweep that `benchmarks.sweep` compares: their command lines, and what their runs recorded."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen_ai import config as config_lib
from gen_ai.compare.reproducibility import ABSENT, Tolerance
from gen_ai.core.errors import UserError
from gen_ai.run import directory

SIDES = ('packed', 'separate', 'local', 'loop')
Metrics = dict[tuple[float, int], dict[str, Any]]  # {(learning rate, seed): {name: final value}}


@dataclass(frozen=True)
class Job:
  """The sweep that all sides run."""

  reference: str  # configs/NAME.py
  shared: dict[str, Any]  # overrides of all trials
  rates: list[float]
  seeds: int

  @property
  def steps(self) -> int:
    """Updates of every trial."""
    return self.shared['run.steps']

  @property
  def trials(self) -> list[dict[str, Any]]:
    """Overrides of every trial."""
    return [{'optim.lr': lr, 'run.seed': seed} for lr in self.rates for seed in range(self.seeds)]


@dataclass(frozen=True)
class Turn:
  """What one side did in one turn."""

  seconds: float  # from the first command to the end of the last
  programs: int  # compiled, or loaded from the cache
  compile_seconds: float  # in all of them
  metrics: Metrics
  work: dict[str, int]  # what was recorded, over all trials
  devices: list[str]


def commands(side: str, job: Job, folder: Path, cache: str) -> list[list[str]]:
  """The command lines that run the sweep of `job` under `folder` in the way of `side`, one after the other."""

  def words(overrides: Mapping[str, Any]) -> list[str]:
    return [f'--config.{path}={value}' for path, value in overrides.items()]

  launch = [sys.executable, 'launch.py', f'--config={job.reference}', f'--compilation_cache={cache}']
  if side == 'separate':
    return [
      [*launch, *words(job.shared | trial), f'--run_dir={folder / str(number)}']
      for number, trial in enumerate(job.trials)
    ]
  if side == 'loop':
    task = {
      'reference': job.reference,
      'shared': job.shared,
      'trials': job.trials,
      'folder': str(folder),
      'cache': cache,
    }
    return [[sys.executable, '-m', 'benchmarks.loop', json.dumps(task)]]
  axes = [f'--axis=optim.lr={",".join(map(str, job.rates))}', f'--axis=run.seed=0:{job.seeds}']
  return [[*launch, *words(job.shared), *axes, f'--launcher={side}', f'--runs_dir={folder}']]


def execute(words: Sequence[str], log: Path) -> None:
  """Runs one command to its end. Raises UserError where it fails, with the end of what it printed."""
  with log.open('a') as output:
    code = subprocess.run(
      words, cwd=config_lib.SOURCE, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    ).returncode
  if code:
    tail = '\n'.join(log.read_text().splitlines()[-8:])
    raise UserError(f'{" ".join(words[1:4])} ... ended with code {code}:\n{tail}')


def take_turn(side: str, job: Job, cached: bool) -> Turn:
  """Runs the whole sweep once, in new run directories and, where `cached`, with a compilation cache that is empty.

  Raises:
    UserError: see `execute` and `collect`.
  """
  with tempfile.TemporaryDirectory() as temporary:
    folder, log = Path(temporary) / 'runs', Path(temporary) / 'log'
    cache = str(Path(temporary) / 'cache') if cached else ''
    if hasattr(os, 'sync'):
      os.sync()  # what the side before wrote is not to be this one's burden
    begun = time.perf_counter()
    for words in commands(side, job, folder, cache):
      execute(words, log)
    return collect(folder, job, time.perf_counter() - begun)


def collect(folder: Path, job: Job, seconds: float) -> Turn:
  """What the run directories under `folder` hold. Raises UserError unless every trial is there and done."""
  metrics: Metrics = {}
  compiled, work, devices = set(), {'rows': 0, 'samples': 0, 'checkpoints': 0}, []
  for file in folder.rglob('config.json'):
    path, config = file.parent, directory.read_config(file.parent)
    status, summary, devices = (
      directory.read_status(path),
      directory.read_summary(path),
      directory.read_run(path)['devices'],
    )
    if status['state'] != 'done' or status['step'] != job.steps:
      raise UserError(f'{path} is {status["state"]} at step {status["step"]}: {status["message"]}')
    metrics[config['optim']['lr'], config['run']['seed']] = summary['final']
    # The lanes of one program all tell the same seconds; no two programs do, to the nanosecond.
    compiled.add(json.dumps(summary['compile']))
    work['rows'] += len(directory.read_metrics(path))
    work['samples'] += len(list((path / 'samples').iterdir()))
    work['checkpoints'] += len([entry for entry in (path / 'checkpoints').iterdir() if entry.name.isdigit()])
  missing = [trial for trial in job.trials if (trial['optim.lr'], trial['run.seed']) not in metrics]
  if missing:
    raise UserError(f'{len(missing)} of {len(job.trials)} trials were not run, the first: {missing[0]}.')
  stats = [one for text in compiled for one in json.loads(text).values()]
  return Turn(seconds, len(stats), sum(one['seconds'] for one in stats), metrics, work, devices)


def largest(reference: Metrics, other: Metrics, tolerance: Tolerance) -> tuple[float, str]:
  """(the largest difference of any final metric as a multiple of what is allowed, where that is)."""
  found = [
    (tolerance.excess(value, other[trial].get(name, ABSENT)), f'{name} at lr {trial[0]:g}, seed {trial[1]}')
    for trial, values in reference.items()
    for name, value in values.items()
  ]
  return max(found)
