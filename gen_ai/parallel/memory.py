"""Memory: what a traced function will need, estimated without compiling it, and the most that was in use."""

import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core

from gen_ai.core.errors import OutOfMemory

Jaxpr = Any
CPU_SHARE = 0.6  # of the free memory of a machine that other programs use too
DEVICE_SHARE = 0.85  # of what an accelerator has


def estimate(fn: Any, *args: Any) -> int:
  """Bytes that `fn(*args)` needs at its peak if nothing is fused: arguments, results and what lives in between.

  Args:
    fn: a traceable function.
    *args: arrays or their shapes.
  """
  closed = jax.make_jaxpr(fn)(*args)
  return _peak(closed.jaxpr) + sum(np.asarray(c).nbytes for c in closed.consts if not hasattr(c, 'aval'))


def available(device: jax.Device) -> int:
  """Bytes that programs may take on `device`: an accelerator's own, or a share of the free memory of this machine."""
  stats = device.memory_stats() or {}
  if 'bytes_limit' in stats:
    return int(stats['bytes_limit'] * DEVICE_SHARE)
  return int(_free() * CPU_SHARE / len(jax.local_devices()))


def require(needed: int, what: str, way_out: str) -> None:
  """Raises OutOfMemory, naming `what` and the way out, where `needed` bytes a device are more than main memory holds.

  An accelerator says so itself. On a CPU XLA would end the process without a word to Python.
  """
  devices = jax.local_devices()
  free = _free() if devices[0].platform == 'cpu' else 0
  if free and needed * len(devices) > free:
    wanted = needed * len(devices) / 2**30
    raise OutOfMemory(f'{what} takes {wanted:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free: {way_out}.')


def _free() -> int:
  """Bytes that this process can still take: what the system calls available, within the limit of its control group."""
  free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')  # without the caches of files
  with contextlib.suppress(OSError):
    lines = Path('/proc/meminfo').read_text().splitlines()
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:')), free)
  with contextlib.suppress(OSError, ValueError):  # 'max' is no number
    group = Path('/sys/fs/cgroup')
    used = int((group / 'memory.current').read_text())
    free = min(free, int((group / 'memory.max').read_text()) - used)
  return max(free, 0)


def _bytes(variable: Any) -> int:
  aval = variable.aval
  if not hasattr(aval, 'shape'):
    return 0
  itemsize = getattr(aval.dtype, 'itemsize', 8)
  return int(np.prod(aval.shape)) * itemsize


def _inner(equation: Any) -> list[Jaxpr]:
  found = [value for value in equation.params.values() if hasattr(value, 'eqns') or hasattr(value, 'jaxpr')]
  found += [
    item
    for value in equation.params.values()
    if isinstance(value, tuple | list)
    for item in value
    if hasattr(item, 'eqns') or hasattr(item, 'jaxpr')
  ]
  return [jaxpr.jaxpr if hasattr(jaxpr, 'jaxpr') else jaxpr for jaxpr in found]


def _peak(jaxpr: Jaxpr) -> int:
  """Most bytes alive at once: arguments all the time, other values from where they are made to their last use."""
  last: dict[Any, int] = dict.fromkeys((*jaxpr.invars, *jaxpr.constvars), len(jaxpr.eqns))
  for i, equation in enumerate(jaxpr.eqns):
    for variable in equation.invars:
      if not isinstance(variable, core.Literal):
        last[variable] = max(i, last.get(variable, 0))
  for variable in jaxpr.outvars:
    if not isinstance(variable, core.Literal):
      last[variable] = len(jaxpr.eqns)
  alive = {v: _bytes(v) for v in (*jaxpr.invars, *jaxpr.constvars)}
  now = peak = sum(alive.values())
  for i, equation in enumerate(jaxpr.eqns):
    made = {v: _bytes(v) for v in equation.outvars}
    within = max((max(0, _peak(inner) - sum(map(_bytes, inner.invars))) for inner in _inner(equation)), default=0)
    peak = max(peak, now + max(within, sum(made.values())))
    alive |= made
    now += sum(made.values())
    for variable in _ended(equation, last, i):
      now -= alive.pop(variable, 0)
  return peak


def _ended(equation: Any, last: dict[Any, int], i: int) -> set[Any]:
  """Values that nothing reads after equation `i`."""
  values = [v for v in (*equation.invars, *equation.outvars) if not isinstance(v, core.Literal)]
  return {v for v in values if last.get(v, i) <= i}


def peak() -> int:
  """Largest memory in use so far, in bytes: the busiest device's, or this process's where devices do not tell."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peak = max((int(s['peak_bytes_in_use']) for s in stats if 'peak_bytes_in_use' in s), default=0)
  scale = 1 if sys.platform == 'darwin' else 1024
  return peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
