"""Stopping on a signal: the handlers only set a flag; the engine ends its chunk, saves and leaves."""

import os
import signal
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop:
  """While active, SIGINT, SIGTERM and SIGUSR1 request a stop; a second SIGINT kills at once."""

  def __init__(self) -> None:
    self.requested = ''  # name of the first signal that came
    self._interrupts = 0
    self._previous: dict[int, object] = {}

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self.requested = self.requested or signal.Signals(number).name
    self._interrupts += number == signal.SIGINT
    if self._interrupts > 1:
      os._exit(128 + signal.SIGINT)  # the user insists: the last checkpoint stands

  def __enter__(self) -> 'Stop':
    self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
    return self

  def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)  # type: ignore[arg-type]
