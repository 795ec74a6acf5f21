"""The local launcher: its processes, its command line with stand-ins for workers, and one real sweep."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cli
import pytest
import tiny
from rich.console import Console

from gen_ai import config as config_lib
from gen_ai.core.errors import DIVERGED, DONE, FAILED, REQUEUE, UserError
from gen_ai.run import directory
from gen_ai.sweep import board as board_lib
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers import local
from gen_ai.sweep.launchers.base import Options
from gen_ai.sweep.launchers.supervisor import HEADER, Supervisor
from gen_ai.sweep.trials import resolve
from gen_ai.train.interruption import LAUNCHER

GAN = ('--config=configs/gan.py', '--tiny', '--config.run.trackers=', '--launcher=local', '--per_device=2')
LONG = {'run.steps': 400, 'run.eval_every': 200, 'run.sample_every': 400, 'run.save_every': 200}
OVERRIDES = {path: str(value) for path, value in LONG.items()}
FLAGS = tuple(f'--config.{path}={value}' for path, value in LONG.items())


def only_sweep(runs):
  [path] = (runs / 'gan').iterdir()
  return Sweep.open(path)


def states(sweep):
  return [sweep.status(trial).state for trial in sweep.trials]


def wait_for(condition, process, log, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, log.read_text()
    assert process.poll() is None, log.read_text()
    time.sleep(0.02)


def alive(pid):
  with contextlib.suppress(OSError):
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
  return False


@contextlib.contextmanager
def launcher(log, *words):
  """A launcher as a process; killed in the end, its workers with it (they notice)."""
  command = [sys.executable, 'launch.py', f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', *map(str, words)]
  variables = {**os.environ, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS']}
  with log.open('a') as output:
    process = subprocess.Popen(command, cwd=tiny.ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
  try:
    yield process
  finally:
    process.kill()
    process.wait()


# A real sweep.


@pytest.mark.slow
def test_a_sweep_whose_launcher_is_killed_goes_on_and_its_runs_equal_runs_alone(tmp_path):
  """The one test with real workers: what the launcher makes of them is tested with stand-ins."""
  log = tmp_path / 'log'
  with launcher(log, *GAN, *FLAGS, f'--runs_dir={tmp_path}/runs', '--axis=run.seed=0:2') as process:
    wait_for(lambda: list(tmp_path.glob('runs/gan/*/sweep.json')), process, log)
    sweep = only_sweep(tmp_path / 'runs')
    wait_for(lambda: min(sweep.status(trial).step for trial in sweep.trials) > 20, process, log)
    process.kill()
    process.wait()
  resumed = tiny.launch(f'--resume={sweep.path}', '--per_device=2')  # at once: the workers have yet to notice
  assert resumed.returncode == DONE, resumed.stdout + resumed.stderr
  assert states(sweep) == ['done', 'done']
  stopped = []
  for trial in sweep.trials:
    exits = [row['exit'] for row in directory.read_attempts(sweep.run_dir(trial)) if row['event'] == 'end']
    if exits != [DONE]:  # a busy machine may let one trial end before the other begins
      assert exits == [REQUEUE, DONE], 'a worker saves when its launcher dies'
      stopped.append(trial)
  trial, alone = stopped[-1], tmp_path / 'alone'
  tiny.run(config_lib.override(tiny.config('gan'), {**LONG, **trial.overrides}), alone)
  path = sweep.run_dir(trial)
  assert tiny.rows(path) == tiny.rows(alone)
  assert directory.read_run(path)['overrides'] == {**trial.overrides, 'run.trackers': ''} | OVERRIDES
  [picture] = (path / 'samples').glob(f'step_{LONG["run.steps"]:08d}.png')
  assert picture.read_bytes() == (alone / 'samples' / picture.name).read_bytes()


# Processes that are no training, and the launcher's command line.

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
path = Path(sys.argv[1].removeprefix('--run_dir='))
number = int(path.name[-1])
def status(state, step, message='said by the run'):
  path.mkdir(exist_ok=True)
  where = {'host': 'here', 'pid': os.getpid()}
  text = json.dumps({'state': state, 'step': step, 'total': 8, 'message': message, **where})
  (path / 'new').write_text(text)
  (path / 'new').rename(path / 'status.json')
"""


