"""The local engine: real sweeps of tiny runs, broken in every way; its launcher with stand-ins for workers."""

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
from gen_ai import lease, record, sweep_table
from gen_ai.engines import Options, local
from gen_ai.errors import DIVERGED, DONE, FAILED, REQUEUE, UserError
from gen_ai.stop import LAUNCHER
from gen_ai.sweep import Sweep, resolve

GAN = ('--config=configs/gan.py', '--tiny', '--config.run.writers=', '--engine=local', '--per_device=2')
LONG = {'run.steps': 2000, 'run.eval_every': 200, 'run.sample_every': 1000, 'run.save_every': 200}
FLAGS = tuple(f'--config.{path}={value}' for path, value in LONG.items())


def only_sweep(runs):
  [path] = (runs / 'gan').iterdir()
  return Sweep.open(path)


def states(sweep):
  return [sweep.status(point).state for point in sweep.points]


def wait_for(condition, process, log, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, log.read_text()
    assert process.poll() is None, log.read_text()
    time.sleep(0.02)


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


# Real sweeps.


def test_all_points_end_and_equal_runs_alone(tmp_path):
  done = tiny.launch(*GAN, f'--runs_dir={tmp_path}/runs', '--axis=optim.lr=1e-4,1e-3', '--axis=run.seed=0:2')
  assert done.returncode == DONE, done.stdout + done.stderr
  sweep = only_sweep(tmp_path / 'runs')
  assert states(sweep) == ['done'] * 4
  for point in sweep.points[1:3]:
    alone = tmp_path / f'alone_{point.number}'
    tiny.run(tiny.config('gan', **point.overrides), alone)
    path = sweep.run_dir(point)
    assert tiny.rows(path) == tiny.rows(alone)
    assert len(tiny.rows(path)) == 6
    assert record.read_run(path)['overrides']['optim.lr'] == point.overrides['optim.lr']
    [picture] = (path / 'samples').glob('step_00000008.png')
    assert picture.read_bytes() == (alone / 'samples' / picture.name).read_bytes()
  lines = done.stdout.splitlines()
  assert lines[0].split() == ['sweep', str(sweep.path)]
  assert re.match(r'local +4 point\(s\), 2 at a time, on core', lines[1])
  for number, overrides in enumerate(('lr=0.0001 seed=0', 'lr=0.0001 seed=1', 'lr=0.001 seed=0', 'lr=0.001 seed=1')):
    leading = r'spread [-\d.e]+  pairs_won_d [-\d.e]+  logit_gap [-\d.e]+'
    for state in (r'started .*\(cores? \d.*\)', rf'done .*\(8/8  {leading}\)'):
      found = [line for line in lines if re.search(f'point {number}  {state}$', line)]
      assert len(found) == 1, 'one plain line for every change of state'
      assert overrides in found[0]
  assert '4 points: 4 done' in lines
  assert '\x1b' not in done.stdout
  shown = cli.launch(f'--status={sweep.path}')
  assert (shown.returncode, shown.stderr) == (0, '')
  assert [line.split()[:5] for line in shown.stdout.splitlines()[2:4]] == [
    ['0', '0.0001', '0', 'done', '8/8'], ['1', '0.0001', '1', 'done', '8/8'],
  ]  # fmt: skip
  again = cli.launch(f'--resume={sweep.path}')
  assert again.returncode == DONE
  assert 'no point is left to start' in again.stdout


@pytest.mark.slow
def test_killed_workers_and_a_killed_launcher_lose_nothing(tmp_path):
  log = tmp_path / 'log'
  with launcher(log, *GAN, *FLAGS, f'--runs_dir={tmp_path}/runs', '--axis=run.seed=0:2') as process:
    wait_for(lambda: list(tmp_path.glob('runs/gan/*/sweep.json')), process, log)
    sweep = only_sweep(tmp_path / 'runs')
    first, second = (sweep.run_dir(point) for point in sweep.points)

    def rows(path):
      file = path / 'metrics.jsonl'
      return len(file.read_text().splitlines()) if file.exists() else 0

    wait_for(lambda: rows(first) > 60 and rows(second) > 60, process, log)
    os.kill(record.read_status(first)['pid'], signal.SIGKILL)
    os.kill(record.read_status(second)['pid'], signal.SIGTERM)  # preempted, unasked: it is started again
    wait_for(lambda: states(sweep)[0] == 'lost', process, log)
    wait_for(lambda: len(record.read_attempts(second)) == 3 and rows(second) > 150, process, log)
    assert states(sweep) == ['lost', 'running'], 'one point that is killed does not stop the other'
    process.kill()
    process.wait()
  assert 'point 0 lost: run.seed=0\n  killed by SIGKILL\n' in log.read_text()
  resumed = tiny.launch(f'--resume={sweep.path}', '--per_device=2')  # at once: the other worker has yet to notice
  assert resumed.returncode == DONE, resumed.stdout + resumed.stderr
  assert states(sweep) == ['done', 'done']
  assert len(record.read_attempts(first)) >= 3
  assert len(record.read_attempts(second)) >= 5
  for point in sweep.points:
    alone = tmp_path / f'alone_{point.number}'
    tiny.run(config_lib.override(tiny.config('gan'), {**LONG, **point.overrides}), alone)
    assert tiny.rows(sweep.run_dir(point)) == tiny.rows(alone)
    assert len(tiny.rows(alone)) == 1000 + 10


def test_stop_of_one_point_then_of_all_by_ctrl_c(tmp_path):
  log = tmp_path / 'log'
  words = (*GAN, '--config.run.steps=200000', '--config.run.eval_every=0', '--config.run.sample_every=0')
  with launcher(log, *words, f'--runs_dir={tmp_path}/runs', '--axis=run.seed=0:4') as process:
    wait_for(lambda: list(tmp_path.glob('runs/gan/*/sweep.json')), process, log)
    sweep = only_sweep(tmp_path / 'runs')
    cli.launch(f'--stop={sweep.path}', '--point=2')  # it waits: it is never started
    wait_for(lambda: min(sweep.status(point).step for point in sweep.points[:2]) > 0, process, log)
    cli.refused(cli.launch(f'--resume={sweep.path}'), 'is in use by process', str(process.pid))
    cli.launch(f'--stop={sweep.path}', '--point=0')
    wait_for(lambda: states(sweep)[3] == 'running', process, log)  # in the slot that became free
    assert states(sweep) == ['stopped', 'running', 'waiting', 'running']
    wait_for(lambda: min(sweep.status(sweep.points[number]).step for number in (1, 3)) > 0, process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == REQUEUE
  assert states(sweep) == ['stopped', 'stopped', 'waiting', 'stopped']
  for number in (0, 1, 3):
    path = sweep.run_dir(sweep.points[number])
    step = record.read_status(path)['step']
    assert step > 0
    assert (path / 'checkpoints' / str(step)).is_dir(), 'saved where it stopped'
  text = log.read_text()
  assert 'stopping: 2 point(s) save and leave. Ctrl-C again kills them.' in text
  assert text.endswith(f'4 points: 1 waiting, 3 stopped\n\ngo on with python launch.py --resume={sweep.path}\n')
  assert 'Traceback' not in text


CONFIG = """
from configs.gan import get_config, tiny
def sweep_mixed():
  yield {'optim.lr': 1e30, 'optim.name': 'sgd'}
  yield {'mesh.fsdp': 3}
  yield {'run.seed': 5}
  yield {'run.seed': 6}
"""


def test_points_that_go_wrong_stop_no_other_and_are_told_of(tmp_path):
  file = tmp_path / 'mixed.py'
  file.write_text(CONFIG)
  words = (f'--config={file}', '--tiny', '--config.run.writers=', '--sweep=mixed', f'--runs_dir={tmp_path}/runs')
  printed = cli.launch(*words, '--engine=print')
  sweep = only_sweep(tmp_path / 'runs')
  path = [sweep.run_dir(point) for point in sweep.points]
  path[3].write_text('in the way')

  # A printed command runs from a shell.
  command = f'{printed.stdout.splitlines()[2]} --compilation_cache={os.environ["GEN_AI_TEST_XLA"]}'
  shell = {**os.environ, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS'],
           'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}  # fmt: skip
  subprocess.run(['sh', '-c', command], cwd=tiny.ROOT, env=shell, check=True, capture_output=True)
  assert states(sweep) == ['waiting', 'waiting', 'done', 'waiting']

  done = tiny.launch(f'--resume={sweep.path}', '--engine=local', '--per_device=2')
  assert done.returncode == FAILED
  assert states(sweep) == ['diverged', 'failed', 'done', 'failed']
  live, table, end = re.split(r'^(?=#)|^4 points: ', done.stdout, flags=re.MULTILINE)
  for text in (live, end):
    assert 'point 0 diverged: optim.lr=1e+30 optim.name=sgd\n' in text
    assert 'point 1 failed: mesh.fsdp=3\n  config.mesh is data=-1, fsdp=3' in text
    assert f'point 3 failed: run.seed=6\n  cannot make the run directory {path[3]}' in text
    for number in (0, 1, 3):
      assert f'  log: {sweep.path}/logs/{number}.log\n' in text
  assert '    | error: config.mesh is data=-1, fsdp=3' in end
  assert '    | ' not in live
  assert 'diverged at step 1' in end
  assert end.endswith(f'go on with python launch.py --resume={sweep.path} --retry_failed\n')
  assert re.search(r'1 +3 +failed +0/8', re.sub(r' +', ' ', table))

  untouched = cli.launch(f'--resume={sweep.path}', '--engine=local')
  assert (untouched.returncode, 'no point is left to start' in untouched.stdout) == (FAILED, True)
  path[3].unlink()
  again = tiny.launch(f'--resume={sweep.path}', '--engine=local', '--retry_failed', '--per_device=2')
  assert again.returncode == FAILED
  assert states(sweep) == ['diverged', 'failed', 'done', 'done']
  assert 'point 0  started' not in again.stdout
  assert len(record.read_attempts(path[2])) == 2


# The launcher, with stand-ins for workers.


class Stage:
  """A sweep of points by seed whose worker is a script of the test's."""

  def __init__(self, tmp_path, monkeypatch):
    self.tmp_path, self.monkeypatch = tmp_path, monkeypatch
    monkeypatch.setattr(local, '_TICK_SECONDS', 0.01)

  def sweep(self, points, script):
    base = tiny.config('gan')
    found = Sweep.create(str(self.tmp_path), 'x', base, resolve(base, [{'run.seed': i} for i in range(points)]), {})
    (self.tmp_path / 'launch.py').write_text(f'{SCRIPT}\n{script}')
    self.monkeypatch.setattr(config_lib, 'SOURCE', self.tmp_path)
    return found


SCRIPT = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(tiny.ROOT)!r})
from gen_ai import record
path = Path(sys.argv[1].removeprefix('--run_dir='))
run, number = record.RunDir(path), int(path.name[-1])
def status(state, step):
  path.mkdir(exist_ok=True)
  run.status(state, step, 8, 'said by the run')
"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
  return Stage(tmp_path, monkeypatch)


def launch(sweep, **options):
  with sweep.lease():
    return local.launch(sweep, sweep.points, Options(**{'per_device': 2, **options}))


def log(sweep, number):
  return sweep.log(sweep.points[number]).read_text()


@pytest.mark.parametrize(('end', 'state', 'message'), [
  (f'status("done", 8); sys.exit({DONE})', 'done', 'said by the run'),
  (f'status("pruned", 4); sys.exit({DONE})', 'pruned', 'said by the run'),
  (f'status("diverged", 4); sys.exit({DIVERGED})', 'diverged', 'said by the run'),
  ('print("error: no such data"); sys.exit(1)', 'failed', 'no such data'),
  ('status("failed", 2); print("chatter"); sys.exit(1)', 'failed', 'said by the run'),
  ('sys.exit(3)', 'failed', 'exit code 3, and not a word'),
  ('status("running", 2); os.kill(os.getpid(), signal.SIGKILL)', 'lost', 'killed by SIGKILL'),
  ('os.kill(os.getpid(), signal.SIGTERM)', 'lost', 'killed by SIGTERM'),
])  # fmt: skip
def test_every_end_of_a_worker_is_recorded(stage, end, state, message):
  sweep = stage.sweep(1, end)
  code = launch(sweep)
  found = sweep.status(sweep.points[0])
  assert (found.state, code) == (state, DONE if state in ('done', 'pruned') else FAILED)
  assert message in found.message


def test_a_worker_that_leaves_unasked_is_started_again_while_it_gets_on(stage, capsys):
  get_on = """
step = (record.read_status(path)['step'] if path.is_dir() else 0) + (1 if number == 0 else 0)
status('done' if step == 8 else 'stopped', step)
sys.exit(0 if step == 8 else 75)
"""
  sweep = stage.sweep(2, get_on)
  assert launch(sweep) == FAILED
  first, second = (sweep.status(point) for point in sweep.points)
  assert (first.state, first.step) == ('done', 8)
  assert second.state == 'failed'
  assert 'left 4 times in a row without a step of progress: said by the run' in second.message
  assert [log(sweep, number).count('=== ') for number in (0, 1)] == [8, 4]
  assert '--retry_failed' in capsys.readouterr().out


def test_a_worker_is_told_its_slot_its_cores_its_launcher_and_the_cache(stage):
  tell = """
print('cores', *sorted(os.sched_getaffinity(0)), 'threads', os.environ['NPROC'], os.environ['OMP_NUM_THREADS'])
print('launcher', os.environ['%s'], os.getppid(), 'group', os.getpgid(0) == os.getsid(0) == os.getpid())
print('folder', os.getcwd(), sys.argv[2:])
status('done', 8)
"""
  sweep = stage.sweep(2, tell % LAUNCHER)
  before = os.sched_getaffinity(0)
  assert launch(sweep, cache='some/cache') == DONE
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


def test_a_second_ctrl_c_kills_and_a_sigterm_does_not(stage, capsys):
  sweep = stage.sweep(3, 'signal.signal(signal.SIGTERM, lambda *a: print("asked", flush=True))\n'
                         'child = os.fork()\nif child: print("child", child, flush=True)\nstatus("running", 4)\n'
                         'while True: time.sleep(0.01)')  # fmt: skip

  def press():
    first = sweep.points[:2]
    while not all(sweep.run_dir(point).is_dir() for point in first):
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    while not all('asked' in sweep.log(point).read_text() for point in first):
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    still.extend(sweep.status(point).message for point in first)
    os.kill(os.getpid(), signal.SIGINT)

  still = []
  handler = signal.getsignal(signal.SIGINT)
  thread = threading.Thread(target=press)
  thread.start()
  assert launch(sweep) == FAILED
  thread.join()
  assert signal.getsignal(signal.SIGINT) is handler
  assert still == ['said by the run'] * 2, 'not killed by the SIGTERM'
  assert states(sweep) == ['lost', 'lost', 'waiting']
  assert sweep.status(sweep.points[0]).message == 'killed by SIGKILL'
  assert f'go on with python launch.py --resume={sweep.path}\n' in capsys.readouterr().out
  children = re.findall(r'child (\d+)', log(sweep, 0) + log(sweep, 1))
  assert len(children) == 2
  for _ in range(100):
    left = [child for child in children if lease._started(int(child)) is not None]
    time.sleep(0.02 if left else 0)
  assert not left, 'the children of a worker go with it'


def test_a_point_that_another_process_still_runs_is_awaited(stage, capsys):
  sweep = stage.sweep(3, 'status("done", 8)')
  held, finished, free = sweep.points
  leases = []
  for point in (held, finished):
    sweep.run_dir(point).mkdir()
    leases.append(record.RunDir(sweep.run_dir(point)).lease(beat=0))
    leases[-1].acquire()

  def leave():
    while sweep.status(free).state != 'done':
      time.sleep(0.01)
    record.RunDir(sweep.run_dir(finished)).status('done', 8, 8)
    for held_lease in leases:
      held_lease.release()

  thread = threading.Thread(target=leave)
  thread.start()
  assert launch(sweep) == DONE
  thread.join()
  assert states(sweep) == ['done'] * 3
  assert not sweep.log(finished).exists(), 'it ended meanwhile'
  assert 'point 0 is still run by another process' in capsys.readouterr().out


def test_an_error_of_the_launcher_leaves_no_worker_behind(stage, monkeypatch):
  sweep = stage.sweep(2, 'status("running", 1)\nwhile True: time.sleep(0.01)')
  processes = []

  def broken(self):
    processes.extend(worker.process for worker in self._workers)
    raise UserError('the disk is full')

  monkeypatch.setattr(local.Launcher, '_reap', broken)
  with pytest.raises(UserError, match='the disk is full'):
    launch(sweep)
  assert [process.poll() for process in processes] == [-signal.SIGTERM] * 2


def test_the_live_table_fits_a_small_terminal_and_shows_who_works(stage, monkeypatch):
  sweep = stage.sweep(40, '')
  screen = io.StringIO()
  console = Console(file=screen, force_terminal=True, width=80, height=16, color_system=None, highlight=False)
  monkeypatch.setattr(sweep_table, 'console', lambda: console)
  point = sweep.points[30]
  with sweep_table.Board(sweep) as board:
    board.started(point, 'core 1')
    board.refresh()
    sweep.run_dir(point).mkdir()
    run = record.RunDir(sweep.run_dir(point))
    with run.lease(beat=0):
      run.status('running', 4, 8)
      run.begin_attempt(0)
      run.append_metrics({'step': 4, 'kind': 'eval', 'nll_bpd': 1.23456})
      board._drawn = 0.0
      board.refresh()
  frames = re.split(r'#  seed', re.sub(r'\x1b\[[?0-9]*[A-Za-z]', '', screen.getvalue()))
  assert '30  30    starting' in frames[1]
  assert re.search(r'30  30    running   ━+.* 4/8 +1\.235  core 1', frames[2])
  assert '40 points (31 not shown): 39 waiting, 1 running' in frames[2]
  for frame in frames[1:]:
    lines = frame.splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line.strip()]) <= 16
