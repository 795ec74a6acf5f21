"""The family of diffusion models: its losses, its tasks, its figures by noise level, and what it refuses."""

import contextlib
import itertools
import json
import math
from pathlib import Path

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import gen_ai
from experiments import diffusion as family
from experiments import latent_flow
from experiments._denoising import MEASURED, Denoising, Sampler, churn_of, nothing_measured
from gen_ai import config as config_lib
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import Spec
from gen_ai.evaluate import companion
from gen_ai.evaluate.metrics import likelihood, noise_levels
from gen_ai.evaluate.restored import Recorded
from gen_ai.maths import diffusion, samplers
from gen_ai.maths.diffusion import Level
from gen_ai.maths.pixels import to_signed
from gen_ai.maths.samplers import Churn
from gen_ai.run import directory
from gen_ai.run.info import RunInfo

DIGITS = Spec('image', (28, 28, 1), 10)


def built(name='flow', **overrides):
  config = tiny.config(name, **overrides)
  method = family.build(config, tiny.dataset(config).spec)
  return config, method


def validation(config, n=8):
  return jax.tree.map(jnp.asarray, tiny.dataset(config).splits['validation'].read(np.arange(n)))


def awake(state, deviation=0.05):
  """The state of a network that says something: it begins at exactly 0."""
  leaves, tree = jax.tree.flatten(state.params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = [x + deviation * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
  params = jax.tree.unflatten(tree, params)
  return state._replace(params=params, ema=params if state.ema else ())


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished tiny run of a model by class."""
  path = tmp_path_factory.mktemp('diffusion') / 'run'
  assert tiny.run(tiny.config('dit'), path)[0] == DONE
  return path


@pytest.fixture(scope='module')
def drawn():
  """(config, method, state) of a flow that says something."""
  config, method = built('flow', sample__steps=4)
  return config, method, awake(jax.jit(method.init)(jax.random.key(0)))


def task(method, name):
  return jax.jit(lambda state, inputs, keys: method.tasks[name].run(state, inputs, keys))


# Losses.


@pytest.mark.parametrize('name', ['ddpm', 'edm', 'flow', 'vdm'])
def test_a_perfect_network_costs_nothing_and_one_that_says_nothing_the_power_of_its_target(name, monkeypatch):
  config = tiny.config(name, model__patch=2)
  model = Denoising(config, (2, 2, 1), 0)
  rows = dict(model.draws(jnp.linspace(-1.0, 1.0, 16).reshape(4, 2, 2, 1), None, jax.random.key(0)))
  params = model.init(jax.random.key(1)) if model.bound else {}
  right = {}

  def said(params, x, level, label, sd, key=None):
    right['target'] = diffusion.said(config.model.predicts, rows['x'], rows['eps'], level, sd)
    return right['target'] if perfect else jnp.zeros_like(x)

  monkeypatch.setattr(model, 'said', said)
  part = 'diffusion_nats' if model.bound else 'loss'
  perfect = True
  assert np.allclose(model.losses(params, rows, jnp.float32(0.7))[part], 0.0)
  perfect = False
  found = model.losses(params, rows, jnp.float32(0.7))[part]
  assert np.all(np.asarray(found) > 0)
  if config.model.predicts == config.loss.space and config.loss.weight == 'one' and not model.bound:
    assert np.allclose(found, diffusion.mean_square(right['target']), rtol=1e-6)


def test_an_error_of_x_is_weighed_as_the_velocity_it_makes(monkeypatch):
  model = Denoising(tiny.config('flow', model__patch=2), (4,), 0)
  rows = dict(model.draws(jnp.zeros((8, 4)), None, jax.random.key(0)))
  monkeypatch.setattr(model, 'said', lambda params, x, level, label, sd, key=None: jnp.full_like(x, 0.1))
  level = diffusion.drawn_level('logit_normal', model.schedule({}), rows['u'], 0.0, 1.0)
  assert np.allclose(
    model.losses({}, rows, jnp.float32(1.0))['loss'], (0.1 / np.maximum(level.s, diffusion.MIN_S)) ** 2, rtol=1e-5
  )


@pytest.mark.parametrize('name', ['flow', 'meanflow'])
def test_dropout_is_of_training_alone_at_a_traced_rate(name):
  small = {'model__network': 'mlp', 'model__width': 8, 'model__blocks': 1}
  config = tiny.config(name, **small, model__dropout=0.5)
  state = awake(jax.jit(config_lib.builder(config)(config, DIGITS).init)(jax.random.key(0)), 0.5)
  batch, key = {**validation(config), 'mask': jnp.ones(8)}, jax.random.key(2)

  def found(rate):
    method = config_lib.builder(config)(config_lib.substitute(config, {'model.dropout': rate}), DIGITS)
    return method.train_step(state, batch, key)[1]['grad_norm'], method.eval_step(state, batch, key)

  (none, half), evaluated = jax.jit(jax.vmap(found))(jnp.array([1e-9, 0.5]))
  assert abs(none - half) > 1e-2 * none
  for total, _ in evaluated.values():
    assert total[0] == total[1]


def test_the_bound_is_the_sum_of_its_parts_and_bits_are_nats_of_all_dimensions():
  config, method = built('vdm')
  state = jax.jit(method.init)(jax.random.key(0))
  batch = {**validation(config, 16), 'mask': jnp.ones(16)}
  found = {name: float(s / n) for name, (s, n) in jax.jit(method.eval_step)(state, batch, jax.random.key(2)).items()}
  parts = found['reconstruction_nats'] - found['diffusion_nats'] - found['prior_nats']
  assert math.isclose(found['elbo_nats'], parts, rel_tol=1e-5)
  assert math.isclose(found['nll_bpd'], -found['elbo_nats'] / (784 * math.log(2)), rel_tol=1e-5)


def test_moments_are_those_of_the_first_updates_alone():
  x = np.random.default_rng(0).normal(0.3, 2.0, (MEASURED + 5, 64)).astype(np.float32)
  measured = nothing_measured()
  assert measured.deviation == 1.0 and measured.centre == 0.0
  for batch in x:
    measured = measured.seen(jnp.asarray(batch), (0,), lambda tree: tree)
  assert np.isclose(measured.deviation, x[:MEASURED].std(), rtol=1e-5)
  assert np.isclose(measured.centre, x[:MEASURED].mean(), rtol=1e-4)


# Tasks.


def test_an_image_is_found_again_from_its_noise(drawn):
  config, method, state = drawn
  keys = jax.random.split(jax.random.key(0), 4)
  first = task(method, 'generate')(state, {}, keys)['sample']
  assert np.array_equal(first, task(method, 'generate')(state, {}, keys)['sample'])
  noise = jax.random.normal(jax.random.key(5), (4, 28, 28, 1))
  by_noise = task(method, 'generate')(state, {'latent': noise}, keys)['sample']
  assert not np.allclose(by_noise, first)
  assert np.array_equal(by_noise, task(method, 'generate')(state, {'latent': noise}, keys[::-1])['sample'])


def test_known_pixels_stay_exactly_and_hidden_ones_are_drawn(drawn):
  config, method, state = drawn
  image = validation(config, 4)['image']
  mask = jnp.zeros((4, 28, 28, 1)).at[:, :14].set(1.0)
  found = task(method, 'complete')(state, {'image': image, 'mask': mask}, jax.random.split(jax.random.key(0), 4))
  x = np.asarray(to_signed(image))
  assert np.array_equal(found['sample'][:, 14:], x[:, 14:])
  assert not np.allclose(found['sample'][:, :14], x[:, :14])
  with pytest.raises(UserError, match='a mask of shape'):
    method.tasks['complete'].run(state, {'image': image, 'mask': mask[:, :3]}, jax.random.split(jax.random.key(0), 4))


def test_the_error_of_denoising_is_asked_level_by_level(drawn):
  config, method, state = drawn
  image, keys = validation(config, 4)['image'], jax.random.split(jax.random.key(0), 4)
  ask = task(method, 'denoise')
  found = ask(state, {'image': image, 'log_snr': jnp.broadcast_to(jnp.array([30.0, -30.0]), (4, 2))}, keys)['mse']
  assert found.shape == (4, 2)
  alone = ask(state, {'image': image[:1], 'log_snr': jnp.array([[30.0, -30.0]])}, keys[:1])['mse']
  assert np.allclose(alone[0], found[0], rtol=1e-5)


def test_levels_that_a_schedule_has_not_count_for_nothing():
  config, method = built('vdm')  # its log SNR is at first from -5 to 13.3
  state = jax.jit(method.init)(jax.random.key(0))
  per_example = noise_levels.METRICS[0].per_example
  found = jax.jit(lambda state, batch: per_example(method, state, batch, jax.random.key(0), 0))(
    state, validation(config)
  )
  counts = [int(count.sum()) for _, count in (found[name] for name in noise_levels.NAMES)]
  assert counts[:2] == [0, 0] and 0 < counts[2] < 8 and counts[3:] == [8] * 7
  totals = likelihood.Totals()
  totals.add({name: (np.asarray(a), np.asarray(b)) for name, (a, b) in found.items()}, np.ones(8))
  assert set(totals.finish()) == set(noise_levels.NAMES[2:])


def test_figures_say_what_they_are_of_and_under_which_settings():
  bounded, plain = (built('vdm', sample__clip=clip, sample__ode_steps=9) for clip in (True, False))
  of = lambda name: [method.tasks[name].facts(config) for config, method in (bounded, plain)]  # noqa: E731
  assert of('denoise') == [{'observation': family.PIXELS, 'clip': clip} for clip in (True, False)]
  ode = {'observation': family.DEQUANTISED, 'ode_steps': 9, 'probes': bounded[0].sample.probes}
  assert of('log_prob') == [{**ode, 'clip': clip} for clip in (True, False)]
  config = tiny.config('latent_flow', autoencoder__network='mlp')
  latents = latent_flow.build(config, DIGITS).tasks['denoise'].facts(config)
  assert len({family.PIXELS, family.DEQUANTISED, bounded[1].observation, latents['observation']}) == 4


def test_evaluations_are_counted_as_the_settings_have_them():
  def count(name, **changes):
    config, method = built(name, **changes)
    return method.tasks['generate'].facts(config)['evaluations']

  assert count('flow', sample__steps=25) == 49  # Heun: two a step, one in the last
  assert count('flow', sample__steps=25, sample__solver='euler') == 25
  assert count('dit', sample__steps=25, sample__guidance=0.0) == 49
  assert count('dit', sample__steps=25, sample__guidance=1.0) == 98
  inside = count('dit', sample__steps=25, sample__guidance=1.0, sample__guidance_high=1.0)
  assert 49 < inside < 98
  interval = {'sample__steps': 25, 'sample__guidance_high': 1.0}
  assert count('flow', sample__steps=25, sample__autoguidance=1.0) == 98
  assert count('dit', sample__steps=25, sample__guidance=1.0, sample__autoguidance=1.0) == 147
  both = count('dit', sample__guidance=1.0, sample__autoguidance=1.0, **interval)
  assert both - 49 == 2 * (inside - 49) and count('flow', sample__autoguidance=1.0, **interval) == inside


def test_churn_adds_noise_between_its_bounds(monkeypatch):
  churned = {'sample__steps': 18, 'sample__churn': 40.0, 'sample__churn_low': 0.05, 'sample__churn_high': 50.0}
  config = tiny.config('edm', **churned, sample__churn_noise=1.003, model__patch=2)
  monkeypatch.setattr(samplers, 'sample', lambda *given, churn, **more: churn)
  churn = (
    Denoising(config, (4,), 0)
    .unguided({}, None, 1.0)
    .generate(jnp.zeros((1, 4)), jax.random.split(jax.random.key(0), 1))
  )
  assert churn == Churn(40.0, 0.05, 50.0, 1.003)
  assert churn_of(tiny.config('edm', **{**churned, 'sample__churn_high': 0.0}).sample).high == math.inf
  levels = Level(np.ones(3, np.float32), np.array([0.01, 1.0, 60.0], np.float32))
  np.testing.assert_allclose(churn.raised(levels, 18).s / levels.s, [1.0, math.sqrt(2.0), 1.0], rtol=1e-6)
  # Where it raises a step above the sigmas of guidance there is a call less.
  guided = {'sample__guidance': 1.0, 'sample__guidance_high': 1.2, 'sample__steps': 18}
  count = lambda **more: family.evaluations(tiny.config('edm_cond', **guided, **more))['evaluations']  # noqa: E731
  assert count(sample__churn=40.0) < count(sample__churn=40.0, sample__churn_low=4.0) == count()


SQUARES = ['linear', 'cosine', 'zero_snr', 'edm', 'flow']  # schedules with a loss that is no bound
PAIRS = [pair for pair in itertools.product(SQUARES, diffusion.PREDICTIONS) if not diffusion.check_pair(*pair)]


@pytest.mark.parametrize('schedule, predicts', PAIRS)
def test_an_error_at_the_least_noise_weighs_no_more_than_the_floor_allows(schedule, predicts, monkeypatch):
  changes = {'model__schedule': schedule, 'model__predicts': predicts, 'loss__times': 'uniform', 'model__patch': 2}
  config, rows = tiny.config('flow', **changes), {'x': np.full((2, 4), 0.3), 'eps': np.full((2, 4), -0.7)}
  rows['u'] = np.full(2, 1e-6)  # the least that is drawn

  def off(params, x, level, label, sd, key=None):
    return 1.0 + diffusion.said(predicts, rows['x'], rows['eps'], level, sd)

  for config.loss.space, config.loss.weight in itertools.product(diffusion.PREDICTIONS, diffusion.WEIGHTS):
    model = Denoising(config, (4,), 0)
    monkeypatch.setattr(model, 'said', off)
    weight = model.losses({}, rows, 0.5)['loss']  # of an error of 1, whose gradient is twice as much
    assert np.all((weight >= 0.0) & (weight <= 2.0 / (0.5 * diffusion.MIN_S) ** 2)), (weight, config.loss)


def test_an_image_comes_back_from_the_noise_that_is_found_for_it():
  # Along a path that bends, the nearer the more steps there are.
  def apart(steps):
    config, method = built('flow', model__predicts='velocity', sample__steps=steps, sample__clip=False)
    state = jax.jit(method.init)(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape), state.params)
    state, keys = state._replace(params=params, ema=params), jax.random.split(jax.random.key(0), 4)
    image = validation(config, 4)['image']
    noise = task(method, 'encode')(state, {'image': image}, keys)['latent']
    back = task(method, 'generate')(state, {'latent': noise}, keys)['sample']
    x = np.asarray(to_signed(image))
    return np.abs(np.asarray(back) - x).max(), np.abs(np.asarray(noise) - x).max()

  (few, _), (many, moved) = apart(10), apart(40)
  assert many < few / 3 and many < 0.05 < moved


@pytest.mark.parametrize('solver', samplers.SOLVERS)
def test_who_gives_the_noise_of_a_sample_is_told_of_a_solver_that_draws_more(solver, monkeypatch):
  called = []
  monkeypatch.setattr(samplers, 'addressed', lambda keys, shape: lambda number: called.append(number) or jnp.ones(4))
  for amount in (0.0, 0.5):
    amounts = dict.fromkeys(('sample__eta', 'sample__churn', 'sample__diffusion'), amount)
    config = tiny.config('edm', model__patch=2, sample__solver=solver, **amounts)
    sampler = Sampler(lambda x, level: 0.5 * x, diffusion.schedule('edm'), config.sample, (4,))
    called.clear()
    jax.eval_shape(lambda x, sampler=sampler: sampler.generate(x, None), jnp.ones((2, 4)))
    draws = bool(called) and (solver, amount) != ('sde', 0.0)  # which multiplies it by 0
    found = Denoising(config, (4,), 0).check_latent
    assert bool(found({'latent': jnp.ones((2, 4))})) == draws and not found({'label': 0})


# Another run that guides.


def test_samples_are_moved_away_from_the_labels_null_class_and_then_from_the_guide():
  sizes = {'model__network': 'mlp', 'model__blocks': 1, 'sample__guidance_high': 3.0}
  config = tiny.config('dit', sample__guidance=0.5, sample__autoguidance=1.0, **sizes)
  model, other = Denoising(config, (4,), 3), Denoising(tiny.config('dit', **sizes, model__width=5), (4,), 3)
  label, sd, x = jnp.array([0, 2, 1, 0]), jnp.float32(0.7), jax.random.normal(jax.random.key(2), (4, 4))
  level = model.schedule({}).level(jnp.array([0.1, 0.4, 0.7, 0.9]))  # of the last the noise is beyond the interval
  noise = np.random.default_rng(0)
  params, theirs = (
    jax.tree.map(
      lambda leaf: jnp.asarray(noise.normal(0.0, 0.5, leaf.shape), jnp.float32),
      jax.eval_shape(one.init, jax.random.key(0)),
    )
    for one in (model, other)
  )

  @jax.jit
  def asked(weight):
    own = Denoising(config_lib.substitute(config, {'sample.autoguidance': weight}), (4,), 3)
    guided = own.sampler(params, label, sd, lambda label: other.behind(theirs, label, sd))._denoise(x, level)
    plain, without = (model.behind(params, one, sd)(x, level) for one in (label, jnp.full_like(label, 3)))
    return guided, plain, without, other.behind(theirs, label, sd)(x, level)

  for weight in (0.0, 1.5):
    found, *parts = (np.asarray(one, np.float64) for one in asked(weight))
    plain, without, guide = parts
    by_label = plain + 0.5 * (plain - without)
    expected = np.where((np.arange(4) < 3)[:, None], by_label + weight * (by_label - guide), plain)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(by_label - guide).min() > 1e-3


def test_a_run_that_guides_itself_gives_its_own_samples_and_an_earlier_one_others(run):
  own = gen_ai.load(run, sample__guidance=0.0, sample__solver='euler', sample__steps=2)
  plain = own.generate(n=4, label=3)
  with pytest.raises(UserError, match=rf'--guide={run}@4 would do nothing: config.sample.autoguidance=0.0'):
    own.guided_by(gen_ai.load(run, step=4)).generate(n=4)
  own.use({'sample.autoguidance': 2.0})
  np.testing.assert_array_equal(own.guided_by(own).generate(n=4, label=3), plain)
  earlier = own.guided_by(gen_ai.load(run, step=4))
  assert not np.array_equal(earlier.generate(n=4, label=3), plain)
  assert {name for name, task in own.tasks.items() if task.helps} == {'generate', 'complete', 'edit', 'encode'}
  with pytest.raises(UserError, match=r'--guide=RUN_DIR or RUN_DIR@STEP, in Python run.guided_by'):
    own.generate(n=4)


def recorded(path, name, spec=DIGITS, parent='1', **changes):
  """A run by its record, which names its parent: of a flow of latents its autoencoder."""
  config = tiny.config(name, **changes)
  directory.RunDir.make(path).write_run(RunInfo(parent={'config_hash': parent * 8, 'step': 8}).to_json())
  return Recorded(Path(path), config, spec, config_lib.builder(config)(config, spec).tasks)


LATENT = {'autoencoder__network': 'mlp'}


@pytest.mark.parametrize(
  ('name', 'other', 'says'),
  [
    ('dit', {'name': 'vae'}, "other cannot guide: it has no task 'generate' that draws by a denoiser"),
    ('vae', {'name': 'dit'}, "the task 'generate' of own takes no guide"),
    ('dit', {'name': 'latent_flow', **LATENT}, "other has config.experiment='latent_flow' and own has config.exper"),
    ('dit', {'spec': DIGITS._replace(num_classes=3)}, 'other has images 28x28x1 of 3 classes and own has images 28x28'),
    ('flow', {'model__schedule': 'cosine', 'model__predicts': 'v'}, "has config.model.schedule='cosine' and own has"),
    ('dit', {'model__conditional': False, 'sample__guidance': 0.0}, 'a guide must have the same config.model.condi'),
    ('latent_flow', {'parent': '2', **LATENT}, 'other has weights of 22222222 at step 8 and own has weights of 111111'),
    ('flow', {'model__width': 16, 'model__predicts': 'v', 'precision': 'bf16'}, ''),
    ('dit', {'model__network': 'unet', 'parent': '2'}, ''),
  ],
)
def test_a_guide_must_be_of_the_same_kind_and_may_be_of_another_size(tmp_path, monkeypatch, name, other, says):
  monkeypatch.chdir(tmp_path)
  run = recorded('own', name, **(LATENT if name == 'latent_flow' else {}))
  guide = recorded('other', **{'name': name, **other})
  with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
    companion.check('guide', 'generate', run, guide)


def test_training_has_no_guide(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  words = f'--config={tiny.ROOT}/configs/flow.py', '--tiny', '--config.run.trackers='
  cli.refused(cli.launch(*words, '--config.sample.autoguidance=1.0'), '--guide=RUN_DIR')
  cli.refused(cli.launch(*words, '--axis=sample.autoguidance=0.0,1.0', '--dry_run'), 'trial 1', '--guide=RUN_DIR')
  interval = cli.launch(*words, '--config.sample.guidance_high=1.0')
  cli.refused(interval, 'for config.sample.guidance or config.sample.autoguidance above 0, and here config.sample.gui')
  assert not (tmp_path / 'runs').exists()


# Commands.


@pytest.mark.slow
def test_a_run_is_judged_by_noise_level_by_its_ode_and_with_a_guide_that_its_figures_name(run):
  axis = '--axis=sample.autoguidance=0.0,1.0'
  cli.refused(cli.command('gen_ai.evaluate', run, axis), '--guide=RUN_DIR')
  cli.refused(cli.command('gen_ai.evaluate', run, f'--guide={run}@4'), f'--guide={run}@4 would do nothing')
  more = ['--samples=64', '--config.eval.extractor=random', '--metrics=fd,ode,noise_levels']
  done = cli.command('gen_ai.evaluate', run, *more, '--config.sample.steps=2', f'--guide={run}@4', axis)
  assert done.returncode == 0, done.stderr
  rows = directory.read_evaluations(run)
  assert [row['axis'] for row in rows] == [{'sample.autoguidance': 0.0}, {'sample.autoguidance': 1.0}]
  earlier, latest = (gen_ai.load(run, step=step).as_companion('guide') for step in (4, 8))
  assert (earlier.recipe[:13], earlier.recipe[13:], latest.recipe[13:]) == (latest.recipe[:13], '4', '8')
  told = f'samples are guided by {run}@4 (weights sha256 {earlier.weights[:12]})'
  assert [told in row['notes'] for row in rows] == [False, True] and earlier.weights != latest.weights
  for row, evaluations, guide in zip(rows, (6, 9), (None, earlier.recipe), strict=True):  # Heun, by labels
    stamp = row['figures']['fd']['stamp']
    assert (stamp['evaluations'], stamp.get('sampler.guide')) == (evaluations, guide)
    assert set(noise_levels.NAMES) <= row['figures'].keys()
    assert row['figures']['ode_bpd']['stamp'].items() >= {'observation': family.DEQUANTISED, 'ode_steps': 3}.items()
    of_noise = row['figures'][noise_levels.NAMES[4]]['stamp']
    assert of_noise.items() >= {'observation': family.PIXELS, 'clip': True}.items() and 'ode_steps' not in of_noise
    assert math.isfinite(row['figures']['ode_bpd']['value']) and row['figures']['ode_bpd']['better'] == 'min'
  of = lambda name: [row['figures'][name]['value'] for row in rows]  # noqa: E731
  assert len(set(of('ode_bpd'))) == 1 and len(set(of('fd'))) == 2  # the likelihood is that of the model alone


def test_the_benchmark_of_sampling_counts_evaluations_and_leaves_steps_out_that_a_solver_cannot_make(run, tmp_path):
  sizes = ['--steps=1,3', '--images=8', '--rounds=2', f'--out={tmp_path}/report.json']
  done = cli.command('benchmarks.sampling', run, *sizes)
  assert done.returncode == DONE, done.stderr
  (row,) = json.loads((tmp_path / 'report.json').read_text())['rows']  # Heun's solver needs two steps
  assert (row['solver'], row['steps'], row['evaluations'], row['ratio']) == ('heun', 3, 10, 1.0)
  assert row['images_per_second'] > 0 and row['compile_seconds'] > 0 and 'heun' in done.stdout
  cli.refused(cli.command('benchmarks.sampling', run, '--steps=1'), 'needs at least 2')
  cli.refused(cli.command('benchmarks.sampling', run, '--steps=many'), '--steps=many')
  cli.refused(cli.command('benchmarks.sampling'), 'python -m benchmarks.sampling RUN_DIR')


@pytest.mark.parametrize(
  'name, changes, told',
  [
    ('ddpm', {'model__schedule': 'zero_snr'}, 'ends without any signal'),
    ('ddpm', {'model__schedule': 'flow'}, 'config.model.predicts=v'),
    ('flow', {'loss__times': 'lognormal'}, "config.model.schedule='edm'"),
    ('flow', {'model__patch': 5}, 'config.model.patch=5 does not divide'),
  ],
)
def test_settings_that_do_not_fit_are_refused(name, changes, told):
  with pytest.raises(UserError, match=told):
    family.build(tiny.config(name, **changes), DIGITS)


def test_a_model_by_class_needs_labels_and_a_solver_its_steps():
  with pytest.raises(UserError, match='needs labels'):
    family.build(tiny.config('dit'), DIGITS._replace(num_classes=0))
  with pytest.raises(UserError, match='needs at least 2'):
    family.build(tiny.config('flow', sample__steps=1), DIGITS)
