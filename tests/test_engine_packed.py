"""The packed engine: ordinary run directories from one program; stopped, killed, resumed, diverged, ended early."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from cli import launch, refused

from gen_ai import gan_fields, record
from gen_ai.checkpoint import Checkpoints
from gen_ai.engines import packed
from gen_ai.errors import DONE, FAILED, REQUEUE
from gen_ai.sweep import Sweep, resolve

AXES = ('--axis=optim.lr=1e-4,1e-3', '--axis=run.seed=0:2')


def sweep_dir(runs_dir):
  (path,) = Path(runs_dir).glob('*/*')
  return path


def start(runs_dir, *words, name='gan'):
  """A tiny sweep in this process; (result, sweep)."""
  done = launch(f'--config=configs/{name}.py', '--tiny', '--config.run.writers=', f'--runs_dir={runs_dir}', *words)
  return done, (Sweep.open(sweep_dir(runs_dir)) if list(Path(runs_dir).glob('*/*')) else None)


def states(sweep):
  return [sweep.status(point).state for point in sweep.points]


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
  """Two sweeps of the same points wrote the same rows."""
  for point, other in zip(a.points, b.points, strict=True):
    assert tiny.rows(a.run_dir(point)) == tiny.rows(b.run_dir(other))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An undisturbed sweep of four points."""
  done, sweep = start(tmp_path_factory.mktemp('whole'), *AXES)
  assert done.returncode == DONE, done
  assert '4 points as 8 lanes of one program' in done.stdout
  return sweep


def test_every_lane_writes_an_ordinary_run_directory_equal_to_the_run_alone(whole, tmp_path):
  assert states(whole) == ['done'] * 4
  for point in whole.points:
    path = whole.run_dir(point)
    assert record.read_run(path)['lanes'] == 4
    assert record.read_run(path)['overrides'] == {'run.writers': ''} | point.overrides
    assert record.read_summary(path)['flops_per_step'] > 0
    assert sorted(p.name for p in (path / 'samples').iterdir()) == ['step_00000004.png', 'step_00000008.png']
    assert not (path / 'lease.json').exists()
  for point in whole.points[1:3]:
    alone = tmp_path / point.name
    tiny.run(point.config, alone)
    assert_close(tiny.rows(whole.run_dir(point)), tiny.rows(alone))
    (step, packed), (_, solo) = final_state(point.config, whole.run_dir(point)), final_state(point.config, alone)
    assert step == point.config.run.steps
    for a, b in zip(jax.tree.leaves(packed.params), jax.tree.leaves(solo.params), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    assert record.read_summary(alone)['flops_per_step'] == pytest.approx(
      record.read_summary(whole.run_dir(point))['flops_per_step'], rel=1e-6
    )


def test_one_lane_goes_on_alone_from_its_checkpoint(tmp_path):
  _, sweep = start(tmp_path, *AXES, '--config.sweep.lanes=8')
  point = sweep.points[2]
  path = sweep.run_dir(point)
  shutil.rmtree(path / 'checkpoints' / '8')  # as if it had been killed after its first save
  before = tiny.rows(path)
  status = json.loads((path / 'status.json').read_text()) | {'state': 'running'}
  (path / 'status.json').write_text(json.dumps(status))
  assert sweep.status(point).state == 'lost'
  done = launch(f'--resume={path}')
  assert done.returncode == DONE, done
  assert 'resumed    at step 4' in done.stdout
  assert_close(before, tiny.rows(path))


def test_points_of_other_structure_form_other_programs_and_lanes_split(tmp_path):
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
  for a, b in zip(whole.points[:2], sweep.points[:2], strict=True):
    assert tiny.rows(whole.run_dir(a)) == tiny.rows(sweep.run_dir(b))
  path = sweep.run_dir(sweep.points[2])
  assert record.read_metrics(path)[-1]['kind'] == 'diverged'
  alone = launch(f'--resume={path}')
  assert alone.returncode == 65
  assert 'first bad tensor: params' in alone.stderr
  again = launch(f'--resume={sweep.path}')  # a diverged point has ended: nothing is left to do
  assert 'no point is left to start' in again.stdout


def tear(sweep, numbers):
  """Takes the newest checkpoint of some points away, as a kill in the middle of a save leaves it, and their end."""
  for point in sweep.points:
    path = sweep.run_dir(point)
    status = json.loads((path / 'status.json').read_text()) | {'state': 'running', 'step': 6}
    (path / 'status.json').write_text(json.dumps(status))
    if point.number in numbers:
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
  for point in sweep.points:
    assert {row['attempt'] for row in record.read_metrics(sweep.run_dir(point))} == {1, 2}


def test_stopping_one_point_and_then_all(tmp_path):
  words = ('--config.run.steps=4000', '--config.run.save_every=1000', '--config.run.eval_every=4000',
           '--config.run.sample_every=4000')  # fmt: skip
  process = background(tmp_path, *AXES, *words)
  sweep = wait_for_rows(tmp_path, 20, process)
  stopped = tiny.command('launch.py', f'--stop={sweep.path}', '--point=3')
  assert stopped.returncode == 0, stopped
  wait_until(lambda: states(sweep)[3] == 'stopped', process)
  assert process.poll() is None
  assert states(sweep)[:3] == ['running'] * 3
  refused(launch(f'--resume={sweep.path}'), 'is in use by process')
  tiny.command('launch.py', f'--stop={sweep.path}')
  assert process.wait(timeout=60) == REQUEUE
  assert states(sweep) == ['stopped'] * 4


def background(runs_dir, *words, name='gan'):
  argv = [sys.executable, 'launch.py', f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}', '--tiny',
          f'--config=configs/{name}.py', f'--runs_dir={runs_dir}', '--config.run.writers=', *words]  # fmt: skip
  return spawn(argv, Path(runs_dir) / 'log')


