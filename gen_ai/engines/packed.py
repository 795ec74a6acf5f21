"""The packed engine: points that differ in traced floats and seeds only are lanes of one compiled program.

Every lane writes an ordinary run directory. The programs run one after the other in this process; within one, the run
axis is sharded over the devices. `packing.jsonl` of the sweep tells which points shared which program from which step
on, so that a resumed sweep computes with programs of the same width, and hence the very same numbers.
"""

import contextlib
import errno
import functools
import json
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from gen_ai import config as config_lib
from gen_ai import engine, memory, record, samples, sweep_table, worker
from gen_ai.data import dataset as dataset_lib
from gen_ai.data import identity
from gen_ai.data.dataset import Dataset
from gen_ai.data.feed import make_feed
from gen_ai.engines import Options
from gen_ai.errors import OutOfMemory, UserError
from gen_ai.lane import Lane
from gen_ai.layouts import LaneLayout
from gen_ai.program import Program, chunk, evaluation
from gen_ai.progress import Display
from gen_ai.stop import Stop
from gen_ai.sweep import ENDED, Point, Sweep, groups

FILE = 'packing.jsonl'
_OWN_FILES, _LANE_FILES = 40, 8  # open files of the process (24 were seen) and of a lane (7): its lease, mirrors, saves
_MOST_FILES = 65_536  # that a soft limit is raised to
LEASE_WAIT = 150.0  # seconds; a killed launcher on another machine counts as dead after 120


@functools.lru_cache(maxsize=4)
def _load(data: str) -> Dataset:
  return dataset_lib.load(config_lib.from_json(json.loads(data)))


def _dataset(point: Point) -> Dataset:
  return _load(point.config.data.to_json())


def _program(points: Sequence[Point], lanes: bool = True) -> Program:
  config = points[0].config
  build, spec = config_lib.experiment(config).build, _dataset(points[0]).spec
  return Program(config, build, spec, LaneLayout(jax.devices()), [p.config for p in points] if lanes else ())


# How many lanes.


def _resident(point: Point) -> int:
  """Bytes of the data that stays on every device."""
  config = point.config
  feed = make_feed(_dataset(point).splits['train'], config.data, 1)
  return sum(array.nbytes for array in feed.resident.values())


def lane_bytes(point: Point) -> int:
  """Bytes that one lane needs to train or to be evaluated, by `gen_ai.memory.estimate`: at most, as XLA fuses."""
  program, config, splits = _program([point], lanes=False), point.config, _dataset(point).splits
  feed = make_feed(splits['train'], config.data, 1, None, program.batches_per_step)
  held_out = make_feed(splits['validation'], config.data, 1)
  batch = splits['validation'].eval_index(np.zeros(config.eval.batch_size, np.int64))[None]
  row = batch if held_out.resident else {k: v[None] for k, v in splits['validation'].read(batch[0]).items()}
  judged = {'row': row, 'mask': np.ones(batch.shape, np.float32)}
  key = jax.eval_shape(lambda: jax.random.key(0))

  def needed(fn: Callable[..., Any], feed: Any, rows: Any) -> int:
    resident = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), feed.resident)
    whole = memory.estimate(fn, program.floats, program.shapes, key, resident, rows)
    return whole - sum(array.nbytes for array in feed.resident.values())

  make, layout = program._make, program.layout
  train = needed(chunk(make, feed, layout), feed, feed.chunk(0, 1))
  return max(train, needed(evaluation(make, held_out, layout), held_out, judged))


