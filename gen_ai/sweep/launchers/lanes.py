"""Trials that differ in traced floats and seeds only, as lanes of one compiled program.

Every lane writes an ordinary run directory. The programs run one after the other in this process; within one, the run
axis is sharded over the devices. `packing.jsonl` of the sweep tells which trials shared which program from which step
on, so that a resumed sweep computes with programs of the same width, and hence the very same numbers.
"""

import contextlib
import errno
import functools
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from gen_ai import config as config_lib
from gen_ai.core import files
from gen_ai.core.errors import OutOfMemory, UserError
from gen_ai.data import dataset as dataset_lib
from gen_ai.data.dataset import Dataset
from gen_ai.data.feed import make_feed
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.parallel import compilation_cache, memory
from gen_ai.parallel.lanes import LaneLayout
from gen_ai.parallel.program import Program
from gen_ai.run import data_identity, directory, info
from gen_ai.sweep.directory import ENDED, Sweep
from gen_ai.sweep.pruning import pruner
from gen_ai.sweep.trials import Trial, groups
from gen_ai.train import open_run, warm_start
from gen_ai.train import trainer as trainer_lib
from gen_ai.train.interruption import Stop
from gen_ai.train.progress import Display
from gen_ai.train.run_logger import RunLogger

FILE = 'packing.jsonl'
_OWN_FILES, _LANE_FILES = (
  40,
  8,
)  # open files of the process (24 were seen) and of a lane (7): its lease, trackers, saves
_MOST_FILES = 65_536  # that a soft limit is raised to
LEASE_WAIT = 150.0  # seconds; a killed launcher on another machine counts as dead after 120


@functools.lru_cache(maxsize=4)
def _load(data: str) -> Dataset:
  return dataset_lib.load(config_lib.from_json(json.loads(data)))


def _dataset(trial: Trial) -> Dataset:
  return _load(trial.config.data.to_json())


def _program(trials: Sequence[Trial], lanes: bool = True) -> Program:
  config = trials[0].config
  build, spec = config_lib.builder(config), _dataset(trials[0]).spec
  return Program(config, build, spec, LaneLayout(jax.devices()), [p.config for p in trials] if lanes else ())


# How many lanes.


def _resident(trial: Trial) -> int:
  """Bytes of the data that stays on every device."""
  config = trial.config
  feed = make_feed(_dataset(trial).splits['train'], config.data, 1)
  return sum(array.nbytes for array in feed.resident.values())


def lane_bytes(trial: Trial) -> int:
  """Bytes that one lane needs to train or to be evaluated, by `parallel.memory.estimate`: at most, as XLA fuses."""
  program, config, splits = _program([trial], lanes=False), trial.config, _dataset(trial).splits
  feed = make_feed(splits['train'], config.data, 1, None, program.batches_per_step)
  trained = program.training_bytes(feed, feed.chunk(0, 1))
  return max(trained, ExamplePass(program, config, splits['validation']).bytes())


