"""A process of its own for a plan: fake devices can be had before JAX starts and never again. Light: no JAX here."""

import json
import os
import subprocess
import sys

from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import command_line, surroundings
from gen_ai.core.errors import UserError
from gen_ai.parallel import accelerators

COUNT = '--xla_force_host_platform_device_count'
MOST = 4096  # fake devices; each takes threads and memory of this machine
_FLAGS = ('plan', 'noplan', 'devices', 'accelerator')  # of launch.py that a training has not


def run(config: ConfigDict, reference: str, argv: list[str], devices: int | None = None, accelerator: str = '') -> int:
  """Prints the plan of `config` on as many fake devices; returns the exit code: 0 where it fits the accelerator.

  Args:
    config: resolved and valid.
    reference: of its file.
    argv: the command line, of which the one that trains is made.
    devices: how many; None: as there are here.
    accelerator: as `gen_ai.parallel.accelerators` names it; '': what is here, or the usual one.

  Raises:
    UserError: there cannot be so many, no such accelerator, or the compiler did not survive.
  """
  kind = ''
  if devices is None:
    devices, kind = _here()
  accelerator = accelerator or accelerators.of_kind(kind) or accelerators.USUAL
  accelerators.named(accelerator)
  if not 1 <= devices <= MOST:
    raise UserError(f'--devices={devices} must be from 1 to {MOST:,}: a plan pretends to have so many devices.')
  flags = [word for word in os.environ.get('XLA_FLAGS', '').split() if not word.startswith(COUNT)]
  variables = {
    **os.environ,
    'XLA_FLAGS': ' '.join([*flags, f'{COUNT}={devices}']),
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
  }
  asked = {
    'config': config_lib.to_json(config),
    'title': reference,
    'accelerator': accelerator,
    'command': command_line.started(_training(argv)),
  }
  words = [sys.executable, '-m', 'gen_ai.train.plan_table']
  code = subprocess.run(words, input=json.dumps(asked), env=variables, text=True, check=False).returncode
  if code < 0:
    raise UserError(
      f'the compilation for {devices} devices was ended by signal {-code}, as where the memory of this machine is not '
      'enough: plan fewer devices.'
    )
  return code


def _here() -> tuple[int, str]:
  """The devices that a run would have: how many, and their kind as JAX calls it."""
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # they are counted, not used
  surroundings.start()
  import jax

  return len(jax.devices()), jax.devices()[0].device_kind


def _training(argv: list[str]) -> list[str]:
  """The command line without what asks for a plan."""
  kept, words = [], iter(argv)
  for word in words:
    name, equals, _ = word.lstrip('-').partition('=')
    if not word.startswith('-') or name not in _FLAGS:
      kept.append(word)
    elif not equals and not name.endswith('plan'):
      next(words, None)
  return kept