def most_open() -> int:
  """Lanes whose files may be open at once; the soft limit of open files (`ulimit -n`) is raised where it can be."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
  if soft != resource.RLIM_INFINITY and soft < most:
    with contextlib.suppress(OSError, ValueError):
      resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
      soft = most
  return _MOST_FILES if soft == resource.RLIM_INFINITY else max(1, (soft - _OWN_FILES) // _LANE_FILES)


def most_lanes(point: Point) -> int:
  """Lanes that one program takes: config.sweep.lanes, or what memory allows; no more than files may be open."""
  asked, files = point.config.sweep.lanes, most_open()
  if asked:
    if asked > files:
      logging.warning('config.sweep.lanes=%d: `ulimit -n` lets no more than %d lanes have files open', asked, files)
    return min(asked, files)
  devices = jax.devices()
  room = min(memory.available(device) for device in devices) - _resident(point)
  return min(max(1, room // lane_bytes(point)) * len(devices), files)


def split(points: Sequence[Point]) -> list[list[Point]]:
  """`points` of one structure as groups that fit one program, of nearly equal size."""
  most = most_lanes(points[0])
  programs = -(-len(points) // most)
  size = -(-len(points) // programs)
  return [list(points[i : i + size]) for i in range(0, len(points), size)]


def describe(sweep: Sweep, options: Options) -> list[str]:
  """What `--dry_run` says of programs, lanes and memory."""
  del options
  lines = [f'{len(jax.devices())} device(s), {memory.available(jax.devices()[0]) / 2**30:.1f} GiB for programs on each']
  for number, group in enumerate(groups(sweep.points)):
    parts, need = split(group), lane_bytes(group[0]) / 2**20
    sizes = ' + '.join(str(len(part)) for part in parts)
    widest = -(-max(map(len, parts)) // len(jax.devices()))
    lines.append(f'program {number}: {sizes} lanes, about {need:,.0f} MiB a lane, {need * widest:,.0f} MiB a device')
  return lines


# The record of the packing.


def _packings(sweep: Sweep) -> list[dict[str, Any]]:
  """Which points shared a program, from which step on, in the order of time."""
  path = sweep.path / FILE
  found = []
  for line in path.read_text().splitlines() if path.is_file() else []:
    with contextlib.suppress(ValueError):  # the last line of a killed process
      found.append(json.loads(line))
  return found


def _note(sweep: Sweep, step: int, numbers: Sequence[int]) -> None:
  path = sweep.path / FILE
  before = path.read_text() if path.is_file() else ''
  text = record.dumps({'step': step, 'lanes': list(numbers)})
  with record.disk_errors(path, sweep.path):
    record.write_atomic(path, before + ('' if before.endswith('\n') or not before else '\n') + text + '\n')


def _clusters(sweep: Sweep, points: Sequence[Point]) -> list[list[Point]]:
  """Points that are to share a program: those that shared one before, then new ones as memory allows."""
  last = {number: i for i, packing in enumerate(_packings(sweep)) for number in packing['lanes']}
  together: dict[int, list[Point]] = {}
  for point in points:
    if point.number in last:
      together.setdefault(last[point.number], []).append(point)
  new = [point for point in points if point.number not in last]
  return [*together.values(), *(part for group in groups(new) for part in split(group))]


def _slots(sweep: Sweep, numbers: Sequence[int], step: int) -> list[int]:
  """For every lane of the program, the point it computes.

  Side by side, lanes are what they were when the sweep stood at `step`: those of points that have ended compute another
  once more, so that the program and with it every number stays the same. In turn, a lane knows nothing of the others.
  """
  slots = list(numbers)
  for packing in _packings(sweep) if LaneLayout(jax.devices()).mapping == 'vmap' else ():
    if packing['step'] <= step and set(numbers) <= set(packing['lanes']):
      slots = [number if number in numbers else numbers[0] for number in packing['lanes']]
  return slots + [numbers[0]] * (-len(slots) % len(jax.devices()))


# Running.


def launch(sweep: Sweep, points: list[Point], options: Options) -> int:
  """Trains `points`, program after program. Returns the exit code of the sweep.

  Raises:
    UserError: the disk is full, a run directory is in use, ...: what was saved stays, and --resume goes on.
  """
  options = replace(options, cache=worker.use_cache(options.cache))
  with Stop([sweep.path / 'stop' / 'all']) as stop:
    clusters = _clusters(sweep, points)
    while clusters and not stop.requested:
      cluster = [point for point in clusters.pop(0) if not sweep.stop_requested(point)]
      clusters[:0] = _attempt(sweep, cluster, stop, options) if cluster else []
  print(flush=True)
  return sweep_table.show(sweep)


def _attempt(sweep: Sweep, points: list[Point], stop: Stop, options: Options) -> list[list[Point]]:
  """Trains one program; returns the programs to try instead where it does not fit the memory.

  What goes wrong in one program is recorded and does not keep the others from running.
  """
  for point in points:
    sweep.clear_failure(point)
  files = most_open()
  if len(points) > files:  # these shared a program where more files may be open
    logging.warning(
      '%d lanes need more open files than `ulimit -n` allows: going on with %d at a time', len(points), files
    )
    return [points[i : i + files] for i in range(0, len(points), files)]
  try:
    _run(sweep, points, stop, options)
  except (UserError, jax.errors.JaxRuntimeError, OSError) as error:
    if _too_many(error) and len(points) > 1:
      half = -(-len(points) // 2)
      logging.warning('%d lanes do not fit the memory: going on with %d at a time', len(points), half)
      return [points[:half], points[half:]]
    for point in points:
      if sweep.status(point).state not in ENDED:
        sweep.record_failure(point, 'failed', f'{type(error).__name__}: {error}')
    logging.error('a program of %d points failed: %s', len(points), error)
  return []


def _too_many(error: Exception) -> bool:
  """Whether fewer lanes at a time may do: the memory or the number of open files was not enough."""
  full = 'RESOURCE_EXHAUSTED' in str(error) or isinstance(error, OutOfMemory)
  return full or (isinstance(error, OSError) and error.errno == errno.EMFILE)


def _run(sweep: Sweep, points: Sequence[Point], stop: Stop, options: Options) -> None:
  """Trains points of one structure."""
  dataset = _dataset(points[0])
  by_number = {point.number: point for point in points}
  with contextlib.ExitStack() as stack:
    lanes: dict[int, Lane] = {}
    one = _program(points, lanes=False)
    judging, judge = worker.judged(points[0].config, dataset)
    for point in points:
      try:
        lanes[point.number] = _open(sweep, point, dataset, one, judging, len(points), stack)
      except UserError as error:
        sweep.record_failure(point, 'failed', str(error))
        logging.error('point %d cannot start: %s', point.number, error)
    for step, numbers, states in _restored(sweep, lanes, one):
      if stop.requested:
        return
      order = _slots(sweep, numbers, step)
      _note(sweep, step, order)
      program = _program([by_number[number] for number in order])
      display = Display(points[0].config.run.steps)
      first = sweep.run_dir(by_number[numbers[0]])
      _header(display, program, len(numbers), points[0], first, dataset, options)
      worker.tell_numerics(display, first)

      def pack(live: Sequence[Lane], step: int, width: int) -> tuple[Program, list[Lane]] | None:
        numbers = [lane.number for lane in live]
        numbers += numbers[:1] * (-len(numbers) % len(jax.devices()))
        if len(numbers) >= width:
          return None
        _note(sweep, step, numbers)
        return _program([by_number[number] for number in numbers]), [lanes[number] for number in numbers]

      slots = [lanes[number] for number in order]
      trainer = engine.Trainer(slots, dataset, program, display, stop, pack, worker.pruner(sweep), judge=judge)
      engine.train(trainer, [(step, states.pop(lane.number)) for lane in trainer.lanes])


def _open(sweep: Sweep, point: Point, dataset: Dataset, program: Program, judging: Mapping[str, Any], lanes: int,
          stack: contextlib.ExitStack) -> Lane:  # fmt: skip
  """The record of one point, new or continued, held until `stack` closes."""
  path = sweep.run_dir(point)
  known = worker.is_run(str(path))
  run = record.RunDir(path) if known else record.RunDir.make(path, adopt=True)
  stack.enter_context(run.lease(wait=LEASE_WAIT))
  origin = {
    'argv': sys.argv, 'config_file': sweep.about['config_file'],
    'overrides': sweep.about['asked']['overrides'] | point.overrides,
  }  # fmt: skip
  worker.describe(run, point.config, dataset, program, origin, judging, lanes)
  identity.check(dataset, record.read_run(path)['data']['fingerprint'], path)
  own = Stop([sweep.path / 'stop' / str(point.number)])
  return Lane(point.config, run, path / 'checkpoints', worker.mirrors(point.config, path), own, point.number)


def _restored(sweep: Sweep, lanes: dict[int, Lane], program: Program) -> list[tuple[int, list[int], dict[int, Any]]]:
  """[(step, points, their states on the host)]: what can go on together, as the lanes of a program share its step.

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


