"""One loop for launchers whose workers are processes: starts trials, sees them end, starts them again, passes stops on.

Where workers run is up to a `Backend`. What is known of a trial is in its run directory: a launcher that is killed
loses nothing.
"""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple, Protocol

from gen_ai.core.errors import DIVERGED, DONE, REQUEUE, UserError
from gen_ai.run.lease import Lease
from gen_ai.sweep.board import Board, log_tail
from gen_ai.sweep.directory import ENDED, Sweep
from gen_ai.sweep.trials import Trial
from gen_ai.train import interruption

HEADER = '=== '  # begins the line that a back end writes to a trial's log before its worker does
LOST = 256  # in place of an exit code: nobody knows how the worker ended, as its node is gone
RESTARTS = 3  # in a row without a step of progress
GO_ON, LEAVE, NOW = range(3)  # what is asked of the workers
_KILL_SECONDS = 10  # for workers that are killed to be gone
_PATIENCE_SECONDS = 60  # for workers that are asked to leave while the launcher itself fails


class End(NamedTuple):
  """How a worker ended, as its back end knows it."""

  code: int  # exit code; -n: signal n killed it; LOST
  message: str = ''  # what the worker could not record


class Backend(Protocol):
  """A place for workers. Handles are whatever `start` returns, and hashable."""

  places: int
  """Workers that it takes at a time."""

  def start(self, trial: Trial) -> Any:
    """Starts the worker of `trial` and returns its handle."""

  def poll(self, workers: Sequence[Any]) -> Mapping[Any, End]:
    """Those of `workers` that have ended. Where none has, it waits a moment for the first."""

  def cancel(self, workers: Sequence[Any], now: bool) -> None:
    """Asks `workers` to save and leave, and takes back what has not begun; with `now` kills them."""

  def where(self, worker: Any) -> str:
    """Where it runs, for a person; '' before it does."""


@dataclass(frozen=True)
class _Worker:
  """A trial at work."""

  trial: Trial
  handle: Any
  step: int  # that it began from
  stamp: int  # of the run's status as it began


