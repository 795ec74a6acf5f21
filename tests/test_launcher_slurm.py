"""The Slurm launcher, on a real cluster of two nodes on loopback; what needs none is tested without."""

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

from gen_ai.core.errors import DIVERGED, REQUEUE, UserError
from gen_ai.run import directory
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers import slurm
from gen_ai.sweep.launchers.base import Options
from gen_ai.sweep.trials import resolve

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


def start(folder, seeds, *words):
  """A sweep of a tiny GAN over `seeds`, given as '0:3'."""
  done = cli.launch(
    '--config=configs/gan.py',
    '--tiny',
    '--config.run.trackers=',
    f'--axis=run.seed={seeds}',
    '--launcher=slurm',
    f'--runs_dir={folder / "runs"}',
    *words,
  )
  assert done.returncode == 0, done.stderr
  return opened(folder), done.stdout


def submitted(folder, trials, **options):
  """A sweep of so many trials that is handed to Slurm without the command line, whose checks take seconds."""
  base = tiny.config('gan')
  made = resolve(base, [{'run.seed': seed} for seed in range(trials)])
  sweep = Sweep.create(str(folder / 'runs'), 'seed', base, made, {'launcher': 'slurm', 'halving': ''})
  slurm.Slurm().launch(sweep, sweep.trials, Options(**options))
  return sweep


def opened(folder):
  """The one sweep in `folder`."""
  (path,) = (folder / 'runs' / 'gan').iterdir()
  return Sweep.open(path)


def states(sweep):
  return [sweep.status(trial).state for trial in sweep.trials]


def log(sweep, number):
  file = sweep.path / 'logs' / f'{number}.log'
  return file.read_text() if file.exists() else ''


def logs(sweep):
  return '\n'.join(log(sweep, trial.number) for trial in sweep.trials)


def attempts(sweep, number):
  return len([row for row in directory.read_attempts(sweep.run_dir(sweep.trials[number])) if row['event'] == 'start'])


def at_step_4(sweep, *numbers):
  """Whether these trials have their first checkpoint, and wait."""
  return all((sweep.run_dir(sweep.trials[number]) / 'checkpoints' / '4').is_dir() for number in numbers)


# With a cluster.


@needs_cluster
@pytest.mark.slow
def test_an_array_over_two_nodes_runs_all_trials_and_a_warned_one_goes_on_where_it_was(slurm_env, tmp_path):
  """The one test with real workers: what the script does for them is tested without a cluster, below."""
  sweep, said = start(tmp_path, '0:2', '--sbatch=--gres=gpu:1', '--sbatch=--cpus-per-task=2')
  for text in ('job ', str(sweep.path / 'slurm' / 'array.sh'), '--status=', '--stop=', '--resume='):
    assert text in said
  (job,) = [json.loads(line) for line in (sweep.path / 'slurm' / 'jobs.jsonl').read_text().splitlines()]
  assert job['trials'] == [0, 1] and job['sbatch'] == ['--gres=gpu:1', '--cpus-per-task=2']
  slurm_env.wait_for(lambda: at_step_4(sweep, 0, 1), 240)
  tasks = {number: task for number, (task, _) in slurm.live(sweep).items()}
  slurm_env.run('scancel', '--batch', '--signal=USR1', tasks[0])
  slurm_env.wait_for(lambda: 'USR1 from Slurm' in log(sweep, 0), 60)
  (tmp_path / 'go').touch()
  slurm_env.wait_for(lambda: not slurm_env.queue(), 240)
  assert states(sweep) == ['done'] * 2, logs(sweep)
  assert [attempts(sweep, number) for number in range(2)] == [2, 1]
  assert f'exit code {REQUEUE}' in log(sweep, 0) and 'start 2' in log(sweep, 0)
  heads = [log(sweep, number).splitlines()[0] for number in range(2)]
  assert {head.partition('(')[2][:2] for head in heads} == {'n1', 'n2'}
  assert {head.rpartition('GPUs ')[2] for head in heads} == {"'0'"}, 'a GPU of each node'
  tiny.run(sweep.trials[0].config, tmp_path / 'alone')
  assert tiny.rows(sweep.run_dir(sweep.trials[0])) == tiny.rows(tmp_path / 'alone'), 'no row is lost, none is doubled'


