"""Likelihood figures: closed forms of a linear-Gaussian model, the methods' own evaluations, simulated errors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from scipy import special, stats

from gen_ai import config as config_lib
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.data.plan import eval_plan
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.evaluate.metrics import likelihood
from gen_ai.maths import densities, pixels

# p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I), one x; everything closed in float64.
W, b, s = np.array([[1.0, 0.4], [-0.3, 0.8], [0.5, -1.1]]), np.array([0.2, -0.1, 0.4]), 0.7
X = np.array([0.9, -0.8, 1.6])
COVARIANCE = np.linalg.inv(np.eye(2) + W.T @ W / s**2)
POSTERIOR = COVARIANCE @ W.T @ (X - b) / s**2
LOG_P = stats.multivariate_normal(b, W @ W.T + s**2 * np.eye(3)).logpdf(X)
# A wrong q: the mean is off, the axes untilted, and the spread wider than the posterior's, so that weights are bounded.
MEAN, SCALE = POSTERIOR + np.array([0.6, -0.5]), np.diag([0.9, 0.8])


def elbo_of(mean, scale):
  """log p(x) - KL(q || posterior)."""
  precision, gap = np.linalg.inv(COVARIANCE), POSTERIOR - mean
  q = scale @ scale.T
  return LOG_P - 0.5 * (
    np.trace(precision @ q) + gap @ precision @ gap - 2 + np.linalg.slogdet(COVARIANCE)[1] - np.linalg.slogdet(q)[1]
  )


def linear_gaussian(mean, scale):
  """log_weights of the model with q = N(mean, scale scale^T); every example is the same x with noise of its own."""
  log_det = np.linalg.slogdet(scale)[1]
  w, offset, mean, scale = (jnp.asarray(v, jnp.float32) for v in (W, X - b, mean, scale))

  def log_weights(state, batch, key, draws):
    eps = jax.vmap(lambda j: random.normal_per_example(random.stream(key, 'eps', j), batch['index'], (2,)))(draws)
    z = mean + eps @ scale.T
    error = (offset - z @ w.T) / s
    log_x = -0.5 * (error**2).sum(-1) - 3 * (math.log(s) + 0.5 * math.log(2 * math.pi))
    return log_x + 0.5 * (eps**2 - z**2).sum(-1) + log_det

  return log_weights


def bound_of(log_weights, examples, k, chunk=50):
  run = jax.jit(lambda batch, key: likelihood.importance_weighted(log_weights, None, batch, key, k, chunk))
  return jax.tree.map(np.asarray, run({'index': jnp.arange(examples, dtype=jnp.int32)}, jax.random.key(0)))


def test_the_bound_rises_with_k_from_the_elbo_to_the_exact_log_likelihood():
  q = linear_gaussian(MEAN, SCALE)
  means, errors = [], []
  for k, examples in ((1, 4000), (5, 4000), (50, 4000), (5000, 400)):
    bound = bound_of(q, examples, k, chunk=min(k, 250)).log_likelihood.astype(np.float64)
    means.append(bound.mean())
    errors.append(bound.std(ddof=1) / math.sqrt(examples))
  assert abs(means[0] - elbo_of(MEAN, SCALE)) < 4 * errors[0]
  for i in range(3):
    assert means[i + 1] - means[i] > 4 * math.hypot(errors[i], errors[i + 1]), (means, errors)
  assert errors[3] < 0.002
  assert abs(means[3] - LOG_P) < 4 * errors[3] + 1e-3  # what is left of the bias at k = 5,000


def test_the_elbo_and_the_count_of_effective_draws_come_from_the_same_draws():
  bound = bound_of(linear_gaussian(MEAN, SCALE), 2000, 50)
  assert abs(bound.elbo.mean() - elbo_of(MEAN, SCALE)) < 4 * bound.elbo.std() / math.sqrt(2000)
  assert bound.effective.min() > 1 and bound.effective.max() < 50
  one = bound_of(linear_gaussian(MEAN, SCALE), 20, 1)
  np.testing.assert_array_equal(one.log_likelihood, one.elbo)
  np.testing.assert_array_equal(one.effective, 1)


def test_with_the_exact_posterior_every_single_weight_is_the_likelihood():
  q = linear_gaussian(POSTERIOR, np.linalg.cholesky(COVARIANCE))
  batch = {'index': jnp.arange(20, dtype=jnp.int32)}
  np.testing.assert_allclose(q(None, batch, jax.random.key(3), jnp.arange(30)), LOG_P, atol=2e-5)
  bound = bound_of(q, 20, 33, chunk=8)
  np.testing.assert_allclose(bound.log_likelihood, LOG_P, atol=2e-5)
  np.testing.assert_allclose(bound.elbo, LOG_P, atol=2e-5)
  np.testing.assert_allclose(bound.effective, 33, rtol=1e-5)


@pytest.mark.parametrize('chunk', [1, 7, 37, 1000])
def test_the_cut_into_chunks_and_batches_changes_nothing(chunk):
  q = linear_gaussian(MEAN, SCALE)
  whole, cut, few = bound_of(q, 30, 37, chunk=10), bound_of(q, 30, 37, chunk), bound_of(q, 11, 37, chunk)
  for one, other, part in zip(whole, cut, few, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-6)
    np.testing.assert_allclose(one[:11], part, rtol=2e-6)


@pytest.mark.parametrize('order', ['random', 'rising', 'falling'])
def test_extreme_weights_agree_with_float64(order):
  rng = np.random.default_rng(0)
  offset = np.array([-1e5, -2000.0, 0.0, 900.0])
  table = (offset + rng.normal(0, [50, 3, 40, 0.01], (1003, 4))).astype(np.float32)
  table = {'random': table, 'rising': np.sort(table, 0), 'falling': np.sort(table, 0)[::-1]}[order]
  padded = jnp.asarray(np.concatenate([table, np.full((10, 4), 1e6, np.float32)]))  # what lies beyond k is not seen
  bound = bound_of(lambda state, batch, key, draws: padded[draws], 4, 1003, chunk=10)
  exact = table.astype(np.float64)
  np.testing.assert_allclose(bound.log_likelihood, special.logsumexp(exact, 0) - np.log(1003), rtol=3e-7, atol=1e-5)
  np.testing.assert_allclose(bound.elbo, exact.mean(0), rtol=3e-7, atol=1e-5)
  kish = np.exp(2 * special.logsumexp(exact, 0) - special.logsumexp(2 * exact, 0))
  np.testing.assert_allclose(bound.effective, kish, rtol=1e-4)


def test_a_weight_of_zero_counts_as_zero_and_a_broken_one_is_not_hidden():
  table = np.zeros((30, 4), np.float32)
  table[:15, 0] = -np.inf  # the first chunk sees nothing else
  table[4, 1], table[25, 2], table[:, 3] = np.nan, np.inf, -np.inf
  bound = bound_of(lambda state, batch, key, draws: jnp.asarray(table)[draws], 4, 30, chunk=10)
  assert bound.log_likelihood[0] == pytest.approx(math.log(0.5), abs=1e-6)
  assert not np.isfinite(bound.log_likelihood[1:]).any()
  totals = likelihood.Totals()
  figures = likelihood.bound_figures(bound, 2)
  totals.add({'iwae_nats': figures['iwae_nats']}, np.ones(4))
  with pytest.raises(UserError, match=r"'iwae_nats' is not finite .* 3 of 4 examples, the first of them number 1:"):
    totals.finish()


@pytest.mark.parametrize(('k', 'chunk'), [(0, 10), (10, 0)])
def test_no_draws_are_refused(k, chunk):
  with pytest.raises(UserError, match=f'k={k}, chunk={chunk}'):
    bound_of(linear_gaussian(MEAN, SCALE), 2, k, chunk)


# The methods' own figures.


@functools.cache
def vae(likelihood_name, **overrides):
  """(config, method, state); the encoder is moved away from its start, where q is almost the prior."""
  fields = {'model__network': 'mlp', 'optim__ema_decay': 0.0, **overrides}
  fields |= {'model__widths': (16, 8)} if fields['model__network'] == 'mlp' else {}
  config = tiny.config('vae', loss__likelihood=likelihood_name, **fields)
  method = config_lib.builder(config)(config, tiny.dataset(config).spec)

  @jax.jit
  def start():
    state = jax.jit(method.init)(jax.random.key(1))
    leaves, structure = jax.tree.flatten(state.params['encoder'])
    moved = [leaf + 0.05 * jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(leaves)]
    calm = jax.tree.map(lambda leaf: 0.4 * leaf, state.params['decoder'])  # or its noise would drown mistakes
    return state._replace(params={**state.params, 'encoder': jax.tree.unflatten(structure, moved), 'decoder': calm})

  return config, method, start()


def examples(config, index):
  return {**tiny.dataset(config).splits['validation'].read(np.asarray(index)), 'mask': np.ones(len(index), np.float32)}


def weights_of(method):
  """(state, batch, key, draws [k]) -> log-weights [k, B] by the method's task."""
  return functools.partial(likelihood.log_weights, method.tasks['log_weights'])


