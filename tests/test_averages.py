"""Averages of parameters: how they follow them, snapshots of power averages, and their length chosen after training."""

import json
import shutil

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import gen_ai
from gen_ai import compare
from gen_ai import config as config_lib
from gen_ai.core import averages
from gen_ai.core.errors import DONE, REQUEUE, UserError
from gen_ai.core.method import State
from gen_ai.maths import power_ema
from gen_ai.run import directory
from gen_ai.run.checkpoint import AVERAGES, Checkpoints
from gen_ai.sweep.directory import Sweep
from gen_ai.train import warm_start

# Power averages: lengths and powers.


def test_a_length_is_the_deviation_of_its_weights_and_gives_its_power_back():
  """The powers of 0.05 and 0.10 are those of arXiv 2312.02696, section 3.2."""
  assert averages.gamma_of(0.05) == pytest.approx(16.97, abs=5e-3)
  assert averages.gamma_of(0.10) == pytest.approx(6.94, abs=5e-3)
  t = (np.arange(200_000) + 0.5) / 200_000
  for gamma in (0.0, 0.72, 6.94, 16.97, 200.0):
    weights = t**gamma / (t**gamma).sum()
    mean = weights @ t
    assert averages.length_of(gamma) == pytest.approx(np.sqrt(weights @ (t - mean) ** 2), rel=1e-6)
    assert averages.gamma_of(averages.length_of(gamma)) == pytest.approx(gamma, rel=1e-9, abs=1e-9)
  assert averages.length_of(0.0) > config_lib.LONGEST_AVERAGE, 'the power is never negative'


def tracked_weights(length, updates):
  """Weights float64 [updates] that the parameters after each update have in an average, by its closed form."""
  t = np.arange(updates + 1, dtype=np.float64)
  return np.diff((t / updates) ** (averages.gamma_of(length) + 1))


def follow(config, updates):
  """The averages after each of `updates` of a trajectory that is 1 in its own place and 0 elsewhere: its weights."""
  kept = averages.Averages(config)

  def body(ema, step):
    ema = kept.advance(ema, jax.nn.one_hot(step - 1, updates), step)
    return ema, ema

  return jax.lax.scan(body, kept.start(jnp.full(updates, 5.0)), jnp.arange(1, updates + 1))[1]


def common(**optim):
  config = config_lib.common('lm', 'python_stdlib')
  config.optim.update(optim)
  return config


def test_a_power_average_weighs_every_update_by_the_integral_of_the_power():
  updates = 300
  with jax.enable_x64(True):
    rows = jax.tree.map(np.asarray, follow(common(ema_lengths=(0.05, 0.2)), updates))
  for length, average in zip((0.05, 0.2), rows, strict=True):
    assert average.dtype == np.float64
    for end in (1, 2, 17, updates):
      np.testing.assert_allclose(average[end - 1][:end], tracked_weights(length, end), rtol=1e-9, atol=1e-15)
      np.testing.assert_allclose(average[end - 1][end:], 0.0, atol=1e-15)  # nothing is left of what was there before


def test_late_in_a_run_the_share_keeps_its_digits():
  """1 - beta in float32 has none left after a million updates; the share is (gamma + 1) / t there."""
  share = float(averages.power_share(6.94, jnp.int32(3_000_000)))
  assert share == pytest.approx(-np.expm1(7.94 * np.log1p(-1 / 3e6)), rel=1e-5)


# Decays and half-lives.


def test_average_by_hand():
  average, new = {'w': jnp.array([1.0])}, {'w': jnp.array([5.0])}
  # After update 1 the rate is 1 - 2/11, after update 8 it is 1 - 9/18, and late 1 - decay.
  for step, decay, expected in ((1, 0.999, 1 + 4 * 9 / 11), (8, 0.999, 3.0), (8, 0.25, 4.0), (10**6, 0.999, 1.004)):
    result = averages.moved(average, new, averages.decay_share(decay, jnp.int32(step)))
    assert float(result['w'][0]) == pytest.approx(expected, rel=1e-5)
  mixed = averages.moved(average, {'w': jnp.array([5.0], jnp.bfloat16)}, averages.decay_share(0.5, jnp.int32(100)))
  assert mixed['w'].dtype == jnp.float32