# With a cluster, and a stand-in for Python.


@pytest.fixture
def stub(tmp_path, monkeypatch):
  """stub(text): a shell script that runs in place of Python."""

  def install(text):
    file = tmp_path / 'python'
    file.write_text(f'#!/bin/bash\n{text}\n')
    file.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(file))

  return install


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
  assert done.returncode == 0 and 'trial(s) 0-11' in done.stdout and len(slurm_env.queue()) == 12
  slurm.cancel_waiting(sweep, [3])
  assert len(slurm_env.queue()) == 11
  assert cli.launch(f'--stop={sweep.path}').returncode == 0
  assert not slurm_env.queue()


@needs_cluster
def test_logs_are_named_after_trials_and_a_stop_holds_before_the_start(slurm_env, stub, tmp_path):
  stub('echo at work')
  sweep, _ = start(tmp_path, '0:12', '--sbatch=--hold')
  sweep.request_stop([10])
  slurm_env.run('scontrol', 'release', *[slurm.live(sweep)[number][0] for number in (10, 11)])
  slurm_env.wait_for(lambda: len(slurm_env.queue()) == 10, 30)
  assert 'not started' in log(sweep, 10) and 'at work' not in log(sweep, 10)
  assert 'trial 11' in log(sweep, 11) and 'at work' in log(sweep, 11)


