"""Adversarial losses against hand formulas; penalties against closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.maths import adversarial

REAL, FAKE = np.array([2.0, -0.5, 0.3]), np.array([-1.5, 0.7, 0.1])


def log_sigmoid(x):
  return np.log(1 / (1 + np.exp(-x)))


HAND = {
  'minimax': (-log_sigmoid(REAL) - log_sigmoid(-FAKE), log_sigmoid(-FAKE)),
  'non_saturating': (-log_sigmoid(REAL) - log_sigmoid(-FAKE), -log_sigmoid(FAKE)),
  'least_squares': ((REAL - 1) ** 2 / 2 + FAKE**2 / 2, (FAKE - 1) ** 2 / 2),
  'hinge': (np.maximum(0, 1 - REAL) + np.maximum(0, 1 + FAKE), -FAKE),
  'wasserstein': (FAKE - REAL, -FAKE),
  'relativistic': (-log_sigmoid(REAL - FAKE), -log_sigmoid(FAKE - REAL)),
}


@pytest.mark.parametrize('kind', adversarial.KINDS)
def test_losses_against_hand_formulas(kind):
  assert kind in HAND, 'write the formulas of this loss by hand into HAND'
  discriminator, generator = HAND[kind]
  real, fake = jnp.asarray(REAL), jnp.asarray(FAKE)
  np.testing.assert_allclose(adversarial.discriminator_loss(kind, real, fake), discriminator.mean(), rtol=1e-5)
  np.testing.assert_allclose(adversarial.generator_loss(kind, fake, real), generator.mean(), rtol=1e-5)


@pytest.mark.parametrize('kind', adversarial.KINDS)
@pytest.mark.parametrize('logit', [-1e4, 1e4])
def test_losses_of_extreme_logits_are_finite(kind, logit):
  def both(real, fake):
    return adversarial.discriminator_loss(kind, real, fake) + adversarial.generator_loss(kind, fake, real)

  logits = jnp.full((2,), logit)
  value, gradients = jax.value_and_grad(both, (0, 1))(logits, logits)
  assert np.isfinite(value) and np.isfinite(gradients).all()


def test_losses_of_bfloat16_are_float32():
  logits = jnp.ones(4, jnp.bfloat16)
  assert adversarial.discriminator_loss('hinge', logits, logits).dtype == jnp.float32


def test_unknown_loss_lists_the_known_ones():
  with pytest.raises(UserError, match="'wgan'.*minimax, non_saturating, .*wasserstein, relativistic"):
    adversarial.generator_loss('wgan', jnp.ones(2))


def test_a_relativistic_generator_needs_real_logits():
  with pytest.raises(ValueError, match='real_logits'):
    adversarial.generator_loss('relativistic', jnp.ones(2))


def test_penalties_of_a_linear_critic():
  direction = jnp.array([3.0, 4.0])
  x = jax.random.normal(jax.random.key(0), (6, 2))
  discriminator_fn = lambda x: x @ direction  # noqa: E731
  np.testing.assert_allclose(adversarial.r1_penalty(discriminator_fn, x), 12.5, rtol=1e-6)
  np.testing.assert_allclose(adversarial.gradient_penalty(discriminator_fn, x, -x, jnp.zeros(6)), 16.0, rtol=1e-6)


def test_penalties_of_a_quadratic_critic():
  real, fake = jax.random.normal(jax.random.key(0), (2, 5, 2, 2, 1))
  eps = jnp.linspace(0, 1, 5)
  discriminator_fn = lambda x: (x**2).sum((1, 2, 3)) / 2  # noqa: E731, its gradient is x
  np.testing.assert_allclose(adversarial.r1_penalty(discriminator_fn, real), (real**2).sum() / 10, rtol=1e-6)
  np.testing.assert_allclose(adversarial.r2_penalty(discriminator_fn, fake), (fake**2).sum() / 10, rtol=1e-6)
  mixed = eps[:, None] * real.reshape(5, -1) + (1 - eps[:, None]) * fake.reshape(5, -1)
  expected = ((np.linalg.norm(mixed, axis=1) - 1) ** 2).mean()
  np.testing.assert_allclose(adversarial.gradient_penalty(discriminator_fn, real, fake, eps), expected, rtol=1e-5)


def test_dragan_looks_around_real_examples():
  real, noise = jax.random.normal(jax.random.key(0), (5, 3)), jax.random.uniform(jax.random.key(1), (5, 3))
  discriminator_fn = lambda x: (x**2).sum(1) / 2  # noqa: E731, its gradient is x
  around = np.asarray(real) + 0.5 * np.asarray(real).std() * np.asarray(noise)
  expected = ((np.linalg.norm(around, axis=1) - 1) ** 2).mean()
  np.testing.assert_allclose(adversarial.dragan_penalty(discriminator_fn, real, noise), expected, rtol=1e-5)


def test_r1_and_r2_and_their_parameter_gradients_against_finite_differences():
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0), 4)
    params = (jax.random.normal(keys[0], (3, 4)), jax.random.normal(keys[1], (4,)))
    real, fake = jax.random.normal(keys[2], (2, 5, 3))

    def discriminator_fn(params, x):
      return jnp.tanh(x @ params[0]) @ params[1]

    for penalty_fn, x in ((adversarial.r1_penalty, real), (adversarial.r2_penalty, fake)):
      penalty = lambda params: penalty_fn(lambda x: discriminator_fn(params, x), x)  # noqa: B023, E731
      slopes = [
        (discriminator_fn(params, x + 1e-5 * e) - discriminator_fn(params, x - 1e-5 * e)) / 2e-5 for e in jnp.eye(3)
      ]
      np.testing.assert_allclose(penalty(params), 0.5 * sum(s**2 for s in slopes).mean(), rtol=1e-8)
      direction = jax.tree.map(lambda p: jax.random.normal(keys[3], p.shape), params)
      moved = [penalty(jax.tree.map(lambda p, d, h=h: p + h * d, params, direction)) for h in (1e-5, -1e-5)]
      along = sum((g * d).sum() for g, d in zip(jax.grad(penalty)(params), direction, strict=True))
      np.testing.assert_allclose(along, (moved[0] - moved[1]) / 2e-5, rtol=1e-7)


def test_gradient_penalty_and_its_parameter_gradient_against_finite_differences():
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0), 5)
    params = (jax.random.normal(keys[0], (3, 4)), jax.random.normal(keys[1], (4,)))
    real, fake = jax.random.normal(keys[2], (2, 5, 3))
    eps = jax.random.uniform(keys[3], (5,))

    def discriminator_fn(params, x):
      return jnp.tanh(x @ params[0]) @ params[1]

    def penalty(params):
      return adversarial.gradient_penalty(lambda x: discriminator_fn(params, x), real, fake, eps)

    def by_differences(params, h=1e-5):
      mixed = eps[:, None] * real + (1 - eps[:, None]) * fake
      slopes = [discriminator_fn(params, mixed + h * e) - discriminator_fn(params, mixed - h * e) for e in jnp.eye(3)]
      return ((jnp.sqrt(sum((s / (2 * h)) ** 2 for s in slopes)) - 1) ** 2).mean()

    np.testing.assert_allclose(penalty(params), by_differences(params), rtol=1e-8)
    gradient = jax.grad(penalty)(params)
    direction = jax.tree.map(lambda p: jax.random.normal(keys[4], p.shape), params)
    moved = [penalty(jax.tree.map(lambda p, d, h=h: p + h * d, params, direction)) for h in (1e-5, -1e-5)]
    along = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(along, (moved[0] - moved[1]) / 2e-5, rtol=1e-7)


def test_gradient_penalty_of_a_flat_critic_has_a_finite_gradient():
  def penalty(scale):
    return adversarial.gradient_penalty(lambda x: scale * x.sum(1), jnp.ones((2, 3)), jnp.zeros((2, 3)), jnp.ones(2))

  value, gradient = jax.value_and_grad(penalty)(0.0)
  assert value == 1.0 and gradient == 0.0


def test_clipped_weights_stay_within_the_limit_and_the_rest_is_untouched():
  clipped = adversarial.clip_weights({'kernel': jnp.array([-1.0, 0.005]), 'bias': jnp.array([0.5])}, 0.01)
  np.testing.assert_allclose(clipped['kernel'], [-0.01, 0.005])
  np.testing.assert_allclose(clipped['bias'], [0.01])