def _torn_save(steps: dict[int, int], lanes: dict[int, Lane]) -> int | None:
  """The checkpoint that all lanes share where the newest ones are one save apart; None where nothing is torn so."""
  if not steps or len(set(steps.values())) != 2:
    return None
  low, high = min(steps.values()), max(steps.values())
  run = next(iter(lanes.values())).config.run
  shared = all(low == 0 or low in lanes[number].checkpoints.steps() for number in steps)
  return low if shared and high - low <= (run.save_every or run.steps) else None


def _fail(sweep: Sweep, lane: Lane, error: Exception) -> None:
  """One point that cannot go on; the others do."""
  point = next(point for point in sweep.points if point.number == lane.number)
  sweep.record_failure(point, 'failed', str(error))
  logging.error('point %d cannot go on: %s', lane.number, error)


def _header(
  display: Display, program: Program, points: int, point: Point, path: Path, dataset: Dataset, options: Options
) -> None:
  devices = jax.devices()
  display.say(
    f'packed     {points} points as {program.lanes} lanes of one program on {len(devices)} x {devices[0].device_kind}'
  )
  display.say(f'data       {dataset.name} {dataset.version}, {identity.told(dataset)}')
  if line := worker.spread_line(point.config, path):
    display.say(line)
  display.say(f'parameters {program.parameter_count():,} a point')
  if note := samples.prompt_note(point.config, dataset.spec):
    display.say(f'prompt     {note}')
  display.say(f'cache      {options.cache or "off"} (compiled programs; --compilation_cache)')