class Supervisor:
  """Starts workers, starts them again, and sees them end.

  Args:
    sweep: held by this process (its lease).
    trials: to run, in order.
    backend: where their workers run.
    board: what the user sees.
  """

  def __init__(self, sweep: Sweep, trials: Iterable[Trial], backend: Backend, board: Board):
    self._sweep, self._backend, self._board = sweep, backend, board
    self._waiting = deque(trials)
    self._workers: list[_Worker] = []
    self._unplaced: list[_Worker] = []  # of which nobody knows yet where they run
    self._fruitless: dict[int, int] = {}  # {number of a trial: starts in a row that added no step}
    self._held: set[int] = set()  # numbers of trials that other processes run
    self._request = self._passed_on = GO_ON
    self._end = 0.0  # when to give up waiting for workers that were killed

  def run(self) -> int:
    """Runs all trials to their end, or to where a stop leaves them; returns GO_ON, LEAVE or NOW, as was asked.

    Ctrl-C, SIGTERM or SIGHUP makes the workers save and leave; a second Ctrl-C kills them.
    """
    with interruption.handling(self._on_signal):
      try:
        while (self._workers or self._waiting) and not (self._end and time.monotonic() > self._end):
          self._pass_on_stop()
          self._start_waiting()
          self._place()
          self._reap(self._backend.poll([worker.handle for worker in self._workers]))
          self._board.refresh()
      except BaseException:
        self._abandon()
        raise
    return self._passed_on

  # Starting.

  def _start_waiting(self) -> None:
    """Starts waiting trials where there is a place; those that are asked to stop wait no longer."""
    for _ in range(len(self._waiting)):
      if len(self._workers) >= self._backend.places:
        return
      trial = self._waiting.popleft()
      if self._request or self._sweep.stop_requested(trial):
        continue
      if self._elsewhere(trial):
        self._waiting.append(trial)
      elif trial.number not in self._held or self._sweep.status(trial).state not in ENDED:
        self._start(trial)

  def _elsewhere(self, trial: Trial) -> bool:
    """Whether another process runs `trial`: a worker whose launcher was killed, which leaves soon, or a user's."""
    if not Lease(self._sweep.run_dir(trial)).held():
      return False
    if trial.number not in self._held:
      self._held.add(trial.number)
      self._board.say(f'trial {trial.number} is still run by another process: it is started once that has left')
    return True

  def _start(self, trial: Trial) -> None:
    step, stamp = self._sweep.status(trial).step, self._stamp(trial)
    self._sweep.clear_failure(trial)
    worker = _Worker(trial, self._backend.start(trial), step, stamp)
    self._workers.append(worker)
    self._unplaced.append(worker)

  def _stamp(self, trial: Trial) -> int:
    """When the run last recorded its status, in ns; 0 before it did."""
    file = self._sweep.run_dir(trial) / 'status.json'
    return file.stat().st_mtime_ns if file.is_file() else 0

  def _place(self) -> None:
    """Tells the board of workers that have begun."""
    for worker in list(self._unplaced):
      if where := self._backend.where(worker.handle):
        self._unplaced.remove(worker)
        self._board.started(worker.trial, where)

  # Ending.

  def _reap(self, ends: Mapping[Any, End]) -> None:
    for worker in [worker for worker in self._workers if worker.handle in ends]:
      self._place()  # of one that began and ended in one moment both are told
      self._workers.remove(worker)
      if worker in self._unplaced:
        self._unplaced.remove(worker)
      self._settle(worker, *ends[worker.handle])
      self._board.ended(worker.trial)

  def _settle(self, worker: _Worker, code: int, message: str) -> None:
    """Records an end that the worker could not record; a trial that left unasked is to be started again."""
    trial, status = worker.trial, self._sweep.status(worker.trial)
    stopping = self._request or self._sweep.stop_requested(trial)
    if code in (DONE, DIVERGED) or (stopping and code in (REQUEUE, -signal.SIGTERM)):
      return
    if code in (REQUEUE, LOST) and not stopping:
      fruitless = 0 if status.step > worker.step else self._fruitless.get(trial.number, 0) + 1
      self._fruitless[trial.number] = fruitless
      if fruitless <= RESTARTS:
        if message:
          self._board.say(f'trial {trial.number} is started again: {message}')
        self._waiting.appendleft(trial)
        return
      message = f'left {fruitless} times in a row without a step of progress: {message or status.message}'
    if code == LOST or code < 0:
      how = 'lost with its node' if code == LOST else f'killed by {_signal_name(-code)}'
      self._sweep.record_failure(trial, 'lost', message or how)
    elif not (status.state == 'failed' and self._stamp(trial) != worker.stamp):  # else the run itself says why
      last = ''.join(log_tail(self._sweep.log(trial), 1))
      reason = '' if last.startswith(HEADER) else last.removeprefix('error: ')[:500]
      self._sweep.record_failure(trial, 'failed', message or reason or f'exit code {code}, and no message')

  # Stopping.

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._request = NOW if self._request and number == signal.SIGINT else max(LEAVE, self._request)

  def _pass_on_stop(self) -> None:
    if self._request == self._passed_on:
      return
    self._passed_on = self._request
    if self._request == LEAVE:
      begun = len(self._workers) - len(self._unplaced)
      self._board.say(f'stopping: {begun} trial(s) save and leave. Ctrl-C again kills them.')
    else:
      self._end = time.monotonic() + _KILL_SECONDS
    self._backend.cancel([worker.handle for worker in self._workers], now=self._request == NOW)

  def _abandon(self) -> None:
    """After an error of the launcher's own: no worker is left behind that nobody watches."""
    left, deadline = [worker.handle for worker in self._workers], time.monotonic() + _PATIENCE_SECONDS
    with contextlib.suppress(UserError):  # as the launcher's own
      self._backend.cancel(left, now=False)
    while left and self._request < NOW and time.monotonic() < deadline:
      ended = self._backend.poll(left)
      left = [handle for handle in left if handle not in ended]
    if left and self._request == NOW:
      self._backend.cancel(left, now=True)


def _signal_name(number: int) -> str:
  try:
    return signal.Signals(number).name
  except ValueError:  # a real-time signal
    return f'signal {number}'