every_likelihood = pytest.mark.parametrize('name', ['bernoulli', 'gaussian', 'discretised_logistic'])


@every_likelihood
def test_the_weights_of_the_vae_have_its_elbo_as_their_mean(name):
  config, method, state = vae(name)
  batch = examples(config, np.arange(4))

  @jax.jit
  @jax.vmap
  def differences(key):  # of one key, so of the same observation
    log_w = weights_of(method)(state, batch, key, jnp.arange(10))
    elbo = likelihood.per_example(method.eval_step, state, batch, key)['elbo_nats'][0]
    return log_w[0] - elbo, log_w.mean(0) - elbo, log_w.std(0)

  first, mean, spread = (np.asarray(v, np.float64) for v in differences(jax.random.split(jax.random.key(5), 150)))
  assert spread.min() > 0.1, 'the draws must matter'
  # Draw 0 shares its reconstruction with the ELBO: what differs is a sampled KL for an exact one.
  for gap in (first, mean):
    error = gap.std(0) / math.sqrt(150)
    assert error.max() < 1, error
    assert (np.abs(gap.mean(0)) < 4.5 * error + 1e-3).all(), (gap.mean(0), error)


@every_likelihood
def test_draw_0_of_the_vae_is_the_one_that_it_evaluates(name):
  config, method, state = vae(name)
  batch, key = examples(config, np.arange(6)), jax.random.key(5)
  single = jax.jit(lambda batch: likelihood.per_example(method.eval_step, state, batch, key))(batch)
  eps = random.normal_per_example(random.stream(key, 'eps'), batch['index'], (config.model.latents[0],))
  x = pixels.to_signed(batch['image'])
  if name == 'gaussian':
    x = densities.dequantise(random.per_example(random.stream(key, 'dequantise'), batch['index']), x)
  if name == 'bernoulli':
    bits = random.per_example(random.stream(key, 'binarise'), batch['index'])
    x = 2 * densities.binarise(bits, pixels.to_unit(batch['image'])) - 1
  encoder = config_lib.experiment(config).coders(config.model, tiny.dataset(config).spec, jnp.float32)[0]
  moments = jax.jit(encoder.apply)({'params': state.params['encoder']}, x)
  mean, log_std = (np.asarray(m, np.float64) for m in moments)
  z = mean + np.exp(log_std) * eps
  prior, q = stats.norm.logpdf(z).sum(-1), stats.norm.logpdf(z, mean, np.exp(log_std)).sum(-1)
  assert np.abs(prior - q).max() > 1
  found = jax.jit(weights_of(method))(state, batch, key, jnp.arange(1))[0] - single['reconstruction_nats'][0]
  np.testing.assert_allclose(found, prior - q, atol=5e-3)  # differences of thousands of nats in float32


