"""The local launcher: one process a trial on this machine, each in a slot of its own."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gen_ai import config as config_lib
from gen_ai.core import files, places
from gen_ai.sweep.board import Board
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers.base import Launcher, Options
from gen_ai.sweep.launchers.slots import Slot, make_slots, pinned
from gen_ai.sweep.launchers.supervisor import HEADER, End, Supervisor
from gen_ai.sweep.trials import Trial
from gen_ai.train import interruption

_TICK_SECONDS = 0.1
_LEASE_WAIT = 60  # seconds


class Local(Launcher):
  """--launcher=local."""

  def launch(self, sweep: Sweep, trials: Sequence[Trial], options: Options) -> None:
    """Runs `trials`, as many at once as there are slots.

    Raises:
      UserError: `options` names devices that are not there, or the sweep directory cannot be written.
    """
    slots = make_slots(options.devices, options.per_device, len(trials))
    with files.disk_errors(sweep.path / 'logs', sweep.path):
      (sweep.path / 'logs').mkdir(exist_ok=True)
    with Board(sweep) as board:
      board.say(f'local      {len(trials)} trial(s), {len(slots)} at a time, on {_places(slots)}')
      Supervisor(sweep, trials, Processes(sweep, slots, options.cache), board).run()


def _places(slots: Iterable[Slot]) -> str:
  labels = list(dict.fromkeys(slot.label for slot in slots))
  return ', '.join(labels if len(labels) <= 4 else [*labels[:3], '...', labels[-1]])


@dataclass(frozen=True, eq=False)
class Worker:
  """A process at work."""

  process: subprocess.Popen
  slot: Slot


class Processes:
  """Workers as processes of this machine.

  Args:
    sweep: whose trials they run.
    slots: places for one worker each.
    cache: folder of compiled programs, for all; '': none.
  """

  def __init__(self, sweep: Sweep, slots: Sequence[Slot], cache: str):
    self.places = len(slots)
    self._sweep, self._free = sweep, deque(slots)
    folder = places.default(cache) if cache == places.COMPILED else places.expand(cache, '--compilation_cache')
    self._cache = str(folder.absolute()) if cache and folder else ''

  def start(self, trial: Trial) -> Worker:
    """Starts the worker of `trial`, a leader of its own process group, in a free slot; its log begins with a header."""
    sweep, log, slot = self._sweep, self._sweep.log(trial), self._free.popleft()
    script, *flags = sweep.command(trial, f'--compilation_cache={self._cache}', f'--lease_wait={_LEASE_WAIT}')
    # The script by its path, and the user's own folder: a config may name data relative to it.
    words = [sys.executable, str(config_lib.SOURCE / script), *flags]
    variables = {**os.environ, 'PYTHONUNBUFFERED': '1', interruption.LAUNCHER: str(os.getpid()), **slot.env}
    with files.disk_errors(log, sweep.path), log.open('a') as output, pinned(slot.cores):
      now = datetime.now(UTC).isoformat(timespec='seconds')
      print(f'{HEADER}{now}  {slot.label}  {shlex.join(words)}', file=output, flush=True)
      process = subprocess.Popen(
        words, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
      )
    return Worker(process, slot)

  def poll(self, workers: Sequence[Worker]) -> Mapping[Worker, End]:
    """Those of `workers` that have ended, whose slots are free again; after a moment where none has."""
    ended = {worker: End(code) for worker in workers if (code := worker.process.poll()) is not None}
    self._free.extend(worker.slot for worker in ended)
    if not ended:
      time.sleep(_TICK_SECONDS)
    return ended

  def cancel(self, workers: Sequence[Worker], now: bool) -> None:
    """SIGTERM to `workers`; with `now` SIGKILL, which takes their own children along."""
    for worker in workers:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL if now else signal.SIGTERM)

  def where(self, worker: Worker) -> str:
    """Its slot."""
    return worker.slot.label
