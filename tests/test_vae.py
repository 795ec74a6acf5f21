"""The choices of the VAE family."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy import stats

from experiments import _views, vae
from gen_ai import config as config_lib
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.evaluate.metrics.likelihood import log_weights


def test_static_images_are_binarised_once_and_dynamic_ones_anew():
  same = []
  for binarise in ('static', 'dynamic'):
    config = tiny.config('vae', loss__binarise=binarise)
    method = config_lib.builder(config)(config, tiny.dataset(config).spec)
    batch = tiny.dataset(config).splits['validation'].read(np.arange(8))
    state = jax.jit(method.init)(jax.random.key(0))
    originals = [method.visualizations['reconstructions'](state, batch, jax.random.key(seed))[:8] for seed in (1, 2)]
    assert set(np.unique(originals[0])) == {-1.0, 1.0}
    same.append(np.array_equal(*originals))
  assert same == [True, False]


@pytest.mark.parametrize('likelihood', ['bernoulli', 'gaussian', 'discretised_logistic'])
@pytest.mark.parametrize('network', ['mlp', 'conv'])
def test_every_likelihood_trains_with_every_network(likelihood, network):
  small = {'model__widths': (16, 8)} if network == 'mlp' else {}
  config = tiny.config('vae', loss__likelihood=likelihood, model__network=network, run__steps=4, **small)
  _, metrics = tiny.train(config)
  assert all(np.isfinite(value).all() for value in metrics.values())
  np.testing.assert_allclose(metrics['nll_bpd'], -metrics['elbo_nats'] / (784 * np.log(2)), rtol=1e-5)


def test_the_kl_weight_scales_the_kl_alone():
  _, half = tiny.train(tiny.config('vae', loss__kl_weight=0.5, optim__lr=1e-9, run__steps=2))
  _, one = tiny.train(tiny.config('vae', loss__kl_weight=1.0, optim__lr=1e-9, run__steps=2))
  np.testing.assert_allclose(half['elbo_nats'], one['elbo_nats'], rtol=1e-6)
  np.testing.assert_allclose(one['loss_nats'] - half['loss_nats'], 0.5 * one['kl_nats'], rtol=1e-2)
  np.testing.assert_allclose(one['loss_nats'], -one['elbo_nats'], rtol=1e-6)
  np.testing.assert_allclose(-half['elbo_nats'] - half['loss_nats'], 0.5 * half['kl_nats'], rtol=1e-2)


def test_samples_are_probabilities_of_pixels():
  config = tiny.config('vae')
  program = tiny.program(config)
  drawn = np.asarray(tiny.sample(program.method(), program.init(), jax.random.key(0), 4))
  assert len(np.unique(drawn)) > 100
  assert np.abs(drawn).max() <= 1.0


def built(name, **overrides):
  config = tiny.config(name, **overrides)
  spec = tiny.dataset(config).spec
  method = config_lib.builder(config)(config, spec)
  return config, method, jax.jit(method.init)(jax.random.key(0))


def validation(config, n=8):
  return jax.tree.map(jnp.asarray, tiny.dataset(config).splits['validation'].read(np.arange(n)))


def test_log_weights_of_two_layers_are_the_densities_added_up_by_hand():
  config, method, state = built('hvae')
  params = jax.tree.map(lambda p: p + 0.05, state.params)
  state, batch, key = state._replace(params=params, ema=params), validation(config, 5), jax.random.key(3)
  found = jax.jit(partial(log_weights, method.tasks['log_weights']))(state, batch, key, jnp.arange(4))
  assert found.shape == (4, 5)
  chain = vae.Chain(config, tiny.dataset(config).spec)
  x = np.asarray(chain.likelihood.targets(batch, key))

  def mlp(net, h):
    h = np.tanh(h @ net['Dense_0']['kernel'] + net['Dense_0']['bias'])
    return h @ net['Dense_1']['kernel'] + net['Dense_1']['bias']

  def moments(net, h):
    mean, log_std = np.split(np.asarray(mlp(params[net]['MLP_0'], h), np.float64), 2, -1)
    return mean, np.exp(log_std)

  for draw in range(4):
    noise = [
      np.asarray(random.normal_per_example(random.stream(key, name, draw), batch['index'], (size,)), np.float64)
      for name, size in (('eps', 6), ('eps_2', 4))
    ]
    q1 = moments('encoder', 2 * x.reshape(5, -1) - 1)
    h1 = q1[0] + q1[1] * noise[0]
    q2 = moments('up_2', h1)
    h2 = q2[0] + q2[1] * noise[1]
    p1 = moments('down_2', h2)
    logits = np.asarray(mlp(params['decoder']['MLP_0'], h1), np.float64)
    by_hand = (
      stats.bernoulli.logpmf(x.reshape(5, -1), 1 / (1 + np.exp(-logits))).sum(1)
      + stats.norm.logpdf(h1, *p1).sum(1)
      + stats.norm.logpdf(h2).sum(1)
      - stats.norm.logpdf(h1, *q1).sum(1)
      - stats.norm.logpdf(h2, *q2).sum(1)
    )
    np.testing.assert_allclose(found[draw], by_hand, rtol=1e-5)


@pytest.mark.parametrize(('name', 'beta'), [('iwae', 1.0), ('iwae', 0.3), ('hvae', 1.0)])
def test_the_gradient_estimators_agree_on_average_and_on_the_model(name, beta):
  grads = {}
  for gradient in ('plain', 'dreg'):
    config, _, state = built(name, loss__bound='iwae', loss__importance_samples=5, loss__gradient=gradient)
    chain, batch = vae.Chain(config, tiny.dataset(config).spec), validation(config)
    target = chain.likelihood.targets(batch, jax.random.key(1))

    def one(key, config=config, chain=chain, state=state, target=target):
      eps = {
        f'eps_{n}': jax.random.normal(random.stream(key, 'eps', n), (8, 5, size))
        for n, size in enumerate(chain.sizes, 1)
      }
      loss = lambda p: vae.objective(config, chain, p, {'target': target, **eps}, jnp.float32(beta))[0]  # noqa: E731
      return jax.grad(loss)(state.params)

    grads[gradient] = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 300))
  for part in grads['plain']:
    for a, b in zip(*(jax.tree.leaves(grads[g][part]) for g in ('plain', 'dreg')), strict=True):
      if part in ('decoder', 'down_2'):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())
      else:
        difference = np.asarray(a - b)
        error = difference.std(0) / np.sqrt(len(difference))
        # Thousands of entries: five standard errors, and none of them systematically off.
        assert (np.abs(difference.mean(0)) < 5.5 * error + 1e-6).all()
        assert np.abs(difference).max() > 0, 'they are two estimators'


def test_more_draws_tighten_the_bound_in_training():
  bounds = {}
  for draws in (1, 20):
    bare = {'optim__lr': 1e-9, 'loss__kl_warmup_steps': 0, 'run__steps': 4}
    _, metrics = tiny.train(tiny.config('iwae', loss__importance_samples=draws, **bare))
    bounds[draws] = metrics['iwae_nats'].mean()
    if draws == 1:
      np.testing.assert_allclose(metrics['iwae_nats'], -metrics['loss_nats'], rtol=1e-6)
  assert bounds[20] > bounds[1] + 0.1


def test_the_kl_warms_up():
  _, metrics = tiny.train(tiny.config('beta_vae', optim__lr=1e-9, loss__kl_weight=3.0, loss__kl_warmup_steps=4))
  reconstruction = -(metrics['elbo_nats'] + metrics['kl_nats'])
  weights = (metrics['loss_nats'] - reconstruction) / metrics['kl_nats']
  np.testing.assert_allclose(weights, [0.75, 1.5, 2.25, 3, 3, 3, 3, 3], rtol=2e-2)


def test_free_bits_hold_the_kl_of_every_unit_up():
  _, free = tiny.train(tiny.config('vae', loss__free_bits=0.5, optim__lr=1e-9, run__steps=2))
  reconstruction = -(free['elbo_nats'] + free['kl_nats'])
  np.testing.assert_allclose(free['loss_nats'] - reconstruction, 4 * 0.5, rtol=1e-3)  # all four are below the floor


def test_a_label_changes_what_is_drawn_and_how_images_are_read():
  config, method, state = built('cvae')
  spec, batch = tiny.dataset(config).spec, validation(config)
  rows = np.asarray(method.visualizations['classes'](state, batch, jax.random.key(0))).reshape(spec.num_classes, 8, -1)
  assert np.abs(rows[0] - rows[1]).max() > 1e-4
  mask = jnp.ones(8)
  figures = [
    jax.jit(method.eval_step)(state, {**b, 'mask': mask}, jax.random.key(1))['kl_nats'][0]
    for b in (batch, {**batch, 'label': (batch['label'] + 1) % 10})
  ]
  assert figures[0] != figures[1]


def test_views_show_paths_and_traversals():
  config, method, state = built('vae')
  batch = validation(config, 32)
  shown = {
    name: np.asarray(jax.jit(view)(state, batch, jax.random.key(1))) for name, view in method.visualizations.items()
  }
  assert {name: len(images) for name, images in shown.items()} == {
    'reconstructions': 64,
    'traversals': 32,
    'interpolations_linear': 32,
    'interpolations_spherical': 32,
  }
  outputs = shown['reconstructions'].reshape(4, 2, 8, 28, 28, 1)[:, 1].reshape(32, 28, 28, 1)
  for name in ('interpolations_linear', 'interpolations_spherical'):
    path = shown[name].reshape(4, 8, 28, 28, 1)
    np.testing.assert_allclose(path[:, 0], outputs[:4], atol=1e-4)  # from one reconstruction to another
    np.testing.assert_allclose(path[:, -1], outputs[4:8], atol=1e-4)
  assert np.abs(shown['traversals'].reshape(4, 8, -1)[:, 0] - shown['traversals'].reshape(4, 8, -1)[:, -1]).max() > 1e-4


@pytest.mark.parametrize(
  ('name', 'overrides', 'message'),
  [
    ('vae', {'loss.gradient': 'dreg'}, "'dreg' is an estimator for config.loss.bound='iwae'"),
    ('iwae', {'loss.free_bits': 0.1}, "bound='iwae' has none"),
    ('vae', {'loss.importance_samples': 0}, 'config.loss.importance_samples=0'),
    ('vae', {'loss.bound': 'elob'}, "'elob' is none of elbo, iwae"),
    ('vae', {'model.latents': ()}, 'leaves no latent'),
  ],
)
def test_what_does_not_fit_is_refused_by_name(name, overrides, message):
  config = config_lib.override(tiny.config(name), overrides)
  with pytest.raises(UserError, match=message):
    config_lib.validate(config)
    vae.build(config, tiny.dataset(config).spec)


def test_labels_are_needed_where_they_are_used():
  config = tiny.config('cvae')
  with pytest.raises(UserError, match='conditional=true needs labels.*mnist_5k'):
    vae.build(config, tiny.dataset(config).spec._replace(num_classes=0))


@pytest.mark.parametrize(('network', 'side'), [('conv', 30), ('resnet', 30), ('resnet', 8)])
def test_sides_that_a_network_cannot_take_are_refused(network, side):
  config = tiny.config('vae', model__network=network)
  spec = tiny.dataset(config).spec._replace(shape=(side, side, 1))
  with pytest.raises(UserError, match=f'{side}x{side} images'):
    jax.eval_shape(vae.build(config, spec).init, jax.random.key(0))


@pytest.mark.parametrize('n', [1, 3, 8, 19])
def test_views_of_few_examples_repeat_them(n):
  images = jnp.arange(n, dtype=jnp.float32).reshape(n, 1, 1, 1)
  rows = np.asarray(_views.rows_of(images, (1, 1, 1)))[..., 0, 0, 0]
  np.testing.assert_array_equal(rows.reshape(-1), np.arange(max(n // 8, 1) * 8) % n)
  ends = np.asarray(_views.interpolate(lambda a, b, t: a + t * (b - a), images.reshape(n, 1)))[:, [0, -1], 0]
  pairs = min(max(n // 2, 1), 4)
  np.testing.assert_array_equal(ends, [[i, (pairs + i) % n] for i in range(pairs)])