class Stage:
  """A sweep of trials by seed whose worker is a script of the test's."""

  def __init__(self, tmp_path, monkeypatch):
    self.tmp_path, self.monkeypatch = tmp_path, monkeypatch
    monkeypatch.setattr(local, '_TICK_SECONDS', 0.01)

  def sweep(self, trials, script):
    base, about = tiny.config('gan'), {'launcher': 'local', 'halving': ''}
    found = Sweep.create(str(self.tmp_path), 'x', base, resolve(base, [{'run.seed': i} for i in range(trials)]), about)
    (self.tmp_path / 'launch.py').write_text(f'{SCRIPT}\n{script}')
    self.monkeypatch.setattr(config_lib, 'SOURCE', self.tmp_path)
    return found


@pytest.fixture
def stage(tmp_path, monkeypatch):
  return Stage(tmp_path, monkeypatch)


def launch(sweep, **options):
  with sweep.lease():
    local.Local().launch(sweep, sweep.trials, Options(**{'per_device': 2, **options}))
  return states(sweep)


def log(sweep, number):
  return sweep.log(sweep.trials[number]).read_text()


def test_how_a_process_ended_is_handed_on_and_its_slot_is_used_again(stage):
  sweep = stage.sweep(
    5,
    f"""
if number == 0: status('done', 8)
if number == 1: sys.exit(3)
if number == 2: os.kill(os.getpid(), signal.SIGKILL)
if number == 3: print('error: no such data'); sys.exit(1)
if number == 4 and not path.is_dir(): status('stopped', 4); sys.exit({REQUEUE})
if number == 4: status('done', 8)
""",
  )
  assert launch(sweep) == ['done', 'failed', 'lost', 'failed', 'done']
  messages = [sweep.status(trial).message for trial in sweep.trials]
  assert messages[1:4] == ['exit code 3, and no message', 'killed by SIGKILL', 'no such data']
  assert [log(sweep, number).count(HEADER) for number in range(5)] == [1, 1, 1, 1, 2]


def test_a_worker_is_told_its_slot_its_cores_its_launcher_and_the_cache(stage):
  tell = """
print('cores', *sorted(os.sched_getaffinity(0)), 'threads', os.environ['NPROC'], os.environ['OMP_NUM_THREADS'])
print('launcher', os.environ['%s'], os.getppid(), 'group', os.getpgid(0) == os.getsid(0) == os.getpid())
print('folder', os.getcwd(), sys.argv[2:])
status('done', 8)
"""
  sweep = stage.sweep(2, tell % LAUNCHER)
  before = os.sched_getaffinity(0)
  assert launch(sweep, cache='some/cache') == ['done', 'done']
  assert os.sched_getaffinity(0) == before, "the launcher's own cores are as they were"
  shares = []
  for number in (0, 1):
    [cores] = re.findall(r'^cores (.*) threads (\d+) (\d+)$', log(sweep, number), re.MULTILINE)
    shares.append(set(map(int, cores[0].split())))
    assert {int(cores[1]), int(cores[2])} == {len(shares[-1])}
    assert f'launcher {os.getpid()} {os.getpid()} group True' in log(sweep, number)
    flags = [f'--compilation_cache={Path.cwd()}/some/cache', '--lease_wait=60']
    assert f'folder {Path.cwd()} {flags}' in log(sweep, number)
  assert shares[0] | shares[1] == before
  assert len(before) == 1 or not shares[0] & shares[1]


def test_a_stop_reaches_the_processes_and_a_second_ctrl_c_their_children(stage, capsys):
  sweep = stage.sweep(
    3,
    'signal.signal(signal.SIGTERM, lambda *a: print("asked", flush=True))\n'
    'child = os.fork()\nif child: print("child", child, flush=True); status("running", 4)\n'
    'while True: time.sleep(0.01)',
  )

  def press():
    first = sweep.trials[:2]
    while not all((sweep.run_dir(trial) / 'status.json').is_file() for trial in first):
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    while not all('asked' in sweep.log(trial).read_text() for trial in first):
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

  thread = threading.Thread(target=press)
  thread.start()
  assert launch(sweep) == ['lost', 'lost', 'waiting']
  thread.join()
  children = re.findall(r'child (\d+)', log(sweep, 0) + log(sweep, 1))
  assert len(children) == 2
  for _ in range(100):
    left = [child for child in children if alive(int(child))]
    time.sleep(0.02 if left else 0)
  assert not left, 'the children of a worker go with it'


