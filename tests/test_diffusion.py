"""The family of diffusion models: its losses, its tasks, its figures by noise level, and what it refuses."""

import math

import cli
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import diffusion as family
from experiments._denoising import MEASURED, Denoising, nothing_measured
from gen_ai.core.errors import DONE, UserError
from gen_ai.core.method import Spec
from gen_ai.evaluate.metrics import noise_levels
from gen_ai.maths import diffusion
from gen_ai.maths.pixels import to_signed
from gen_ai.run import directory

DIGITS = Spec('image', (28, 28, 1), 10)


def built(name='flow', **overrides):
  config = tiny.config(name, **overrides)
  method = family.build(config, tiny.dataset(config).spec)
  return config, method


def validation(config, n=8):
  return jax.tree.map(jnp.asarray, tiny.dataset(config).splits['validation'].read(np.arange(n)))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A finished tiny run of a model by class."""
  path = tmp_path_factory.mktemp('diffusion') / 'run'
  assert tiny.run(tiny.config('dit'), path)[0] == DONE
  return path


@pytest.fixture(scope='module')
def drawn():
  """(config, method, state) of a flow that says something: its network begins at exactly 0."""
  config, method = built('flow', sample__steps=4)
  state = jax.jit(method.init)(jax.random.key(0))
  noise = lambda x, key: x + 0.05 * jax.random.normal(key, x.shape)  # noqa: E731
  leaves, tree = jax.tree.flatten(state.params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = jax.tree.unflatten(tree, [noise(x, key) for x, key in zip(leaves, keys, strict=True)])
  return config, method, state._replace(params=params, ema=params if state.ema else ())


def task(method, name):
  return jax.jit(lambda state, inputs, keys: method.tasks[name].run(state, inputs, keys))


# Losses.


@pytest.mark.parametrize('name', ['ddpm', 'edm', 'flow', 'vdm'])
def test_a_perfect_network_costs_nothing_and_one_that_says_nothing_the_power_of_its_target(name, monkeypatch):
  config = tiny.config(name)
  model = Denoising(config, (4,), 0)
  rows = dict(model.draws(jnp.linspace(-1.0, 1.0, 16).reshape(4, 4), None, jax.random.key(0)))
  params = model.init(jax.random.key(1)) if model.bound else {}
  right = {}

  def said(params, x, level, label, sd, train=False):
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
  model = Denoising(tiny.config('flow'), (4,), 0)
  rows = dict(model.draws(jnp.zeros((8, 4)), None, jax.random.key(0)))
  monkeypatch.setattr(model, 'said', lambda params, x, level, label, sd, train=False: jnp.full_like(x, 0.1))
  level = diffusion.drawn_level('logit_normal', model.schedule({}), rows['u'], 0.0, 1.0)
  assert np.allclose(
    model.losses({}, rows, jnp.float32(1.0))['loss'], (0.1 / np.maximum(level.s, diffusion.MIN_S)) ** 2, rtol=1e-5
  )


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


def test_evaluations_are_counted_as_the_settings_have_them():
  count = lambda name, **changes: built(name, **changes)[1].tasks['generate'].evaluations(tiny.config(name, **changes))  # noqa: E731
  assert count('flow', sample__steps=25) == 49  # Heun: two a step, one in the last
  assert count('flow', sample__steps=25, sample__solver='euler') == 25
  assert count('dit', sample__steps=25, sample__guidance=0.0) == 49
  assert count('dit', sample__steps=25, sample__guidance=1.0) == 98
  inside = count('dit', sample__steps=25, sample__guidance=1.0, sample__guidance_high=1.0)
  assert 49 < inside < 98


# Commands.


@pytest.mark.slow
def test_a_run_is_judged_by_noise_level_by_its_ode_and_at_other_steps(run):
  more = ['--samples=64', '--config.eval.extractor=random', '--metrics=fd,ode,noise_levels']
  assert cli.command('gen_ai.evaluate', run, *more, '--axis=sample.steps=2,3').returncode == 0
  rows = directory.read_evaluations(run)
  assert [row['axis'] for row in rows] == [{'sample.steps': 2}, {'sample.steps': 3}]
  for row, evaluations in zip(rows, (6, 10), strict=True):  # Heun, with guidance
    assert row['figures']['fd']['stamp']['evaluations'] == evaluations
    assert set(noise_levels.NAMES) <= row['figures'].keys()
    assert math.isfinite(row['figures']['ode_bpd']['value']) and row['figures']['ode_bpd']['better'] == 'min'
  assert rows[0]['figures']['ode_bpd']['value'] == rows[1]['figures']['ode_bpd']['value']  # it has steps of its own


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
