"""Stands between Ray and a worker: python -m gen_ai.sweep.launchers.guard PARENT FOLDER COMMAND...

Ray kills the children of a task's process with SIGKILL when that process ends. The child is this guard: the worker
outlives it for as long as it takes to save.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from gen_ai.core.errors import REQUEUE
from gen_ai.train.interruption import LAUNCHER

_LOOK_SECONDS = 0.5


def keep(parent: int, folder: str, command: Sequence[str]) -> int:
  """Runs `command` in `folder` and returns its exit code, 128 + n for one that signal n ended.

  When process `parent` is no longer the parent of this one, the worker gets SIGTERM, which lets it save. When this
  process is killed, the worker finds out by itself (`gen_ai.train.interruption`).
  """
  signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # Ray blocks it, and children inherit that
  worker = subprocess.Popen(command, cwd=folder, env={**os.environ, LAUNCHER: str(os.getpid())})
  while True:
    try:
      code = worker.wait(_LOOK_SECONDS)
      return code if code >= 0 else 128 - code
    except subprocess.TimeoutExpired:
      if os.getppid() != parent:
        worker.terminate()
        return REQUEUE


if __name__ == '__main__':
  sys.exit(keep(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
