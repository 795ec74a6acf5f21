"""The Ray engine: real sweeps on a real local Ray, broken in every way; what needs no Ray is tested without."""

import contextlib
import importlib.util
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cli
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai import record
from gen_ai.engines import Options
from gen_ai.engines import ray as engine
from gen_ai.errors import DONE, FAILED, REQUEUE, UserError
from gen_ai.stop import LAUNCHER
from gen_ai.sweep import Sweep, resolve
from gen_ai.sweep_table import Board

needs_ray = pytest.mark.skipif(importlib.util.find_spec('ray') is None,
                               reason='Ray is not installed: pip install -r requirements/ray.txt')  # fmt: skip
GAN = ('--config=configs/gan.py', '--tiny', '--config.run.writers=', '--engine=ray')
LONG = {'run.steps': 1200, 'run.eval_every': 400, 'run.sample_every': 600, 'run.save_every': 100}
FLAGS = tuple(f'--config.{path}={value}' for path, value in LONG.items())
ONE_CHUNK = (
  *(f'--config.run.{name}=1000000' for name in ('steps', 'log_every', 'save_every')),
  *(f'--config.run.{name}=0' for name in ('eval_every', 'sample_every')),
)


def only_sweep(runs):
  [path] = (runs / 'gan').iterdir()
  return Sweep.open(path)


def states(sweep):
  return [sweep.status(point).state for point in sweep.points]


def steps(sweep):
  return [sweep.status(point).step for point in sweep.points]


