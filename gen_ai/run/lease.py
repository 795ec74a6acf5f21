"""The lease that keeps two processes from writing one run directory.

Its holder keeps the kernel's lock (`flock`) on `.lease.lock` while it lives: whoever gets the lock knows that no
process of this machine has the lease. `lease.json` names the holder; its modification time is a heartbeat, for other
machines, whose kernels may not know of the lock, and for file systems without locks.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from absl import logging

from gen_ai.core.errors import UserError

_PROBE_SECONDS = 0.2  # `held` of another process has the lock for an instant, which must not look like a holder


def _machine() -> str:
  """Whose kernel knows of our locks: this host since its last boot."""
  boot = Path('/proc/sys/kernel/random/boot_id')
  return f'{socket.gethostname()} {boot.read_text().strip() if boot.is_file() else ""}'


class _Held(UserError):
  """Another process has the lease."""


class Lease:
  """The right to write one run directory, held while the context is open.

  Args:
    run_dir: the run directory.
    attempt: recorded for whoever finds the lease.
    stale_after: seconds without a heartbeat after which a holder that no lock tells of counts as dead.
    beat: seconds between heartbeats, given by a thread: a long compilation must not look like death. 0: no thread,
      the caller calls `refresh`.
    wait: seconds to wait for another holder to leave or to be found dead.

  Raises (on entry):
    UserError: another live process holds the directory (names its host and pid), or the lease cannot be written.
  """

  def __init__(
    self,
    run_dir: str | os.PathLike,
    attempt: int = 0,
    stale_after: float = 120.0,
    beat: float = 15.0,
    wait: float = 0.0,
  ):
    self.run_dir, self._wait = Path(run_dir), wait
    self.path, self._lock_path = self.run_dir / 'lease.json', self.run_dir / '.lease.lock'
    self._attempt, self._stale_after, self._beat = attempt, stale_after, beat
    self._fd: int | None = None  # of the lock, while the lease is held
    self._text = ''  # what lease.json says while it is ours
    self._ended = threading.Event()
    self._thread: threading.Thread | None = None

  def __enter__(self) -> 'Lease':
    self.acquire()
    return self

  def __exit__(self, *exc_info: Any) -> None:
    self.release()

  def acquire(self) -> None:
    """Takes the lease, or raises UserError (see the class)."""
    if not self.run_dir.is_dir():
      raise UserError(f'{self.run_dir} is gone: it was deleted or moved. Start a new run, or name where it is now')
    began = time.monotonic()
    while True:
      try:
        self._take()
        break
      except _Held:
        waited = time.monotonic() - began
        if waited >= max(self._wait, _PROBE_SECONDS):
          raise
      time.sleep(0.01 if waited < _PROBE_SECONDS else min(1.0, self._wait - waited))
    _held.add(self)
    if self._beat:
      self._thread = threading.Thread(target=self._keep_alive, name=f'lease {self.run_dir.name}', daemon=True)
      self._thread.start()

  def _take(self) -> None:
    """One try. Raises _Held or UserError; nothing is left open then."""
    try:
      self._fd = os.open(self._lock_path, os.O_CREAT | os.O_RDWR, 0o644)
      locked = self._refuse_living(self._fd, fcntl.LOCK_EX)
      if not locked:
        logging.warning(
          '%s lies on a file system without locks: its holder is known by its heartbeat alone, and is '
          'found dead after %.0f s',
          self.run_dir,
          self._stale_after,
        )
      if dead := self._holder():
        logging.warning(
          '%s: taking over the lease of process %s on host %s, which is dead',
          self.run_dir,
          dead.get('pid'),
          dead.get('host', 'unknown'),
        )
      self.path.unlink(missing_ok=True)
      who = {'host': socket.gethostname(), 'pid': os.getpid(), 'machine': _machine() if locked else ''}
      self._text = json.dumps({**who, 'attempt': self._attempt, 'time': time.time()}) + '\n'
      with self.path.open('x', encoding='utf-8') as file:  # without locks another may have been faster
        file.write(self._text)
    except _Held:
      self._close()
      raise
    except OSError as error:
      self._close()
      if isinstance(error, FileExistsError):
        raise _Held(f'{self.run_dir} is in use by a process that was faster') from error
      raise UserError(f'cannot write the lease {self.path}: {error.strerror}') from error

  def _refuse_living(self, fd: int | None, kind: int) -> bool:
    """Raises _Held when a holder lives, or may live; returns whether nobody had the lock.

    Args:
      fd: of the lock; None where there is none that we may open.
      kind: LOCK_EX, which keeps the lock, or LOCK_SH, which only asks for it.
    """
    locked = blocked = False
    if fd is not None:
      try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        locked = True
        if kind == fcntl.LOCK_SH:  # who asks only must not be in the way of others
          fcntl.flock(fd, fcntl.LOCK_UN)
      except BlockingIOError:
        blocked = True
      except OSError:  # a file system without locks
        pass
    holder = self._holder()
    try:
      left = self._stale_after - (time.time() - self.path.stat().st_mtime)
    except OSError:
      left = 0.0
    who = f'{self.run_dir} is in use by process {holder.get("pid")} on host {holder.get("host", "unknown")}'
    if blocked:
      raise _Held(
        f'{who}. Wait for it or stop it (`kill {holder.get("pid")}` lets it checkpoint first), or start anew '
        'in another directory'
      )
    # A holder of an older version has no lock, and names its machine otherwise.
    if left > 0 and not (locked and holder.get('machine') == _machine()):
      age = max(0.0, self._stale_after - left)
      raise _Held(
        f'{who} (last sign of life {age:.0f} s ago), which cannot be looked at from here. If it is dead, try '
        f'again in {left:.0f} s; if not, stop it first, or start anew in another directory'
      )
    return locked

  def held(self) -> bool:
    """Whether a process that lives, or may live, has the lease now; asks only, and writes nothing."""
    fd = None
    with contextlib.suppress(OSError):  # no lock yet, or none that we may read
      fd = os.open(self._lock_path, os.O_RDONLY)
    try:
      self._refuse_living(fd, fcntl.LOCK_SH)
    except _Held:
      return True
    finally:
      if fd is not None:
        os.close(fd)
    return False

  def refresh(self) -> None:
    """Gives a sign of life. Raises UserError when the lease or its directory is gone, or another process has it."""
    if self._fd is None:
      raise RuntimeError(f'the lease of {self.run_dir} is not held')
    if self._is_ours():
      with contextlib.suppress(OSError):  # a missed heartbeat is no reason to stop
        os.utime(self.path)
      return
    holder = self._holder()
    if holder:
      who = f'process {holder.get("pid")} on host {holder.get("host")} has taken it over'
    else:
      who = 'the directory or its lease was deleted or replaced'
    raise UserError(f'lost the run directory {self.run_dir}: {who}. This process stops and writes nothing more there')

  def release(self) -> None:
    """Gives the lease back; does nothing when it is not held."""
    self._ended.set()
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    if self._fd is not None and self._is_ours():
      with contextlib.suppress(OSError):
        self.path.unlink(missing_ok=True)
    self._close()

  def _close(self) -> None:
    """Closes our descriptor of the lock, which ends the lock once no process has another."""
    _held.discard(self)
    if self._fd is not None:
      os.close(self._fd)
      self._fd = None

  def _keep_alive(self) -> None:
    while not self._ended.wait(self._beat):
      try:
        self.refresh()
      except UserError:
        return  # the next `refresh` of the training loop raises the same

  def _is_ours(self) -> bool:
    """Whether the directory still has the lease that we wrote."""
    try:
      return self.path.read_text(encoding='utf-8') == self._text
    except (OSError, ValueError):
      return False

  def _holder(self) -> dict[str, Any]:
    """What the lease file says; {} when it is gone, unreadable or was cut short."""
    try:
      holder = json.loads(self.path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
      return {}
    return holder if isinstance(holder, dict) else {}


_held: weakref.WeakSet[Lease] = weakref.WeakSet()


def _leave_to_parent() -> None:
  """In a child made by fork: the lock belongs to the parent, and must end with it."""
  for lease in list(_held):
    lease._close()


os.register_at_fork(after_in_child=_leave_to_parent)
