"""Several processes as one run: joining, agreeing, and keeping all but the first quiet."""

import os
import socket
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from gen_ai.core.errors import UserError

# Variables from which jax.distributed finds a cluster by itself (Slurm, Open MPI, TPU pods, Kubernetes).
CLUSTER = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE', 'TPU_WORKER_HOSTNAMES', 'MEGASCALE_NUM_SLICES')

PATIENCE = 300.0  # seconds that process 0 has to come up, as JAX itself gives the others


def _several(variable: str) -> bool:
  """Whether the environment variable speaks of more than one process."""
  value = os.environ.get(variable, '')
  return int(value) > 1 if value.isdigit() else ',' in value


def _wait_for(coordinator: str) -> None:
  """Waits until process 0 listens: JAX kills a process that it cannot join, with a stack trace and no exception.

  Raises:
    UserError: nobody listens there.
  """
  host, _, port = coordinator.rpartition(':')
  deadline = time.monotonic() + PATIENCE
  while True:
    try:
      socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
      return
    except (OSError, OverflowError) as error:
      if time.monotonic() > deadline:
        raise UserError(
          f'Process 0 does not answer at --coordinator={coordinator} ({error}): start it as well, or mend the address.'
        ) from error
    time.sleep(0.2)


def initialise(coordinator: str, num_processes: int, process_id: int) -> None:
  """Joins the other processes of the run; does nothing for a run of one process.

  Args:
    coordinator: 'host:port' of process 0, or '' to take everything from the cluster's environment.
    num_processes: processes in all (with `coordinator`).
    process_id: this one's number from 0 (with `coordinator`).

  Raises:
    UserError: only some of the three are given, a coordinator without a port, or one that does not answer.
  """
  if coordinator:
    if not coordinator.rpartition(':')[0] or not coordinator.rpartition(':')[2].isdigit():
      raise UserError(f'--coordinator={coordinator} must be the HOST:PORT of process 0, such as localhost:9876.')
    if num_processes < 1 or not 0 <= process_id < num_processes:
      raise UserError(f'--coordinator={coordinator} needs --num_processes=N and --process_id=0..N-1, one id a process.')
    if process_id > 0:
      _wait_for(coordinator)
    try:
      jax.distributed.initialize(coordinator, num_processes, process_id)
    except RuntimeError as error:
      raise UserError(f'Process {process_id} of {num_processes} could not join {coordinator}: {error}') from error
  elif num_processes > 0 or process_id >= 0:
    raise UserError('--num_processes and --process_id need --coordinator=HOST:PORT, the address of process 0.')
  elif any(_several(variable) for variable in CLUSTER):
    jax.distributed.initialize()


def is_main() -> bool:
  """Whether this process is the one that writes records."""
  return jax.process_index() == 0


def agree(text: str) -> str:
  """The text that process 0 has, on every process."""
  if jax.process_count() == 1:
    return text
  buffer = np.zeros(4096, np.uint8)
  data = np.frombuffer(text.encode(), np.uint8)
  buffer[: len(data)] = data
  return bytes(multihost_utils.broadcast_one_to_all(buffer)).rstrip(b'\0').decode()


def from_main(make: Callable[[], str]) -> str:
  """What `make()` returns on process 0, on every process. Raises the UserError it raises there on all of them."""
  if jax.process_count() == 1:
    return make()
  answer = ''
  if is_main():
    try:
      answer = f'+{make()}'
    except UserError as error:
      answer = f'-{error}'
  answer = agree(answer)
  if answer.startswith('-'):
    raise UserError(answer[1:])
  return answer[1:]


def any_process(flag: bool) -> bool:
  """Whether `flag` is set on any process; every process must ask."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).any())
