"""Importance-weighted bounds, doubly reparameterised gradients, free bits, warm-up, paths of latents, active units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gen_ai.maths import bounds, latents

X = jnp.array([[0.7, -1.2], [0.1, 0.4]])


def log_weights(model, posterior, density, eps, hold=False):
  """[B, k] of p(z) = N(0, 1), p(x|z) = N(a z + b, 1), q(z|x) = N(c x, exp(s)^2), a dimension each of two."""
  mean, log_std = posterior['c'] * X[:, None], posterior['s']
  z = mean + jnp.exp(log_std) * eps
  z = jax.lax.stop_gradient(z) if hold else z
  q = bounds.log_density(z, density['c'] * X[:, None], density['s'] * jnp.ones(2))
  p = bounds.log_density(z, jnp.zeros(2), jnp.zeros(2))
  return p + bounds.log_density(X[:, None], model['a'] * z + model['b'], jnp.zeros(2)) - q


MODEL = {'a': jnp.float32(1.3), 'b': jnp.float32(0.2)}
POSTERIOR = {'c': jnp.float32(0.3), 's': jnp.float32(-0.1)}


def plain(model, posterior, eps):
  return bounds.importance_bound(log_weights(model, posterior, posterior, eps)).mean()


def dreg(model, posterior, eps):
  constant = jax.lax.stop_gradient
  of_model = log_weights(model, constant(posterior), constant(posterior), eps, hold=True)
  of_posterior = log_weights(constant(model), posterior, constant(posterior), eps)
  return bounds.dreg_surrogate(of_model, of_posterior).mean()


def gradients_of(fn, k, n=4000):
  eps = jax.random.normal(jax.random.key(0), (n, 2, k, 2))
  grads = jax.jit(jax.vmap(lambda e: jax.grad(fn, argnums=(0, 1))(MODEL, POSTERIOR, e)))(eps)
  return jax.tree.map(np.asarray, grads)


def test_dreg_is_unbiased_against_plain_iwae_and_less_noisy():
  (model, posterior), (model_2, posterior_2) = (gradients_of(fn, k=16) for fn in (plain, dreg))
  for name in MODEL:  # the model's gradient is the very same one
    np.testing.assert_allclose(model[name], model_2[name], rtol=1e-3, atol=1e-4)
  for name in POSTERIOR:
    difference = posterior[name] - posterior_2[name]
    error = difference.std() / np.sqrt(len(difference))
    assert abs(difference.mean()) < 4 * error, name
    assert posterior_2[name].std() < 0.6 * posterior[name].std(), name
    assert abs(posterior_2[name].mean()) > 5 * posterior_2[name].std() / np.sqrt(len(difference)), 'there is a signal'


def test_the_bound_of_one_draw_is_the_elbo_and_more_draws_tighten_it():
  eps = jax.random.normal(jax.random.key(0), (2, 4000, 2))
  log_w = log_weights(MODEL, POSTERIOR, POSTERIOR, eps)
  one = bounds.importance_bound(log_w[:, :1])
  np.testing.assert_allclose(one, log_w[:, 0], rtol=1e-6)
  # x = a z + b + noise with z and the noise N(0, 1): N(b, a^2 + 1) exactly.
  exact = stats.norm.logpdf(np.asarray(X), 0.2, np.sqrt(1.3**2 + 1)).sum(1)
  means = [bounds.importance_bound(log_w.reshape(2, -1, k)).mean(1) for k in (1, 4, 40)]
  for looser, tighter in zip(means, means[1:], strict=False):
    assert (tighter > looser).all()
  assert (means[1] < exact).all()
  np.testing.assert_allclose(bounds.importance_bound(log_w), exact, atol=0.05)


def test_log_density_against_scipy():
  z, mean, log_std = jax.random.normal(jax.random.key(0), (3, 4, 5))
  expected = stats.norm.logpdf(np.asarray(z), np.asarray(mean), np.exp(np.asarray(log_std))).sum(-1)
  np.testing.assert_allclose(bounds.log_density(z, mean, log_std), expected, rtol=1e-5)


def test_free_bits_by_hand():
  kl = jnp.array([[0.1, 2.0, 0.0], [0.3, 0.0, 0.1]])  # batch means 0.2, 1.0, 0.05
  assert bounds.floor_of_bits(kl, 0.25) == pytest.approx(0.25 + 1.0 + 0.25)
  gradient = jax.grad(lambda kl: bounds.floor_of_bits(kl, 0.25))(kl)
  np.testing.assert_allclose(gradient, [[0, 0.5, 0], [0, 0.5, 0]])


def test_warm_up_is_linear_and_then_over():
  steps = jnp.arange(6)
  np.testing.assert_allclose(bounds.warm_up(steps, 4), [0.25, 0.5, 0.75, 1, 1, 1])
  assert bounds.warm_up(jnp.int32(0), 0) == 1.0


def test_paths_between_latents():
  a, b = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 2.0, 0.0])
  t = jnp.linspace(0, 1, 5)[:, None]
  np.testing.assert_allclose(latents.lerp(a, b, t)[2], [0.5, 1.0, 0.0], atol=1e-6)
  round_, line = latents.slerp(a, a[::-1], t), latents.lerp(a, a[::-1], t)
  np.testing.assert_allclose(jnp.linalg.norm(round_, axis=1), 1.0, rtol=1e-5)
  assert jnp.linalg.norm(line, axis=1).min() < 0.71
  path = latents.slerp(a, b, t)
  np.testing.assert_allclose(path[0], a, atol=1e-6)
  np.testing.assert_allclose(path[-1], b, atol=1e-6)
  np.testing.assert_allclose(latents.slerp(a, 3 * a, t), latents.lerp(a, 3 * a, t), atol=1e-5)  # parallel
  assert np.isfinite(latents.slerp(a, jnp.zeros(3), t)).all()


def test_active_units_are_those_whose_mean_varies():
  draw = jax.random.normal(jax.random.key(0), (200, 64, 3)) * jnp.array([1.0, 0.2, 0.05]) + jnp.array([0.0, 5.0, -5.0])
  moments = latents.no_moments(3)
  assert latents.active_units(moments) == 0
  for batch in draw:
    moments = latents.seen_moments(moments, batch.mean(0), (batch**2).mean(0))
  np.testing.assert_allclose(latents.variances(moments), [1.0, 0.04, 0.0025], rtol=0.15)
  assert latents.active_units(moments) == 2
  first = latents.seen_moments(latents.no_moments(1), jnp.ones(1), jnp.full(1, 3.0))
  np.testing.assert_allclose(latents.variances(first), 2.0, rtol=1e-4)  # as if it were all there is