@needs_cluster
def test_what_sbatch_refuses_is_told_in_its_words_and_leaves_nothing(slurm_env, tmp_path):
  words = [
    '--config=configs/gan.py',
    '--tiny',
    '--axis=run.seed=0:2',
    '--launcher=slurm',
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
  install('scontrol', f'[ $1 = show ] && echo "MaxArraySize = 1001" || echo "$2" >> {tmp_path}/requeued')
  install('sbatch', f'echo "$*" >> {tmp_path}/asked; env | grep ^SLURM_ >> {tmp_path}/leaked; echo 7')
  return install


class Task:
  """A task of an array, run by bash alone; `worker` is a shell script in place of Python."""

  def __init__(self, tmp_path, pretend, stub):
    self.folder, self.pretend, self.stub = tmp_path, pretend, stub

  def sweep(self, trials, worker, **options):
    self.stub(worker)
    return submitted(self.folder, trials, **options)

  def run(self, sweep, index=0, signals=(), state='RUNNING None', script='array.sh', **variables):
    """Its exit code; `signals` come one after the other once the worker has touched the file `up`."""
    self.pretend('squeue', f'echo "{state}"')
    own = {
      'SLURM_ARRAY_JOB_ID': 7,
      'SLURM_JOB_ID': 70,
      'SLURM_ARRAY_TASK_ID': index,
      'SLURM_NTASKS': 1,
      'SLURM_NNODES': 1,
      'SLURM_JOB_NUM_NODES': 1,
      **variables,
    }
    environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
    process = subprocess.Popen(['bash', sweep.path / 'slurm' / script], env=environment, stdout=subprocess.DEVNULL)
    for number in signals:
      deadline = time.monotonic() + 30
      while not (self.folder / 'up').exists():
        assert time.monotonic() < deadline and process.poll() is None, logs(sweep)
        time.sleep(0.01)
      (self.folder / 'up').unlink()
      process.send_signal(number)
    return process.wait(timeout=60)

  def requeued(self):
    file = self.folder / 'requeued'
    return file.read_text().split() if file.exists() else []


@pytest.fixture
def task(tmp_path, pretend, stub):
  return Task(tmp_path, pretend, stub)


SAVES = """
trap 'sleep 0.3; echo saved; exit 75' USR1
trap 'echo more; touch {up}' USR2
touch {up}
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP])
def test_a_warning_reaches_the_worker_and_the_script_waits_until_it_has_saved(task, tmp_path, number):
  sweep = task.sweep(1, SAVES.format(up=tmp_path / 'up'))
  assert task.run(sweep, signals=[number]) == REQUEUE
  assert f'{number.name[3:]} from Slurm: saving' in log(sweep, 0)
  assert log(sweep, 0).index('saved') < log(sweep, 0).index(f'exit code {REQUEUE}')
  assert task.requeued() == ['7_0']


@pytest.mark.parametrize(
  ('state', 'ours'),
  [
    ('RUNNING None', True),
    ('COMPLETING TimeLimit', True),
    ('COMPLETING None', False),
    ('PREEMPTED None', False),
    ('', False),  # Slurm starts it again, or it was cancelled
  ],
)
def test_the_script_asks_for_a_new_start_only_where_slurm_makes_none(task, state, ours):
  sweep = task.sweep(1, 'exit 75')
  assert task.run(sweep, state=state) == REQUEUE
  assert task.requeued() == (['7_0'] if ours else [])


@pytest.mark.parametrize('code', [0, 1, DIVERGED, 128 + signal.SIGKILL, 128 + signal.SIGUSR1])
def test_a_worker_that_ended_unwarned_is_not_started_again(task, code):
  sweep = task.sweep(1, f'exit {code}')
  assert task.run(sweep) == code
  assert f'exit code {code}' in log(sweep, 0) and not task.requeued()


def test_a_worker_that_dies_of_a_warning_before_it_listens_is_started_again(task, tmp_path):
  sweep = task.sweep(1, f'touch {tmp_path}/up; exec sleep 60')
  assert task.run(sweep, signals=[signal.SIGUSR1]) == REQUEUE
  assert task.requeued() == ['7_0']


def test_a_worker_is_started_again_while_it_gets_on_and_three_times_more(task, tmp_path):
  sweep = task.sweep(
    1,
    """
    mkdir -p "${3#*=}"; step=$(cat "${3#*=}/steps" 2>/dev/null || echo 0); [ "$step" = 2 ] || step=$((step + 1))
    echo $step > "${3#*=}/steps"; printf '{\\n  "step": %s,\\n  "x": 0\\n}\\n' $step > "${3#*=}/status.json"
    exit 75""",
  )
  codes = [task.run(sweep, SLURM_RESTART_COUNT=count) for count in range(6)]
  assert codes == [REQUEUE] * 5 + [1], logs(sweep)
  assert len(task.requeued()) == 5 and 'start 6' in log(sweep, 0)
  failure = json.loads((sweep.path / 'failures' / '0.json').read_text())
  assert failure['state'] == 'failed'
  assert 'left 4 times in a row without a step of progress' in failure['message']


def test_a_failure_that_the_script_recorded_is_what_the_sweep_shows(task, pretend):
  sweep = task.sweep(1, 'exit 75')
  assert [task.run(sweep) for _ in range(4)] == [REQUEUE] * 3 + [1]
  assert states(sweep) == ['failed']
  pretend('squeue', 'exit 0')
  assert 'no trial is left to start' in cli.launch(f'--resume={sweep.path}').stdout
  assert cli.launch(f'--resume={sweep.path}', '--retry_failed').returncode == 0
  assert states(sweep) == ['waiting']


def test_a_trial_that_is_asked_to_stop_is_not_started_and_not_started_again(task, tmp_path):
  sweep = task.sweep(2, f'echo at work; touch $(echo {tmp_path}/runs/gan/*)/stop/1; exit 75')
  sweep.request_stop([0])
  assert task.run(sweep) == REQUEUE
  assert 'not started: a stop was asked' in log(sweep, 0) and 'at work' not in log(sweep, 0)
  assert task.run(sweep, index=1) == REQUEUE
  assert 'at work' in log(sweep, 1) and not task.requeued()


def test_two_trials_share_the_gpu_of_one_task_and_one_that_has_ended_is_not_started_with_the_other(task, tmp_path):
  sweep = task.sweep(
    2,
    f"""
    echo "<$CUDA_VISIBLE_DEVICES $XLA_CLIENT_MEM_FRACTION $NPROC>"; number=${{3##*=}}
    touch {tmp_path}/here-$number; while [ ! -e {tmp_path}/here-$((1 - number)) ]; do sleep 0.02; done
    [ $number = 1 ] && [ ! -e {tmp_path}/twice ] && touch {tmp_path}/twice && exit 75
    exit 0""",
    per_device=2,
  )
  gpu = {'script': 'shared-0.sh', 'CUDA_VISIBLE_DEVICES': '1'}
  assert [task.run(sweep, **gpu), task.run(sweep, SLURM_RESTART_COUNT=1, **gpu)] == [REQUEUE, 0], logs(sweep)
  assert log(sweep, 0).count('exit code') == 1 and log(sweep, 1).count('exit code') == 2
  assert '<1 0.3750' in log(sweep, 0) and '<1 0.3750' in log(sweep, 1)
  assert task.requeued() == ['7_0']
  (tmp_path / 'alone').mkdir()
  sweep = Task(tmp_path / 'alone', task.pretend, task.stub).sweep(2, 'echo "<$NPROC>"; exit 0', per_device=2)
  assert task.run(sweep, script='shared-0.sh', CUDA_VISIBLE_DEVICES='') == 0
  assert f'<{max(1, len(os.sched_getaffinity(0)) // 2)}>' in log(sweep, 1), 'of the cores of the task'


SRUN = r"""
while [[ $1 == --* ]]; do shift; done
for ((each = 0; each < SLURM_NTASKS; each++)); do
  SLURM_PROCID=$each SLURM_LOCALID=$((each % (SLURM_NTASKS / SLURM_NNODES))) "$@" || exit
done
"""


@pytest.mark.parametrize(
  ('nodes', 'gpus', 'local'),
  [
    (1, '0,1', ['0', '1']),
    (2, '0,1', ['0,1', '0,1']),
    (1, '', ['', '']),
    (1, '1', ['0', '0']),  # the last: one each
  ],
)
def test_the_processes_of_a_run_share_out_the_gpus_of_a_node(task, pretend, nodes, gpus, local):
  pretend('srun', SRUN)
  sweep = task.sweep(1, 'echo "<$JAX_LOCAL_DEVICE_IDS> $*"')
  more = {'SLURM_NTASKS': 2, 'SLURM_NNODES': nodes, 'SLURM_JOB_NUM_NODES': nodes, 'CUDA_VISIBLE_DEVICES': gpus}
  assert task.run(sweep, **more, SLURM_GPUS_ON_NODE=2 if gpus != '1' else 2) == 0, logs(sweep)
  lines = [line for line in log(sweep, 0).splitlines() if line.startswith('<')]
  assert [line[1:].partition('>')[0] for line in lines] == local, log(sweep, 0)
  assert [line.rpartition('=')[2] for line in lines] == ['0', '1'], 'one process id each'
  assert all('--num_processes=2' in line for line in lines)
  assert len({line.partition('--coordinator=')[2].partition(' ')[0] for line in lines}) == 1


def test_options_hold_until_others_are_given(pretend, tmp_path):
  sweep, _ = start(tmp_path, '0:2', '--max_jobs=1', '--sbatch=--time=60')
  script = sweep.path / 'slurm' / 'array.sh'
  script.unlink()
  assert cli.launch(f'--resume={sweep.path}').returncode == 0
  assert '#SBATCH --array=0-1%1' in script.read_text() and '#SBATCH --time=60' in script.read_text()
  assert cli.launch(f'--resume={sweep.path}', '--max_jobs=2').returncode == 0
  assert '#SBATCH --array=0-1%2' in script.read_text()


def test_a_dry_run_shows_the_script_and_leaves_nothing(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', '/nowhere')  # it needs no Slurm
  words = [
    '--config=configs/gan.py',
    '--tiny',
    '--axis=run.seed=0:5',
    '--launcher=slurm',
    '--dry_run',
    f'--runs_dir={tmp_path / "runs"}',
  ]
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
    '#SBATCH --array=0-2',
    '#SBATCH --requeue',
    '#SBATCH --open-mode=append',
    '#SBATCH --signal=B:USR1@30',
    '#SBATCH --time=2',
    '#SBATCH -p high',
    '--lease_wait=180',
    "trap 'pass_on HUP' HUP",
    f'#SBATCH --output="{str(sweep.path).replace("%", "%%")}/logs/%a.log"',
    f"sweep='{sweep.path}'",
  ):
    assert line in text, line
  table = [line.split('\t') for line in (sweep.path / 'slurm' / 'trials.txt').read_text().splitlines()]
  assert table == [[str(trial.number), trial.name] for trial in sweep.trials]
  assert (sweep.path / 'logs').is_dir()


def test_a_sweep_beyond_the_largest_array_is_split(pretend, tmp_path, monkeypatch):
  pretend('scontrol', 'echo "MaxArraySize            = 101"')
  monkeypatch.setenv('SLURM_NTASKS', '8')  # of the job that the user sits in
  sweep = submitted(tmp_path, 121, max_jobs=4)
  asked = (tmp_path / 'asked').read_text().splitlines()
  assert [Path(line.split()[-1]).name for line in asked] == ['array.sh', 'array-100.sh']
  assert 'SLURM_NTASKS' not in (tmp_path / 'leaked').read_text()
  assert [('--dependency=afterany:7' in line) for line in asked] == [False, True], 'a limit of both arrays together'
  assert '#SBATCH --array=0-99%4' in (sweep.path / 'slurm' / 'array.sh').read_text()
  second = (sweep.path / 'slurm' / 'array-100.sh').read_text()
  assert '#SBATCH --array=0-20' in second and '/logs/1%2a.log' in second and '$((100 + SLURM' in second


def test_an_array_that_is_refused_after_others_were_taken(pretend, tmp_path):
  pretend('scontrol', 'echo "MaxArraySize = 10"')
  pretend('sbatch', 'case $* in *-10.sh) echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1 ;; esac; echo 7')
  done = cli.launch(
    '--config=configs/gan.py', '--tiny', '--axis=run.seed=0:12', '--launcher=slurm', f'--runs_dir={tmp_path / "runs"}'
  )
  cli.refused(done, 'QOSMaxSubmitJobPerUserLimit', 'job 7', '--resume=')
  (line,) = (opened(tmp_path).path / 'slurm' / 'jobs.jsonl').read_text().splitlines()
  assert json.loads(line)['trials'] == list(range(10))


def test_without_slurm_the_way_out_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  done = cli.launch(
    '--config=configs/gan.py', '--tiny', '--axis=run.seed=0:2', '--launcher=slurm', f'--runs_dir={tmp_path / "runs"}'
  )
  cli.refused(done, 'sbatch', 'not on this machine', '--launcher=local')
  assert not cli.files(tmp_path)


@pytest.mark.parametrize(
  ('option', 'says'),
  [
    ('--array=0-3', 'up to the sweep'),
    ('-a%4', '--max_jobs=4'),
    ('--output=x', 'logs/7.log'),
    ('-o x', 'logs/7.log'),
    ('--signal=USR1@60', 'B:USR1'),
    ('partition=high', 'no option'),
    ('--time=1\n#SBATCH --x', 'no option'),
    ('--wait', 'cannot be'),
  ],
)
def test_options_that_cannot_be(option, says):
  with pytest.raises(UserError, match=says):
    slurm.directives([option])


def test_options_that_can():
  given = ['--time=60', '-p high', '-N2', '--exclusive', '--comment=a "b" c', '--signal=B:TERM@30']
  lines = slurm.directives(given)
  assert lines == [
    '#SBATCH --time=60',
    '#SBATCH -p high',
    '#SBATCH -N2',
    '#SBATCH --exclusive',
    r'#SBATCH --comment="a \"b\" c"',
    '#SBATCH --signal=B:TERM@30',
  ]


@pytest.mark.parametrize(
  ('time_limit', 'seconds'),
  [
    ('1', 15),
    ('0:40', 10),
    ('2:00', 30),
    ('60', 90),
    ('1:00:00', 90),
    ('1-0', 90),
    ('0-0:02', 30),
    ('UNLIMITED', 90),
  ],
)
def test_the_warning_leaves_most_of_a_short_limit(time_limit, seconds):
  assert slurm._warning([f'--time={time_limit}']) == seconds


def test_ranges():
  assert slurm.ranges([5, 0, 1, 2, 7, 8]) == '0-2,5,7-8'