@pytest.mark.parametrize(
  ('name', 'network'),
  [('bernoulli', 'mlp'), ('gaussian', 'mlp'), ('discretised_logistic', 'mlp'), ('bernoulli', 'conv')],
)
def test_the_noise_of_the_vae_is_addressed_by_example_and_draw(name, network):
  config, method, state = vae(name, model__network=network)
  log_weights = jax.jit(weights_of(method))
  key, draws, few = jax.random.key(2), jnp.arange(9), jnp.array([7, 0, 3], jnp.int32)
  whole = log_weights(state, examples(config, np.arange(8)), key, draws)
  assert whole.shape == (9, 8) and whole.dtype == np.float32
  part = log_weights(state, examples(config, [5, 2]), key, few)
  np.testing.assert_allclose(part, whole[few][:, jnp.array([5, 2])], rtol=2e-6)
  assert len(np.unique(np.asarray(whole))) == whole.size


def test_the_vae_is_judged_by_its_averaged_parameters():
  config, method, state = vae('bernoulli', optim__ema_decay=0.9)
  batch, key, draws = examples(config, np.arange(4)), jax.random.key(2), jnp.arange(3)
  log_weights = jax.jit(weights_of(method))
  np.testing.assert_array_equal(
    log_weights(state, batch, key, draws), log_weights(state._replace(params=()), batch, key, draws)
  )