def test_an_error_of_the_launcher_leaves_no_process_behind(stage, monkeypatch):
  sweep = stage.sweep(2, 'status("running", 1)\nwhile True: time.sleep(0.01)')
  processes = []

  def broken(self, ends):
    processes.extend(worker.handle.process for worker in self._workers)
    raise UserError('the disk is full')

  monkeypatch.setattr(Supervisor, '_reap', broken)
  with pytest.raises(UserError, match='the disk is full'):
    launch(sweep)
  assert [process.poll() for process in processes] == [-signal.SIGTERM] * 2


def test_a_sweep_from_the_command_line_to_its_last_trial(stage):
  sweep = stage.sweep(
    4,
    f"""
if number == 0: status('diverged', 1, 'diverged at step 1'); sys.exit({DIVERGED})
if number == 1: print('chatter'); print('error: config.mesh cannot be'); sys.exit(1)
if number == 2: status('done', 8)
if number == 3 and not path.is_dir(): status('failed', 2, 'the disk is full'); sys.exit(1)
if number == 3: status('done', 8)
""",
  )
  words = (f'--resume={sweep.path}', '--per_device=2')
  done = cli.launch(*words)
  assert done.returncode == FAILED, done
  assert states(sweep) == ['diverged', 'failed', 'done', 'failed']
  lines = done.stdout.splitlines()
  assert lines[0].split() == ['sweep', str(sweep.path)]
  assert re.match(r'local +4 trial\(s\), 2 at a time, on core', lines[1])
  for state in (r'started   seed=2  \(cores? \d.*\)', r'done      seed=2  \(8/8\)'):
    assert len([line for line in lines if re.search(f'trial 2  {state}$', line)]) == 1, 'a line for every change'
  live, table, end = re.split(r'^(?=#)|^4 trials: ', done.stdout, flags=re.MULTILINE)
  for text in (live, end):
    assert 'trial 0 diverged: run.seed=0\n  diverged at step 1' in text
    assert 'trial 1 failed: run.seed=1\n  config.mesh cannot be' in text
    assert 'trial 3 failed: run.seed=3\n  the disk is full' in text
    for number in (0, 1, 3):
      assert f'  log: {sweep.path}/logs/{number}.log\n' in text
  assert '    | error: config.mesh cannot be' in end and '    | ' not in live
  assert end.endswith(f'go on with python launch.py --resume={sweep.path} --retry_failed\n')
  assert re.search(r'1 +1 +failed +0/8', re.sub(r' +', ' ', table))
  assert '\x1b' not in done.stdout
  shown = cli.launch(f'--status={sweep.path}')
  assert (shown.returncode, shown.stdout) == (0, done.stdout[done.stdout.index('#') :])

  untouched = cli.launch(*words)
  assert (untouched.returncode, 'no trial is left to start' in untouched.stdout) == (FAILED, True)
  again = cli.launch(*words, '--retry_failed')
  assert again.returncode == FAILED
  assert states(sweep) == ['diverged', 'failed', 'done', 'done']
  assert 'trial 0  started' not in again.stdout and 'trial 2  started' not in again.stdout


def test_the_live_table_fits_a_small_terminal_and_shows_who_works(stage, monkeypatch):
  sweep = stage.sweep(40, '')
  screen = io.StringIO()
  console = Console(file=screen, force_terminal=True, width=80, height=16, color_system=None, highlight=False)
  monkeypatch.setattr(board_lib, 'console', lambda: console)
  trial = sweep.trials[30]
  with board_lib.Board(sweep) as board:
    board.started(trial, 'core 1')
    board.refresh()
    sweep.run_dir(trial).mkdir()
    run = directory.RunDir(sweep.run_dir(trial))
    with run.lease(beat=0):
      run.status('running', 4, 8)
      run.begin_attempt(0)
      run.append_metrics({'step': 4, 'kind': 'eval', 'nll_bpd': 1.23456})
      board._drawn = 0.0
      board.refresh()
  frames = re.split(r'#  seed', re.sub(r'\x1b\[[?0-9]*[A-Za-z]', '', screen.getvalue()))
  assert '30  30    starting' in frames[1]
  assert re.search(r'30  30    running   ━+.* 4/8 +1\.235  core 1', frames[2])
  assert '40 trials (31 not shown): 39 waiting, 1 running' in frames[2]
  for frame in frames[1:]:
    lines = frame.splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line.strip()]) <= 16
