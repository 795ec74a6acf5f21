"""The ray launcher: trials as tasks of a Ray cluster, one that runs already or one here while the sweep lasts.

A task starts the ordinary worker as a subprocess and waits for it. Ray only finds a free place: state and requests to
stop are files of the sweep, which must lie, as the source must, where all nodes see them.
"""

import contextlib
import logging
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from gen_ai import config as config_lib
from gen_ai.core import files, installation
from gen_ai.core.errors import FAILED, REQUEUE, UserError
from gen_ai.sweep.board import Board
from gen_ai.sweep.directory import FILE, Sweep
from gen_ai.sweep.launchers.base import Launcher, Options
from gen_ai.sweep.launchers.supervisor import HEADER, LEAVE, LOST, End, Supervisor
from gen_ai.sweep.trials import Trial

_UNSEEN = -1  # what a task returns in place of an exit code when its node does not see the files
_LEASE_WAIT = 150  # seconds: the lease of a worker whose node died goes stale after 120
_TICK_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
_SEE_SECONDS = 10.0  # a file on a network appears with a delay
_OBJECT_STORE = 100 * 2**20  # bytes; tasks pass nothing but exit codes, and Ray would take 30% of the memory
_CARRIED = (
  'JAX_',
  'XLA_',
  'LIBTPU_INIT_ARGS',
  'NVIDIA_TF32_OVERRIDE',
  'TF_CUDNN_DETERMINISTIC',
  'CUBLAS_WORKSPACE_CONFIG',
  'TFDS_DATA_DIR',
  'PYTHONHASHSEED',
)


class Ray(Launcher):
  """--launcher=ray."""

  def launch(self, sweep: Sweep, trials: Sequence[Trial], options: Options) -> None:
    """Runs `trials` on the nodes of a cluster.

    Raises:
      UserError: Ray is not installed, the cluster cannot be reached, or a local one would start inside a Slurm job.
    """
    with files.disk_errors(sweep.path / 'logs', sweep.path):
      (sweep.path / 'logs').mkdir(exist_ok=True)
    with _cluster(options.ray_address) as ray, Board(sweep) as board:
      tasks = Tasks(ray, sweep, options.cache)
      board.say(tasks.described)
      if Supervisor(sweep, trials, tasks, board).run() == LEAVE:
        sweep.clear_stop()  # nobody is left to ask, and a trial may be gone on with alone


