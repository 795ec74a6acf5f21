"""The parts of benchmarks.gpu as processes, each with a share of the time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks import gpu_lines
from gen_ai import config as config_lib


class Part(NamedTuple):
  """One part.

  Attributes:
    share: of the time that is left when it begins, beside the shares of those after it.
    lines: what was found -> (lines for the terminal, whether its targets were met; None: it has none).
  """

  share: float
  lines: Callable[[Mapping[str, Any]], tuple[list[str], bool | None]]


PARTS = {
  'matmul': Part(30, gpu_lines.matmul),
  'attention': Part(60, gpu_lines.attention),
  'training': Part(190, gpu_lines.training),
  'decode': Part(60, gpu_lines.decode),
  'quality': Part(170, gpu_lines.quality),
}
GRACE = 10.0  # seconds after its limit in which a part may still say what it has


def measured(part: str, job: Mapping[str, Any], limit: float) -> dict[str, Any]:
  """What a part found in a process of its own: the last line of JSON that it printed.

  Args:
    part: its name.
    job: handed to it, see `benchmarks.gpu_parts`.
    limit: seconds; what still runs GRACE after them is killed.

  Returns:
    {'found': that, empty where it printed none; 'seconds': its time; 'error': what went wrong, '' where nothing did}.
  """
  begun, error = time.perf_counter(), ''
  card = os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')[0]  # one, as PyTorch takes one
  with tempfile.TemporaryFile('w+') as output:
    process = subprocess.Popen(
      [sys.executable, '-m', 'benchmarks.gpu_parts', part, json.dumps({**job, 'limit': limit})],
      cwd=config_lib.SOURCE,
      stdout=output,
      env={**os.environ, 'CUDA_VISIBLE_DEVICES': card},
      start_new_session=True,
    )
    try:
      code = process.wait(limit + GRACE)
      error = f'ended with code {code}: see its message above' if code else ''
    except subprocess.TimeoutExpired:
      error = f'stopped after {limit + GRACE:.0f} s'
    finally:
      _end_all(process)
    output.seek(0)
    lines = output.read().rpartition('\n')[0].splitlines()  # a part that was killed may leave half a line
  found = json.loads(lines[-1]) if lines else {}
  return {'found': found, 'seconds': time.perf_counter() - begun, 'error': error}


def _end_all(process: subprocess.Popen) -> None:
  """Ends a part and all processes that it has started."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


def limits(left: float, part: str, chosen: list[str]) -> float:
  """Seconds for `part` when `left` are left for it and those after it."""
  after = chosen[chosen.index(part) :]
  return left * PARTS[part].share / sum(PARTS[name].share for name in after)


def platform() -> str:
  """What JAX computes on; asked of another process, as this one must leave the memory of the card to the parts."""
  words = [sys.executable, '-c', 'import jax; print(jax.default_backend())']
  return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
