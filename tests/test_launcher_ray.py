"""The Ray launcher: its back end on a Ray that is none, the guard of its tasks, and one sweep on a real Ray."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cli
import pytest
import tiny

from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, FAILED, REQUEUE, UserError
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers import ray as ray_lib
from gen_ai.sweep.launchers.base import Options
from gen_ai.sweep.launchers.supervisor import HEADER, LOST, End
from gen_ai.sweep.trials import resolve
from gen_ai.train.interruption import LAUNCHER

needs_ray = pytest.mark.skipif(
  importlib.util.find_spec('ray') is None, reason='Ray is not installed: pip install -r requirements/ray.txt'
)
GAN = ('--config=configs/gan.py', '--tiny', '--config.run.trackers=', '--launcher=ray')


def only_sweep(runs):
  [path] = (runs / 'gan').iterdir()
  return Sweep.open(path)


def states(sweep):
  return [sweep.status(trial).state for trial in sweep.trials]


def steps(sweep):
  return [sweep.status(trial).step for trial in sweep.trials]


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
    **os.environ,
    'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS'],
    'TMPDIR': folder,
    'RAY_worker_niceness': '0',
  }
  with log.open('a') as output:
    process = subprocess.Popen(command, cwd=tiny.ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
  try:
    yield process
  finally:
    process.kill()
    process.wait()


# A real sweep.


@needs_ray
@pytest.mark.slow
def test_on_a_real_cluster_trials_end_as_alone_and_ctrl_c_leaves_the_rest_resumable(tmp_path, folder):
  """The one test with a real Ray: what the launcher makes of it is tested without."""
  log = tmp_path / 'log'
  words = (*GAN, f'--runs_dir={tmp_path}/runs', '--axis=run.steps=8,2000000', '--axis=run.seed=0:2')
  with launcher(log, folder, *words, '--config.run.sample_every=0', '--config.run.eval_every=0') as process:
    wait_for(lambda: list(tmp_path.glob('runs/gan/*/sweep.json')), log, process)
    sweep = only_sweep(tmp_path / 'runs')
    wait_for(lambda: states(sweep)[:2] == ['done', 'done'] and max(steps(sweep)) > 8, log, process)
    assert cluster_processes(folder)
    listening = subprocess.run(['ss', '-Hltnp'], capture_output=True, text=True).stdout if shutil.which('ss') else ''
    assert not [line for line in listening.splitlines() if 'raylet' in line and '127.0.0.1' not in line]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == REQUEUE, log.read_text()
  said = log.read_text()
  assert 'save and leave' in said and 'Warning' not in said
  assert f'trial 0  started   seed=0 steps=8  ({socket.gethostname()})' in said
  assert 'stopped' in states(sweep) and set(states(sweep)[2:]) <= {'stopped', 'waiting'}
  assert not list((sweep.path / 'stop').iterdir())
  wait_for(lambda: not cluster_processes(folder), seconds=60)
  assert not list(Path(folder).iterdir())
  trial = sweep.trials[1]
  tiny.run(trial.config, tmp_path / 'alone')
  assert tiny.rows(sweep.run_dir(trial)) == tiny.rows(tmp_path / 'alone')
  for trial in sweep.trials[2:]:
    step = sweep.status(trial).step
    assert not step or (sweep.run_dir(trial) / 'checkpoints' / str(step)).is_dir(), 'saved where it stopped'


@needs_ray
def test_a_node_without_the_source_says_so(tmp_path):
  dump = (
    'import sys; from gen_ai.sweep.launchers import ray as ours; from ray import cloudpickle; ours._SEE_SECONDS = 0;'
    'cloudpickle.register_pickle_by_value(ours); sys.stdout.buffer.write(cloudpickle.dumps(ours._work))'
  )
  words = [sys.executable, '-W', 'ignore', '-c', dump]
  pickled = subprocess.run(words, cwd=tiny.ROOT, capture_output=True, check=True).stdout
  call = (
    'import pickle, sys; work = pickle.load(sys.stdin.buffer); assert "gen_ai" not in sys.modules;'
    'print(work("/src", "/", ["launch.py"], ["/src/launch.py"], [], "/log", {}))'
  )
  words = [sys.executable, '-W', 'ignore', '-c', call]
  done = subprocess.run(words, cwd=tmp_path, input=pickled, capture_output=True)
  assert b'does not see /src/launch.py' in done.stdout, done.stderr


# What the user may get wrong.


@pytest.fixture
def sweep(tmp_path):
  base = config_lib.override(config_lib.load('configs/gan.py'), config_lib.tiny('configs/gan.py'))
  trials = resolve(base, [{'run.seed': 0}, {'run.seed': 1}])
  return Sweep.create(str(tmp_path), 'seeds', base, trials, {'launcher': 'ray', 'halving': ''})


def refused(sweep, address, **environment):
  with mock.patch.dict(os.environ, environment), pytest.raises(UserError) as error:
    ray_lib.Ray().launch(sweep, sweep.trials, Options(ray_address=address))
  assert '\n' not in str(error.value)
  return str(error.value)


def test_without_ray_the_way_to_it_is_named(sweep, monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  assert 'pip install -r requirements/ray.txt' in refused(sweep, '')


def test_inside_a_slurm_job_no_cluster_is_started(sweep):
  assert '--launcher=local' in refused(sweep, '', SLURM_JOB_ID='7', RAY_ADDRESS='')
  assert '--launcher=local' in refused(sweep, 'local', SLURM_JOB_ID='7')


@pytest.mark.parametrize('address', ['{}', 'ray://{}'])
def test_an_address_where_nothing_answers_is_named_at_once(sweep, address):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    place = address.format(f'127.0.0.1:{free.getsockname()[1]}')
  assert f'no Ray cluster answers at {place}' in refused(sweep, place)
  assert f'no Ray cluster answers at {place}' in refused(sweep, '', RAY_ADDRESS=place)


@pytest.mark.parametrize('address', ['', 'local'])
def test_a_local_cluster_keeps_to_itself_and_ends_with_the_sweep(fake, address):
  with mock.patch.dict(os.environ), ray_lib._cluster(address):
    [(given, kwargs)] = fake.calls
    assert (given, kwargs['_node_ip_address'], kwargs['include_dashboard']) == ('local', '127.0.0.1', False)
    assert os.environ['RAY_AUTH_MODE'] == 'token' and len(os.environ['RAY_AUTH_TOKEN']) == 64
    assert Path(kwargs['_temp_dir']).is_dir()
  assert fake.calls[1:] == ['shutdown'] and not Path(kwargs['_temp_dir']).exists()


@pytest.mark.parametrize('way', ['flag', 'variable'])
def test_a_cluster_that_is_not_ours_is_used_as_it_is_inside_a_slurm_job_too(fake, way, monkeypatch):
  monkeypatch.setattr(ray_lib, '_check_reachable', lambda address: None)
  environment = {'SLURM_JOB_ID': '7', **({'RAY_ADDRESS': 'head:1'} if way == 'variable' else {})}
  with mock.patch.dict(os.environ, environment):
    before = dict(os.environ)
    with ray_lib._cluster('head:1' if way == 'flag' else ''):
      assert os.environ == before
  (address, kwargs), last = fake.calls
  assert (address, last) == ('head:1', 'shutdown')
  assert kwargs.keys() == {'log_to_driver', 'logging_level'}


def test_what_ray_says_of_a_cluster_that_cannot_be_used_is_one_line(fake, sweep):
  fake.init = mock.Mock(side_effect=RuntimeError('version mismatch:\n  2 and 3'))
  assert 'no local Ray cluster could be started: version mismatch:' in refused(sweep, 'local')


# The back end, on a Ray that is none.


class StandIn:
  """A Ray whose tasks have ended once they are in `results`: {task: (exit code, message) or an error of Ray}."""

  exceptions = SimpleNamespace(RayError=RuntimeError)
  cloudpickle = SimpleNamespace(register_pickle_by_value=lambda module: None)

  def __init__(self, **resources):
    self.resources, self.submitted, self.needs, self.results = resources, [], {}, {}
    self.calls, self.cancelled = [], []
    self.first = None  # the result of every task at once

  def init(self, address, **settings):
    self.calls.append((address, settings))

  def shutdown(self):
    self.calls.append('shutdown')

  def cluster_resources(self):
    return {'CPU': 4.0, 'node:10.0.0.1': 1.0, 'node:__internal_head__': 1.0, **self.resources}

  def remote(self, **needs):
    self.needs = needs
    return lambda work: SimpleNamespace(remote=self._submit)

  def _submit(self, *arguments):
    self.submitted.append(arguments)
    task = len(self.submitted)
    if self.first is not None:
      self.results[task] = self.first
    return task

  def wait(self, tasks, num_returns, timeout):
    assert num_returns == 1 and timeout < 1
    ended = [task for task in tasks if task in self.results][:1]
    return ended, [task for task in tasks if task not in ended]

  def get(self, task):
    result = self.results[task]
    if isinstance(result, Exception):
      raise result
    return result

  def cancel(self, task):
    self.cancelled.append(task)
    self.results.setdefault(task, RuntimeError('cancelled'))


@pytest.fixture
def fake(monkeypatch):
  found = StandIn()
  monkeypatch.setitem(sys.modules, 'ray', found)
  return found


@pytest.fixture
def tasks(fake, sweep):
  """The back end, with two trials submitted; `begin(number)` has a node take one up."""
  (sweep.path / 'logs').mkdir()
  found = ray_lib.Tasks(fake, sweep, '')
  found.workers = [found.start(trial) for trial in sweep.trials]
  return found


def begin(sweep, number, where='node-a gpu 1'):
  with sweep.log(sweep.trials[number]).open('a') as log:
    log.write(f'{HEADER}now  {where}  python launch.py\n')


@pytest.mark.parametrize(
  ('result', 'end'),
  [
    ((DONE, ''), End(DONE)),
    ((REQUEUE, ''), End(REQUEUE)),
    ((137, ''), End(-signal.SIGKILL)),
    ((-1, 'node b does not see /c'), End(FAILED, 'node b does not see /c')),
    (RuntimeError('The node has died.\nIt was preempted.'), End(LOST, 'The node has died.')),
  ],
)
def test_how_a_task_ended_is_handed_on(fake, tasks, result, end):
  assert tasks.poll(tasks.workers) == {}
  fake.results[2] = result
  assert tasks.poll(tasks.workers) == {tasks.workers[1]: end}


def test_where_a_trial_runs_is_read_from_its_log(sweep, fake):
  (sweep.path / 'logs').mkdir()
  begin(sweep, 0, 'where it ran before')
  task = ray_lib.Tasks(fake, sweep, '').start(sweep.trials[0])
  assert task.log.read_text() and ray_lib.Tasks(fake, sweep, '').where(task) == ''
  with task.log.open('a') as log:
    log.write('last words of an earlier worker\n')
  begin(sweep, 0)
  assert ray_lib.Tasks(fake, sweep, '').where(task) == 'node-a gpu 1'


def test_a_stop_reaches_workers_by_files_and_takes_back_what_no_node_has_taken_up(sweep, fake, tasks):
  begin(sweep, 0)
  tasks.cancel(tasks.workers, now=False)
  assert all(sweep.stop_requested(trial) for trial in sweep.trials)
  assert fake.cancelled == [2]
  assert tasks.poll(tasks.workers) == {tasks.workers[1]: End(REQUEUE)}, 'it still waits'
  tasks.cancel(tasks.workers[:1], now=True)
  assert fake.cancelled == [2, 1]
  assert tasks.poll(tasks.workers[:1]) == {tasks.workers[0]: End(-signal.SIGKILL)}


def test_a_task_that_ended_before_it_was_cancelled_says_how(sweep, fake, tasks):
  begin(sweep, 0)
  fake.results[1] = (DONE, '')
  tasks.cancel(tasks.workers, now=True)
  assert tasks.poll(tasks.workers[:1]) == {tasks.workers[0]: End(DONE)}


def test_after_a_stop_trials_may_be_gone_on_with_one_by_one(fake, sweep, capsys):
  fake.first = (REQUEUE, '')
  wait = fake.wait

  def stop_first(tasks, num_returns, timeout):
    if not fake.cancelled:
      signal.raise_signal(signal.SIGINT)
      fake.cancelled.append('asked')
      return [], tasks
    assert sweep.stop_requested(sweep.trials[0])
    return wait(tasks, num_returns, timeout)

  fake.wait = stop_first
  with mock.patch.dict(os.environ), sweep.lease():
    ray_lib.Ray().launch(sweep, sweep.trials, Options())
  assert 'save and leave' in capsys.readouterr().out
  assert not list((sweep.path / 'stop').iterdir()) and fake.calls[-1] == 'shutdown'
  assert states(sweep) == ['waiting', 'waiting'], 'not failed: a stop was asked'


def test_a_trial_takes_a_gpu_or_one_core(sweep, monkeypatch):
  monkeypatch.setenv('JAX_SOMETHING', 'mine')
  monkeypatch.setenv('SECRET', 'mine')
  ray = StandIn()
  tasks = ray_lib.Tasks(ray, sweep, 'some/cache')
  tasks.start(sweep.trials[0])
  assert ray.needs == {'max_retries': 0, 'num_cpus': 1, 'num_gpus': 0}
  source, folder, command, needed, stops, log, variables = ray.submitted[0]
  assert (source, folder) == (str(config_lib.SOURCE), str(Path.cwd()))
  assert command == [
    *sweep.command(sweep.trials[0]),
    f'--compilation_cache={Path.cwd()}/some/cache',
    '--lease_wait=150',
  ]
  assert needed == [f'{source}/launch.py', f'{sweep.path}/sweep.json'] and log == f'{sweep.path}/logs/0.log'
  assert stops == [f'{sweep.path}/stop/all', f'{sweep.path}/stop/0']
  assert (variables['NPROC'], variables['JAX_SOMETHING']) == ('1', 'mine')
  assert 'SECRET' not in variables
  ray = StandIn(GPU=2.0)
  tasks = ray_lib.Tasks(ray, sweep, '')
  assert tasks.described == 'ray        1 node(s), 4 CPUs, 2 GPUs; a trial takes 1 GPU'
  tasks.start(sweep.trials[0])
  assert ray.needs['num_gpus'] == 1
  assert 'NPROC' not in ray.submitted[0][-1]


# A task and its guard.


def guard(*command, **options):
  words = [sys.executable, '-m', 'gen_ai.sweep.launchers.guard', str(os.getpid()), *map(str, command)]
  return subprocess.Popen(words, cwd=tiny.ROOT, **options)


def test_the_guard_hands_on_how_its_worker_ended(tmp_path):
  assert guard(tmp_path, 'sh', '-c', 'pwd > here; exit 65').wait() == 65
  assert (tmp_path / 'here').read_text().strip() == str(tmp_path)
  assert guard(tmp_path, 'sh', '-c', 'kill -9 $$').wait() == 128 + signal.SIGKILL


def test_the_guard_ends_its_worker_gently_when_its_own_parent_dies(tmp_path):
  worker = f'trap "touch {tmp_path}/saved; exit" TERM; touch {tmp_path}/up; while :; do sleep 0.1; done'
  task = (
    'import os, subprocess, sys\n'
    'subprocess.Popen([sys.executable, "-m", "gen_ai.sweep.launchers.guard", str(os.getpid()), *sys.argv[1:]]).wait()'
  )
  parent = subprocess.Popen([sys.executable, '-c', task, '/', 'sh', '-c', worker], cwd=tiny.ROOT)
  wait_for((tmp_path / 'up').exists, seconds=30)
  parent.kill()
  parent.wait()
  wait_for((tmp_path / 'saved').exists, seconds=30)


def test_a_worker_knows_its_guard_and_can_be_interrupted(tmp_path):
  worker = f'import os, time; print(os.environ["{LAUNCHER}"], os.getpid(), flush=True); time.sleep(60)'
  block = 'import os, sys, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [2]); os.execv(sys.argv[1], sys.argv[1:])'
  words = [sys.executable, '-m', 'gen_ai.sweep.launchers.guard', str(os.getpid()), '/', sys.executable, '-c', worker]
  with (tmp_path / 'pids').open('w') as output:
    process = subprocess.Popen([sys.executable, '-c', block, *words], cwd=tiny.ROOT, stdout=output)
  wait_for(lambda: (tmp_path / 'pids').read_text().endswith('\n'), seconds=30)
  launcher_pid, pid = map(int, (tmp_path / 'pids').read_text().split())
  assert launcher_pid == process.pid
  blocked = next(line for line in Path(f'/proc/{pid}/status').read_text().splitlines() if line.startswith('SigBlk'))
  assert int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1) == 0
  os.kill(pid, signal.SIGKILL)
  assert process.wait(timeout=30) == 128 + signal.SIGKILL


def test_a_task_that_ray_cancels_takes_its_worker_along(tmp_path):
  (tmp_path / 'launch.py').write_text(
    f'import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    f'open({str(tmp_path / "pid")!r}, "w").write(f"{{os.getpid()}}\\n")\ntime.sleep(60)\n'
  )

  def cancel():  # as Ray does: a KeyboardInterrupt in the task
    wait_for(lambda: (tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text().endswith('\n'), seconds=30)
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=cancel)
  thread.start()
  variables = {'PYTHONPATH': str(tiny.ROOT)}  # a node's own folder is that of launch.py
  began = time.monotonic()
  with pytest.raises(KeyboardInterrupt):
    ray_lib._work(str(tmp_path), '/', ['launch.py'], [], [], f'{tmp_path}/log', variables)
  thread.join()
  pid = int((tmp_path / 'pid').read_text())
  wait_for(lambda: not alive(pid), seconds=10)
  assert time.monotonic() - began < 50, 'it was killed, and did not end by itself'
  assert (tmp_path / 'log').read_text().startswith(f'{HEADER}20')


def test_a_task_does_not_start_what_is_asked_to_stop(tmp_path):
  (tmp_path / 'all').touch()
  assert ray_lib._work('/', '/', ['launch.py'], [], [f'{tmp_path}/all'], f'{tmp_path}/log', {}) == (REQUEUE, '')
  assert not (tmp_path / 'log').exists()


def test_the_command_line_names_the_launcher(tmp_path):
  done = cli.launch('--config=configs/gan.py', '--tiny', '--axis=run.seed=0:2', '--launcher=ray', '--dry_run')
  assert done.returncode == DONE
  assert 'launcher ray' in done.stdout
