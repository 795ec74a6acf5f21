"""What a measurement was made on."""

import os
import platform
from importlib import metadata
from pathlib import Path


def cores() -> int:
  """CPU cores that this process may use: what XLA's thread pool counts, too."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def processor() -> str:
  """The CPU's name, as far as the system tells it."""
  file = Path('/proc/cpuinfo')
  lines = file.read_text().splitlines() if file.is_file() else []
  names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  return names[0] if names else platform.processor() or platform.machine()


def facts() -> dict[str, str | int | float]:
  """Cores, processor, load before the measurement, operating system and versions."""
  load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else -1.0
  versions = {name: metadata.version(name) for name in ('jax', 'jaxlib')}
  return {
    'cores': cores(),
    'processor': processor(),
    'load': round(load, 2),
    'system': platform.platform(),
    'python': platform.python_version(),
    **versions,
  }


def describe(about: dict[str, str | int | float], timed: bool = True) -> str:
  """One line, and a second one where what was `timed` was so on a machine that was not quiet."""
  line = (
    f'machine: {about["cores"]} cores, {about["processor"]}, {about["system"]}; '
    f'Python {about["python"]}, jax {about["jax"]}, jaxlib {about["jaxlib"]}'
  )
  if timed and float(about['load']) > 0.5:
    line += f'\nnot quiet: the load was {about["load"]} before this began, so do not publish these figures'
  return line