def spawn(argv, log):
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open('a') as output:
    variables = {**os.environ, 'XLA_FLAGS': os.environ['GEN_AI_TEST_FLAGS']}
    return subprocess.Popen(argv, cwd=tiny.ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)


def wait_until(holds, process, seconds=120):
  deadline = time.monotonic() + seconds
  while not holds():
    assert process.poll() is None, 'the launcher ended'
    assert time.monotonic() < deadline
    time.sleep(0.02)


def wait_for_rows(runs_dir, count, process):
  """The sweep, once each of its points has `count` rows."""

  def there():
    files = [*Path(runs_dir).glob('*/*/*/metrics.jsonl')]
    return len(files) == 4 and all(file.read_bytes().count(b'\n') >= count for file in files)

  wait_until(there, process)
  return Sweep.open(sweep_dir(runs_dir))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['gan'])  # one: test_lanes and test_resume hold every config to the rest
def test_a_killed_and_resumed_sweep_equals_an_undisturbed_one_bit_for_bit(name, tmp_path):
  words = (*AXES, '--config.run.steps=160', '--config.run.eval_every=80', '--config.run.sample_every=160',
           '--config.run.save_every=40')  # fmt: skip
  process = background(tmp_path / 'whole', *words, name=name)
  assert process.wait(timeout=300) == DONE, (tmp_path / 'whole' / 'log').read_text()
  process = background(tmp_path / 'broken', *words, name=name)
  sweep = wait_for_rows(tmp_path / 'broken', 30, process)  # between the first save and the second
  for number, sign in enumerate((signal.SIGKILL, signal.SIGTERM)):
    process.send_signal(sign)
    assert process.wait(timeout=60) == (-signal.SIGKILL if sign == signal.SIGKILL else REQUEUE)
    cache = f'--compilation_cache={os.environ["GEN_AI_TEST_XLA"]}'
    process = spawn([sys.executable, 'launch.py', cache, f'--resume={sweep.path}'], tmp_path / 'broken' / 'log')
    if number == 0:
      wait_for_rows(tmp_path / 'broken', 60, process)
  assert process.wait(timeout=300) == DONE, (tmp_path / 'broken' / 'log').read_text()
  undisturbed = Sweep.open(sweep_dir(tmp_path / 'whole'))
  assert_same(undisturbed, sweep)
  for a, b in zip(undisturbed.points, sweep.points, strict=True):
    one, two = final_state(a.config, undisturbed.run_dir(a)), final_state(b.config, sweep.run_dir(b))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_early_stopping_ends_the_hopeless_records_why_and_frees_their_lanes(tmp_path, monkeypatch):
  from gen_ai import engine

  monkeypatch.setattr(engine.Trainer, '_worth_repacking', lambda self, live: 8 * len(live) <= 4 * self.program.lanes)
  words = ('--axis=run.seed=0:16', '--config.run.steps=16', '--config.run.eval_every=4', '--config.run.save_every=8',
           '--config.run.sample_every=16', '--halving=logit_gap:max,first=4,eta=2')  # fmt: skip
  done, sweep = start(tmp_path, *words)
  assert done.returncode == DONE, done
  assert states(sweep).count('done') == 4
  assert states(sweep).count('pruned') == 12
  assert 'repacked   8 of 16 lanes are left after step 4' in done.stdout
  rows = [json.loads(line) for line in (sweep.path / 'decisions.jsonl').read_text().splitlines()]
  assert len(rows) == 16 + 8
  first = {row['point']: row['value'] for row in rows if row['rung'] == 4}
  kept = {row['point'] for row in rows if row['rung'] == 4 and row['decision'] == 'continue'}
  assert kept == set(sorted(first, key=lambda p: -first[p])[:8])
  ended = next(p for p in sweep.points if sweep.status(p).state == 'pruned' and sweep.status(p).step == 4)
  assert 'logit_gap:max' in sweep.status(ended).message
  survivor = next(p for p in sweep.points if sweep.status(p).state == 'done')
  alone = tmp_path / 'alone'
  tiny.run(survivor.config, alone)
  assert_close(tiny.rows(sweep.run_dir(survivor)), tiny.rows(alone), 2e-3, 1e-3)