def test_a_half_life_ramps_up_with_the_examples_seen():
  """Beside a loop in NumPy, float64: 64 examples an update, a half-life of 640, and 0.05 of those seen at most."""
  updates, weights, rows = 300, np.full(300, 5.0), []  # the start of `follow`
  for step in range(1, updates + 1):
    decay = 0.5 ** (64 / min(640.0, 0.05 * 64 * step))
    weights = decay * weights
    weights[step - 1] += 1 - decay
    rows.append(weights)
  assert rows[19][19] == pytest.approx(0.5), 'the half-life is one update after 20 of them'
  assert rows[299][299] == pytest.approx(1 - 0.5**0.1), 'and its own ten in the end'
  np.testing.assert_allclose(follow(common(ema_halflife=640.0, ema_rampup=0.05), updates), rows, atol=1e-6)
  assert not np.allclose(follow(common(ema_halflife=640.0), updates)[99], rows[99], atol=1e-2)


# Another length from kept ones.


def kept(updates, count, lengths):
  """(steps [N], lengths [N], weights float64 [N, updates]) of `count` snapshots, evenly spaced."""
  steps = np.repeat(np.arange(1, count + 1) * (updates // count), len(lengths))
  each = [*lengths] * count
  rows = [np.pad(tracked_weights(one, at), (0, updates - at)) for at, one in zip(steps, each, strict=True)]
  return steps.tolist(), each, np.stack(rows)


def test_an_average_that_was_kept_is_itself():
  steps, lengths, _ = kept(1024, 16, (0.05, 0.1))
  for place in (0, 7, 12, 31):
    weights, error = power_ema.combination(steps, lengths, steps[place], lengths[place])
    np.testing.assert_allclose(weights, np.eye(32)[place], atol=1e-9)
    assert error < 1e-6


@pytest.mark.parametrize(
  ('count', 'length', 'most'),
  # What 16 and 32 snapshots of two lengths can express: the table of docs/recipes.md.
  [(16, 0.04, 0.0104), (16, 0.075, 0.0037), (16, 0.15, 0.0095), (16, 0.2, 0.024), (32, 0.03, 0.012), (32, 0.25, 0.035)],
)
def test_another_length_is_made_of_snapshots_of_two(count, length, most):
  """The weights that a combination gives to every update, beside those of the average had it been tracked."""
  steps, lengths, rows = kept(4096, count, (0.05, 0.1))
  weights, error = power_ema.combination(steps, lengths, 4096, length)
  made, wanted = weights @ rows, tracked_weights(length, 4096)
  off = np.linalg.norm(made - wanted) / np.linalg.norm(wanted)
  assert off <= most and error == pytest.approx(off, rel=0.02)
  assert made.sum() == pytest.approx(1.0, abs=1e-12), 'parameters that never moved stay what they are'
  # A trajectory: parameters that tend to their end, and noise around it.
  t = np.arange(1, 4097)
  path = np.exp(-t / 800) + np.random.default_rng(0).normal(0, 0.1, (50, 4096))
  tracked = path @ wanted
  assert np.abs(path @ made - tracked).max() < 0.1 * np.abs(path[:, -1] - tracked).max()


def test_inner_products_are_the_integrals():
  (steps, lengths), t = ((600, 900, 600), (0.05, 0.1, 0.2)), (np.arange(900_000) + 0.5) / 1000
  gammas = np.array([averages.gamma_of(one) for one in lengths])
  density = [(g + 1) * t**g / T ** (g + 1) * (t <= T) for g, T in zip(gammas, steps, strict=True)]
  expected = [[(a * b).sum() / 1000 for b in density] for a in density]
  found = power_ema.products(np.array(steps), gammas, np.array(steps), gammas)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


# Configs.


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'optim.ema_lengths': (0.05,)}, r'ema_decay=0.995 and config.optim.ema_lengths=\(0.05,\) each ask'),
    ({'optim.ema_halflife': 9.0}, 'ema_decay=0.995 and config.optim.ema_halflife=9.0 each ask'),
    ({'optim.ema_decay': 0.0, 'optim.ema_lengths': (0.05, 0.3)}, 'more than 0 and at most 0.288'),
    ({'optim.ema_decay': 0.0, 'optim.ema_lengths': (0.0,)}, 'more than 0'),
    ({'optim.ema_decay': 0.0, 'optim.ema_lengths': (0.1, 0.1)}, 'must be different numbers'),
    ({'optim.ema_decay': 0.0, 'optim.ema_lengths': ('a',)}, 'must be different numbers'),
  ],
)
def test_averages_that_no_run_could_keep_are_refused(overrides, message):
  with pytest.raises(UserError, match=message):
    config_lib.validate(config_lib.override(config_lib.load('configs/gan.py'), overrides))


