"""Places for workers on this machine: an accelerator or a share of one, or some cores.

They are found without JAX, which would take an accelerator's memory from the workers.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata

from gen_ai.core.errors import UserError

_TRIAL_BYTES = 1 << 30  # of main memory that a trial on a CPU is given: about 0.5 GiB are Python, JAX and its compiler
_FRACTION = '0.75'  # of an accelerator's memory that JAX takes unless told
_FRACTION_NAMES = ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION')  # the second is the older one


@dataclass(frozen=True)
class Slot:
  """A place for one worker at a time."""

  label: str
  env: dict[str, str] = field(default_factory=dict)
  cores: tuple[int, ...] = ()  # that its worker may use; (): all


def accelerators() -> list[str]:
  """GPUs that workers may use, as CUDA_VISIBLE_DEVICES names them; [] where JAX would run on the CPU."""
  wanted = os.environ.get('JAX_PLATFORMS', '')
  if (wanted and not {'cuda', 'gpu', 'rocm'} & set(wanted.split(','))) or not _jax_drives_gpus():
    return []
  inherited = os.environ.get('CUDA_VISIBLE_DEVICES')
  if inherited is not None:
    names = [name.strip() for name in inherited.split(',')]
    return [name for name in names if name not in ('', '-1', 'NoDevFiles')]
  return _listed()


def _jax_drives_gpus() -> bool:
  """Whether a GPU plug-in of JAX is installed, by its metadata alone."""
  return any(re.search('cuda|rocm', plugin.name) for plugin in metadata.entry_points(group='jax_plugins'))


def _listed() -> list[str]:
  """GPUs that `nvidia-smi -L` lists: by number, or by UUID the slices of one that is cut into MIG instances."""
  tool = shutil.which('nvidia-smi')
  if not tool:
    return []
  try:
    text = subprocess.run([tool, '-L'], capture_output=True, text=True, timeout=60, check=True).stdout
  except (OSError, subprocess.SubprocessError):
    return []
  found: list[str] = []
  for part in re.split(r'^(?=GPU \d+:)', text, flags=re.MULTILINE):
    gpu = re.match(r'GPU (\d+):', part)
    if gpu:
      found += re.findall(r'UUID: (MIG-[^)\s]+)', part) or [gpu[1]]
  return found


def make_slots(devices: Sequence[str], per_device: int, trials: int) -> list[Slot]:
  """Slots for at most `trials` workers at once.

  Args:
    devices: accelerators to use, of those that are visible; (): all.
    per_device: workers that share one accelerator, or the CPU; 0: one an accelerator, and on a CPU one a core, as far
      as main memory goes: small programs gain nothing from a second core.
    trials: how many there are to run.

  Raises:
    UserError: `devices` names one that is not visible.
  """
  if per_device < 0:
    raise UserError(f'--per_device={per_device} must be at least 1.')
  visible = accelerators()
  unknown = [name for name in devices if name not in visible]
  if unknown:
    seen = f'it sees {", ".join(visible)}' if visible else 'it sees none, so that trials run on the CPU'
    raise UserError(f'--devices={unknown[0]} is no accelerator of this machine for JAX: {seen}.')
  if visible:
    return _on_accelerators(list(devices) or visible, per_device or 1)[:trials]
  return _on_cores(_cores(), per_device, trials)


def memory_share(per_device: int) -> dict[str, str]:
  """Variables that give each of `per_device` workers its share of an accelerator's memory; {} for one alone."""
  given = next((os.environ[name] for name in _FRACTION_NAMES if os.environ.get(name)), _FRACTION)
  return {} if per_device == 1 else {_FRACTION_NAMES[0]: f'{float(given) / per_device:.4f}', _FRACTION_NAMES[1]: ''}


def _on_accelerators(names: Sequence[str], per_device: int) -> list[Slot]:
  """Device after device, then each a second time, so that few trials spread out."""
  memory = memory_share(per_device)
  return [Slot(f'gpu {name}', {'CUDA_VISIBLE_DEVICES': name, **memory}) for _ in range(per_device) for name in names]


def _cores() -> list[int]:
  """Cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def _on_cores(cores: Sequence[int], per_device: int, trials: int) -> list[Slot]:
  """Equal shares of the cores. XLA makes as many threads as its process may use cores, or as NPROC says."""
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  count = max(1, min(trials, per_device or min(len(cores), memory // _TRIAL_BYTES)))
  slots = []
  for i in range(count):
    share = cores[i * len(cores) // count : (i + 1) * len(cores) // count] or [cores[i % len(cores)]]
    label = f'core {share[0]}' if len(share) == 1 else f'cores {share[0]}-{share[-1]}'
    threads = str(len(share))
    slots.append(Slot(label, {'NPROC': threads, 'OMP_NUM_THREADS': threads}, tuple(share)))
  return slots


@contextlib.contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
  """Processes that this thread starts meanwhile run on `cores` only; no effect for () or where the system cannot."""
  if not cores or not hasattr(os, 'sched_setaffinity'):
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)