def wait_for(condition, log=None, process=None, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    said = log.read_text() if log else ''
    assert time.monotonic() < deadline, said
    assert process is None or process.poll() is None, said
    time.sleep(0.05)


def alive(pid):
  with contextlib.suppress(OSError):
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
  return False


@pytest.fixture
def folder():
  """Where local clusters keep their sessions: a short path, as sockets want it."""
  path = tempfile.mkdtemp(prefix='ray')
  yield path
  shutil.rmtree(path, ignore_errors=True)


def cluster_processes(folder):
  """Process ids of the servers of clusters whose sessions lie in `folder`."""
  found = []
  for entry in Path('/proc').glob('[0-9]*'):
    with contextlib.suppress(OSError):
      words = (entry / 'cmdline').read_bytes().split(b'\0')
      if any(folder.encode() in word for word in words) and words[0].endswith((b'raylet', b'gcs_server')):
        found += [int(entry.name)] if alive(entry.name) else []
  return found


@contextlib.contextmanager
def launcher(log, folder, *words):
  """A launcher as a process; killed in the end, its cluster and its workers with it (they notice)."""
  command = [sys.executable, 'launch.py', f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', *map(str, words)]
  # Ray's workers are nice by 15: beside the rest of the suite they would hardly get a processor.
  variables = {
    **os.environ, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS'], 'TMPDIR': folder, 'RAY_worker_niceness': '0',
  }  # fmt: skip
  with log.open('a') as output:
    process = subprocess.Popen(command, cwd=tiny.ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
  try:
    yield process
  finally:
    process.kill()
    process.wait()


def assert_as_alone(sweep, point, path):
  tiny.run(config_lib.override(tiny.config('gan'), {**LONG, **point.overrides}), path)
  assert tiny.rows(sweep.run_dir(point)) == tiny.rows(path)
  assert len(tiny.rows(path)) == 600 + 3


# Real sweeps.


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_and_a_killed_launcher_lose_nothing(tmp_path, folder):
  log = tmp_path / 'log'
  words = (*GAN, *FLAGS, f'--runs_dir={tmp_path}/runs', '--axis=optim.lr=1e-4,1e30,1e-3')
  with launcher(log, folder, *words) as process:
    wait_for(lambda: list(tmp_path.glob('runs/gan/*/sweep.json')), log, process)
    sweep = only_sweep(tmp_path / 'runs')
    wait_for(lambda: steps(sweep)[0] > 120, log, process)
    os.kill(record.read_status(sweep.run_dir(sweep.points[0]))['pid'], signal.SIGKILL)
    wait_for(lambda: states(sweep)[:2] == ['lost', 'diverged'] and steps(sweep)[2] > 20, log, process)
    assert states(sweep)[2] == 'running', 'one point that is killed and one that diverges stop no other'
    wait_for(lambda: 'killed by' in log.read_text(), log, process)
    assert cluster_processes(folder)
    listening = subprocess.run(['ss', '-Hltnp'], capture_output=True, text=True).stdout if shutil.which('ss') else ''
    assert not [line for line in listening.splitlines() if 'raylet' in line and '127.0.0.1' not in line]
    process.kill()
    process.wait()
  said = log.read_text()
  assert 'Warning' not in said
  assert f'point 0  started   lr=0.0001  ({socket.gethostname()})' in said
  for number, what in ((0, 'lost: optim.lr=0.0001\n  killed by signal 9\n'), (1, 'diverged: optim.lr=1e+30\n')):
    assert f'point {number} {what}' in said, 'when it happens'
    assert f'  log: {sweep.log(sweep.points[number])}\n' in said
  wait_for(lambda: not cluster_processes(folder), seconds=30)
  shutil.rmtree(folder)
  Path(folder).mkdir()
  with launcher(log, folder, f'--resume={sweep.path}') as process:
    assert process.wait(timeout=200) == FAILED, log.read_text()
  assert states(sweep) == ['done', 'diverged', 'done']
  assert not cluster_processes(folder)
  assert not list(Path(folder).iterdir())
  again = log.read_text().removeprefix(said)
  assert 'point 1 diverged: optim.lr=1e+30\n' in again, 'once more in the end'
  exits = [row['exit'] for row in record.read_attempts(sweep.run_dir(sweep.points[2])) if row['event'] == 'end']
  assert exits == [REQUEUE, DONE], 'a worker saves when its launcher dies'
  for number in (0, 2):
    assert_as_alone(sweep, sweep.points[number], tmp_path / str(number))


@needs_ray
def test_ctrl_c_leaves_all_resumable_and_another_cluster_goes_on(tmp_path, folder):
  log = tmp_path / 'log'
  words = (*GAN, *FLAGS, f'--runs_dir={tmp_path}/runs', '--axis=run.seed=0:3')
  with launcher(log, folder, *words) as process:
    wait_for(lambda: list(tmp_path.glob('runs/gan/*/sweep.json')), log, process)
    sweep = only_sweep(tmp_path / 'runs')
    wait_for(lambda: max(steps(sweep)) > 20, log, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == REQUEUE, log.read_text()
  assert 'save and leave' in log.read_text()
  assert 'stopped' in states(sweep)
  assert set(states(sweep)) <= {'stopped', 'waiting'}
  if os.cpu_count() == 2:
    assert 'waiting' in states(sweep), 'Ray takes back what no node has taken up'
  assert not list((sweep.path / 'stop').iterdir())
  last = sweep.points[-1]
  variables = {**os.environ, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS'], 'RAY_USAGE_STATS_ENABLED': '0',
               'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': 32 * 'a'}  # fmt: skip
  start = (
    'import sys, ray; ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, '
    '_temp_dir=sys.argv[1]); print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()'
  )
  other = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', start, folder], env=variables, text=True,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
  try:
    address = other.stdout.readline().strip()
    with mock.patch.dict(os.environ, {**variables, 'RAY_ADDRESS': address, 'SLURM_JOB_ID': '7'}), \
         launcher(log, folder, f'--resume={sweep.path}') as process:  # fmt: skip
      assert process.wait(timeout=200) == DONE, log.read_text()
    assert other.poll() is None
    assert cluster_processes(folder), 'a cluster that is not ours is left alone'
  finally:
    other.communicate('')
  assert 'a point takes 1 GPU' in log.read_text()
  seen = record.read_run(sweep.run_dir(last))['environment']
  assert seen['CUDA_VISIBLE_DEVICES'] in ('0', '1')
  for point in sweep.points[:1]:
    assert_as_alone(sweep, point, tmp_path / str(point.number))


@needs_ray
@pytest.mark.slow
def test_ctrl_c_twice_kills(tmp_path, folder):
  log = tmp_path / 'log'
  words = (*GAN, *ONE_CHUNK, f'--runs_dir={tmp_path}/runs', '--axis=run.seed=0:2')
  with launcher(log, folder, *words) as process:
    wait_for(lambda: list(tmp_path.glob('runs/gan/*/sweep.json')), log, process)
    sweep = only_sweep(tmp_path / 'runs')
    wait_for(lambda: states(sweep) == ['running'] * 2, log, process)
    workers = [record.read_status(sweep.run_dir(point))['pid'] for point in sweep.points]
    process.send_signal(signal.SIGINT)
    wait_for(lambda: 'save and leave' in log.read_text(), log, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == FAILED, log.read_text()
  assert states(sweep) == ['lost', 'lost']
  assert not any(alive(pid) for pid in workers)


@needs_ray
def test_a_node_without_the_source_says_so(tmp_path):
  dump = (
    'import sys; from gen_ai.engines import ray as engine; from ray import cloudpickle; engine._SEE_SECONDS = 0;'
    'cloudpickle.register_pickle_by_value(engine); sys.stdout.buffer.write(cloudpickle.dumps(engine._work))'
  )
  words = [sys.executable, '-W', 'ignore', '-c', dump]
  pickled = subprocess.run(words, cwd=tiny.ROOT, capture_output=True, check=True).stdout
  call = ('import pickle, sys; work = pickle.load(sys.stdin.buffer); assert "gen_ai" not in sys.modules;'
          'print(work("/src", "/", ["launch.py"], ["/src/launch.py"], [], "/log", {}))')  # fmt: skip
  words = [sys.executable, '-W', 'ignore', '-c', call]
  done = subprocess.run(words, cwd=tmp_path, input=pickled, capture_output=True)
  assert b'does not see /src/launch.py' in done.stdout, done.stderr


# What the user may get wrong.


@pytest.fixture
def sweep(tmp_path):
  base = config_lib.override(config_lib.load('configs/gan.py'), config_lib.tiny('configs/gan.py'))
  points = resolve(base, [{'run.seed': 0}, {'run.seed': 1}])
  return Sweep.create(str(tmp_path), 'seeds', base, points, {'engine': 'ray'})


def refused(sweep, address, **environment):
  with mock.patch.dict(os.environ, environment), pytest.raises(UserError) as error:
    engine.launch(sweep, sweep.points, Options(ray_address=address))
  assert '\n' not in str(error.value)
  return str(error.value)


def test_without_ray_the_way_to_it_is_named(sweep, monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  assert 'pip install -r requirements/ray.txt' in refused(sweep, '')


def test_inside_a_slurm_job_no_cluster_is_started(sweep):
  assert '--engine=local' in refused(sweep, '', SLURM_JOB_ID='7', RAY_ADDRESS='')
  assert '--engine=local' in refused(sweep, 'local', SLURM_JOB_ID='7')


@pytest.mark.parametrize('address', ['{}', 'ray://{}'])
def test_an_address_where_nothing_answers_is_named_at_once(sweep, address):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    place = address.format(f'127.0.0.1:{free.getsockname()[1]}')
  assert f'no Ray cluster answers at {place}' in refused(sweep, place)
  assert f'no Ray cluster answers at {place}' in refused(sweep, '', RAY_ADDRESS=place)


# The launcher alone, on a Ray that is none.


class StandIn:
  """A Ray whose tasks end at once, as told: with an exit code and a message, or with an error of Ray."""

  exceptions = SimpleNamespace(RayError=RuntimeError)

  def __init__(self, *results, **resources):
    self.results, self.resources, self.submitted, self.needs = list(results), resources, [], {}

  def cluster_resources(self):
    return {'CPU': 4.0, 'node:10.0.0.1': 1.0, 'node:__internal_head__': 1.0, **self.resources}

  def remote(self, **needs):
    self.needs = needs
    return lambda work: SimpleNamespace(remote=lambda *args: self.submitted.append(args) or len(self.submitted))

  def wait(self, tasks, num_returns, timeout):
    return tasks[:num_returns], tasks[num_returns:]

  def get(self, task):
    result = self.results.pop(0)
    if isinstance(result, Exception):
      raise result
    return result

  def launch(self, sweep, points):
    with contextlib.redirect_stdout(io.StringIO()) as said, Board(sweep) as board:
      engine._Launcher(self, sweep, '', board).run(points)
    return said.getvalue()


def test_a_point_is_started_again_only_while_it_gets_further(sweep):
  (sweep.path / 'logs').mkdir()
  left, lost = (REQUEUE, ''), RuntimeError('The node has died.\nIt was preempted.')
  ray = StandIn(left, lost, left, lost)
  said = ray.launch(sweep, sweep.points[:1])
  assert len(ray.submitted) == 4
  status = sweep.status(sweep.points[0])
  assert (status.state, status.message) == (
    'lost', 'left 4 times in a row without a step of progress: The node has died.'
  )  # fmt: skip
  assert said.count('point 0 is submitted again: The node has died.\n') == 1
  assert 'point 0 lost: run.seed=0\n' in said
  ray = StandIn(left, lost, (DONE, ''))
  ray.launch(sweep, sweep.points[:1])
  assert len(ray.submitted) == 3
  assert states(sweep)[0] == 'waiting', 'an earlier failure is forgotten'


def test_a_point_that_was_asked_to_stop_stays_stopped(sweep):
  (sweep.path / 'logs').mkdir()
  sweep.request_stop([1])
  ray = StandIn((REQUEUE, ''), (DONE, ''), (REQUEUE, ''))
  ray.launch(sweep, sweep.points[1:])
  assert len(ray.submitted) == 1


@pytest.mark.parametrize(('result', 'log', 'state', 'message'), [
  ((FAILED, ''), '=== now\nerror: no data.\n', 'failed', 'no data.'),
  ((FAILED, ''), '=== now\n', 'failed', 'exit code 1, and not a word'),
  ((-1, 'node b does not see /c'), '', 'failed', 'node b does not see /c'),
  ((137, ''), '=== now\n', 'lost', 'killed by signal 9'),
])  # fmt: skip
def test_an_end_that_the_worker_did_not_record_is_recorded(sweep, result, log, state, message):
  (sweep.path / 'logs').mkdir()
  sweep.log(sweep.points[0]).write_text(log)
  StandIn(result).launch(sweep, sweep.points[:1])
  status = sweep.status(sweep.points[0])
  assert (status.state, status.message) == (state, message)


def test_a_point_takes_a_gpu_or_one_core(sweep, monkeypatch):
  (sweep.path / 'logs').mkdir()
  monkeypatch.setenv('JAX_SOMETHING', 'mine')
  monkeypatch.setenv('SECRET', 'mine')
  ray = StandIn((DONE, ''))
  ray.launch(sweep, sweep.points[:1])
  assert ray.needs == {'max_retries': 0, 'num_cpus': 1, 'num_gpus': 0}
  variables = ray.submitted[0][-1]
  assert (variables['NPROC'], variables['JAX_SOMETHING']) == ('1', 'mine')
  assert 'SECRET' not in variables
  ray = StandIn((DONE, ''), GPU=2.0)
  assert 'ray        1 node(s), 4 CPUs, 2 GPUs; a point takes 1 GPU' in ray.launch(sweep, sweep.points[:1])
  assert ray.needs['num_gpus'] == 1
  assert 'NPROC' not in ray.submitted[0][-1]


# A task and its guard.


def guard(*command, **options):
  words = [sys.executable, '-m', 'gen_ai.engines.guard', str(os.getpid()), *map(str, command)]
  return subprocess.Popen(words, cwd=tiny.ROOT, **options)


def test_the_guard_hands_on_how_its_worker_ended(tmp_path):
  assert guard(tmp_path, 'sh', '-c', 'pwd > here; exit 65').wait() == 65
  assert (tmp_path / 'here').read_text().strip() == str(tmp_path)
  assert guard(tmp_path, 'sh', '-c', 'kill -9 $$').wait() == 128 + signal.SIGKILL


def test_the_guard_ends_its_worker_gently_when_its_own_parent_dies(tmp_path):
  worker = f'trap "touch {tmp_path}/saved; exit" TERM; touch {tmp_path}/up; while :; do sleep 0.1; done'
  words = [sys.executable, '-c', 'import os, subprocess, sys; subprocess.Popen([sys.executable, "-m", '
           '"gen_ai.engines.guard", str(os.getpid()), *sys.argv[1:]]).wait()', '/', 'sh', '-c', worker]  # fmt: skip
  parent = subprocess.Popen(words, cwd=tiny.ROOT)
  wait_for((tmp_path / 'up').exists, seconds=30)
  parent.kill()
  parent.wait()
  wait_for((tmp_path / 'saved').exists, seconds=30)


def test_a_worker_knows_its_guard_and_can_be_interrupted(tmp_path):
  worker = f'import os, time; print(os.environ["{LAUNCHER}"], os.getpid(), flush=True); time.sleep(60)'
  block = 'import os, sys, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [2]); os.execv(sys.argv[1], sys.argv[1:])'
  words = [sys.executable, '-m', 'gen_ai.engines.guard', str(os.getpid()), '/', sys.executable, '-c', worker]
  with (tmp_path / 'pids').open('w') as output:
    process = subprocess.Popen([sys.executable, '-c', block, *words], cwd=tiny.ROOT, stdout=output)
  wait_for(lambda: (tmp_path / 'pids').read_text().endswith('\n'), seconds=30)
  launcher_pid, pid = map(int, (tmp_path / 'pids').read_text().split())
  assert launcher_pid == process.pid
  blocked = next(line for line in Path(f'/proc/{pid}/status').read_text().splitlines() if line.startswith('SigBlk'))
  assert int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1) == 0
  os.kill(pid, signal.SIGKILL)
  assert process.wait(timeout=30) == 128 + signal.SIGKILL


def test_a_task_does_not_start_what_is_asked_to_stop(tmp_path):
  (tmp_path / 'all').touch()
  assert engine._work('/', '/', ['launch.py'], [], [f'{tmp_path}/all'], f'{tmp_path}/log', {}) == (REQUEUE, '')
  assert not (tmp_path / 'log').exists()


def test_the_command_line_names_the_engine(tmp_path):
  done = cli.launch('--config=configs/gan.py', '--tiny', '--axis=run.seed=0:2', '--engine=ray', '--dry_run')
  assert done.returncode == DONE
  assert 'engine ray' in done.stdout
