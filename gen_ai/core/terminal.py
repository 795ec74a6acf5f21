"""The terminal: all that a command prints goes through here, so that here alone is decided what becomes of it.

A command that only reads ends as Unix tools do once nobody reads on (`python -m gen_ai.compare runs | head -3`). One
that trains goes on without its terminal, whatever happens to that, and says so in a log of the run. Characters that the
terminal's encoding lacks get ASCII forms.
"""

import codecs
import contextlib
import io
import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from absl import logging

from gen_ai.core.errors import UserError

if TYPE_CHECKING:  # rich is heavy for `launch.py --help`
  from rich.console import Console
  from rich.live import Live
  from rich.progress import Progress

LOG = 'terminal.log'  # in the folder logs/ of a run or a sweep: what its terminal could not take
NOBODY_READS = 128 + signal.SIGPIPE  # what shells report of a command whose reader left
_ERRORS = 'gen_ai.ascii'  # name of the error handler for encodings
_PATIENCE_SECONDS = 1.0  # for a reader that takes nothing just now, where waiting is ours to do
_CONTROL = re.compile(rb'\x1b\[[0-9;?]*[A-Za-z]|\r')  # what moves the cursor and colours
_OUT, _ERR = 'standard output', 'standard error'

_ASCII = {
  '±': '+/-',
  '†': '^',
  '×': 'x',
  '·': '.',
  '•': '*',
  '…': '...',
  '≤': '<=',
  '≥': '>=',
  '≠': '!=',
  '≈': '~',
  '→': '->',
  '←': '<-',
  '↑': '^',
  '↓': 'v',
  '–': '-',
  '—': '-',
  '−': '-',
  '‘': "'",
  '’': "'",
  '“': '"',
  '”': '"',
  '━': '-',
  '─': '-',
  '╸': '-',
  '╺': ' ',
  '│': '|',
  '┃': '|',
  '\u00a0': ' ',
}


def _ascii_form(error: UnicodeError) -> tuple[str | bytes, int]:
  """An error handler (see `codecs.register_error`) that loses nothing: an ASCII form, a raw byte, or an escape."""
  assert isinstance(error, UnicodeEncodeError)
  char = error.object[error.start]
  if '\udc80' <= char <= '\udcff':  # a byte of a file name that is no text: as it stands on the disk
    return bytes([ord(char) - 0xDC00]), error.start + 1
  return _ASCII.get(char) or char.encode('ascii', 'backslashreplace').decode(), error.start + 1


codecs.register_error(_ERRORS, _ascii_form)


def printable(text: str, encoding: str) -> str:
  """`text` as a terminal of this encoding shows it; for what is laid out by its width."""
  return text.encode(encoding, _ERRORS).decode(encoding, 'surrogateescape')


# Streams.

_outlived: Path | None = None  # folder of the log of what trains; None while the command only reads
_lost: set[str] = set()  # streams that lead elsewhere by now


class _Descriptor(io.FileIO):
  """Standard output or error, `role`, that is written to, whatever has become of it."""

  def __init__(self, number: int, role: str):
    super().__init__(number, 'w', closefd=False)
    self._role = role

  def write(self, data: Any) -> int:
    rest = memoryview(data).cast('B')
    while len(rest):
      try:
        sent = super().write(rest)
      except OSError as error:
        if not self._redirect(error):
          break
        rest = memoryview(_plain(rest))
        continue
      if sent is None and not select.select([], [self.fileno()], [], _PATIENCE_SECONDS)[1]:
        break  # it does not block, is full, and nobody reads: this text is lost, and the next may not be
      rest = rest[sent or 0 :]
    return len(data)

  def _redirect(self, error: OSError) -> bool:
    """Leads the descriptor elsewhere once it cannot be written; returns whether it leads to a log.

    Raises:
      SystemExit: nobody reads any more what a reading command prints.
      UserError: a reading command's output cannot be written.
    """
    number, again = self.fileno(), self._role in _lost
    _lost.add(self._role)
    target = None if again else _open_log()
    with contextlib.suppress(OSError):
      null = os.open(os.devnull, os.O_WRONLY) if target is None else target
      os.dup2(null, number)
      os.close(null)
    what = f'{self._role} cannot be written ({error.strerror})'
    if _outlived is None and self._role == _OUT and not again:
      if isinstance(error, BrokenPipeError):
        raise SystemExit(NOBODY_READS)
      raise UserError(f'{what}: what it holds is not complete.')
    if target is None:
      return False
    note = f'{what}: what is shown there goes on here'
    with contextlib.suppress(OSError):
      os.write(number, f'== {datetime.now(UTC).isoformat(timespec="seconds")}  {note}\n'.encode())
    if self._role == _OUT:
      tell(f'{what}: training goes on, and what is shown there goes on in {_outlived}/{LOG}')
    return True