def test_snapshots_are_evenly_spaced_over_whole_chunks():
  config = common(ema_lengths=(0.05, 0.1))
  config.run.update({'steps': 1000, 'log_every': 50, 'ema_snapshots': 6})
  assert averages.snapshot_steps(config) == (200, 350, 500, 700, 850, 1000)
  config.run.ema_snapshots = 100
  assert averages.snapshot_steps(config) == tuple(range(50, 1001, 50)), 'one a chunk at most'
  config.run.ema_snapshots = 0
  assert averages.snapshot_steps(config) == averages.snapshot_steps(common(ema_decay=0.9)) == ()


# Runs.

POWERS = {'optim__ema_decay': 0.0, 'optim__ema_lengths': (0.05, 0.1), 'run__ema_snapshots': 4, 'run__keep': 1}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished run of configs/gan.py: two lengths, and snapshots after updates 2, 4, 6 and 8."""
  path = tmp_path_factory.mktemp('averages') / 'run'
  assert tiny.run(tiny.config('gan', **POWERS), path)[0] == DONE
  return path


def snapshots(path, config):
  """{update: the averages on disk}."""
  disk, abstract = Checkpoints(path / AVERAGES, keep=None, read_only=True), tiny.program(config).abstract_state().ema
  return {step: jax.tree.map(np.asarray, disk.restore(abstract, step)[1]) for step in disk.steps()}


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_that_is_stopped_and_resumed_keeps_the_snapshots_of_an_undisturbed_one(run, tmp_path):
  config = tiny.config('gan', **POWERS)
  assert tiny.run(config, tmp_path / 'halved', stop=tiny.StopAt(3))[0] == REQUEUE
  shutil.rmtree(tmp_path / 'halved' / 'checkpoints' / '6')  # as a kill after the snapshot and before the checkpoint
  Checkpoints(tmp_path / 'halved' / AVERAGES, keep=None).close()
  stale = tmp_path / 'halved' / AVERAGES / '7'
  shutil.copytree(stale.with_name('6'), stale)
  assert tiny.run(config, tmp_path / 'halved')[0] == DONE
  whole, halved = snapshots(run, config), snapshots(tmp_path / 'halved', config)
  assert [*whole] == [*halved] == [2, 4, 6, 8], 'they are exempt from run.keep=1'
  same(whole, halved)
  assert tiny.rows(run) == tiny.rows(tmp_path / 'halved')


def test_a_length_is_chosen_where_a_run_is_opened(run):
  config = tiny.config('gan', **POWERS)
  disk, usual = snapshots(run, config), gen_ai.load(run)
  same(usual.params, disk[8][0])
  assert usual.ema == 0.05 and 'of length 0.05' in repr(usual)
  same(gen_ai.load(run, ema=0.1).params, disk[8][1])
  same(gen_ai.load(run, step=8, ema=0.05).generate(4), usual.generate(4))
  other = gen_ai.load(run, ema=0.07)
  weights, _ = power_ema.combination([2, 2, 4, 4, 6, 6, 8, 8], [0.05, 0.1] * 4, 8, 0.07)
  parts = [average for step in (2, 4, 6, 8) for average in disk[step]]
  for leaf, *those in zip(*map(jax.tree.leaves, (other.params, *parts)), strict=True):
    made = sum(weight * part.astype(np.float64) for weight, part in zip(weights, those, strict=True))
    np.testing.assert_array_equal(leaf, made.astype(np.float32))
  first, second = (jax.tree.leaves(one.params)[-1] for one in (other, usual))
  assert not np.array_equal(first, second)


def test_a_curve_over_lengths_is_measured_stamped_and_shown(run):
  done = cli.command('gen_ai.evaluate', run, '--axis=ema=0.05,0.07,0.1', '--split=validation')
  assert done.returncode == DONE, done.stderr
  assert all(f'step 8, ema={length}, validation' in done.stdout for length in (0.05, 0.07, 0.1))
  rows = directory.read_evaluations(run)
  assert [row['axis'] for row in rows] == [{'ema': 0.05}, {'ema': 0.07}, {'ema': 0.1}]
  assert [row['figures']['spread']['stamp']['ema_length'] for row in rows] == [0.05, 0.07, 0.1]
  assert len({row['figures']['spread']['value'] for row in rows}) == 3
  frame = compare.load(run).runs
  assert frame['validation/spread'].tolist() == [rows[0]['figures']['spread']['value']], 'that of the run itself'
  assert cli.command('gen_ai.evaluate', run, '--ema=0.1', '--split=validation').returncode == DONE
  assert directory.read_evaluations(run)[-1]['axis'] == {'ema': 0.1}
  assert compare.load(run).runs['validation/spread'].tolist() == frame['validation/spread'].tolist()
  assert 'validation/spread against ema' in cli.command('gen_ai.compare', run, '--metric=spread:max').stdout


def test_averages_that_cannot_be_had_are_refused_in_one_line(run, tmp_path):
  def evaluate(path, *words):
    return cli.command('gen_ai.evaluate', path, *words)

  before = directory.read_evaluations(run)
  cli.refused(evaluate(run, '--ema=0.2'), '--ema=0.2: of 3 snapshots', 'error of 22.', 'it has 0.05 and 0.1')
  cli.refused(evaluate(run, '--axis=ema=0.05,0.3'), '--ema=0.3 must be more than 0 and at most 0.288')
  cli.refused(evaluate(run, '--axis=ema=0.05,x'), 'ema=x is no number')
  cli.refused(evaluate(run, '--axis=ema=0.05,0.1', '--ema=0.1'), 'say the same thing twice')
  cli.refused(cli.command('gen_ai.generate', run, '--ema=0.2'), '--ema=0.2: of 3 snapshots')
  cli.refused(cli.command('gen_ai.export', run, '--ema=-1', f'--out={tmp_path}/x'), '--ema=-1 must be more than 0')
  bare = shutil.copytree(run, tmp_path / 'bare', ignore=shutil.ignore_patterns(AVERAGES))
  cli.refused(evaluate(bare, '--ema=0.07'), 'kept no snapshots of its averages', 'it has 0.05 and 0.1')
  assert gen_ai.load(bare, ema=0.1).ema == 0.1, 'what was tracked needs none'
  torn = shutil.copytree(run, tmp_path / 'torn')
  (torn / AVERAGES / '4' / 'leaves' / 'metadata').write_bytes(b'{')
  cli.refused(evaluate(torn, '--ema=0.07'), 'is damaged (step 4: ', f'Without {torn}/averages/4 the other')
  tree = json.loads((bare / 'config.json').read_text())
  tree['optim'] |= {'ema_lengths': [], 'ema_decay': 0.9}
  (bare / 'config.json').write_text(json.dumps(tree))
  cli.refused(evaluate(bare, '--ema=0.07'), 'tracked no averages', '--config.optim.ema_lengths="(0.05,0.1)"')
  assert directory.read_evaluations(run) == before


@pytest.mark.parametrize('kept', [True, False], ids=['an average', 'no average'])
def test_averages_of_several_lengths_begin_where_that_of_the_parent_ended(kept):
  values = {'a/bias': 1.0, 'b/bias': 2.0, 'b/kernel': 3.0}
  leaves = {f'params/{name}': np.full(2, value) for name, value in values.items()}
  average = {f'ema/{name}': np.full(2, value + 10.0) for name, value in values.items()} if kept else {}
  params = {'a': {'bias': jnp.zeros(2)}, 'b': {'bias': jnp.zeros(2), 'kernel': jnp.ones(2)}}
  state = State(jnp.int32(0), params, (), tuple(jax.tree.map(jnp.copy, params) for _ in range(2)))
  begin, report = warm_start.beginning(warm_start.Parent('runs/p', 8, '', {}, leaves | average))
  for own in begin(state).ema:
    assert [float(leaf[0]) for leaf in jax.tree.leaves(own)] == [value + 10.0 * kept for value in values.values()]
  assert (report['new'], report['skipped']) == ([], [])


def test_lanes_keep_the_snapshots_of_the_runs_alone(tmp_path):
  flags = [f'--config.{path.replace("__", ".")}={value}' for path, value in POWERS.items()]
  words = ['--config=configs/gan.py', '--tiny', '--config.run.trackers=', f'--runs_dir={tmp_path}', *flags]
  done = cli.launch(*words, '--axis=run.seed=0:2', '--axis=optim.lr=1e-3')
  assert done.returncode == DONE, done
  (path,) = tmp_path.glob('*/*')
  for trial in Sweep.open(path).trials:
    alone = tmp_path / trial.name
    tiny.run(trial.config, alone)
    mine, theirs = (snapshots(place, trial.config) for place in (path / trial.name, alone))
    assert [*mine] == [*theirs] == [2, 4, 6, 8]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3), mine, theirs)
