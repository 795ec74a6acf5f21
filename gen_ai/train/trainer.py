"""The training loop: chunks, cadences, checkpoints, records; of one run or of many as lanes. It knows no model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging

from gen_ai.core import command_line
from gen_ai.core.averages import snapshot_steps
from gen_ai.core.errors import DIVERGED, DONE, FAILED, REQUEUE, Diverged, UserError
from gen_ai.core.method import CLASSES, State
from gen_ai.core.text import duration, number
from gen_ai.data import kinds
from gen_ai.data.dataset import Dataset
from gen_ai.data.feed import Feed, LaneFeed, make_feed
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.evaluate.generation import Generation, SplitInputs
from gen_ai.parallel import memory, processes
from gen_ai.parallel.finite import finite, first_bad
from gen_ai.parallel.program import Program
from gen_ai.train.hooks import Hook
from gen_ai.train.interruption import Stop
from gen_ai.train.progress import Display, figures
from gen_ai.train.run_logger import RunLogger

SHOWN_EXAMPLES = 32  # validation examples that visualizations are drawn from
Restored = tuple[int, State | None]
# (live lanes, step, width) -> (their program, for every lane of it the run that it computes); None: no narrower one
Pack = Callable[[Sequence[RunLogger], int, int], tuple[Program, list[RunLogger]] | None]
Prune = Callable[[Sequence[RunLogger], int], dict[int, str]]  # (live lanes, step) -> {number of a hopeless one: why}


class Evaluator(Protocol):
  """What measures figures of samples while a program trains: see gen_ai.evaluate.evaluator."""

  figures: list[str]

  def measured(self, state: State, lanes: Sequence[int]) -> list[tuple[dict[str, float], str]]:
    """({figure: value}, why some could not be measured) of each of `lanes`."""


class Trainer:
  """Runs that share one program, from their first or last saved update to their end.

  Args:
    slots: for every lane of the program the run that it computes. A run that stands there twice is computed twice and
      recorded once, which fills a program whose other runs have ended.
    dataset: what they train on.
    program: their compiled programs.
    display: what the user sees.
    stop: asked between chunks.
    pack: makes a narrower program when enough lanes have ended; None for a run alone.
    prune: asked after every evaluation which runs are hopeless; None without early stopping.
    limit: updates after which it stops as on a signal; 0: none.
    evaluator: makes what measures config.eval.metrics, for a program; None where they are empty.
    hooks: more than evaluation, samples, checkpoints and early stopping; they act before these.
  """

  def __init__(
    self,
    slots: Sequence[RunLogger],
    dataset: Dataset,
    program: Program,
    display: Display,
    stop: Stop,
    pack: Pack | None = None,
    prune: Prune | None = None,
    limit: int = 0,
    evaluator: Callable[[Program], Evaluator] | None = None,
    hooks: Sequence[Hook] = (),
  ):
    self.lanes = list(dict.fromkeys(slots))
    self.config = self.lanes[0].config  # cadences and shapes are the same for all
    self.dataset, self.display, self.stop = dataset, display, stop
    self.pack, self._prune, self._limit, self._make_evaluator = pack, prune, limit, evaluator
    self._programs: list[Program] = []
    run = self.config.run
    self.hooks = [
      *hooks,
      Hook('evaluation', run.eval_every, lambda _, state: self._evaluate(state)),
      Hook('samples', run.sample_every, lambda _, state: self._draw(state)),
      Hook(
        'snapshot of averages',
        0,
        lambda _, state: self._keep_averages(state),
        at_end=False,
        at=snapshot_steps(self.config),
      ),
      Hook('checkpoint', run.save_every, lambda _, state: self._save(state, self.live())),
    ]
    if prune is not None:
      self.hooks.append(
        Hook('early stopping', run.eval_every, lambda _, state: self._end_hopeless(state), at_end=False)
      )
    self._use(program, slots)
    name = self.config.eval.best.rpartition(':')[0]
    known = [*self.evaluate.metric_names(), *self._quick(), *(self._evaluator.figures if self._evaluator else ())]
    if name and name not in known:
      raise UserError(
        f"config.eval.best='{self.config.eval.best}' names no metric of config.experiment="
        f"'{self.config.experiment}', which evaluates {', '.join(known)}; "
        'config.eval.metrics adds figures of samples.'
      )
    self.step = 0
    self.chunk_seconds: dict[int, list[float]] = {}  # by lanes of the program
    self._trained_seconds = 0.0
    self._trained_steps = 0
    self._closed: set[int] = set()

  def _use(self, program: Program, slots: Sequence[RunLogger]) -> None:
    """The programs to go on with; they compile when they are first needed."""
    self.program = program
    self._programs.append(program)
    self._slot = {lane: slot for slot, lane in reversed(list(enumerate(slots)))}
    self._slots = list(slots)
    self.feed = self._make_feed()
    self.evaluate = ExamplePass(program, self.config, self.dataset.splits['validation'])
    self._evaluator = self._make_evaluator(program) if self._make_evaluator else None
    self._finite = jax.jit(program.layout.over_lanes(finite))
    # Compiled when first needed.
    self._generation = self._drawn_as_measured()
    self._last_samples: tuple[int, list[np.ndarray]] | None = None  # samples of the last update they were drawn after
    self._viewers: dict[str, Callable[[State], Any]] | None = None
    self._run_chunk: Callable[..., Any] | None = None

  def _make_feed(self) -> Feed:
    source, program = self.dataset.splits['train'], self.program
    configs = {lane.config.data.seed: lane.config for lane in self._slots}
    rows = program.layout.local_rows(program.batch_size)
    feeds = [
      make_feed(source, config.data, config.run.log_every, rows, program.batches_per_step)
      for config in configs.values()
    ]
    order = list(configs)
    return (
      feeds[0] if len(feeds) == 1 else LaneFeed(feeds, [order.index(lane.config.data.seed) for lane in self._slots])
    )

  def live(self) -> list[RunLogger]:
    """Runs that have not ended."""
    return [lane for lane in self.lanes if lane.code is None]

  # Phases.

  def start(self, restored: Sequence[Restored] | None = None) -> State:
    """The state to go on from.

    Args:
      restored: (step, state) of every run, all of one step, (0, None) at the start; the newest sound checkpoints by
        default.
    """
    abstract = self.program.abstract_state()
    found = dict(zip(self.lanes, restored or [lane.restore(abstract) for lane in self.lanes], strict=True))
    (self.step,) = {step for step, _ in found.values()}
    states = [found[lane][1] for lane in self._slots]
    state = self.program.init() if states[0] is None else self.program.layout.join(states)  # type: ignore[arg-type]
    if self.step:
      self.display.say(f'resumed    at step {self.step:,}')
    for lane in self.lanes:
      lost = lane.lost(self.step)
      if lost:
        self.display.say(f'found      {lost}')
      lane.begin(self.step, restored=bool(self.step), found=lost)
    return state

  def run(self, state: State) -> None:
    """Trains to the last update, to a requested stop, or until no run is left; every lane is ended then.

    Raises:
      UserError: the disk is full, or a run directory was lost.
    """
    total, chunk = self.config.run.steps, self.config.run.log_every
    pending: tuple[int, Any] | None = None
    self.display.start(self.step)
    if self._prune is not None and 0 < self.step < total:  # killed between a decision and its execution
      hopeless = self._prune(self.live(), self.step)
      for lane in [lane for lane in self.live() if lane.number in hopeless]:
        self._end(lane, DONE, hopeless[lane.number], 'pruned')
    if self.step < total and self.live():
      self._compile(state)
    for lane in self.lanes:
      lane.record.start_clock()
    clock, waited = time.perf_counter(), self.feed.stall_seconds
    while self.step < total and self.live():
      leaving = self._leaving()
      if leaving:
        if pending:
          self._report(*pending, clock, waited)
          pending = None
        self._leave(state, leaving)
        clock, waited = time.perf_counter(), self.feed.stall_seconds
        continue
      in_hand = 2 if pending else 1  # chunks that end before the next look
      last = self.chunk_seconds.get(self.program.lanes)
      self.stop.waits_for = f'after this chunk of {chunk:,} updates', clock + in_hand * last[-1] if last else None
      rows = self.feed.chunk(self.step, chunk)
      assert self._run_chunk is not None
      state, metrics = self._run_chunk(state, rows)
      self.step += chunk
      # The host turns to the chunk before this one while the device works on this one.
      late, pending = pending, (self.step, metrics)
      due = [hook for hook in self.hooks if hook.due(self.step, total)]
      if late:
        clock, waited = self._report(*late, clock, waited)
      for hook in due:
        if hook.beside is not None:
          hook.beside(self)
      due = [hook for hook in due if hook.with_state is not None]
      if due:
        clock, waited = self._report(*pending, clock, waited)
        pending = None
        if not self.live():
          break
        self._act(state, due)
        state = self._repack(state)
        clock, waited = time.perf_counter(), self.feed.stall_seconds
    for lane in self.live():
      lane.checkpoints.wait()
      lane.end(DONE)

  def _compile(self, state: State) -> None:
    self.stop.waits_for = 'after the compilation', None
    rows = self.feed.chunk(self.step, self.config.run.log_every)
    self._run_chunk = self.program.trainer(self.feed, state, rows)

  def _act(self, state: State, due: Sequence[Hook]) -> None:
    """What is due after this update, in the order of the hooks, strictly before the next batch."""
    self.stop.waits_for = f'after the {", ".join(hook.name for hook in due)}', None
    for hook in due:
      assert hook.with_state is not None
      hook.with_state(self, state)

  def _end_hopeless(self, state: State) -> None:
    """Saves and ends the runs that early stopping calls hopeless."""
    assert self._prune is not None
    hopeless = self._prune(self.live(), self.step) if self.step < self.config.run.steps else {}
    for lane in self.live():
      if lane.number in hopeless:
        self._save(state, [lane])
        if lane.code is None:
          self._end(lane, DONE, hopeless[lane.number], 'pruned')

  def _leaving(self) -> dict[RunLogger, str]:
    """Runs that are asked to stop, and by what."""
    if processes.any_process(bool(self.stop.requested)):
      return dict.fromkeys(self.live(), self.stop.requested or 'another process')
    if 0 < self._limit <= self.step:
      return dict.fromkeys(self.live(), f'the limit of {self._limit:,} steps')
    return {lane: lane.stop.requested for lane in self.live() if lane.stop is not None and lane.stop.requested}

  def _leave(self, state: State, leaving: Mapping[RunLogger, str]) -> None:
    """A requested stop: the state is saved, so that this or another machine goes on from here."""
    lanes = [lane for lane in leaving if lane.code is None]  # the last report may have found one diverged
    if self.step > 0:
      self._save(state, lanes)
    for lane in lanes:
      lane.checkpoints.wait()
      if lane.code is None:
        self._end(lane, REQUEUE, leaving[lane])

  def _end(self, lane: RunLogger, code: int, message: str = '', state_name: str = '') -> None:
    lane.end(code, message, state_name)
    self.close(lane)

  # What one update leaves behind.

  def _report(self, step: int, metrics: Any, clock: float, waited: float) -> tuple[float, float]:
    """Records the chunk that ended with update `step`; waits for it. Returns the clocks for the next."""
    values = [self.program.ordered(each) for each in self.program.layout.per_lane(metrics)]
    now, stalled = time.perf_counter(), self.feed.stall_seconds
    seconds, chunk = max(now - clock, 1e-9), self.config.run.log_every
    speed = chunk * self.program.batch_size / seconds
    extra = {'examples_per_second': speed, 'input_stall_percent': 100 * (stalled - waited) / seconds}
    for lane in self.live():
      bad = lane.diverged_at(step, values[self._slot[lane]])
      if bad:
        self._diverged(lane, *bad)
      else:
        lane.report(step, values[self._slot[lane]], extra)
    self._trained_seconds += seconds
    self._trained_steps += chunk
    self.chunk_seconds.setdefault(self.program.lanes, []).append(seconds)
    left = (self.config.run.steps - step) * self._trained_seconds / self._trained_steps
    if self._trained_steps == chunk:
      self.display.say(
        f'estimated  {duration(left + seconds)} for {self.config.run.steps:,} steps, sampling and '
        'evaluation not counted'
      )
    self.display.update(step, self._shown(), speed * len(self.live()), left)
    return now, stalled

  def _shown(self) -> str:
    """What the bar shows: the figures of the run, or the range of the first one over the lanes that are left."""
    if self.pack is None:
      return figures(self.lanes[0].last_train)
    live = self.live()
    lanes = f'{len(live)} lane{"" if len(live) == 1 else "s"}'
    reported = [lane.last_train for lane in live if lane.last_train]
    if not reported:
      return lanes
    name = next(iter(reported[0]))
    ends = [number(end([each[name] for each in reported])) for end in (min, max)]
    return f'{name} {" to ".join(ends)} over {lanes}'

  def _drawn_as_measured(self) -> Generation | None:
    """What draws the samples that are shown: the first of those that metrics measure; None of a method without any."""
    name = self.config.eval.task or self.program.drawing_task()
    if not name:
      return None
    task, inputs = self.program.task(name), None
    if any(field.required for field in task.inputs.values()):
      inputs = SplitInputs(self.config, self.dataset.splits['validation'], task)
    return Generation(self.program, self.config.eval.seed, name, inputs)

  def _quick(self) -> list[str]:
    """Names of the figures of the samples that are shown, which every evaluation tells."""
    kind = kinds.of(self.dataset.spec)
    return list(kind.quick) if self._generation is not None and self.config.sample.n >= kind.fewest else []

  def _samples(self, state: State) -> list[np.ndarray]:
    """The first samples, of every lane, as files hold them; none of a method that draws none."""
    if self._generation is None:
      return []
    if self._last_samples is None or self._last_samples[0] != self.step:
      self._last_samples = self.step, self._generation.read(state, np.arange(self.config.sample.n))
    return self._last_samples[1]

  def _evaluate(self, state: State) -> None:
    metrics, live, samples = self.evaluate.lanes(state), self.live(), self._samples(state) if self._quick() else []
    every, last = self.config.eval.metrics_every, self.step == self.config.run.steps
    for lane in live if self._quick() else ():
      quick = kinds.of(self.dataset.spec).measured(samples[self._slot[lane]])
      metrics[self._slot[lane]] = self.program.ordered({**metrics[self._slot[lane]], **quick})
    if self._evaluator is not None and (last or (every and self.step % every == 0)):
      measured_lanes = self._evaluator.measured(state, [self._slot[lane] for lane in live])
      for lane, (measured, problem) in zip(live, measured_lanes, strict=True):
        metrics[self._slot[lane]] |= measured
        if problem:
          self.display.say(f'not measured at step {self.step}, {lane.record.path}: {problem}')
    for lane in live:
      lane.evaluated(metrics[self._slot[lane]])
    if self.pack is None:
      shown = '  '.join(f'{name} {number(value)}' for name, value in self.lanes[0].last_eval.items())
    else:
      best = self.config.eval.best.rpartition(':')[0]  # a figure of samples may be measured less often
      shown = self._range(best if all(best in lane.last_eval for lane in live) else next(iter(live[0].last_eval)))
    self.display.say(f'validation after step {self.step}: {shown}')

  def _range(self, name: str) -> str:
    """'elbo_nats -130 (trial 2) to -111 (trial 5)' over the runs that train."""
    values = [(lane.last_eval[name], lane.number) for lane in self.live()]
    ends = [f'{number(value)} (trial {trial})' for value, trial in (min(values), max(values))]
    return f'{name} {" to ".join(ends)}'

  def _draw(self, state: State) -> None:
    """Pictures of the first samples where the method draws any, and its visualizations of fixed examples."""
    samples = self._samples(state)
    if self._viewers is None:
      self._viewers = {}
      if self.program.visualizations:
        source = self.dataset.splits['validation']
        index = source.eval_index(np.arange(min(SHOWN_EXAMPLES, source.evaluated)))
        self._viewers = self.program.viewers(state, source.read(index))
    drawn = {name: view(state) for name, view in self._viewers.items()}
    pictures = {name: self.program.layout.per_lane(array) for name, array in drawn.items()}
    for lane in self.live() if processes.is_main() else ():
      if samples:
        lane.drew(self.dataset.spec, samples[self._slot[lane]])
      for name, arrays in pictures.items():
        lane.viewed(name, arrays[self._slot[lane]], self.dataset.spec.class_names if name == CLASSES else ())

  def _save(self, state: State, lanes: Sequence[RunLogger]) -> None:
    """Saves what is finite; a run that is not ends as diverged. The copy to disk goes on in the background."""
    self._write(state, [lane for lane in lanes if lane.saved_step != lane.step], RunLogger.save)

  def _keep_averages(self, state: State) -> None:
    """Keeps the averages as `_save` saves a state, and before it: a checkpoint waits for them."""
    self._write(state, self.live(), RunLogger.keep_averages)

  def _write(self, state: State, lanes: Sequence[RunLogger], write: Callable[[RunLogger, State], None]) -> None:
    good = self.program.layout.per_lane(self._finite(state))
    states = self.program.layout.split(state, [self._slot[lane] for lane in lanes])
    for lane, own in zip(lanes, states, strict=True):
      if bool(good[self._slot[lane]]):
        write(lane, own)
      else:
        lane.diverged(self.step, [], _bad_tensor(first_bad(own)))
        self.close(lane)

  # Lanes that have ended make room.

  def _worth_repacking(self, live: Sequence[RunLogger]) -> bool:
    """Whether what fewer lanes save, going by the chunks timed so far, beats compiling twice."""
    lanes = self.program.lanes
    chunks_left = (self.config.run.steps - self.step) / self.config.run.log_every
    saved = chunks_left * float(np.median(self.chunk_seconds[lanes])) * (1 - len(live) / lanes)
    return saved > 2 * self.program.compile_stats['train'].seconds

  def _repack(self, state: State) -> State:
    """Goes on with a narrower program where that is worth it."""
    live, lanes = self.live(), self.program.lanes
    if self.pack is None or not live or not self._worth_repacking(live):
      return state
    packed = self.pack(live, self.step, lanes)
    if packed is None:
      return state
    program, slots = packed
    states = list(self.program.layout.split(state, [self._slot[lane] for lane in slots]))
    del state
    self.feed.close()
    self._use(program, slots)
    state = program.layout.join(states)
    self._compile(state)
    self.display.say(f'repacked   {len(live)} of {lanes} lanes are left after step {self.step:,}')
    return state

  # When it goes wrong.

  def _diverged(self, lane: RunLogger, step: int, names: list[str]) -> None:
    if self.pack is None:
      where = _bad_tensor(self._replay(step))
    else:  # the other lanes are not held up
      where = f'`{command_line.printed("launch.py", resume=lane.record.path)}` finds the first bad tensor'
    lane.diverged(step, names, where)
    self.close(lane)
    if self.pack is not None:
      self.display.say(f'diverged   trial {lane.number}: {lane.message}')

  def _replay(self, bad_step: int) -> str:
    """Path of the first bad tensor after update `bad_step`, found by computing up to it again; of a run alone."""
    (lane,), layout, program = self.lanes, self.program.layout, self.program
    lane.checkpoints.wait()
    older = [step for step in lane.checkpoints.steps() if step < bad_step]
    step, restored = lane.restore(program.abstract_state(), max(older)) if older else (0, None)
    state = program.init() if restored is None else layout.join([restored])
    self.display.say(f'not finite: replaying steps {step + 1} to {bad_step} to find the first bad tensor')
    chunk = self.config.run.log_every
    assert self._run_chunk is not None
    while step + chunk < bad_step:
      state, _ = self._run_chunk(state, self.feed.chunk(step, chunk))
      step += chunk
    single = program.trainer(self.feed, state, self.feed.chunk(step, 1), 'replay')
    while step < bad_step:
      state, _ = single(state, self.feed.chunk(step, 1))
      step += 1
    return first_bad(next(layout.split(state, [0])))

  # The end.

  def costs(self) -> dict[str, Any]:
    """Costs of this attempt, for summary.json. Wall seconds and memory are those of all lanes together."""
    stats, lanes = self.program.compile_stats, self.program.lanes
    speed = self._trained_steps * self.program.batch_size / self._trained_seconds if self._trained_seconds else 0.0
    return {
      'train_seconds': self._trained_seconds,
      'examples_per_second': speed,
      'compile': {name: asdict(s) for name, s in stats.items()},
      'compile_seconds': sum(s.seconds for program in self._programs for s in program.compile_stats.values()),
      'flops_per_step': stats['train'].flops / self.config.run.log_every / lanes if 'train' in stats else 0.0,
      'parameters': self.program.parameter_count(),
      'peak_memory_bytes': memory.peak(),
      'lanes': lanes,
      'chunk_seconds': {str(width): float(np.median(each)) for width, each in self.chunk_seconds.items()},
    }

  def close(self, lane: RunLogger) -> None:
    """Records the end of a run, once. A failure to do so is raised only where the run itself went well."""
    if lane.number in self._closed:
      return
    self._closed.add(lane.number)
    try:
      lane.close(self.costs())
    except Exception as error:  # a full disk must not hide why the run ended
      if lane.code in (DONE, REQUEUE):
        raise
      logging.error('the end of the run could not be recorded: %s', error)


def _bad_tensor(tensor: str) -> str:
  return f'first bad tensor: {tensor}' if tensor else 'all tensors are finite after it: the loss alone overflowed'


def train(trainer: Trainer, restored: Sequence[Restored] | None = None) -> int:
  """Runs a trainer under its records: attempts, status and summary are written whatever happens.

  Returns the exit code of a run alone; lanes tell theirs themselves.

  Raises:
    Diverged: a run alone is no longer finite. Nothing that was saved is touched.
    UserError: as `Trainer.run`, after the record says so.
  """
  try:
    state = trainer.start(restored)
    trainer.run(state)
  except BaseException as error:
    for lane in trainer.live():
      lane.end(FAILED, f'{type(error).__name__}: {error}')
    raise
  finally:
    trainer.display.stop()
    for lane in trainer.lanes:
      trainer.close(lane)
    trainer.feed.close()
  if len(trainer.lanes) > 1:
    return DONE
  (lane,) = trainer.lanes
  if lane.code == DIVERGED and trainer.pack is None:
    raise Diverged(lane.message)
  assert lane.code is not None
  return lane.code
