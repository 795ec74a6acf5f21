"""A resumed run is a continuation: N + restore + N equals 2N bit for bit, in state and in metrics.jsonl."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import cli
import jax
import numpy as np
import pytest
import tiny

from gen_ai import compare
from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, REQUEUE, UserError
from gen_ai.run import directory, provenance
from gen_ai.run.checkpoint import Checkpoints
from gen_ai.sweep import trials as trials_lib
from gen_ai.sweep.directory import Sweep
from gen_ai.train import resume
from gen_ai.train.progress import Display


def final_state(config, path):
  step, state = Checkpoints(path / 'checkpoints', read_only=True).restore(tiny.program(config).abstract_state())
  assert step == config.run.steps
  return jax.tree.map(np.asarray, state)


def assert_same_run(config, a, b):
  assert tiny.rows(a) == tiny.rows(b)
  jax.tree.map(np.testing.assert_array_equal, final_state(config, a), final_state(config, b))
  for picture in (a / 'samples').iterdir():
    assert picture.read_bytes() == (b / 'samples' / picture.name).read_bytes(), picture.name


# In a process of its own, with this one's devices and flags, so that equal means bit for bit. It kills itself once its
# record has so many rows, wherever it is by then.
TINY_RUN = """
import os, pathlib, signal, sys, threading, time
sys.path.insert(0, 'tests')
import tiny
name, path, rows = sys.argv[1:]

def kill():
  record = pathlib.Path(path, 'metrics.jsonl')
  while not record.exists() or record.read_bytes().count(10) < int(rows):
    time.sleep(0.001)
  os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