# The cluster.


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[ModuleType]:
  """Ray, connected to the cluster at `address` or RAY_ADDRESS, or to one on this machine that ends with the context."""
  address = address or os.environ.get('RAY_ADDRESS', '')
  if address in ('', 'local') and 'SLURM_JOB_ID' in os.environ:
    raise UserError(
      '--launcher=ray starts no Ray cluster inside a Slurm job: it would take more than its share of the machine. '
      'Use --launcher=local there (or --launcher=slurm outside), or name a cluster that runs: --ray_address=HOST:PORT.'
    )
  _check_reachable(address)
  local = _local_settings() if address in ('', 'local') else {}
  try:
    import ray
  except ImportError as error:
    raise UserError(f'--launcher=ray needs Ray: `{installation.pip("ray")}`.') from error
  with tempfile.TemporaryDirectory(prefix='gen_ai_ray_', ignore_cleanup_errors=True) as folder:
    local = {**local, '_temp_dir': folder} if local else {}
    try:
      with warnings.catch_warnings():  # the planner imported JAX, which warns of forks; those of Ray only call exec
        warnings.filterwarnings('ignore', message=r'os\.fork\(\)', category=RuntimeWarning)
        ray.init(address=address or 'local', log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises whatever it met
      where = 'no local Ray cluster could be started' if local else f'the Ray cluster at {address} cannot be used'
      raise UserError(f'{where}: {_first_line(error)}') from error
    try:
      ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # so that a node without gen_ai can say so
      yield ray
    finally:
      ray.shutdown()


def _check_reachable(address: str) -> None:
  """Raises UserError where nothing listens at HOST:PORT or ray://HOST:PORT: Ray would try for ten minutes."""
  place = re.fullmatch(r'(?:ray://)?\[?([^/]+?)\]?:(\d+)', address)
  if not place:
    return
  try:
    socket.create_connection((place[1], int(place[2])), timeout=_CONNECT_SECONDS).close()
  except (OSError, OverflowError) as error:
    raise UserError(
      f'no Ray cluster answers at {address} ({error}): name the address of its head node, as `ray start '
      '--head` printed it.'
    ) from error


def _local_settings() -> dict[str, Any]:
  """Arguments of ray.init for a local cluster, and the environment it reads before it is imported."""
  os.environ |= {
    'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0',  # the one way to make Ray listen on loopback alone, on any system
    'RAY_AUTH_MODE': 'token',
    'RAY_AUTH_TOKEN': secrets.token_hex(32),  # other users of this machine are kept out
    'RAY_USAGE_STATS_ENABLED': '0',
    'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',
  }
  return {'include_dashboard': False, '_node_ip_address': '127.0.0.1', 'object_store_memory': _OBJECT_STORE}


def _first_line(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


# What runs on a node. It is sent there whole: it may use constants, but no code, of gen_ai.


def _work(
  source: str,
  folder: str,
  command: Sequence[str],
  needed: Sequence[str],
  stops: Sequence[str],
  log: str,
  environment: dict[str, str],
) -> tuple[int, str]:
  """Runs the worker of a trial to its end.

  Args:
    source: where launch.py lies.
    folder: where the user started the sweep; configs may name data relative to it.
    command: of the worker, after `python`.
    needed: files that this node must see.
    stops: files that ask the trial to stop.
    log: file that the worker's output is appended to.
    environment: variables in addition to those of the node.

  Returns:
    (exit code, what kept the worker from starting).
  """
  host, deadline = socket.gethostname(), time.monotonic() + _SEE_SECONDS
  while unseen := [file for file in needed if not Path(file).is_file()]:
    if time.monotonic() > deadline:
      return _UNSEEN, (
        f'node {host} does not see {unseen[0]}: source and sweep must lie on a file system that all '
        'nodes of the Ray cluster share'
      )
    time.sleep(0.5)
  if any(Path(file).exists() for file in stops):
    return REQUEUE, ''
  inherited = {name: value for name, value in os.environ.items() if not name.startswith('RAY_')}  # no token of Ray
  variables = {**inherited, 'PYTHONUNBUFFERED': '1', **environment}
  gpus = variables.get('CUDA_VISIBLE_DEVICES', '')
  words = [sys.executable, str(Path(source) / command[0]), *command[1:]]
  with Path(log).open('a') as output:
    where, now = f'{host} gpu {gpus}' if gpus else host, datetime.now(UTC).isoformat(timespec='seconds')
    print(f'{HEADER}{now}  {where}  {shlex.join(words)}', file=output, flush=True)
    there = folder if Path(folder).is_dir() else source
    keep = [sys.executable, '-m', 'gen_ai.sweep.launchers.guard', str(os.getpid()), there]
    guard = subprocess.Popen(
      [*keep, *words],
      cwd=source,
      env=variables,
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
  try:
    while guard.poll() is None:  # no wait(): ray.cancel could not interrupt it
      time.sleep(0.2)
  except KeyboardInterrupt:  # cancelled: the user insists
    os.killpg(guard.pid, signal.SIGKILL)
    guard.wait()
    raise
  return guard.returncode, ''


# The launcher's side.


@dataclass(frozen=True, eq=False)
class Task:
  """A trial that Ray was given."""

  reference: Any  # Ray's, to its result
  log: Path
  log_bytes: int  # that its log had before


class Tasks:
  """Workers as tasks of a Ray cluster, which queues those that it has no place for.

  Args:
    ray: connected.
    sweep: whose trials they run.
    cache: folder of compiled programs, on every node; '': none.
  """

  places = sys.maxsize

  def __init__(self, ray: ModuleType, sweep: Sweep, cache: str):
    self._ray, self._sweep = ray, sweep
    self._cache = cache if cache[:1] in ('', '~') else str(Path(cache).absolute())  # each node has a ~ of its own
    self._environment = {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}
    resources = ray.cluster_resources()
    gpu = resources.get('GPU', 0) > 0
    if not gpu:
      self._environment |= {'NPROC': '1', 'OMP_NUM_THREADS': '1'}  # threads of XLA; a trial has one core
    self._task = ray.remote(max_retries=0, num_cpus=1, num_gpus=int(gpu))(_work)
    self._cancelled: dict[Task, End] = {}  # what their end is, as Ray will not say
    self._stopping = False  # the files that ask workers to stop are there
    self.described = f'ray        {_described(resources)}; a trial takes 1 {"GPU" if gpu else "CPU"}'

  def start(self, trial: Trial) -> Task:
    """Submits `trial`."""
    sweep, log = self._sweep, self._sweep.log(trial).absolute()
    command = sweep.command(trial, f'--compilation_cache={self._cache}', f'--lease_wait={_LEASE_WAIT}')
    needed = [str(config_lib.SOURCE / 'launch.py'), str((sweep.path / FILE).absolute())]
    stops = [str(file.absolute()) for file in sweep.stop_files(trial)]
    log_bytes = log.stat().st_size if log.is_file() else 0
    reference = self._task.remote(
      str(config_lib.SOURCE), str(Path.cwd()), command, needed, stops, str(log), self._environment
    )
    return Task(reference, log, log_bytes)

  def poll(self, workers: Sequence[Task]) -> Mapping[Task, End]:
    """The next of `workers` that ends; none after a moment."""
    if not workers:
      time.sleep(_TICK_SECONDS)
      return {}
    ended, _ = self._ray.wait([task.reference for task in workers], num_returns=1, timeout=_TICK_SECONDS)
    return {task: self._end(task) for task in workers if task.reference in ended}

  def _end(self, task: Task) -> End:
    try:
      code, message = self._ray.get(task.reference)
    except self._ray.exceptions.RayError as error:
      return self._cancelled.get(task) or End(LOST, _first_line(error))
    if code == _UNSEEN:
      return End(FAILED, message)
    return End(128 - code if code > 128 else code, message)  # as the guard tells of signals

  def cancel(self, workers: Sequence[Task], now: bool) -> None:
    """Files stop workers, wherever they are; Ray takes back what waits, and with `now` everything."""
    if not self._stopping:
      self._sweep.request_stop()
      self._stopping = True
    for task in workers:
      begun = self.where(task)
      if now or not begun:
        self._cancelled[task] = End(-signal.SIGKILL if begun else REQUEUE)
        self._ray.cancel(task.reference)

  def where(self, worker: Task) -> str:
    """The node, as the log of the worker says; '' before a node has taken it up."""
    if not worker.log.is_file():
      return ''
    with worker.log.open('rb') as file:
      file.seek(worker.log_bytes)
      lines = file.read().decode(errors='replace').splitlines(keepends=True)
    # A worker of a launcher that is gone may still have had something to say after this one began.
    headers = [line for line in lines if line.startswith(HEADER) and line.endswith('\n')]
    return headers[0].split('  ')[1] if headers else ''


def _described(resources: dict[str, float]) -> str:
  """'2 node(s), 16 CPUs, 4 GPUs'."""
  nodes = sum(name.startswith('node:') and name != 'node:__internal_head__' for name in resources)
  counts = [f'{resources[kind]:g} {kind}s' for kind in ('CPU', 'GPU') if kind in resources]
  return ', '.join([f'{nodes} node(s)', *counts])
