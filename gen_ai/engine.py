"""The training loop: chunks, cadences, checkpoints, records. It knows no model and no layout."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from gen_ai import distributed, samples
from gen_ai.checkpoint import Checkpoints
from gen_ai.data.dataset import Dataset
from gen_ai.data.feed import make_feed
from gen_ai.errors import DIVERGED, DONE, FAILED, REQUEUE, Diverged, UserError
from gen_ai.evaluation import Evaluator
from gen_ai.program import Program, finite, first_bad
from gen_ai.progress import Display, duration, number
from gen_ai.record import read_metrics
from gen_ai.stop import Stop
from gen_ai.types import State
from gen_ai.writers import Writers

VIEW_EXAMPLES = 32  # validation examples that views are drawn from


def fetch(metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Metrics of a chunk on the host: {name: float32 [K]}; waits for the chunk."""
  return {name: np.asarray(value) for name, value in metrics.items()}


class Trainer:
  """One run from its first or its last saved update to its end.

  Args:
    config: validated config.
    dataset: what it trains on.
    record: the run directory's writer (a silent one on all processes but the first).
    checkpoint_dir: where checkpoints live; the same on every process.
    program: its compiled programs.
    display: what the user sees.
    stop: asked between chunks.
    open_writers: opens the mirrors of the record, given the step from which this attempt goes on.
  """

  def __init__(self, config: ConfigDict, dataset: Dataset, program: Program, record: Any, checkpoint_dir: Path,
               display: Display, stop: Stop, open_writers: Callable[[int], Writers]):  # fmt: skip
    self.config, self.dataset, self.program, self.record = config, dataset, program, record
    self.display, self.stop = display, stop
    self._open_writers = open_writers
    self.writers = Writers({})
    self.feed = make_feed(
      dataset.splits['train'], config.data, config.run.log_every, program.layout.local_rows(program.batch_size),
      program.batches_per_step,
    )  # fmt: skip
    self.evaluate = Evaluator(self.program, config, dataset.splits['validation'])
    name, _, mode = config.eval.best.rpartition(':')
    known = self.evaluate.metric_names()
    if name and name not in known:
      raise UserError(f"config.eval.best='{config.eval.best}' names no metric of config.experiment="
                      f"'{config.experiment}', which evaluates {', '.join(known)}.")  # fmt: skip
    self.checkpoints = Checkpoints(checkpoint_dir, config.run.keep, (name, mode) if name else None)
    self._finite = jax.jit(finite)
    self._sample: Callable[[State], Any] | None = None
    self._views: dict[str, Callable[[State], Any]] = {}
    self._run_chunk: Callable[..., Any] | None = None
    self.last_sample: Path | None = None
    self.last_eval: dict[str, float] = {}
    self._evaluated: dict[str, float] | None = None  # after this very step: only such figures may rank a checkpoint
    self.last_train: dict[str, float] = {}
    self.step = 0
    self.saved_step = -1
    self._trained_seconds = 0.0
    self._trained_steps = 0

  # Phases.

  def start(self) -> State:
    """The state to go on from: the newest sound checkpoint, or init."""
    state = None
    if self.checkpoints.steps():
      self.step, restored = self.checkpoints.restore(self.program.abstract_state())
      self.saved_step = self.step
      state = self.program.layout.adopt(restored)
      self.display.say(f'resumed    at step {self.step:,}')
    self.writers = self._open_writers(self.step)
    return self.program.init() if state is None else state

  def run(self, state: State) -> int:
    """Trains to the last update or to a requested stop; returns the exit code.

    Raises:
      Diverged: a metric or the state is no longer finite. Nothing that was saved is touched.
      UserError: the disk is full, or the run directory was lost.
    """
    total, chunk = self.config.run.steps, self.config.run.log_every
    pending: tuple[int, Any] | None = None
    self.display.start(self.step)
    if self.step < total:
      self._compile(state)
    self.record.start_clock()
    clock, waited = time.perf_counter(), self.feed.stall_seconds
    while self.step < total:
      if distributed.any_process(bool(self.stop.requested)):
        if pending:
          self._report(*pending, clock, waited)
        return self._leave(state)
      rows = self.feed.chunk(self.step, chunk)
      assert self._run_chunk is not None
      state, metrics = self._run_chunk(state, rows)
      self.step += chunk
      self._evaluated = None
      # The host turns to the chunk before this one while the device works on this one.
      late, pending = pending, (self.step, metrics)
      due = self._due()
      if late:
        clock, waited = self._report(*late, clock, waited)
      if due:
        clock, waited = self._report(*pending, clock, waited)
        pending = None
        self._act(state, due)
        clock, waited = time.perf_counter(), self.feed.stall_seconds
    self.checkpoints.wait()
    return DONE

  def _compile(self, state: State) -> None:
    rows = self.feed.chunk(self.step, self.config.run.log_every)
    self._run_chunk = self.program.trainer(self.feed, state, rows)

  def _due(self) -> set[str]:
    """What is to be done after this update; everything after the last."""
    run = self.config.run
    every = {'eval': run.eval_every, 'sample': run.sample_every, 'save': run.save_every}
    return {name for name, n in every.items() if self.step == run.steps or (n and self.step % n == 0)}

  def _act(self, state: State, due: set[str]) -> None:
    """Evaluates, samples and saves, in this order, strictly before the next batch."""
    if 'eval' in due:
      self._evaluate(state)
    if 'sample' in due:
      self._draw(state)
    if 'save' in due:
      self._save(state)

  def _leave(self, state: State) -> int:
    """A requested stop: the state is saved, so that this or another machine goes on from here."""
    if self.step > 0 and self.step != self.saved_step:
      self._save(state)
    self.checkpoints.wait()
    return REQUEUE

  # What one update leaves behind.

  def _report(self, step: int, metrics: Any, clock: float, waited: float) -> tuple[float, float]:
    """Records the chunk that ended with update `step`; waits for it. Returns the clocks for the next."""
    values = fetch(metrics)
    now, stalled = time.perf_counter(), self.feed.stall_seconds
    self._check(step, values)
    seconds, chunk = max(now - clock, 1e-9), self.config.run.log_every
    self._trained_seconds += seconds
    self._trained_steps += chunk
    speed = chunk * self.program.batch_size / seconds
    self.last_train = {name: float(np.mean(value, dtype=np.float64)) for name, value in values.items()}
    row = {'step': step, 'kind': 'train', **self.last_train, 'examples_per_second': speed,
           'input_stall_percent': 100 * (stalled - waited) / seconds}  # fmt: skip
    self.record.append_metrics(row)
    self.record.status('running', step, self.config.run.steps)
    self.writers.scalars(step, {f'train/{name}': value for name, value in self.last_train.items()})
    left = (self.config.run.steps - step) * self._trained_seconds / self._trained_steps
    if self._trained_steps == chunk:
      self.display.say(f'estimated  {duration(left + seconds)} for {self.config.run.steps:,} steps, sampling and '
                       'evaluation not counted')  # fmt: skip
    self.display.update(step, self.last_train, speed, left)
    return now, stalled

  def _evaluate(self, state: State) -> None:
    self.last_eval = self._evaluated = self.evaluate(state)
    self.record.append_metrics({'step': self.step, 'kind': 'eval', **self.last_eval})
    self.writers.scalars(self.step, {f'validation/{name}': value for name, value in self.last_eval.items()})
    shown = '  '.join(f'{name} {number(value)}' for name, value in self.last_eval.items())
    self.display.say(f'validation after step {self.step}: {shown}')

  def _draw(self, state: State) -> None:
    """Samples of fixed latents, and the method's views of fixed examples."""
    spec = self.dataset.spec
    if self._sample is None:
      self._sample = self.program.sampler(state, self.config.sample.n)
      if self.program.view_names:
        source = self.dataset.splits['validation']
        index = source.eval_index(np.arange(min(VIEW_EXAMPLES, len(source))))
        self._views = self.program.viewers(state, source.read(index))
    drawn: dict[str, tuple[np.ndarray, int | None]] = {'samples': (np.asarray(self._sample(state)), None)}
    drawn |= {name: (np.asarray(view(state)), 8) for name, view in self._views.items()}
    if not distributed.is_main():
      return
    for name, (array, columns) in drawn.items():
      prefix = '' if name == 'samples' else f'{name}_'
      path = samples.write(self.record.samples / f'{prefix}step_{self.step:08d}', spec, array, columns)
      self.writers.picture(self.step, name, path)
      if name == 'samples':
        self.last_sample = path

  def _save(self, state: State) -> None:
    """Saves a state that is known to be finite; the copy to disk goes on in the background."""
    if not bool(np.asarray(self._finite(state))):
      raise Diverged(self._diverged(self.step, [], first_bad(self.program.layout.canonical(state))))
    self.record.check_lease()
    self.checkpoints.save(self.step, self.program.layout.canonical(state), self._evaluated)
    self.saved_step = self.step

  # When it goes wrong.

  def _check(self, step: int, values: Mapping[str, np.ndarray]) -> None:
    """Raises Diverged at the first update whose metrics are not all finite."""
    bad = {name: ~np.isfinite(value) for name, value in values.items()}
    steps = np.flatnonzero(np.any(list(bad.values()), axis=0))
    if not len(steps):
      return
    at = int(steps[0])
    names = [name for name, flags in bad.items() if flags[at]]
    bad_step = step - self.config.run.log_every + at + 1
    self.record.append_metrics({'step': bad_step, 'kind': 'diverged', **{n: float(v[at]) for n, v in values.items()}})
    raise Diverged(self._diverged(bad_step, names, self._replay(bad_step)))

  def _replay(self, bad_step: int) -> str:
    """Path of the first bad tensor after update `bad_step`, found by computing up to it again."""
    self.checkpoints.wait()
    older = [step for step in self.checkpoints.steps() if step < bad_step]
    layout, program = self.program.layout, self.program
    if older:
      step, state = self.checkpoints.restore(program.abstract_state(), max(older))
      state = layout.adopt(state)
    else:
      step, state = 0, program.init()
    self.display.say(f'not finite: replaying steps {step + 1} to {bad_step} to find the first bad tensor')
    chunk = self.config.run.log_every
    assert self._run_chunk is not None
    while step + chunk < bad_step:
      state, _ = self._run_chunk(state, self.feed.chunk(step, chunk))
      step += chunk
    rows = self.feed.chunk(step, 1)
    single = program.trainer(self.feed, state, rows, 'replay')
    while step < bad_step:
      state, _ = single(state, self.feed.chunk(step, 1))
      step += 1
    return first_bad(layout.canonical(state))

  def _diverged(self, step: int, names: list[str], tensor: str) -> str:
    what = f'{", ".join(names)} not finite' if names else 'the state is not finite'
    where = f'first bad tensor: {tensor}' if tensor else 'all tensors are finite after it: the loss alone overflowed'
    last = f' The last good checkpoint is step {self.saved_step}.' if self.saved_step >= 0 else ''
    return (f'{self.record.path}: diverged at step {step}: {what}; {where}.{last} '
            'Lower config.optim.lr or set config.optim.clip_norm=1.0 and start again.')  # fmt: skip

  # The end.

  def summary(self) -> dict[str, Any]:
    """Figures for summary.json: last and best metrics and wall seconds over all attempts, costs of this one."""
    rows = read_metrics(self.record.path)
    last = {kind: [row for row in rows if row['kind'] == kind][-1:] for kind in ('train', 'eval')}
    clocked = ('step', 'kind', 'attempt', 'seconds', 'examples_per_second', 'input_stall_percent')
    stats = self.program.compile_stats
    speed = self._trained_steps * self.program.batch_size / self._trained_seconds if self._trained_seconds else 0.0
    return {
      'step': self.step,
      'final': {f'{kind}/{k}': v for kind in last for row in last[kind] for k, v in row.items() if k not in clocked},
      'best': self._best(rows),
      'seconds': rows[-1]['seconds'] if rows else 0.0,
      'train_seconds': self._trained_seconds,
      'examples_per_second': speed,
      'compile': {name: asdict(s) for name, s in stats.items()},
      'compile_seconds': sum(s.seconds for s in stats.values()),
      'flops_per_step': stats['train'].flops / self.config.run.log_every if 'train' in stats else 0.0,
      'parameters': self.program.parameter_count(),
      'peak_memory_bytes': peak_memory(),
    }

  def _best(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Step and value of the best evaluation by config.eval.best; {} without one."""
    metric, _, mode = self.config.eval.best.rpartition(':')
    rows = [row for row in rows if row['kind'] == 'eval' and metric in row]
    if not rows:
      return {}
    row = (min if mode == 'min' else max)(rows, key=lambda row: row[metric])
    return {'metric': metric, 'step': row['step'], 'value': row[metric]}


def peak_memory() -> int:
  """Largest memory in use so far, in bytes: the busiest device's, or this process's where devices do not tell."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peak = max((int(s['peak_bytes_in_use']) for s in stats if 'peak_bytes_in_use' in s), default=0)
  scale = 1 if sys.platform == 'darwin' else 1024
  return peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def train(trainer: Trainer) -> int:
  """Runs a trainer under its record: attempts, status and summary are written whatever happens. Returns the exit code.

  Raises:
    Diverged, UserError: as `Trainer.run`, after the record says so.
  """
  record, total = trainer.record, trainer.config.run.steps
  state = trainer.start()
  record.begin_attempt(trainer.step)
  record.status('running', trainer.step, total)
  code, message = FAILED, ''
  try:
    code = trainer.run(state)
    message = trainer.stop.requested
    return code
  except Diverged as error:
    code, message = DIVERGED, str(error)
    raise
  except BaseException as error:
    message = f'{type(error).__name__}: {error}'
    raise
  finally:
    trainer.display.stop()
    state_name = {DONE: 'done', REQUEUE: 'stopped', DIVERGED: 'diverged'}.get(code, 'failed')
    try:
      record.write_summary(trainer.summary())
      record.status(state_name, trainer.step, total, message)
      record.end_attempt(code, trainer.step)
    except Exception as error:  # a full disk must not hide why the run ended
      if code in (DONE, REQUEUE):
        raise
      logging.error('the end of the run could not be recorded: %s', error)
    trainer.writers.close()
    trainer.feed.close()
    trainer.checkpoints.close()
