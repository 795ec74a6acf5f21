"""The packed launcher: ordinary run directories from one program; stopped, killed, resumed, diverged, ended early."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from cli import launch, refused

from gen_ai.config.families import gan as gan_fields
from gen_ai.core.errors import DONE, FAILED, REQUEUE
from gen_ai.run import directory
from gen_ai.run.checkpoint import Checkpoints
from gen_ai.sweep.directory import Sweep
from gen_ai.sweep.launchers import lanes
from gen_ai.sweep.trials import resolve
from gen_ai.train import interruption

AXES = ('--axis=optim.lr=1e-4,1e-3', '--axis=run.seed=0:2')


def sweep_dir(runs_dir):
  (path,) = Path(runs_dir).glob('*/*')
  return path


def start(runs_dir, *words, name='gan'):
  """A tiny sweep in this process; (result, sweep)."""
  done = launch(f'--config=configs/{name}.py', '--tiny', '--config.run.trackers=', f'--runs_dir={runs_dir}', *words)
  return done, (Sweep.open(sweep_dir(runs_dir)) if list(Path(runs_dir).glob('*/*')) else None)


def states(sweep):
  return [sweep.status(trial).state for trial in sweep.trials]


def final_state(config, path):
  step, state = Checkpoints(Path(path) / 'checkpoints', read_only=True).restore(tiny.program(config).abstract_state())
  return step, jax.tree.map(np.asarray, state)


def assert_close(mine, theirs, rel=1e-3, absolute=1e-4):
  """Two records agree but for rounding."""
  assert [(r['step'], r['kind']) for r in mine] == [(r['step'], r['kind']) for r in theirs]
  for a, b in zip(mine, theirs, strict=True):
    figures = [{name: value for name, value in row.items() if name != 'kind'} for row in (a, b)]
    assert figures[0] == pytest.approx(figures[1], rel=rel, abs=absolute)


def assert_same(a, b):
  """Two sweeps of the same trials wrote the same rows."""
  for trial, other in zip(a.trials, b.trials, strict=True):
    assert tiny.rows(a.run_dir(trial)) == tiny.rows(b.run_dir(other))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An undisturbed sweep of four trials."""
  done, sweep = start(tmp_path_factory.mktemp('whole'), *AXES)
  assert done.returncode == DONE, done
  assert '4 trials as 8 lanes of one program' in done.stdout
  return sweep