def test_what_cannot_be_packed_is_refused_or_run_by_the_local_engine(tmp_path):
  done, _ = start(tmp_path, '--axis=run.seed=0:2', '--engine=packed', '--config.mesh.fsdp=2')
  refused(done, '--engine=packed', 'config.mesh splits one run over devices', '--engine=local')


def test_a_swept_float_that_does_nothing_is_refused(tmp_path, monkeypatch):
  monkeypatch.delitem(gan_fields.USED_WITH, 'loss.penalty')  # what no table declares is found by tracing
  done, sweep = start(tmp_path, '--config.loss.constraint=none', '--axis=loss.penalty=1.0,2.0')
  refused(done, 'loss.penalty', 'nothing depends on config.loss.penalty', 'Nothing was started')
  assert sweep is None


def test_a_metric_that_no_evaluation_gives_is_refused(tmp_path):
  done, sweep = start(tmp_path, '--axis=run.seed=0:2', '--halving=logit_gab:max,first=4')
  refused(done, '--halving', "'logit_gab'", "Did you mean 'logit_gap'?", 'Nothing was started')
  assert sweep is None


def test_a_program_that_does_not_fit_the_memory_is_split_and_one_that_fails_stops_no_other(tmp_path, monkeypatch):
  from gen_ai import engine

  train, widths = engine.train, []

  def limited(trainer, restored=None):
    widths.append(len(trainer.lanes))
    if len(trainer.lanes) > 2:
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    if trainer.lanes[0].number == 2:
      raise jax.errors.JaxRuntimeError('INTERNAL: something else')
    return train(trainer, restored)

  monkeypatch.setattr(engine, 'train', limited)
  done, sweep = start(tmp_path, *AXES)
  assert done.returncode == FAILED
  assert widths == [4, 2, 2]
  assert states(sweep) == ['done', 'done', 'failed', 'failed']
  assert 'INTERNAL: something else' in sweep.status(sweep.points[3]).message
  assert f'--resume={sweep.path} --retry_failed' in done.stdout
  monkeypatch.setattr(engine, 'train', train)
  assert launch(f'--resume={sweep.path}').returncode == FAILED, 'failed points are left alone unless told'
  assert launch(f'--resume={sweep.path}', '--retry_failed').returncode == DONE
  assert states(Sweep.open(sweep.path)) == ['done'] * 4