def _open_log() -> int | None:
  if _outlived is None:
    return None
  try:
    _outlived.mkdir(parents=True, exist_ok=True)
    return os.open(_outlived / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
  except OSError:
    return None


def _plain(data: memoryview) -> bytes:
  """What a log can hold of text that was meant for a terminal."""
  text = _CONTROL.sub(b'', bytes(data))
  return text if text.endswith(b'\n') or len(text) == len(data) else text + b'\n'


def _stream(old: TextIO | None, role: str) -> TextIO | None:
  """A stream in place of `old`; None where `old` is no file of the system, as under a test or a notebook."""
  if old is None:  # closed before this process began
    return io.TextIOWrapper(_Descriptor(os.open(os.devnull, os.O_WRONLY), role), 'utf-8', _ERRORS)
  try:
    raw = _Descriptor(old.fileno(), role)
  except io.UnsupportedOperation:
    return None
  with contextlib.suppress(OSError):
    old.flush()
  unbuffered = isinstance(getattr(old, 'buffer', None), io.RawIOBase)  # python -u
  return io.TextIOWrapper(
    raw if unbuffered else io.BufferedWriter(raw),
    old.encoding,
    _ERRORS,
    line_buffering=getattr(old, 'line_buffering', False),
    write_through=unbuffered,
  )


@contextlib.contextmanager
def guarded() -> Iterator[None]:
  """Meanwhile standard output and error are streams that hold what the head of this module promises.

  Raises:
    SystemExit, UserError: see `_Descriptor`.
  """
  global _outlived
  before, _outlived = (sys.stdout, sys.stderr), None
  _lost.clear()
  out, err = map(_stream, before, (_OUT, _ERR))
  handler = logging.get_absl_handler().python_handler
  logged = handler.stream
  sys.stdout, sys.stderr = out or before[0], err or before[1]
  if logged is before[1]:
    handler.stream = sys.stderr
  try:
    yield
  finally:
    try:
      for stream in (sys.stderr, sys.stdout):
        stream.flush()
    finally:
      sys.stdout, sys.stderr = before
      handler.stream = logged


def outlive(folder: Path) -> None:
  """From now on nothing that befalls the terminal ends this process: what it cannot take goes to LOG in `folder`."""
  global _outlived
  _outlived = folder.absolute()


# What is shown.


def console(**options: Any) -> 'Console':
  """A console of rich on standard output."""
  from rich.console import Console

  return Console(**{'highlight': False, **options})


def lost(shown: 'Console') -> bool:
  """Whether the terminal that `shown` drew on is gone; one that hung up is no terminal before a write has failed."""
  return _OUT in _lost or not shown.is_terminal


def abandon(shown: 'Console', live: 'Live | Progress') -> None:
  """Ends what is drawn live on a terminal that is lost; nothing of it is left in a log."""
  shown.quiet = True
  live.stop()


def tell(text: str) -> None:
  """One line at once, past all buffers and from any thread: on the terminal if there is one, or to standard error.

  Whatever is drawn live there is drawn again after it.
  """
  terminal = next((number for number in (2, 1) if os.isatty(number)), None)
  plain = terminal is None or os.environ.get('TERM', 'dumb') == 'dumb'
  start = '' if plain else '\r\x1b[2K\x1b[?25h'  # clears the line; the cursor is seen again
  with contextlib.suppress(OSError):
    os.write(terminal or 2, f'{start}{text}\n'.encode('ascii', 'backslashreplace'))