def test_every_lane_writes_an_ordinary_run_directory_equal_to_the_run_alone(whole, tmp_path):
  assert states(whole) == ['done'] * 4
  for trial in whole.trials:
    path = whole.run_dir(trial)
    assert directory.read_run(path)['lanes'] == 4
    assert directory.read_run(path)['overrides'] == {'run.trackers': ''} | trial.overrides
    assert directory.read_summary(path)['flops_per_step'] > 0
    assert sorted(p.name for p in (path / 'samples').iterdir()) == ['step_00000004.png', 'step_00000008.png']
    assert not (path / 'lease.json').exists()
  for trial in whole.trials[1:3]:
    alone = tmp_path / trial.name
    tiny.run(trial.config, alone)
    assert_close(tiny.rows(whole.run_dir(trial)), tiny.rows(alone))
    (step, packed), (_, solo) = final_state(trial.config, whole.run_dir(trial)), final_state(trial.config, alone)
    assert step == trial.config.run.steps
    for a, b in zip(jax.tree.leaves(packed.params), jax.tree.leaves(solo.params), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    assert directory.read_summary(alone)['flops_per_step'] == pytest.approx(
      directory.read_summary(whole.run_dir(trial))['flops_per_step'], rel=1e-6
    )


def test_one_lane_goes_on_alone_from_its_checkpoint(tmp_path):
  _, sweep = start(tmp_path, *AXES, '--config.sweep.lanes=8')
  trial = sweep.trials[2]
  path = sweep.run_dir(trial)
  shutil.rmtree(path / 'checkpoints' / '8')  # as if it had been killed after its first save
  before = tiny.rows(path)
  status = json.loads((path / 'status.json').read_text()) | {'state': 'running'}
  (path / 'status.json').write_text(json.dumps(status))
  assert sweep.status(trial).state == 'lost'
  done = launch(f'--resume={path}')
  assert done.returncode == DONE, done
  assert 'resumed    at step 4' in done.stdout
  assert_close(before, tiny.rows(path))


def test_trials_of_other_structure_form_other_programs_and_lanes_split(tmp_path):
  words = ('--axis=loss.kind=hinge,least_squares', '--axis=run.seed=0:3', '--config.sweep.lanes=2')
  done, sweep = start(tmp_path, *words)
  assert done.returncode == DONE, done
  assert done.stdout.count('lanes of one program') == 4, done.stdout
  assert states(sweep) == ['done'] * 6
  packings = [json.loads(line)['lanes'] for line in (sweep.path / 'packing.jsonl').read_text().splitlines()]
  assert [sorted(set(lanes)) for lanes in packings] == [[0, 1], [2], [3, 4], [5]]


def test_a_dry_run_shows_programs_lanes_and_memory_and_touches_no_disk(tmp_path):
  done, sweep = start(tmp_path, *AXES, '--dry_run')
  assert done.returncode == DONE
  assert sweep is None
  assert 'program 0: 4 lanes, about' in done.stdout
  assert 'MiB a device' in done.stdout


def test_a_lane_that_diverges_is_marked_and_the_others_go_on(whole, tmp_path):
  done, sweep = start(tmp_path, '--axis=optim.lr=1e-4,1e30', '--axis=run.seed=0:2')
  assert done.returncode == FAILED
  assert states(sweep) == ['done', 'done', 'diverged', 'diverged']
  assert 'diverged at step' in done.stdout
  for a, b in zip(whole.trials[:2], sweep.trials[:2], strict=True):
    assert tiny.rows(whole.run_dir(a)) == tiny.rows(sweep.run_dir(b))
  path = sweep.run_dir(sweep.trials[2])
  assert directory.read_metrics(path)[-1]['kind'] == 'diverged'
  alone = launch(f'--resume={path}')
  assert alone.returncode == 65
  assert 'first bad tensor: params' in alone.stderr
  again = launch(f'--resume={sweep.path}')  # a diverged trial has ended: nothing is left to do
  assert 'no trial is left to start' in again.stdout


def tear(sweep, numbers):
  """Takes the newest checkpoint of some trials away, as a kill in the middle of a save leaves it, and their end."""
  for trial in sweep.trials:
    path = sweep.run_dir(trial)
    status = json.loads((path / 'status.json').read_text()) | {'state': 'running', 'step': 6}
    (path / 'status.json').write_text(json.dumps(status))
    if trial.number in numbers:
      shutil.rmtree(path / 'checkpoints' / '8')


def test_lanes_whose_newest_checkpoints_differ_go_on_from_the_one_they_share(whole, tmp_path):
  copy = tmp_path / 'gan' / whole.path.name
  shutil.copytree(whole.path, copy)
  sweep = Sweep.open(copy)
  tear(sweep, (1, 3))
  done = launch(f'--resume={copy}')
  assert done.returncode == DONE, done
  assert 'resumed    at step 4' in done.stdout
  assert_same(whole, Sweep.open(copy))
  for trial in sweep.trials:
    assert {row['attempt'] for row in directory.read_metrics(sweep.run_dir(trial))} == {1, 2}


def test_stopping_one_trial_and_then_all(tmp_path, monkeypatch):
  append = directory.RunDir.append_metrics

  def and_stop(run, row):
    append(run, row)
    if row['step'] == 4:
      Sweep.open(run.path.parent).request_stop([3])
    if row['step'] == 12:
      Sweep.open(run.path.parent).request_stop()

  monkeypatch.setattr(directory.RunDir, 'append_metrics', and_stop)
  monkeypatch.setattr(interruption, '_LOOK_SECONDS', 0.0)
  words = (
    '--config.run.steps=400',
    '--config.run.save_every=400',
    '--config.run.eval_every=0',
    '--config.run.sample_every=0',
  )
  done, sweep = start(tmp_path, *AXES, *words)
  assert done.returncode == REQUEUE, done
  assert states(sweep) == ['stopped'] * 4
  *others, third = [sweep.status(trial).step for trial in sweep.trials]
  assert 4 <= third < 12 <= min(others) == max(others) < 400, 'one left and the others went on, until all were asked'
  for trial in sweep.trials:
    step = sweep.status(trial).step
    assert (sweep.run_dir(trial) / 'checkpoints' / str(step)).is_dir(), 'saved where it stopped'
  assert f'go on with python launch.py --resume={sweep.path}' in done.stdout


def background(runs_dir, *words):
  argv = [
    sys.executable,
    'launch.py',
    f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}',
    '--tiny',
    '--config=configs/gan.py',
    f'--runs_dir={runs_dir}',
    '--config.run.trackers=',
    *words,
  ]
  log = Path(runs_dir) / 'log'
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open('a') as output:  # on the suite's devices, as sweeps in this process
    return subprocess.Popen(argv, cwd=tiny.ROOT, stdout=output, stderr=subprocess.STDOUT)


def wait_until(holds, process, seconds=120):
  deadline = time.monotonic() + seconds
  while not holds():
    assert process.poll() is None, 'the launcher ended'
    assert time.monotonic() < deadline
    time.sleep(0.02)


