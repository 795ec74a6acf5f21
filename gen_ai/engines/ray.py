"""Ray engine: points as tasks of a Ray cluster that runs already, or of one on this machine while the sweep lasts.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from gen_ai import config as config_lib
from gen_ai import record, sweep_table
from gen_ai.engines import Options
from gen_ai.errors import DIVERGED, DONE, REQUEUE, UserError
from gen_ai.stop import handling
from gen_ai.sweep import FILE, Point, Sweep
from gen_ai.sweep_table import Board

_UNSEEN = -1  # what a task returns in place of an exit code when its node does not see the files
_LOST = -2  # no exit code: Ray lost the task or its node
_RESTARTS = 3  # in a row without a step of progress
_LEASE_WAIT = 150  # seconds: the lease of a worker whose node died goes stale after 120
_TICK_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
_KILL_SECONDS = 10.0
_SEE_SECONDS = 10.0  # a file on a network appears with a delay
_OBJECT_STORE = 100 * 2**20  # bytes; tasks pass nothing but exit codes, and Ray would take 30% of the memory
_HEADER = '=== '  # of what one worker prints to its point's log
_CARRIED = ('JAX_', 'XLA_', 'LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE', 'TF_CUDNN_DETERMINISTIC',
            'CUBLAS_WORKSPACE_CONFIG', 'TFDS_DATA_DIR', 'PYTHONHASHSEED')  # fmt: skip


def launch(sweep: Sweep, points: Sequence[Point], options: Options) -> int:
  """Runs `points`; returns 0 when every point of the sweep ended well, 75 when asked to stop, else 1.

  Raises:
    UserError: Ray is not installed, the cluster cannot be reached, or a local one would start inside a Slurm job.
  """
  with record.disk_errors(sweep.path / 'logs', sweep.path):
    (sweep.path / 'logs').mkdir(exist_ok=True)
  with _cluster(options.ray_address) as ray, Board(sweep) as board:
    _Launcher(ray, sweep, options.cache, board).run(points)
  return sweep_table.show(sweep)


# The cluster.


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[ModuleType]:
  """Ray, connected to the cluster at `address` or RAY_ADDRESS, or to one on this machine that ends with the context."""
  address = address or os.environ.get('RAY_ADDRESS', '')
  if address in ('', 'local') and 'SLURM_JOB_ID' in os.environ:
    raise UserError(
      '--engine=ray starts no Ray cluster inside a Slurm job: it would take more than its share of the machine. '
      'Use --engine=local there (or --engine=slurm outside), or name a cluster that runs with --ray_address=HOST:PORT.'
    )
  _check_reachable(address)
  local = _local_settings() if address in ('', 'local') else {}
  try:
    import ray
  except ImportError as error:
    raise UserError('--engine=ray needs Ray: `pip install -r requirements/ray.txt`.') from error
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
    raise UserError(f'no Ray cluster answers at {address} ({error}): name the address of its head node, as `ray start '
                    '--head` printed it.') from error  # fmt: skip


def _local_settings() -> dict[str, Any]:
  """Arguments of ray.init for a local cluster, and the environment it reads before it is imported."""
  os.environ |= {
    'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0',  # the one way to make Ray listen on loopback alone, on any system
    'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': secrets.token_hex(32),  # other users of this machine are kept out
    'RAY_USAGE_STATS_ENABLED': '0', 'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',
  }  # fmt: skip
  return {'include_dashboard': False, '_node_ip_address': '127.0.0.1', 'object_store_memory': _OBJECT_STORE}


def _first_line(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


# What runs on a node. It is sent there whole: it may use constants, but no code, of gen_ai.


def _work(source: str, folder: str, command: Sequence[str], needed: Sequence[str], stops: Sequence[str], log: str,
          environment: dict[str, str]) -> tuple[int, str]:  # fmt: skip
  """Runs the worker of a point to its end.

  Args:
    source: where launch.py lies.
    folder: where the user started the sweep; configs may name data relative to it.
    command: of the worker, after `python`.
    needed: files that this node must see.
    stops: files that ask the point to stop.
    log: file that the worker's output is appended to.
    environment: variables in addition to those of the node.

  Returns:
    (exit code, what kept the worker from starting).
  """
  host, deadline = socket.gethostname(), time.monotonic() + _SEE_SECONDS
  while unseen := [file for file in needed if not Path(file).is_file()]:
    if time.monotonic() > deadline:
      return _UNSEEN, (f'node {host} does not see {unseen[0]}: source and sweep must lie on a file system that all '
                       'nodes of the Ray cluster share')  # fmt: skip
    time.sleep(0.5)
  if any(Path(file).exists() for file in stops):
    return REQUEUE, ''
  inherited = {name: value for name, value in os.environ.items() if not name.startswith('RAY_')}  # no token of Ray
  variables = {**inherited, 'PYTHONUNBUFFERED': '1', **environment}
  gpus = variables.get('CUDA_VISIBLE_DEVICES', '')
  words = [sys.executable, str(Path(source) / command[0]), *command[1:]]
  with Path(log).open('a') as output:
    where, now = f'{host} gpu {gpus}' if gpus else host, datetime.now(UTC).isoformat(timespec='seconds')
    print(f'{_HEADER}{now}  {where}  {shlex.join(words)}', file=output, flush=True)
    there = folder if Path(folder).is_dir() else source
    keep = [sys.executable, '-m', 'gen_ai.engines.guard', str(os.getpid()), there]
    guard = subprocess.Popen([*keep, *words], cwd=source, env=variables, stdin=subprocess.DEVNULL, stdout=output,
                             stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
  try:
    while guard.poll() is None:  # no wait(): ray.cancel could not interrupt it
      time.sleep(0.2)
  except KeyboardInterrupt:  # cancelled: the user insists
    os.killpg(guard.pid, signal.SIGKILL)
    guard.wait()
    raise
  return guard.returncode, ''


# The launcher's side.


@dataclass(frozen=True)
class _Start:
  """How a point stood when it was submitted."""

  step: int
  log_bytes: int
  stamp: int  # of its status.json, in ns; 0 where there was none


class _Launcher:
  """Submits points, sees what becomes of them, and submits those again that left unasked.

  Args:
    ray: connected.
    sweep: held by this process (its lease).
    cache: folder of compiled programs, on every node; '': none.
    board: what the user sees.
  """

  def __init__(self, ray: ModuleType, sweep: Sweep, cache: str, board: Board):
    self._ray, self._sweep, self._board = ray, sweep, board
    self._cache = cache if cache[:1] in ('', '~') else str(Path(cache).absolute())  # each node has a ~ of its own
    self._environment = {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}
    resources = ray.cluster_resources()
    gpu = resources.get('GPU', 0) > 0
    if not gpu:
      self._environment |= {'NPROC': '1', 'OMP_NUM_THREADS': '1'}  # threads of XLA; a point has one core
    self._task = ray.remote(max_retries=0, num_cpus=1, num_gpus=int(gpu))(_work)
    self._tasks: dict[Any, Point] = {}  # by Ray's reference to the result
    self._starts: dict[int, _Start] = {}  # by number of the point, as all below
    self._queued: set[int] = set()  # no node has taken them up yet
    self._fruitless: dict[int, int] = {}  # starts in a row that added no step
    self._stop = self._told = 0  # 0: go on, 1: leave, 2: now; as asked for, and as passed on
    board.say(f'ray        {_described(resources)}; a point takes 1 {"GPU" if gpu else "CPU"}')

  def run(self, points: Sequence[Point]) -> None:
    """Runs `points` to their end, or to where a stop leaves them."""
    with handling(self._on_signal):  # Ray has set one of its own
      for point in points:
        self._submit(point)
      while self._tasks and self._stop < 2:
        self._pass_on_stop()
        self._reap()
        self._board.refresh()
      if self._tasks:
        self._pass_on_stop()
      if self._told == 1:
        self._sweep.clear_stop()  # nobody is left to ask, and a point may be gone on with alone

  def _submit(self, point: Point) -> None:
    sweep, log = self._sweep, self._sweep.log(point).absolute()
    command = sweep.command(point, f'--compilation_cache={self._cache}', f'--lease_wait={_LEASE_WAIT}')
    needed = [str(config_lib.SOURCE / 'launch.py'), str((sweep.path / FILE).absolute())]
    stops = [str(file.absolute()) for file in sweep.stop_files(point)]
    log_bytes = log.stat().st_size if log.is_file() else 0
    self._starts[point.number] = _Start(sweep.status(point).step, log_bytes, self._stamp(point))
    self._queued.add(point.number)
    sweep.clear_failure(point)
    task = self._task.remote(
      str(config_lib.SOURCE), str(Path.cwd()), command, needed, stops, str(log), self._environment
    )
    self._tasks[task] = point

  def _stamp(self, point: Point) -> int:
    file = self._sweep.run_dir(point) / 'status.json'
    return file.stat().st_mtime_ns if file.is_file() else 0

  def _reap(self) -> None:
    """Waits for the next task that ends, for a moment only."""
    ended, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=_TICK_SECONDS)
    for point in self._tasks.values():
      if point.number in self._queued and (where := self._taken_up(point)):
        self._queued.discard(point.number)
        self._board.started(point, where)
    for task in ended:
      point = self._tasks.pop(task)
      self._queued.discard(point.number)
      self._judge(point, *self._result(task))
      self._board.ended(point)

  def _taken_up(self, point: Point) -> str:
    """Where the worker of `point` runs, as its log says; '' before it was started."""
    log = self._sweep.log(point)
    if not log.is_file():
      return ''
    with log.open('rb') as file:
      file.seek(self._starts[point.number].log_bytes)
      lines = file.read().decode(errors='replace').splitlines(keepends=True)
    # A worker of a launcher that is gone may still have had something to say after this one began.
    headers = [line for line in lines if line.startswith(_HEADER) and line.endswith('\n')]
    return headers[0].split('  ')[1] if headers else ''

  def _result(self, task: Any) -> tuple[int, str]:
    try:
      return self._ray.get(task)
    except self._ray.exceptions.RayError as error:
      return _LOST, _first_line(error)

  def _judge(self, point: Point, code: int, message: str) -> None:
    """Records an end that the worker could not record; submits a point again that left unasked or lost its node."""
    status, begun = self._sweep.status(point), self._starts[point.number]
    asked = self._stop or self._sweep.stop_requested(point)
    if code in (DONE, DIVERGED) or (asked and code == REQUEUE):
      return
    if code in (REQUEUE, _LOST) and not asked:
      fruitless = 0 if status.step > begun.step else self._fruitless.get(point.number, 0) + 1
      self._fruitless[point.number] = fruitless
      if fruitless <= _RESTARTS:
        if message:
          self._board.say(f'point {point.number} is submitted again: {message}')
        self._submit(point)
        return
      message = f'left {fruitless} times in a row without a step of progress: {message or status.message}'
    if code == _LOST or code > 128:
      self._sweep.record_failure(point, 'lost', message or f'killed by signal {code - 128}')
    elif not (status.state == 'failed' and self._stamp(point) != begun.stamp):  # else the run itself says why
      last = ''.join(sweep_table.log_tail(self._sweep.log(point), 1))
      said = '' if last.startswith(_HEADER) else last.removeprefix('error: ')[:500]
      self._sweep.record_failure(point, 'failed', message or said or f'exit code {code}, and not a word')

  # Stopping.

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._stop = 2 if self._stop and number == signal.SIGINT else max(1, self._stop)

  def _pass_on_stop(self) -> None:
    """Files stop workers, wherever they are; Ray takes back what waits, and at the second Ctrl-C everything."""
    if self._stop == self._told:
      return
    if not self._told:
      self._sweep.request_stop()
    self._told = self._stop
    taken_back = [task for task, point in self._tasks.items() if self._stop == 2 or point.number in self._queued]
    for task in taken_back:
      self._ray.cancel(task)
    if self._stop == 2:
      self._ray.wait(taken_back, num_returns=len(taken_back), timeout=_KILL_SECONDS)
      return
    for task in taken_back:
      del self._tasks[task]
    self._board.say(f'stopping: {len(self._tasks)} point(s) save and leave. Ctrl-C again kills them.')


def _described(resources: dict[str, float]) -> str:
  """'2 node(s), 16 CPUs, 4 GPUs'."""
  nodes = sum(name.startswith('node:') and name != 'node:__internal_head__' for name in resources)
  counts = [f'{resources[kind]:g} {kind}s' for kind in ('CPU', 'GPU') if kind in resources]
  return ', '.join([f'{nodes} node(s)', *counts])