def test_a_mesh_of_eight_gives_the_bound_of_one_device():
  config, method, state = vae('bernoulli')
  batch = jax.tree.map(jnp.asarray, examples(config, np.arange(16)))

  @jax.jit
  def run(state, batch):
    return likelihood.importance_weighted(weights_of(method), state, batch, jax.random.key(0), 25, 10)

  mesh = Mesh(np.asarray(jax.devices()), ('data',), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  spread = run(jax.device_put(state, NamedSharding(mesh, PartitionSpec())), jax.device_put(batch, rows))
  assert spread.elbo.sharding.is_equivalent_to(rows, 1), 'every device keeps its own examples'
  for one, eight in zip(run(state, batch), spread, strict=True):  # a log-weight is off by 1e-6 of some 500 nats
    np.testing.assert_allclose(one, eight, rtol=2e-6 if one.min() < 0 else 1e-3)


def test_methods_without_a_latent_bound_have_no_weights():
  for name in ('gan', 'lm'):
    config = tiny.config(name)
    assert 'log_weights' not in config_lib.builder(config)(config, tiny.dataset(config).spec).tasks


def test_a_language_models_figures_are_the_evaluators_with_errors():
  # A text of 2,001 bytes: blocks that are all full, so that the error is the plain one of a mean.
  config = tiny.config('lm', data__split='train[:20000]|train[20000:22001]|train[22001:24000]')
  source, program = tiny.dataset(config).splits['validation'], tiny.program(config)
  assert source.evaluated == len(source) == 125
  state = program.init()
  expected = ExamplePass(program, config, source)(state)
  method = config_lib.builder(config)(config, program.spec)
  key = random.stream(random.root(config.eval.seed), 'eval')
  run = jax.jit(lambda batch: likelihood.per_example(method.eval_step, state, batch, key))
  totals, one = likelihood.Totals(), []
  for index, mask in zip(*eval_plan(source, 48), strict=True):
    results = run({**source.read(index), 'mask': mask})
    totals.add(results, mask)
    one += [np.asarray(results['loss_nats'][0], np.float64)[mask > 0] / 16]  # tokens in a block
  figures = totals.finish()
  assert figures.keys() == expected.keys()
  for name, value in expected.items():
    assert figures[name].value == pytest.approx(value, rel=1e-6), name
  blocks = np.concatenate(one)
  assert figures['loss_nats'].error == pytest.approx(blocks.std(ddof=1) / math.sqrt(len(source)), rel=1e-6)
  assert figures['bits_per_byte'].error == pytest.approx(figures['loss_nats'].error / math.log(2), rel=1e-6)


# Errors, and the figures made of them.


def test_the_standard_error_is_the_spread_over_repetitions():
  rng = np.random.default_rng(0)
  counts = rng.integers(1, 40, (3000, 150)).astype(float)  # sums follow counts, and long examples are harder
  sums = counts * (1 + 0.02 * counts) + np.sqrt(counts) * rng.normal(size=counts.shape)
  figures = [likelihood.ratio(s, c) for s, c in zip(sums, counts, strict=True)]
  values, errors = np.array(figures).T
  assert np.mean(errors) == pytest.approx(np.std(values), rel=0.05)
  assert np.mean(values) == pytest.approx(1 + 0.02 * np.square(np.arange(1, 40)).mean() / 20, rel=0.01)
  mean = likelihood.ratio(sums[0], np.ones(150))
  assert mean == pytest.approx((sums[0].mean(), sums[0].std(ddof=1) / math.sqrt(150)))


def test_intervals_cover_as_often_as_they_say():
  rng = np.random.default_rng(1)
  draws = rng.exponential(2.0, (4000, 200))
  for level in (0.8, 0.95):
    inside = 0
    for row in draws:
      found = likelihood.interval(likelihood.ratio(row, np.ones(200)), level)
      inside += found.low < 2.0 < found.high
    assert inside / 4000 == pytest.approx(level, abs=0.025)


def test_perplexity_is_the_exponential_of_value_and_ends():
  found = likelihood.perplexity(likelihood.Figure(2.0, 0.1))
  assert found.value == pytest.approx(math.exp(2))
  assert found.error == pytest.approx(0.1 * math.exp(2))
  assert (found.low, found.high) == pytest.approx((math.exp(2 - 0.196), math.exp(2 + 0.196)), rel=1e-4)
  draws = np.exp(np.random.default_rng(0).normal(2.0, 0.02, 100_000))
  assert likelihood.perplexity(likelihood.Figure(2.0, 0.02)).error == pytest.approx(draws.std(), rel=0.02)
  with pytest.raises(UserError, match='900 nats a token'):
    likelihood.perplexity(likelihood.Figure(900.0, 0.1))
  with pytest.raises(UserError, match='700 nats a token'):  # the upper end alone
    likelihood.perplexity(likelihood.Figure(700.0, 10.0))


def test_one_example_has_a_value_and_no_error():
  figure = likelihood.ratio([3.0], [2.0])
  assert figure == (1.5, None)
  assert likelihood.interval(figure) == (1.5, None, None, None)
  assert likelihood.perplexity(figure) == (pytest.approx(math.exp(1.5)), None, None, None)


def test_bits_per_dimension_of_a_bound():
  value = np.array([-784 * math.log(256.0), 0.0], np.float32)
  figures = likelihood.bound_figures(likelihood.Bound(value, value - 1, np.array([1.0, 2.0], np.float32)), 784)
  np.testing.assert_allclose(figures['iwae_bpd'][0], [8.0, 0.0], rtol=1e-6)
  np.testing.assert_array_equal(figures['iwae_nats'][0], value)
  np.testing.assert_array_equal(figures['iwae_elbo_nats'][0], value - 1)
  np.testing.assert_array_equal(figures['iwae_effective_draws'][0], [1.0, 2.0])
  assert all((counts == 1).all() and counts.shape == (2,) for _, counts in figures.values())


def test_totals_drop_padding_and_add_in_float64_whatever_the_batches():
  rng = np.random.default_rng(0)
  sums, counts = rng.normal(1e6, 1.0, 50).astype(np.float32), np.full(50, 7, np.float32)
  one, many = likelihood.Totals(), likelihood.Totals()
  one.add({'a_nats': (sums, counts)}, np.ones(50))
  padded = [np.append(v, [np.nan, 5.0]).reshape(4, 13) for v in (sums, counts)]
  mask = (np.arange(52) < 50).astype(np.float32).reshape(4, 13)
  many.add({'a_nats': (padded[0][:3], padded[1][:3])}, mask[:3])  # several batches at once
  many.add({'a_nats': (padded[0][3], padded[1][3])}, mask[3])
  assert one.finish() == many.finish()
  exact = sums.astype(np.float64) / 7
  assert one.finish()['a_nats'] == pytest.approx((exact.mean(), exact.std(ddof=1) / math.sqrt(50)), rel=1e-12)


def test_figures_that_cannot_be_given_say_so():
  totals = likelihood.Totals()
  ones = np.ones(5)
  totals.add({'good': (ones, ones), 'kl_nats': (np.array([1, 2, np.nan, 4, np.inf]), ones)}, ones)
  with pytest.raises(UserError, match=r"'kl_nats' is not finite .* 2 of 5 examples, the first of them number 2:"):
    totals.finish()
  with pytest.raises(UserError, match='counts_x is not finite .* 1 of 2'):
    likelihood.ratio([1.0, 2.0], [1.0, np.inf], 'counts_x')
  with pytest.raises(UserError, match='bits_per_byte has nothing .* 3 examples with 0 units'):
    likelihood.ratio(np.zeros(3), np.zeros(3), 'bits_per_byte')
  empty = likelihood.Totals()
  empty.add({'kl_nats': (np.ones(2), np.ones(2))}, np.zeros(2))
  with pytest.raises(UserError, match="'kl_nats' has nothing .* 0 examples"):
    empty.finish()