def wait_for_rows(runs_dir, count, process):
  """The sweep, once each of its trials has `count` rows."""

  def there():
    files = [*Path(runs_dir).glob('*/*/*/metrics.jsonl')]
    return len(files) == 4 and all(file.read_bytes().count(b'\n') >= count for file in files)

  wait_until(there, process)
  return Sweep.open(sweep_dir(runs_dir))


@pytest.mark.slow
def test_a_killed_and_resumed_sweep_equals_an_undisturbed_one_bit_for_bit(tmp_path):
  """For one family: test_lanes and test_resume hold every config to the rest."""
  words = (
    *AXES,
    '--config.run.steps=160',
    '--config.run.eval_every=80',
    '--config.run.sample_every=160',
    '--config.run.save_every=40',
  )
  process = background(tmp_path / 'broken', *words)
  sweep = wait_for_rows(tmp_path / 'broken', 30, process)  # between the first save and the second
  process.kill()
  process.wait()
  assert states(sweep) == ['lost'] * 4
  done = launch(f'--resume={sweep.path}')
  assert done.returncode == DONE, done
  done, undisturbed = start(tmp_path / 'whole', *words)
  assert done.returncode == DONE, done
  assert_same(undisturbed, sweep)
  for a, b in zip(undisturbed.trials, sweep.trials, strict=True):
    assert {row['attempt'] for row in directory.read_metrics(sweep.run_dir(b))} == {1, 2}
    one, two = final_state(a.config, undisturbed.run_dir(a)), final_state(b.config, sweep.run_dir(b))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_early_stopping_ends_the_hopeless_records_why_and_frees_their_lanes(tmp_path, monkeypatch):
  from gen_ai.train import trainer as trainer_lib

  monkeypatch.setattr(
    trainer_lib.Trainer, '_worth_repacking', lambda self, live: 8 * len(live) <= 4 * self.program.lanes
  )
  words = (
    '--axis=run.seed=0:16',
    '--config.run.steps=16',
    '--config.run.eval_every=4',
    '--config.run.save_every=8',
    '--config.run.sample_every=16',
    '--halving=logit_gap:max,first=4,eta=2',
  )
  done, sweep = start(tmp_path, *words)
  assert done.returncode == DONE, done
  assert states(sweep).count('done') == 4
  assert states(sweep).count('pruned') == 12
  assert 'repacked   8 of 16 lanes are left after step 4' in done.stdout
  rows = [json.loads(line) for line in (sweep.path / 'decisions.jsonl').read_text().splitlines()]
  assert len(rows) == 16 + 8
  first = {row['trial']: row['value'] for row in rows if row['rung'] == 4}
  kept = {row['trial'] for row in rows if row['rung'] == 4 and row['decision'] == 'continue'}
  assert kept == set(sorted(first, key=lambda p: -first[p])[:8])
  ended = next(p for p in sweep.trials if sweep.status(p).state == 'pruned' and sweep.status(p).step == 4)
  assert 'logit_gap:max' in sweep.status(ended).message
  survivor = next(p for p in sweep.trials if sweep.status(p).state == 'done')
  alone = tmp_path / 'alone'
  tiny.run(survivor.config, alone)
  assert_close(tiny.rows(sweep.run_dir(survivor)), tiny.rows(alone), 2e-3, 1e-3)


def test_what_cannot_be_packed_is_refused_or_run_by_the_local_launcher(tmp_path):
  done, _ = start(tmp_path, '--axis=run.seed=0:2', '--launcher=packed', '--config.mesh.fsdp=2')
  refused(done, '--launcher=packed', 'config.mesh splits one run over devices', '--launcher=local')


def test_a_swept_float_that_does_nothing_is_refused(tmp_path, monkeypatch):
  penalty = gan_fields.FIELDS['loss.penalty']
  undeclared = dataclasses.replace(penalty, used_with={})  # what no field declares is found by tracing
  monkeypatch.setitem(gan_fields.FIELDS, 'loss.penalty', undeclared)
  done, sweep = start(tmp_path, '--config.loss.constraint=none', '--axis=loss.penalty=1.0,2.0')
  refused(done, 'loss.penalty', 'nothing depends on config.loss.penalty', 'Nothing was started')
  assert sweep is None


def test_a_metric_that_no_evaluation_gives_is_refused(tmp_path):
  done, sweep = start(tmp_path, '--axis=run.seed=0:2', '--halving=logit_gab:max,first=4')
  refused(done, '--halving', "'logit_gab'", "Did you mean 'logit_gap'?", 'Nothing was started')
  assert sweep is None


