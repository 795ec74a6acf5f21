"""The Slurm engine, on a real cluster of two nodes on loopback; what needs none is tested without."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cli
import printed
import pytest
import slurm_cluster
import tiny

from gen_ai import record
from gen_ai.engines import slurm
from gen_ai.errors import DIVERGED, REQUEUE, UserError
from gen_ai.sweep import Sweep

# A worker that stops to wait at step 4, behind its first checkpoint, until the file $GO is there, so that tests can
# disturb it in the middle. It stands in for launch.py in the folder that the array's script changes to.
WORKER = """
import os, runpy, sys, time
ROOT = {root!r}
os.chdir(ROOT)
sys.path.insert(0, ROOT)
from gen_ai.data import feed
chunk = feed.DeviceFeed.chunk

def wait(self, step, steps):
  deadline = time.monotonic() + 300
  while step == 4 and not os.path.exists(os.environ['GO']) and time.monotonic() < deadline:
    time.sleep(0.05)
  return chunk(self, step, steps)

feed.DeviceFeed.chunk = wait
runpy.run_path('launch.py', run_name='__main__')
"""

needs_cluster = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing())


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
  with slurm_cluster.Cluster(tmp_path_factory.mktemp('slurm')) as cluster:
    yield cluster
  assert not cluster.processes()


@pytest.fixture
def slurm_env(cluster, tmp_path, monkeypatch):
  """The cluster, found by what the test starts; workers stop at step 4 until `tmp_path / 'go'` is there."""
  for name, value in {**cluster.env, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS'], 'GO': str(tmp_path / 'go')}.items():
    monkeypatch.setenv(name, value)
  (tmp_path / 'source').mkdir()
  (tmp_path / 'source' / 'launch.py').write_text(WORKER.format(root=str(tiny.ROOT)))
  monkeypatch.setattr(slurm, 'SOURCE', tmp_path / 'source')
  yield cluster
  cluster.clear()


@pytest.fixture(scope='module')
def solo(tmp_path_factory):
  """rows(seed) of an undisturbed run on its own."""
  folder, known = tmp_path_factory.mktemp('solo'), {}

  def rows(seed):
    if seed not in known:
      done = tiny.launch('--config=configs/gan.py', '--tiny', '--config.run.writers=', f'--config.run.seed={seed}',
                         f'--run_dir={folder / str(seed)}')  # fmt: skip
      assert done.returncode == 0, done.stderr
      known[seed] = tiny.rows(folder / str(seed))
    return known[seed]

  return rows


def start(folder, seeds, *words):
  """A sweep of a tiny GAN over `seeds`, given as '0:3'."""
  done = cli.launch('--config=configs/gan.py', '--tiny', '--config.run.writers=', f'--axis=run.seed={seeds}',
                    '--engine=slurm', f'--runs_dir={folder / "runs"}', *words)  # fmt: skip
  assert done.returncode == 0, done.stderr
  return opened(folder), done.stdout


def opened(folder):
  """The one sweep in `folder`."""
  (path,) = (folder / 'runs' / 'gan').iterdir()
  return Sweep.open(path)


def states(sweep):
  return [sweep.status(point).state for point in sweep.points]


def log(sweep, number):
  file = sweep.path / 'logs' / f'{number}.log'
  return file.read_text() if file.exists() else ''


def logs(sweep):
  return '\n'.join(log(sweep, point.number) for point in sweep.points)


def attempts(sweep, number):
  return len([row for row in record.read_attempts(sweep.run_dir(sweep.points[number])) if row['event'] == 'start'])


def at_step_4(sweep, *numbers):
  """Whether these points have their first checkpoint, and wait."""
  return all((sweep.run_dir(sweep.points[number]) / 'checkpoints' / '4').is_dir() for number in numbers)


def finish(cluster, folder):
  """Lets workers go on and waits until the queue is empty."""
  (folder / 'go').touch()
  cluster.wait_for(lambda: not cluster.queue(), 180)


def assert_undisturbed(sweep, solo, *numbers):
  """All points ended, and those of `numbers` have the rows of a run on its own: none lost, none doubled."""
  assert set(states(sweep)) == {'done'}, logs(sweep)
  for number in numbers:
    assert tiny.rows(sweep.run_dir(sweep.points[number])) == solo(number)


# With a cluster.


@needs_cluster
def test_an_array_over_two_nodes_runs_all_points(slurm_env, solo, tmp_path):
  (tmp_path / 'go').touch()
  sweep, said = start(tmp_path, '0:3', '--sbatch=--gres=gpu:1', '--sbatch=--time=5')
  for text in ('job ', str(sweep.path / 'slurm' / 'array.sh'), '--status=', '--stop=', '--resume='):
    assert text in said
  (job,) = [json.loads(line) for line in (sweep.path / 'slurm' / 'jobs.jsonl').read_text().splitlines()]
  assert job['points'] == [0, 1, 2] and job['sbatch'] == ['--gres=gpu:1', '--time=5']
  slurm_env.wait_for(lambda: not slurm_env.queue(), 180)
  assert_undisturbed(sweep, solo, 0, 1)
  heads = [log(sweep, number).splitlines()[0] for number in range(3)]
  assert {head.partition('(')[2][:2] for head in heads} == {'n1', 'n2'}
  assert {head.rpartition('GPUs ')[2] for head in heads} == {"'0'", "'1'"}
  assert cli.launch(f'--status={sweep.path}').returncode == 0


@needs_cluster
@pytest.mark.slow
def test_a_preempted_point_goes_on_where_it_was(slurm_env, solo, tmp_path):
  sweep, _ = start(tmp_path, '0:2')
  slurm_env.wait_for(lambda: at_step_4(sweep, 0, 1), 120)
  slurm_env.run('sbatch', '--partition=high', '--exclusive', '--nodes=2', '--output=/dev/null', '--wrap=sleep 1')
  slurm_env.wait_for(lambda: logs(sweep).count('TERM from Slurm') == 2, 30)
  finish(slurm_env, tmp_path)
  assert_undisturbed(sweep, solo, 0, 1)
  assert [attempts(sweep, number) for number in (0, 1)] == [2, 2]


@needs_cluster
@pytest.mark.slow
def test_a_time_limit_is_survived(slurm_env, solo, tmp_path):
  sweep, _ = start(tmp_path, '0:1', '--sbatch=--time=1', '--sbatch=--signal=B:USR1@30')
  slurm_env.wait_for(lambda: 'USR1 from Slurm' in log(sweep, 0), 90)  # Slurm looks at limits every 30 s
  finish(slurm_env, tmp_path)
  assert_undisturbed(sweep, solo, 0)
  assert f'exit code {REQUEUE}' in log(sweep, 0) and 'start 2' in log(sweep, 0)


@needs_cluster
def test_a_killed_worker_is_taken_up_by_resume(slurm_env, solo, tmp_path):
  sweep, _ = start(tmp_path, '0:2')
  slurm_env.wait_for(lambda: at_step_4(sweep, 0, 1), 120)
  os.kill(record.read_status(sweep.run_dir(sweep.points[0]))['pid'], signal.SIGKILL)
  slurm_env.wait_for(lambda: len(slurm_env.queue()) == 1, 30)
  assert states(sweep) == ['lost', 'running'], 'one failing point never stops the others'
  for said in (None, 'still has point(s) 0 in hand'):  # the second launcher finds that the first has submitted it
    done = cli.launch(f'--resume={sweep.path}', '--sbatch=--hold')
    assert done.returncode == 0, done.stderr
    assert said is None or said in done.stdout
    assert len(slurm_env.queue()) == 2
  slurm_env.run('scontrol', 'release', *[task for task, state in slurm_env.queue().items() if state == 'PENDING'])
  finish(slurm_env, tmp_path)
  assert_undisturbed(sweep, solo, 0, 1)
  assert [attempts(sweep, number) for number in (0, 1)] == [2, 1]


@needs_cluster
@pytest.mark.slow
def test_a_lost_node_is_survived(slurm_env, solo, tmp_path):
  """Point 0 is started again by Slurm. Point 1 may not be (--no-requeue): --resume submits it."""
  sweep, _ = start(tmp_path / 'a', '0:1')
  other, _ = start(tmp_path / 'b', '1:2', '--sbatch=--no-requeue')
  slurm_env.wait_for(lambda: at_step_4(sweep, 0) and at_step_4(other, 0), 120)
  assert '(n1)' in log(sweep, 0) and '(n1)' in log(other, 0)
  slurm_env.kill_node('n1')
  slurm_env.wait_for(lambda: 'start 2' in log(sweep, 0) and not slurm.live(other), 90)
  assert '(n2)' in log(sweep, 0)
  # The worker of point 0 still lives on its node: the new one waits until it is gone.
  assert attempts(sweep, 0) == 1
  for each in (sweep, other):
    os.kill(record.read_status(each.run_dir(each.points[0]))['pid'], signal.SIGKILL)
  slurm_env.wait_for(lambda: states(other) == ['lost'], 10)
  assert cli.launch(f'--resume={other.path}').returncode == 0
  finish(slurm_env, tmp_path)
  assert_undisturbed(sweep, solo, 0)
  assert states(other) == ['done'] and tiny.rows(other.run_dir(other.points[0])) == solo(1)
  assert attempts(sweep, 0) == attempts(other, 0) == 2


@needs_cluster
@pytest.mark.slow
def test_a_run_of_two_processes_is_stopped_and_goes_on(slurm_env, solo, tmp_path):
  sweep, _ = start(tmp_path, '0:1', '--sbatch=--nodes=2', '--sbatch=--ntasks-per-node=1')
  slurm_env.wait_for(lambda: at_step_4(sweep, 0), 120)
  assert 'device     2 x' in log(sweep, 0)
  slurm_env.run('scancel', '--batch', '--signal=USR1', next(iter(slurm_env.queue())))
  slurm_env.wait_for(lambda: 'USR1 from Slurm' in log(sweep, 0), 30)
  finish(slurm_env, tmp_path)
  assert_undisturbed(sweep, solo)
  assert attempts(sweep, 0) == 2 and 'stopped by SIGUSR1 at step 6' in log(sweep, 0)
  rows = tiny.rows(sweep.run_dir(sweep.points[0]))
  assert [(row['step'], row.pop('kind')) for row in rows] == [(row['step'], row['kind']) for row in solo(0)]
  for row, alone in zip(rows, solo(0), strict=True):
    assert row == pytest.approx({name: alone[name] for name in row}, rel=1e-3, abs=1e-4)


@needs_cluster
def test_stop_reaches_what_runs_and_what_waits(slurm_env, solo, tmp_path):
  sweep, _ = start(tmp_path, '0:2', '--max_jobs=1')
  slurm_env.wait_for(lambda: at_step_4(sweep, 0), 120)
  assert sorted(slurm_env.queue().values()) == ['PENDING', 'RUNNING']
  assert cli.launch(f'--stop={sweep.path}').returncode == 0
  assert list(slurm_env.queue().values()) == ['RUNNING']
  time.sleep(1)  # workers look for files once a second
  finish(slurm_env, tmp_path)
  assert states(sweep) == ['stopped', 'waiting'] and f'exit code {REQUEUE}' in log(sweep, 0)
  assert cli.launch(f'--resume={sweep.path}').returncode == 0
  assert '%1' in (sweep.path / 'slurm' / 'array.sh').read_text(), 'options hold until others are given'
  slurm_env.wait_for(lambda: not slurm_env.queue(), 180)
  assert_undisturbed(sweep, solo, 0, 1)


# With a cluster, and a stand-in for Python.


@pytest.fixture
def stub(slurm_env, tmp_path, monkeypatch):
  """stub(text): a shell script that runs in place of Python."""

  def install(text):
    file = tmp_path / 'python'
    file.write_text(f'#!/bin/bash\n{text}\n')
    file.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(file))

  return install


@needs_cluster
def test_what_is_started_again(slurm_env, stub, tmp_path):
  stub("""
    [ "$SLURM_RESTART_COUNT" ] && exit 0
    case $SLURM_ARRAY_TASK_ID in
      0) trap 'sleep 1; echo saved; exit 75' USR1; sleep 60 & wait ;;
      1) exit 65 ;;  # diverged
      2) exec sleep 60 ;;  # dies of a warning, as Python does before it listens
      3) trap 'exit 75' USR1 TERM; sleep 60 & wait ;;  # saved, when Slurm is told to end it
    esac""")
  sweep, _ = start(tmp_path, '0:4')
  slurm_env.wait_for(lambda: list(slurm_env.queue().values()) == ['RUNNING'] * 3, 30)
  tasks = {task.partition('_')[2]: task for task in slurm_env.queue()}
  slurm_env.run('scancel', '--batch', '--signal=USR1', tasks['0'], tasks['2'])
  slurm_env.run('scancel', tasks['3'])
  slurm_env.wait_for(lambda: not slurm_env.queue(), 60)
  ends = [log(sweep, number).count('exit code') for number in range(4)]
  assert ends == [2, 1, 2, 1], logs(sweep)
  assert log(sweep, 0).index('saved') < log(sweep, 0).index('exit code'), 'the script waits'
  assert f'exit code {DIVERGED}' in log(sweep, 1) and f'exit code {REQUEUE}' in log(sweep, 3), logs(sweep)


@needs_cluster
def test_two_points_share_the_gpu_of_one_task(slurm_env, stub, tmp_path):
  stub(f"""
    run=${{3#*=}}; number=${{run##*=}}
    echo "<$CUDA_VISIBLE_DEVICES $XLA_CLIENT_MEM_FRACTION>"
    touch {tmp_path}/here-$number; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done
    [ $number = 1 ] && [ ! -e {tmp_path}/twice ] && touch {tmp_path}/twice && exit 75
    exit 0""")
  sweep, _ = start(tmp_path, '0:3', '--per_device=2', '--sbatch=--gres=gpu:1')
  slurm_env.wait_for(lambda: all((tmp_path / f'here-{n}').exists() for n in range(3)), 30)
  tasks = {number: task for number, (task, _) in slurm.live(sweep).items()}
  assert tasks[0] == tasks[1] != tasks[2], 'all at work, two of them in one task'
  (tmp_path / 'go').touch()
  slurm_env.wait_for(lambda: not slurm_env.queue(), 60)
  assert [line for line in log(sweep, 0).splitlines() if line.startswith('<')] in (['<0 0.3750>'], ['<1 0.3750>'])
  assert 'exit code 75' in log(sweep, 1) and log(sweep, 1).count('exit code') == 2 and 'start 2' in log(sweep, 1)
  assert log(sweep, 0).count('exit code') == 1, 'a point that has ended is not started again with the other'


@needs_cluster
def test_a_task_without_progress_is_not_started_again_without_end(slurm_env, stub, tmp_path):
  stub('exit 75')
  sweep, _ = start(tmp_path, '0:1')
  slurm_env.wait_for(lambda: not slurm_env.queue(), 90)
  assert log(sweep, 0).count('exit code 75') == 4
  status = sweep.status(sweep.points[0])
  assert status.state == 'failed' and 'left 4 times in a row without a step of progress' in status.message
  assert 'no point is left to start' in cli.launch(f'--resume={sweep.path}').stdout
  assert cli.launch(f'--resume={sweep.path}', '--retry_failed', '--sbatch=--hold').returncode == 0
  assert states(sweep) == ['waiting'] and len(slurm_env.queue()) == 1


@needs_cluster
@pytest.mark.parametrize(('options', 'gpus'), [
  (['--nodes=1', '--ntasks=2', '--gres=gpu:2'], ['0', '1']),
  (['--nodes=2', '--gres=gpu:2'], ['0,1', '0,1']),
  (['--nodes=2', '--ntasks=2'], ['', '']),
])  # fmt: skip
def test_the_processes_of_a_run_share_out_the_gpus(options, gpus, slurm_env, stub, tmp_path):
  stub('echo "<$JAX_LOCAL_DEVICE_IDS> $*"')
  sweep, _ = start(tmp_path, '0:1', *[f'--sbatch={option}' for option in options])
  slurm_env.wait_for(lambda: not slurm_env.queue(), 30)
  lines = [line for line in log(sweep, 0).splitlines() if line.startswith('<')]
  assert sorted(line[1:].partition('>')[0] for line in lines) == gpus, log(sweep, 0)
  assert sorted(line.rpartition('=')[2] for line in lines) == ['0', '1'], 'one process id each'
  assert len({line.partition('--coordinator=')[2].partition(' ')[0] for line in lines}) == 1


@needs_cluster
def test_a_large_sweep_takes_several_arrays(slurm_env, tmp_path):
  sweep, said = start(tmp_path, '0:12', '--sbatch=--hold', '--sbatch=--comment=two words')
  assert said.count('slurm      job') == 2
  tasks = {number: task for number, (task, state) in slurm.live(sweep).items() if state == 'PENDING'}
  assert sorted(tasks) == list(range(12))
  assert tasks[10].endswith('_0') and tasks[11].endswith('_1')
  about = slurm_env.run('scontrol', 'show', 'job', tasks[11])
  assert 'Comment=two words' in about
  done = cli.launch(f'--resume={sweep.path}')
  assert done.returncode == 0 and 'point(s) 0-11' in done.stdout and len(slurm_env.queue()) == 12
  slurm.cancel_waiting(sweep, [3])
  assert len(slurm_env.queue()) == 11
  assert cli.launch(f'--stop={sweep.path}').returncode == 0
  assert not slurm_env.queue()


@needs_cluster
def test_logs_are_named_after_points_and_a_stop_holds_before_the_start(slurm_env, stub, tmp_path):
  stub('echo at work')
  sweep, _ = start(tmp_path, '0:12', '--sbatch=--hold')
  sweep.request_stop([10])
  slurm_env.run('scontrol', 'release', *[slurm.live(sweep)[number][0] for number in (10, 11)])
  slurm_env.wait_for(lambda: len(slurm_env.queue()) == 10, 30)
  assert 'not started' in log(sweep, 10) and 'at work' not in log(sweep, 10)
  assert 'point 11' in log(sweep, 11) and 'at work' in log(sweep, 11)


@needs_cluster
def test_what_sbatch_refuses_is_told_in_its_words_and_leaves_nothing(slurm_env, tmp_path):
  words = [
    '--config=configs/gan.py',
    '--tiny',
    '--axis=run.seed=0:2',
    '--engine=slurm',
    f'--runs_dir={tmp_path / "runs"}',
  ]
  done = cli.launch(*words, '--sbatch=--partition=nowhere')
  cli.refused(done, 'invalid partition')
  assert not slurm_env.queue() and not cli.files(tmp_path / 'runs'), 'nothing that `ls` would find as the newest sweep'
  done = cli.launch(*words, '--sbatch=--partition=low', '--sbatch=--hold')
  assert done.returncode == 0 and len(slurm_env.queue()) == 2
  sweep = opened(tmp_path)
  slurm_env.run('scancel', '--user', os.getuid())
  slurm_env.wait_for(lambda: not slurm_env.queue(), 30)
  done = cli.launch(f'--resume={sweep.path}', '--sbatch=--partition=nowhere')
  cli.refused(done, 'invalid partition', 'The sweep stays', '--resume=')
  done = printed.run(printed.commands(done.stderr)[-1], tmp_path)
  assert done.returncode == 0 and len(slurm_env.queue()) == 2, 'options that were refused are not remembered'


# Without a cluster.


@pytest.fixture
def pretend(tmp_path, monkeypatch):
  """pretend(command, text): a shell script in place of a Slurm command."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')

  def install(command, text):
    (folder / command).write_text(f'#!/bin/bash\n{text}\n')
    (folder / command).chmod(0o755)

  install('squeue', 'exit 0')
  install('scontrol', 'echo "MaxArraySize            = 1001"')
  install('sbatch', f'echo "$*" >> {tmp_path}/asked; env | grep ^SLURM_ >> {tmp_path}/leaked; echo 7')
  return install


def test_a_dry_run_shows_the_script_and_leaves_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', '/nowhere')  # it needs no Slurm
  words = ['--config=configs/gan.py', '--tiny', '--axis=run.seed=0:5', '--engine=slurm', '--dry_run',
           f'--runs_dir={tmp_path / "runs"}']  # fmt: skip
  done = cli.launch(*words, '--per_device=2', '--max_jobs=2', '--sbatch=--time=60')
  assert done.returncode == 0, done.stderr
  for line in ('#SBATCH --array=0-2%2', '#SBATCH --time=60', '#!/bin/bash', 'shared-0.txt, a line a task:'):
    assert line in done.stdout.splitlines(), done.stdout
  assert done.stdout.splitlines()[-3:] == ['0 1', '2 3', '4'] and 'XLA_CLIENT_MEM_FRACTION=0.3750' in done.stdout
  assert not cli.files(tmp_path)
  cli.refused(cli.launch(*words, '--per_device=2', '--sbatch=--ntasks=2'), '--per_device=2', '--sbatch=--ntasks=2')
  cli.refused(cli.launch(*words, '--max_jobs=-1'), '--max_jobs=-1')


def test_what_follows_a_submission_runs_as_it_is_printed(pretend, tmp_path):
  sweep, said = start(tmp_path / 'a b', '0:2')
  pretend('scancel', 'exit 0')
  commands = [text for text in printed.commands(said) if 'launch.py' in text]
  assert [text.split('--')[1].partition('=')[0] for text in commands] == ['status', 'stop', 'resume']
  for text in commands:
    assert printed.run(text, tmp_path).returncode in (0, REQUEUE), text
  assert len((sweep.path / 'slurm' / 'jobs.jsonl').read_text().splitlines()) == 2


def test_the_script_is_sound_and_says_why(pretend, tmp_path):
  sweep, _ = start(tmp_path / 'a folder of 100%', '0:3', '--sbatch=--time=2', '--sbatch=-p high')
  script = sweep.path / 'slurm' / 'array.sh'
  subprocess.run(['bash', '-n', script], check=True)
  text = script.read_text()
  assert '{{' not in text
  assert max(map(len, text.split('#SBATCH')[-1].splitlines())) < 200
  for line in (
    '#SBATCH --array=0-2', '#SBATCH --requeue', '#SBATCH --open-mode=append', '#SBATCH --signal=B:USR1@30',
    '#SBATCH --time=2', '#SBATCH -p high', '--lease_wait=180', "trap 'pass_on HUP' HUP",
    f'#SBATCH --output="{str(sweep.path).replace("%", "%%")}/logs/%a.log"', f"sweep='{sweep.path}'",
  ):  # fmt: skip
    assert line in text, line
  table = [line.split('\t') for line in (sweep.path / 'slurm' / 'points.txt').read_text().splitlines()]
  assert table == [[str(point.number), point.name] for point in sweep.points]
  assert (sweep.path / 'logs').is_dir()


def test_a_sweep_beyond_the_largest_array_is_split(pretend, tmp_path, monkeypatch):
  monkeypatch.setenv('SLURM_NTASKS', '8')  # of the job that the user sits in
  sweep, said = start(tmp_path, '0:1201', '--max_jobs=4')
  assert [Path(line.split()[-1]).name for line in (tmp_path / 'asked').read_text().splitlines()] == [
    'array.sh',
    'array-1000.sh',
  ]
  assert 'SLURM_NTASKS' not in (tmp_path / 'leaked').read_text()
  assert [('--dependency=afterany:7' in line) for line in (tmp_path / 'asked').read_text().splitlines()] == [
    False,
    True,
  ]
  assert '#SBATCH --array=0-999%4' in (sweep.path / 'slurm' / 'array.sh').read_text(), 'a limit of both arrays together'
  second = (sweep.path / 'slurm' / 'array-1000.sh').read_text()
  assert '#SBATCH --array=0-200' in second and '/logs/1%3a.log' in second and '$((1000 + SLURM' in second


def test_an_array_that_is_refused_after_others_were_taken(pretend, tmp_path):
  pretend('scontrol', 'echo "MaxArraySize = 10"')
  pretend('sbatch', 'case $* in *-10.sh) echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1 ;; esac; echo 7')
  done = cli.launch('--config=configs/gan.py', '--tiny', '--axis=run.seed=0:12', '--engine=slurm',
                    f'--runs_dir={tmp_path / "runs"}')  # fmt: skip
  cli.refused(done, 'QOSMaxSubmitJobPerUserLimit', 'job 7', '--resume=')
  (line,) = (opened(tmp_path).path / 'slurm' / 'jobs.jsonl').read_text().splitlines()
  assert json.loads(line)['points'] == list(range(10))


def test_without_slurm_the_way_out_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  done = cli.launch('--config=configs/gan.py', '--tiny', '--axis=run.seed=0:2', '--engine=slurm',
                    f'--runs_dir={tmp_path / "runs"}')  # fmt: skip
  cli.refused(done, 'sbatch', 'not on this machine', '--engine=local')
  assert not cli.files(tmp_path)


@pytest.mark.parametrize(('option', 'says'), [
  ('--array=0-3', 'up to the sweep'), ('-a%4', '--max_jobs=4'), ('--output=x', 'logs/7.log'), ('-o x', 'logs/7.log'),
  ('--signal=USR1@60', 'B:USR1'), ('partition=high', 'no option'), ('--time=1\n#SBATCH --x', 'no option'),
  ('--wait', 'cannot be'),
])  # fmt: skip
def test_options_that_cannot_be(option, says):
  with pytest.raises(UserError, match=says):
    slurm.directives([option])


def test_options_that_can():
  given = ['--time=60', '-p high', '-N2', '--exclusive', '--comment=a "b" c', '--signal=B:TERM@30']
  lines = slurm.directives(given)
  assert lines == ['#SBATCH --time=60', '#SBATCH -p high', '#SBATCH -N2', '#SBATCH --exclusive',
                   r'#SBATCH --comment="a \"b\" c"', '#SBATCH --signal=B:TERM@30']  # fmt: skip


@pytest.mark.parametrize(('time_limit', 'seconds'), [
  ('1', 15), ('0:40', 10), ('2:00', 30), ('60', 90), ('1:00:00', 90), ('1-0', 90), ('0-0:02', 30), ('UNLIMITED', 90),
])  # fmt: skip
def test_the_warning_leaves_most_of_a_short_limit(time_limit, seconds):
  assert slurm._warning([f'--time={time_limit}']) == seconds


def test_ranges():
  assert slurm.ranges([5, 0, 1, 2, 7, 8]) == '0-2,5,7-8'