def test_a_lane_far_behind_does_not_drag_the_others_back(whole, tmp_path):
  copy = tmp_path / 'gan' / whole.path.name
  shutil.copytree(whole.path, copy)
  sweep = Sweep.open(copy)
  tear(sweep, (0,))
  shutil.rmtree(sweep.run_dir(sweep.points[3]))  # a point deleted by hand
  done = launch(f'--resume={copy}')
  assert done.returncode == DONE, done
  assert states(sweep) == ['done'] * 4
  assert_same(whole, sweep)
  assert [len(record.read_attempts(sweep.run_dir(point))) for point in sweep.points] == [4, 4, 4, 2]


def test_a_decision_to_stop_stands_after_a_kill(tmp_path):
  words = ('--axis=run.seed=0:4', '--halving=logit_gap:max,first=4,eta=2')
  done, sweep = start(tmp_path, *words)
  assert done.returncode == DONE
  ended = [point for point in sweep.points if sweep.status(point).state == 'pruned']
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


@pytest.mark.parametrize(('words', 'says'), [
  (('--dry_run',), '--dry_run is for a sweep'), (('--engine=local',), '--engine is for a sweep'),
  (('--axis=run.seed=0:2', '--print_config'), '--print_config is for a run'),
  (('--axis=run.seed=0:2', '--per_device=2'), '--per_device is for --engine=local'),
  (('--axis=run.seed=0:2', '--sbatch=--time=1'), '--sbatch is for --engine=slurm'),
  (('--axis=run.seed=0:2', '--config.model.width=8'), "config.model.width=8 would do nothing"),
  (('--axis=run.seed=0:2', '--coordinator=localhost:1'), 'launched by one process'),
  (('--axis=run.seed=0:2', '--config.run.writers=tensorbord'), 'tensorbord'),
])  # fmt: skip
def test_flags_that_would_do_nothing_are_refused(words, says, tmp_path):
  done, sweep = start(tmp_path, *words)
  refused(done, says)
  assert sweep is None


def test_a_sweep_goes_on_as_it_was_started(whole):
  for word in ('--config.run.steps=16', '--halving=logit_gap:max,first=4', '--dry_run', '--config=configs/gan.py'):
    refused(launch(f'--resume={whole.path}', word), 'keeps what it was started with')


@pytest.mark.parametrize(('limits', 'lanes'), [((64, 64), 3), ((64, 136), 12), ((20, 20), 1)])
def test_lanes_are_no_more_than_files_may_be_open(limits, lanes, monkeypatch):
  now = list(limits)
  monkeypatch.setattr(packed.resource, 'getrlimit', lambda which: tuple(now))
  monkeypatch.setattr(packed.resource, 'setrlimit', lambda which, new: now.__setitem__(slice(None), new))
  monkeypatch.setattr(packed, 'lane_bytes', lambda point: 1)
  assert packed.most_open() == lanes
  for own in (0, 13):
    points = resolve(tiny.config('gan', sweep__lanes=own), [{'run.seed': seed} for seed in range(12)])
    parts = packed.split(points)
    assert max(map(len, parts)) <= lanes
    assert sum(map(len, parts)) == 12