def test_a_program_that_does_not_fit_the_memory_is_split_and_one_that_fails_stops_no_other(tmp_path, monkeypatch):
  from gen_ai.train import trainer as trainer_lib

  train, widths = trainer_lib.train, []

  def limited(trainer, restored=None):
    widths.append(len(trainer.lanes))
    if len(trainer.lanes) > 2:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    if trainer.lanes[0].number == 2:
      raise jax.errors.JaxRuntimeError('INTERNAL: something else')
    return train(trainer, restored)

  monkeypatch.setattr(trainer_lib, 'train', limited)
  done, sweep = start(tmp_path, *AXES)
  assert done.returncode == FAILED
  assert widths == [4, 2, 2]
  assert states(sweep) == ['done', 'done', 'failed', 'failed']
  assert 'INTERNAL: something else' in sweep.status(sweep.trials[3]).message
  assert f'--resume={sweep.path} --retry_failed' in done.stdout
  monkeypatch.setattr(trainer_lib, 'train', train)
  assert launch(f'--resume={sweep.path}').returncode == FAILED, 'failed trials are left alone unless told'
  assert launch(f'--resume={sweep.path}', '--retry_failed').returncode == DONE
  assert states(Sweep.open(sweep.path)) == ['done'] * 4


def test_a_lane_far_behind_does_not_drag_the_others_back(whole, tmp_path):
  copy = tmp_path / 'gan' / whole.path.name
  shutil.copytree(whole.path, copy)
  sweep = Sweep.open(copy)
  tear(sweep, (0,))
  shutil.rmtree(sweep.run_dir(sweep.trials[3]))  # a trial deleted by hand
  done = launch(f'--resume={copy}')
  assert done.returncode == DONE, done
  assert states(sweep) == ['done'] * 4
  assert_same(whole, sweep)
  assert [len(directory.read_attempts(sweep.run_dir(trial))) for trial in sweep.trials] == [4, 4, 4, 2]


def test_a_decision_to_stop_stands_after_a_kill(tmp_path):
  words = ('--axis=run.seed=0:4', '--halving=logit_gap:max,first=4,eta=2')
  done, sweep = start(tmp_path, *words)
  assert done.returncode == DONE
  ended = [trial for trial in sweep.trials if sweep.status(trial).state == 'pruned']
  assert len(ended) == 2
  path = sweep.run_dir(ended[0])
  status = json.loads((path / 'status.json').read_text()) | {'state': 'running'}  # killed before it was ended
  (path / 'status.json').write_text(json.dumps(status))
  rows = len(tiny.rows(path))
  assert launch(f'--resume={sweep.path}').returncode == DONE
  assert states(sweep).count('pruned') == 2
  assert len(tiny.rows(path)) == rows
  by_hand = launch(f'--resume={path}')
  assert by_hand.returncode == DONE
  assert sweep.status(ended[0]).state == 'done'


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (('--dry_run',), '--dry_run is for a sweep'),
    (('--launcher=local',), '--launcher is for a sweep'),
    (('--axis=run.seed=0:2', '--print_config'), '--print_config is for a run'),
    (('--axis=run.seed=0:2', '--per_device=2'), '--per_device is for --launcher=local'),
    (('--axis=run.seed=0:2', '--sbatch=--time=1'), '--sbatch is for --launcher=slurm'),
    (('--axis=run.seed=0:2', '--config.model.width=8'), "no field 'model.width': it is for config.model.network"),
    (('--axis=run.seed=0:2', '--coordinator=localhost:1'), 'launched by one process'),
    (('--axis=run.seed=0:2', '--config.run.trackers=tensorbord'), 'tensorbord'),
  ],
)
def test_flags_that_would_do_nothing_are_refused(words, says, tmp_path):
  done, sweep = start(tmp_path, *words)
  refused(done, says)
  assert sweep is None


def test_a_sweep_goes_on_as_it_was_started(whole):
  for word in ('--config.run.steps=16', '--halving=logit_gap:max,first=4', '--dry_run', '--config=configs/gan.py'):
    refused(launch(f'--resume={whole.path}', word), 'keeps what it was started with')


@pytest.mark.parametrize(('limits', 'count'), [((64, 64), 3), ((64, 136), 12), ((20, 20), 1)])
def test_lanes_are_no_more_than_files_may_be_open(limits, count, monkeypatch):
  now = list(limits)
  monkeypatch.setattr(lanes.resource, 'getrlimit', lambda which: tuple(now))
  monkeypatch.setattr(lanes.resource, 'setrlimit', lambda which, new: now.__setitem__(slice(None), new))
  monkeypatch.setattr(lanes, 'lane_bytes', lambda trial: 1)
  assert lanes.most_open() == count
  for own in (0, 13):
    trials = resolve(tiny.config('gan', sweep__lanes=own), [{'run.seed': seed} for seed in range(12)])
    parts = lanes.split(trials)
    assert max(map(len, parts)) <= count
    assert sum(map(len, parts)) == 12
