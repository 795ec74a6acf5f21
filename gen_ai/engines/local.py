"""Local engine: one process a point on this machine, each in a slot of its own.

What it knows of a point is in the run directories: a launcher that is killed loses nothing.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType

from gen_ai import config as config_lib
from gen_ai import places, record, stop, sweep_table
from gen_ai.engines import Options
from gen_ai.engines.slots import Slot, make_slots, pinned
from gen_ai.errors import DIVERGED, DONE, REQUEUE
from gen_ai.lease import Lease
from gen_ai.sweep import ENDED, Point, Sweep
from gen_ai.sweep_table import Board

_RESTARTS = 3  # in a row without a step of progress
_TICK_SECONDS = 0.1
_HEADER = '=== '  # of what one worker prints to its point's log
_PATIENCE_SECONDS = 60  # for workers that are asked to leave while the launcher itself fails


@dataclass(frozen=True)
class Worker:
  """A point at work."""

  point: Point
  slot: Slot
  process: subprocess.Popen
  step: int  # that it began from
  began: float  # seconds of the clock that files are stamped by

  def recorded(self, sweep: Sweep) -> bool:
    """Whether the run's status is this worker's: one that fails early leaves what an earlier one wrote."""
    file = sweep.run_dir(self.point) / 'status.json'
    return file.is_file() and file.stat().st_mtime >= self.began


def launch(sweep: Sweep, points: list[Point], options: Options) -> int:
  """Runs `points` of `sweep`, as many at once as there are slots; returns the exit code.

  Ctrl-C, SIGTERM or SIGHUP makes the workers save and leave; a second Ctrl-C kills them.

  Raises:
    UserError: `options` names devices that are not there, or the sweep directory cannot be written.
  """
  slots = make_slots(options.devices, options.per_device, len(points))
  with record.disk_errors(sweep.path / 'logs', sweep.path):
    (sweep.path / 'logs').mkdir(exist_ok=True)
  with Board(sweep) as board:
    board.say(f'local      {len(points)} point(s), {len(slots)} at a time, on {_places(slots)}')
    Launcher(sweep, points, slots, options.cache, board).run()
  return sweep_table.show(sweep)


def _places(slots: Iterable[Slot]) -> str:
  labels = list(dict.fromkeys(slot.label for slot in slots))
  return ', '.join(labels if len(labels) <= 4 else [*labels[:3], '...', labels[-1]])


class Launcher:
  """Starts workers, starts them again, and sees them end.

  Args:
    sweep: held by this process (its lease).
    points: to run, in order.
    slots: places for one worker each.
    cache: folder of compiled programs, for all; '': none.
    board: what the user sees.
  """

  def __init__(self, sweep: Sweep, points: Iterable[Point], slots: Iterable[Slot], cache: str, board: Board):
    self._sweep, self._board = sweep, board
    folder = places.default(cache) if cache == places.COMPILED else places.expand(cache, '--compilation_cache')
    self._cache = str(folder.absolute()) if cache and folder else ''
    self._waiting, self._free = deque(points), deque(slots)
    self._workers: list[Worker] = []
    self._fruitless: dict[int, int] = {}  # {number of a point: starts in a row that added no step}
    self._stop = self._told = 0  # 0: go on, 1: leave, 2: now; as asked for, and as passed on to the workers
    self._held: set[int] = set()  # numbers of points that other processes run

  def run(self) -> None:
    """Runs all points to their end, or to where a stop leaves them."""
    with stop.handling(self._on_signal):
      try:
        while self._workers or self._waiting:
          self._pass_on_stop()
          self._fill_slots()
          self._reap()
          self._board.refresh()
          time.sleep(_TICK_SECONDS)
      finally:
        self._abandon()

  # Starting.

  def _fill_slots(self) -> None:
    """Starts waiting points in free slots; those that are asked to stop wait no longer."""
    for _ in range(len(self._waiting)):
      if not self._free:
        return
      point = self._waiting.popleft()
      if self._stop or self._sweep.stop_requested(point):
        continue
      if self._elsewhere(point):
        self._waiting.append(point)
      elif point.number not in self._held or self._sweep.status(point).state not in ENDED:
        self._start(point, self._free.popleft())

  def _elsewhere(self, point: Point) -> bool:
    """Whether another process runs `point`: a worker whose launcher was killed, which leaves soon, or a user's."""
    if not Lease(self._sweep.run_dir(point)).held():
      return False
    if point.number not in self._held:
      self._held.add(point.number)
      self._board.say(f'point {point.number} is still run by another process: it is started once that has left')
    return True

  def _start(self, point: Point, slot: Slot) -> None:
    sweep, log = self._sweep, self._sweep.log(point)
    script, *flags = sweep.command(point, f'--compilation_cache={self._cache}', '--lease_wait=60')
    # The script by its path, and the user's own folder: a config may name data relative to it.
    words = [sys.executable, str(config_lib.SOURCE / script), *flags]
    variables = {**os.environ, 'PYTHONUNBUFFERED': '1', stop.LAUNCHER: str(os.getpid()), **slot.env}
    step = sweep.status(point).step
    sweep.clear_failure(point)
    began = time.time() - 0.1  # file stamps lag behind the clock by a tick
    with record.disk_errors(log, sweep.path), log.open('a') as output, pinned(slot.cores):
      now = datetime.now(UTC).isoformat(timespec='seconds')
      print(f'{_HEADER}{now}  {slot.label}  {shlex.join(words)}', file=output, flush=True)
      process = subprocess.Popen(words, env=variables, stdin=subprocess.DEVNULL, stdout=output,
                                 stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    self._workers.append(Worker(point, slot, process, step, began))
    self._board.started(point, slot.label)

  # Ending.

  def _reap(self) -> None:
    for worker in list(self._workers):
      code = worker.process.poll()
      if code is None:
        continue
      self._workers.remove(worker)
      self._free.append(worker.slot)
      self._judge(worker, code)
      self._board.ended(worker.point)

  def _judge(self, worker: Worker, code: int) -> None:
    """Records a worker's end where the worker could not; a point that left unasked is to be started again."""
    point, status = worker.point, self._sweep.status(worker.point)
    asked = self._stop or self._sweep.stop_requested(point)
    if code in (DONE, DIVERGED) or (asked and code in (REQUEUE, -signal.SIGTERM)):
      return
    if code == REQUEUE:
      fruitless = 0 if status.step > worker.step else self._fruitless.get(point.number, 0) + 1
      self._fruitless[point.number] = fruitless
      if fruitless <= _RESTARTS:
        self._waiting.appendleft(point)
        return
      message = f'left {fruitless} times in a row without a step of progress: {status.message}'
      self._sweep.record_failure(point, 'failed', message)
    elif code < 0:
      self._sweep.record_failure(point, 'lost', f'killed by {_signal_name(-code)}')
    elif not (status.state == 'failed' and worker.recorded(self._sweep)):
      last = ''.join(sweep_table.log_tail(self._sweep.log(point), 1))
      said = '' if last.startswith(_HEADER) else last.removeprefix('error: ')[:500]
      self._sweep.record_failure(point, 'failed', said or f'exit code {code}, and not a word')

  # Stopping.

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._stop = 2 if self._stop and number == signal.SIGINT else max(1, self._stop)

  def _pass_on_stop(self) -> None:
    if self._stop == self._told:
      return
    self._told = self._stop
    if self._stop == 1:
      self._board.say(f'stopping: {len(self._workers)} point(s) save and leave. Ctrl-C again kills them.')
    self._signal_workers(signal.SIGTERM if self._stop == 1 else signal.SIGKILL)

  def _signal_workers(self, number: int) -> None:
    for worker in self._workers:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, number)

  def _abandon(self) -> None:
    """After an error of the launcher's own: no worker is left behind that nobody watches."""
    self._signal_workers(signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for worker in self._workers:
      with contextlib.suppress(subprocess.TimeoutExpired):
        worker.process.wait(max(0.0, deadline - time.monotonic()))


def _signal_name(number: int) -> str:
  try:
    return signal.Signals(number).name
  except ValueError:  # a real-time signal
    return f'signal {number}'
