"""Stopping: a signal or a file only sets a flag; the trainer ends its chunk, saves and leaves."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from gen_ai.core import terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
LAUNCHER = 'GEN_AI_LAUNCHER'  # environment variable: process id of the launcher whose death stops its workers
_LOOK_SECONDS = 1.0  # least time between two looks at the files, which may lie on a network


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
  """Meanwhile `handler` has SIGNALS, but for a SIGHUP that is ignored, as under nohup."""
  taken = [number for number in SIGNALS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
  previous = {number: signal.signal(number, handler) for number in taken}
  try:
    yield
  finally:
    for number, before in previous.items():
      signal.signal(number, before)


class Stop:
  """While active, SIGNALS request a stop and are answered at once on the terminal; a second SIGINT leaves at once.

  A handler in Python runs between two bytecodes only, hence not while the main thread waits for the device. What
  answers is a thread, which the handler of the system wakes.

  Args:
    files: a stop is requested as well once one of them exists.
  """

  def __init__(self, files: Sequence[Path] = ()) -> None:
    self._files = tuple(files)
    self._reason = ''
    self._looked = 0.0
    self._interrupts = 0
    self._stack = contextlib.ExitStack()
    self.waits_for: tuple[str, float | None] = 'before the first update', None
    """When a stop would be obeyed now, in words and as a time of time.perf_counter(); None: not known."""

  @property
  def requested(self) -> str:
    """Why a stop is wanted: the name of the first signal that came, a file, or the launcher's death; '' if none is."""
    now = time.monotonic()
    if not self._reason and now - self._looked >= _LOOK_SECONDS:
      self._looked = now
      self._reason = next((f'the file {file}' for file in self._files if file.exists()), '') or _orphaned()
    return self._reason

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._reason = self._reason or signal.Signals(number).name

  def _watch(self, woken: int) -> None:
    """Answers every signal, until the other end is closed."""
    while numbers := os.read(woken, 64):
      for number in numbers:
        if number in SIGNALS:
          self._answer(number)

  def _answer(self, number: int) -> None:
    self._handle(number, None)
    self._interrupts += number == signal.SIGINT
    if self._interrupts > 1:
      terminal.tell('left without saving: what was saved before stands')
      os._exit(128 + signal.SIGINT)  # the user insists
    when, end = self.waits_for
    about = '' if end is None else f', about {max(1.0, end - time.perf_counter()):.0f} s'
    again = '; press again to leave without saving' if number == signal.SIGINT else f' ({signal.Signals(number).name})'
    terminal.tell(f'stopping {when}{about}{again}')

  def __enter__(self) -> 'Stop':
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    thread = threading.Thread(target=self._watch, args=[woken], name='signals', daemon=True)
    thread.start()
    self._stack.callback(os.close, woken)
    self._stack.callback(thread.join)
    self._stack.callback(os.close, wake)
    self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake, warn_on_full_buffer=False))
    self._stack.enter_context(handling(self._handle))
    return self

  def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
    self._stack.close()


def _orphaned() -> str:
  """'the death of its launcher' once the process that started this one is gone."""
  launcher = os.environ.get(LAUNCHER, '')
  return 'the death of its launcher' if launcher and str(os.getppid()) != launcher else ''