def most_open() -> int:
  """Lanes whose files may be open at once; the soft limit of open files (`ulimit -n`) is raised where it can be."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
  if soft != resource.RLIM_INFINITY and soft < most:
    with contextlib.suppress(OSError, ValueError):
      resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
      soft = most
  return _MOST_FILES if soft == resource.RLIM_INFINITY else max(1, (soft - _OWN_FILES) // _LANE_FILES)


def most_lanes(trial: Trial) -> int:
  """Lanes that one program takes: config.sweep.lanes, or what memory allows; no more than files may be open."""
  limit, files = trial.config.sweep.lanes, most_open()
  if limit:
    if limit > files:
      logging.warning('config.sweep.lanes=%d: `ulimit -n` lets no more than %d lanes have files open', limit, files)
    return min(limit, files)
  devices = jax.devices()
  room = min(memory.available(device) for device in devices) - _resident(trial)
  return min(max(1, room // lane_bytes(trial)) * len(devices), files)


def split(trials: Sequence[Trial]) -> list[list[Trial]]:
  """`trials` of one structure as groups that fit one program, of nearly equal size."""
  most = most_lanes(trials[0])
  programs = -(-len(trials) // most)
  size = -(-len(trials) // programs)
  return [list(trials[i : i + size]) for i in range(0, len(trials), size)]


def describe(sweep: Sweep) -> list[str]:
  """What `--dry_run` says of programs, lanes and memory."""
  lines = [f'{len(jax.devices())} device(s), {memory.available(jax.devices()[0]) / 2**30:.1f} GiB for programs on each']
  for number, group in enumerate(groups(sweep.trials)):
    parts, need = split(group), lane_bytes(group[0]) / 2**20
    sizes = ' + '.join(str(len(part)) for part in parts)
    widest = -(-max(map(len, parts)) // len(jax.devices()))
    lines.append(f'program {number}: {sizes} lanes, about {need:,.0f} MiB a lane, {need * widest:,.0f} MiB a device')
  return lines


# The record of the packing.


def _packings(sweep: Sweep) -> list[dict[str, Any]]:
  """Which trials shared a program, from which step on, in the order of time."""
  return files.read_jsonl(sweep.path / FILE)


def _note(sweep: Sweep, step: int, numbers: Sequence[int]) -> None:
  path = sweep.path / FILE
  with files.disk_errors(path, sweep.path):
    files.repair(path)
  files.append_line(path, files.dumps({'step': step, 'lanes': list(numbers)}), sweep.path)


def _clusters(sweep: Sweep, trials: Sequence[Trial]) -> list[list[Trial]]:
  """Trials that are to share a program: those that shared one before, then new ones as memory allows."""
  last = {number: i for i, packing in enumerate(_packings(sweep)) for number in packing['lanes']}
  together: dict[int, list[Trial]] = {}
  for trial in trials:
    if trial.number in last:
      together.setdefault(last[trial.number], []).append(trial)
  new = [trial for trial in trials if trial.number not in last]
  return [*together.values(), *(part for group in groups(new) for part in split(group))]


def _slots(sweep: Sweep, numbers: Sequence[int], step: int) -> list[int]:
  """For every lane of the program, the trial it computes.

  Side by side, lanes are what they were when the sweep stood at `step`: those of trials that have ended compute another
  once more, so that the program and with it every number stays the same. In turn, a lane knows nothing of the others.
  """
  slots = list(numbers)
  for packing in _packings(sweep) if LaneLayout(jax.devices()).mapping == 'vmap' else ():
    if packing['step'] <= step and set(numbers) <= set(packing['lanes']):
      slots = [number if number in numbers else numbers[0] for number in packing['lanes']]
  return slots + [numbers[0]] * (-len(slots) % len(jax.devices()))


# Running.


def launch(sweep: Sweep, trials: Sequence[Trial], cache: str) -> None:
  """Trains `trials`, program after program; `cache` is the folder of compiled programs.

  Raises:
    UserError: the disk is full, a run directory is in use, ...: what was saved stays, and --resume goes on.
  """
  cache = compilation_cache.use_cache(cache)
  with Stop([sweep.path / 'stop' / 'all']) as stop:
    clusters = _clusters(sweep, trials)
    while clusters and not stop.requested:
      cluster = [trial for trial in clusters.pop(0) if not sweep.stop_requested(trial)]
      clusters[:0] = _attempt(sweep, cluster, stop, cache) if cluster else []
  print(flush=True)


def _attempt(sweep: Sweep, trials: list[Trial], stop: Stop, cache: str) -> list[list[Trial]]:
  """Trains one program; returns the programs to try instead where it does not fit the memory.

  What goes wrong in one program is recorded and does not keep the others from running.
  """
  for trial in trials:
    sweep.clear_failure(trial)
  files = most_open()
  if len(trials) > files:  # these shared a program where more files may be open
    logging.warning(
      '%d lanes need more open files than `ulimit -n` allows: going on with %d at a time', len(trials), files
    )
    return [trials[i : i + files] for i in range(0, len(trials), files)]
  try:
    _run(sweep, trials, stop, cache)
  except (UserError, jax.errors.JaxRuntimeError, OSError) as error:
    if _too_many(error) and len(trials) > 1:
      half = -(-len(trials) // 2)
      logging.warning('%d lanes do not fit the memory: going on with %d at a time', len(trials), half)
      return [trials[:half], trials[half:]]
    for trial in trials:
      if sweep.status(trial).state not in ENDED:
        sweep.record_failure(trial, 'failed', f'{type(error).__name__}: {error}')
    logging.error('a program of %d trials failed: %s', len(trials), error)
  return []


def _too_many(error: Exception) -> bool:
  """Whether fewer lanes at a time may do: the memory or the number of open files was not enough."""
  full = 'RESOURCE_EXHAUSTED' in str(error) or isinstance(error, OutOfMemory)
  return full or (isinstance(error, OSError) and error.errno == errno.EMFILE)


def _run(sweep: Sweep, trials: Sequence[Trial], stop: Stop, cache: str) -> None:
  """Trains trials of one structure."""
  dataset = _dataset(trials[0])
  by_number = {trial.number: trial for trial in trials}
  with contextlib.ExitStack() as stack:
    lanes: dict[int, RunLogger] = {}
    one = _program(trials, lanes=False)
    start = _program([trials[0]] * len(jax.devices()))
    begun = all(directory.has_checkpoint(sweep.run_dir(trial)) for trial in trials)
    parent = warm_start.begin_from(start, trials[0].config, sweep.parent, data_identity.describe(dataset).spec, begun)
    protocol_fields, evaluator = open_run.evaluator_of(trials[0].config, dataset)

    def packed(numbers: Sequence[int]) -> Program:
      program = _program([by_number[number] for number in numbers])
      program.begin = start.begin
      return program

    for trial in trials:
      try:
        lanes[trial.number] = _open(sweep, trial, dataset, one, protocol_fields, len(trials), stack, parent)
      except UserError as error:
        sweep.record_failure(trial, 'failed', str(error))
        logging.error('trial %d cannot start: %s', trial.number, error)
    for step, numbers, states in _restored(sweep, lanes, one):
      if stop.requested:
        return
      order = _slots(sweep, numbers, step)
      _note(sweep, step, order)
      program = packed(order)
      display = Display(trials[0].config.run.steps)
      first = sweep.run_dir(by_number[numbers[0]])
      _header(display, program, len(numbers), trials[0], first, dataset, cache)
      open_run.tell_numerics(display, first)

      def pack(live: Sequence[RunLogger], step: int, width: int) -> tuple[Program, list[RunLogger]] | None:
        numbers = [lane.number for lane in live]
        numbers += numbers[:1] * (-len(numbers) % len(jax.devices()))
        if len(numbers) >= width:
          return None
        _note(sweep, step, numbers)
        return packed(numbers), [lanes[number] for number in numbers]

      slots = [lanes[number] for number in order]
      trainer = trainer_lib.Trainer(slots, dataset, program, display, stop, pack, pruner(sweep), evaluator=evaluator)
      trainer_lib.train(trainer, [(step, states.pop(lane.number)) for lane in trainer.lanes])


def _open(
  sweep: Sweep,
  trial: Trial,
  dataset: Dataset,
  program: Program,
  protocol_fields: Mapping[str, Any],
  lanes: int,
  stack: contextlib.ExitStack,
  parent: Mapping[str, Any],
) -> RunLogger:
  """The record of one trial, new or continued, held until `stack` closes; `parent` is what it begins from."""
  path = sweep.run_dir(trial)
  known = directory.is_run(path)
  run = directory.RunDir(path) if known else directory.RunDir.make(path, adopt=True)
  stack.enter_context(run.lease(wait=LEASE_WAIT))
  overrides = sweep.about['asked']['overrides'] | trial.overrides
  origin = info.Origin(sys.argv, sweep.config_file, overrides, parent=parent)
  open_run.describe(run, trial.config, dataset, program, origin, protocol_fields, lanes)
  data_identity.check(dataset, info.trained_on(path).fingerprint, path)
  own = Stop([sweep.path / 'stop' / str(trial.number)])
  return RunLogger(trial.config, run, path / 'checkpoints', open_run.trackers_of(trial.config, path), own, trial.number)


def _restored(
  sweep: Sweep, lanes: dict[int, RunLogger], program: Program
) -> list[tuple[int, list[int], dict[int, Any]]]:
  """[(step, trials, their states on the host)]: what can go on together, as the lanes of a program share its step.

  A kill in the middle of a save leaves some lanes one checkpoint behind the others, which then go back to that one too.
  A lane whose checkpoints are all damaged fails by itself.
  """
  abstract, found = program.abstract_state(), {}
  for number, lane in lanes.items():
    try:
      found[number] = _host(lane.restore(abstract))
    except UserError as error:
      _fail(sweep, lane, error)
  back = _torn_save({number: step for number, (step, _) in found.items()}, lanes)
  for number, (step, _) in found.items():
    if back is not None and step > back:
      lanes[number].checkpoints.discard_after(back)
      found[number] = _host(lanes[number].restore(abstract))
  parts: dict[int, list[int]] = {}
  for number, (step, _) in found.items():
    parts.setdefault(step, []).append(number)
  return [(step, numbers, {n: found[n][1] for n in numbers}) for step, numbers in sorted(parts.items())]


def _host(restored: tuple[int, Any]) -> tuple[int, Any]:
  return restored[0], jax.device_get(restored[1])


def _torn_save(steps: dict[int, int], lanes: dict[int, RunLogger]) -> int | None:
  """The checkpoint that all lanes share where the newest ones are one save apart; None where nothing is torn so."""
  if not steps or len(set(steps.values())) != 2:
    return None
  low, high = min(steps.values()), max(steps.values())
  run = next(iter(lanes.values())).config.run
  shared = all(low == 0 or low in lanes[number].checkpoints.steps() for number in steps)
  return low if shared and high - low <= (run.save_every or run.steps) else None


def _fail(sweep: Sweep, lane: RunLogger, error: Exception) -> None:
  """One trial that cannot go on; the others do."""
  trial = next(trial for trial in sweep.trials if trial.number == lane.number)
  sweep.record_failure(trial, 'failed', str(error))
  logging.error('trial %d cannot go on: %s', lane.number, error)


def _header(
  display: Display, program: Program, trials: int, trial: Trial, path: Path, dataset: Dataset, cache: str
) -> None:
  devices = jax.devices()
  display.say(
    f'packed     {trials} trials as {program.lanes} lanes of one program on {len(devices)} x {devices[0].device_kind}'
  )
  display.say(f'data       {dataset.name} {dataset.version}, {data_identity.summary(dataset)}')
  for line in open_run.data_lines(trial.config, path):
    display.say(line)
  display.say(f'parameters {program.parameter_count():,} a trial')
  for note in program.notes:
    display.say(f'note       {note}')
  display.say(f'cache      {cache or "off"} (compiled programs; --compilation_cache)')