tiny.run(tiny.config(name), path)
"""


def test_every_family_has_a_config_that_stands_for_it():
  # The one that is held to every equality, and that `.ci/run` traces on another Python.
  assert set(tiny.CONFIGS) >= tiny.FAMILIES <= set(tiny.STRUCTURES)


@tiny.by_turns('resumed')
def test_runs_that_are_stopped_or_killed_and_resumed_equal_an_undisturbed_one(name, tmp_path):
  config = tiny.config(name)
  whole, halved, killed = (tmp_path / name for name in ('whole', 'halved', 'killed'))
  assert tiny.run(config, whole)[0] == DONE
  assert len(directory.read_metrics(whole)) == config.run.steps // config.run.log_every + 2
  code, trainer = tiny.run(config, halved, stop=tiny.StopAt(3))
  assert (code, trainer.step) == (REQUEUE, 3 * config.run.log_every)
  assert directory.read_status(halved)['state'] == 'stopped'
  speeds = [row['examples_per_second'] for row in directory.read_metrics(halved) if row['kind'] == 'train']
  assert max(speeds) < 1e7, 'the last row before a stop is timed like the others'
  broken = [halved]
  if name == 'lm':  # a process of its own, once: what a kill leaves behind knows no config
    broken.append(killed)
    kill(name, killed)
  for path in broken:
    assert tiny.run(config, path)[0] == DONE
    assert_same_run(config, whole, path)
    assert directory.read_status(path)['state'] == 'done'
    assert len(directory.read_attempts(path)) >= 2
    assert len(directory.read_metrics(path)) == config.run.steps // config.run.log_every + 2


def kill(name, path):
  """Leaves the tiny run of a config in `path` as a process does that is killed when it has a few rows."""
  cache = {
    'JAX_COMPILATION_CACHE_DIR': os.environ['GEN_AI_TEST_XLA'],
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
  }
  rows = random.Random(name).randint(2, 4)
  process = subprocess.run(
    [sys.executable, '-c', TINY_RUN, name, str(path), str(rows)],
    cwd=tiny.ROOT,
    env={**os.environ, **cache},
    stderr=subprocess.PIPE,
    text=True,
    timeout=300,
  )
  assert process.returncode == -signal.SIGKILL, process.stderr
  assert directory.read_status(path)['state'] == 'running'


def start(path, name, *overrides):
  words = [
    sys.executable,
    'launch.py',
    f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}',
    f'--config=configs/{name}.py',
    '--tiny',
    f'--run_dir={path}',
    '--config.run.steps=400',
    '--config.run.eval_every=100',
    '--config.run.sample_every=200',
    '--config.run.save_every=20',
    '--config.run.trackers=',
    *overrides,
  ]
  with log(path).open('a') as output:
    variables = {**os.environ, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS']}
    return subprocess.Popen(words, cwd=tiny.ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)


def log(path):
  return path.with_suffix('.log')


def wait_for_rows(path, count, process):
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline:
    if (path / 'metrics.jsonl').exists() and len((path / 'metrics.jsonl').read_text().splitlines()) >= count:
      return
    assert process.poll() is None, log(path).read_text() if log(path).exists() else 'it ended before'
    time.sleep(0.01)
  raise AssertionError(f'no {count} rows after two minutes')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['gan'])  # one: a process of every family is killed above
def test_sigterm_and_sigkill_at_random_moments_lose_nothing(name, tmp_path):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  process = start(whole, name)
  assert process.wait(timeout=300) == DONE, log(whole).read_text()
  moments = random.Random(name)  # random, and the same in every run of the test
  for number, sign in enumerate((signal.SIGTERM, signal.SIGKILL)):
    process = start(broken, name)
    rows = len((broken / 'metrics.jsonl').read_text().splitlines()) if (broken / 'metrics.jsonl').exists() else 0
    wait_for_rows(broken, rows + moments.randint(5, 80), process)
    process.send_signal(sign)
    code = process.wait(timeout=120)
    assert code == (REQUEUE if sign == signal.SIGTERM else -signal.SIGKILL), (number, log(broken).read_text())
  process = start(broken, name)
  assert process.wait(timeout=300) == DONE, log(broken).read_text()
  assert len(directory.read_attempts(broken)) >= 4
  config_overrides = {'run__steps': 400, 'run__eval_every': 100, 'run__sample_every': 200, 'run__save_every': 20}
  assert_same_run(tiny.config(name, **config_overrides), whole, broken)


def test_a_checkpoint_goes_on_on_another_number_of_devices(tmp_path):
  config = tiny.config('lm', mesh__fsdp=2, mesh__min_shard=16)
  tiny.run(config, tmp_path / 'run', devices=8, stop=tiny.StopAt(2))
  code, trainer = tiny.run(tiny.config('lm', mesh__fsdp=1), tmp_path / 'run', devices=1)
  assert code == DONE
  tiny.run(tiny.config('lm'), tmp_path / 'alone')
  here, alone = (directory.read_metrics(tmp_path / d)[-1] for d in ('run', 'alone'))
  assert here['loss_nats'] == pytest.approx(alone['loss_nats'], rel=1e-3)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, caplog):
  config = tiny.config('vae')
  tiny.run(config, tmp_path / 'run')
  newest = tmp_path / 'run' / 'checkpoints' / str(config.run.steps)
  victim = max((p for p in newest.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(victim.read_bytes())
  data[len(data) // 2] ^= 0xFF
  victim.write_bytes(data)
  program = tiny.program(config)
  step, _ = Checkpoints(tmp_path / 'run' / 'checkpoints').restore(program.abstract_state())
  assert step == config.run.steps // 2
  assert str(newest) in caplog.text


def of_text(folder, **overrides):
  """The config of a tiny language model on a text of its own in `folder`."""
  folder.mkdir(exist_ok=True)
  (folder / 'a.txt').write_text('how to say a thing twice\n' * 400)
  name = f'text:{folder}/*.txt'
  return tiny.config(
    'lm', data__name=name, data__split='auto', optim__schedule='constant', run__save_every=2, **overrides
  )


@pytest.fixture(scope='module')
def twice(tmp_path_factory):
  """(folder, of it the runs `short`, of 4 steps, and `long`, of 8): shared, not to be changed."""
  folder = tmp_path_factory.mktemp('resume')
  for name, steps in (('short', 4), ('long', 8)):
    assert tiny.run(of_text(folder / 'text', run__steps=steps), folder / name, devices=8)[0] == DONE
    about = {**directory.read_run(folder / name), 'config_file': {'path': 'configs/lm.py', 'argument': ''}}
    (folder / name / 'run.json').write_text(json.dumps(about))
  return folder


@pytest.fixture
def short(twice, tmp_path):
  """A copy of the run of 4 steps, whose data lies elsewhere now."""
  shutil.copytree(twice / 'text', tmp_path / 'moved')
  return shutil.copytree(twice / 'short', tmp_path / 'short')


def test_more_steps_equal_those_of_a_longer_run_and_data_that_moved_is_named(short, twice, tmp_path):
  place = f'text:{tmp_path / "moved"}/*.txt'
  done = cli.launch(f'--resume={short}', '--config.run.steps=8', f'--config.data.name={place}')
  assert done.returncode == DONE, done.stderr
  assert 'changed    config.run.steps: 4 before, 8 from now on\n' in done.stdout
  long, config = twice / 'long', config_lib.from_json(directory.read_config(short))
  assert tiny.rows(short) == tiny.rows(long)
  states = [
    Checkpoints(path / 'checkpoints', read_only=True).restore(tiny.program(config).abstract_state())
    for path in (short, long)
  ]
  assert [step for step, _ in states] == [8, 8]
  jax.tree.map(np.testing.assert_array_equal, states[0][1], states[1][1])
  # The record: one more line says what changed; all the rest is that of the longer run.
  [change] = [row for row in directory.read_attempts(short) if row['event'] == 'change']
  old = f'text:{twice / "text"}/*.txt'
  assert change['changed'] == {'run.steps': [4, 8], 'data.name': [old, place]}
  assert (config.run.steps, config.data.name) == (8, place)
  about = directory.read_run(short)
  assert about['overrides'] == {'run.steps': 8, 'data.name': place}
  assert (about['data']['name'], about['data']['location']) == (place, f'{tmp_path / "moved"}/a.txt')
  assert about['config_hash'] == provenance.config_hash(directory.read_config(short))
  assert about['group_hash'] == provenance.group_hash(directory.read_config(short))
  frame = compare.load(short, long).runs
  assert list(frame['steps']) == list(frame['step']) == [8, 8] and list(frame['state']) == ['done', 'done']
  # A third resume finds it complete, by the config that is recorded now.
  assert 'is complete: its 8 steps are done' in cli.launch(f'--resume={short}').stdout
  assert len([row for row in directory.read_attempts(short) if row['event'] == 'change']) == 1


def test_a_run_alone_says_what_may_change_and_what_may_not(short, tmp_path):
  kept = ('lease.json', '.lease.lock')
  before, text = [path for path in cli.files(short) if path.name not in kept], tmp_path / 'other'
  text.mkdir()
  (text / 'a.txt').write_text('another thing\n' * 400)
  cases = [
    (['--config.optim.lr=1'], ['config.optim.lr is fixed', 'config.run.steps', 'config.data.name']),
    (['--config.run.steps=2'], ['config.run.steps=2', 'has done 4 steps already']),
    (['--config.run.steps=7'], ['not a multiple of config.run.log_every=2']),
    ([f'--config.data.name=text:{text}/*.txt', '--config.run.steps=8'], ['was trained on other data']),
    (['--config.data.name=text:/no/such/*.txt', '--config.run.steps=8'], ['/no/such']),
  ]
  for words, says in cases:
    cli.refused(cli.launch(f'--resume={short}', *words), *says)
  assert [path for path in cli.files(short) if path.name not in kept] == before
  assert directory.read_config(short)['run']['steps'] == 4
  # A decay that was shaped for the end of the run.
  tree = directory.read_config(short)
  for decay, refused in ((0, True), (4, False)):
    tree['optim'] |= {'schedule': 'cosine', 'decay_steps': decay}
    config = config_lib.from_json(tree)
    if refused:
      with pytest.raises(UserError, match=r"steps=8: the learning rate .* at step 4 .*'cosine'.* Start a new run"):
        resume.changed(str(short), config, {'run.steps': 8})
    else:
      assert resume.changed(str(short), config, {'run.steps': 8}).run.steps == 8


def test_data_that_moved_is_named_to_evaluate(short, tmp_path):
  place = f'--config.data.name=text:{tmp_path / "moved"}/*.txt'
  assert cli.command('gen_ai.evaluate', short, place).returncode == 0
  (tmp_path / 'moved' / 'a.txt').write_text('how to say another thing\n' * 400)
  cli.refused(cli.command('gen_ai.evaluate', short, place), 'was trained on other data')
  (tmp_path / 'moved' / 'a.txt').unlink()
  says = f'If the data of {short} moved, say where it is now, with --config.data.name=NAME'
  cli.refused(cli.command('gen_ai.evaluate', short, place), says)
  cli.refused(cli.launch(f'--resume={short}', '--config.run.steps=8', place), says)


def test_data_of_a_sweep_that_moved_is_named_once_for_all_points(short, tmp_path):
  base = config_lib.from_json(directory.read_config(short))
  trials = trials_lib.resolve(base, [{'run.seed': 0}, {'run.seed': 1}])
  sweep = Sweep.create(str(tmp_path / 'runs'), 'seed', base, trials, {'launcher': 'local', 'halving': ''})
  run = short.rename(sweep.run_dir(trials[0]))
  place, before = f'text:{tmp_path / "moved"}/*.txt', (sweep.path / 'sweep.json').read_text()
  resumed = f'--resume={sweep.path}', '--launcher=print'
  (tmp_path / 'b.txt').write_text('another thing\n' * 400)
  for word, says in (
    ('--config.optim.lr=1', 'keeps what it was started with: leave --config.optim.lr out'),
    (f'--config.data.name=text:{tmp_path}/b.txt', 'was trained on other data'),
    ('--config.data.name=text:/no/such', f'If the data of {run} moved'),
  ):
    cli.refused(cli.launch(*resumed, word), says)
  cli.refused(cli.launch(f'--resume={run}', f'--config.data.name={place}'), 'is a trial of the sweep', 'moves them')
  cli.refused(cli.launch(f'--resume={run}', '--config.run.steps=8'), 'is a trial of the sweep', 'copy the directory')
  assert (sweep.path / 'sweep.json').read_text() == before
  done = cli.launch(*resumed, f'--config.data.name={place}')
  assert done.returncode == DONE, done.stderr
  again = Sweep.open(sweep.path)
  assert {trial.config.data.name for trial in again.trials} == {place}
  assert directory.read_config(run)['data']['name'] == directory.read_run(run)['data']['name'] == place
  assert again.about['changed'] == [{'data.name': [base.data.name, place]}]


def test_checkpoints_that_are_gone_are_told_on_the_screen_and_in_the_record(short, twice, monkeypatch):
  said = []
  monkeypatch.setattr(Display, 'say', lambda self, text: said.append(text))
  for name, lose, step, says in (
    ('all', shutil.rmtree, 0, 'was gone'),
    ('empty', lambda folder: [shutil.rmtree(path) for path in folder.iterdir()], 0, 'has no checkpoint'),
    ('last', lambda folder: shutil.rmtree(folder / '4'), 2, 'has no checkpoint after step 2'),
  ):
    path = shutil.copytree(short, short.parent / name)
    lose(path / 'checkpoints')
    tiny.run(of_text(twice / 'text', run__steps=4), path, devices=8)
    found = f'{path}/checkpoints {says}, though the run had come to step 4: it goes on from step {step}'
    assert f'found      {found}' in said
    starts = [row for row in directory.read_attempts(path) if row['event'] == 'start']
    assert [row.get('found') for row in starts] == [None, found]
    assert tiny.rows(path) == tiny.rows(twice / 'short')
