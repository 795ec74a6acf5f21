"""Densities and pixel conventions against closed forms, SciPy and Monte Carlo."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from gen_ai.core.switch import is_off
from gen_ai.maths import densities, pixels

LEVELS = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize('array', [LEVELS, jnp.asarray(LEVELS)], ids=['numpy', 'jax'])
def test_pixels_round_trip_and_range(array):
  x = pixels.to_signed(array)
  assert isinstance(x, type(array)) and x.dtype == np.float32
  assert (x[0], x[-1]) == (-1.0, 1.0)
  assert np.array_equal(pixels.to_uint8(x), LEVELS)
  unit = pixels.to_unit(array)
  assert (unit[0], unit[-1]) == (0.0, 1.0) and unit.dtype == np.float32


def test_to_uint8_clips_and_rounds():
  x = np.array([-3.0, 1.5, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1], np.float32)
  assert pixels.to_uint8(x).tolist() == [0, 255, 1, 0]


@pytest.mark.parametrize(('weight', 'off'), [(0.0, True), (0, True), (1e-9, False), (jnp.zeros(()), False)])
def test_only_a_python_zero_is_off(weight, off):
  assert is_off(weight) is off


def test_a_tracer_is_never_off():
  jax.jit(lambda w: (_ for _ in ()).throw(AssertionError) if is_off(w) else w)(0.0)


def test_bernoulli_against_scipy():
  logits = np.linspace(-12, 12, 24).reshape(2, 3, 4)
  targets = np.random.default_rng(0).integers(0, 2, logits.shape)
  expected = scipy.stats.bernoulli.logpmf(targets, scipy.special.expit(logits)).sum((1, 2))
  np.testing.assert_allclose(densities.bernoulli_log_prob(logits, targets), expected, rtol=1e-5)


def test_bernoulli_at_extreme_logits_is_finite_with_finite_gradients():
  logits = jnp.array([[1e4], [-1e4], [1e4], [-1e4], [0.0]])
  targets = jnp.array([[1.0], [0.0], [0.0], [1.0], [1.0]])
  value, gradient = jax.value_and_grad(lambda x: densities.bernoulli_log_prob(x, targets).sum())(logits)
  np.testing.assert_allclose(value, -2e4 - math.log(2.0), rtol=1e-6)
  np.testing.assert_allclose(gradient[:, 0], [0, 0, -1, 1, 0.5], atol=1e-6)


def test_normal_against_scipy_with_a_broadcast_scale():
  x, mean = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
  expected = scipy.stats.norm.logpdf(x, mean, math.exp(-0.7)).sum((1, 2))
  np.testing.assert_allclose(densities.normal_log_prob(x, mean, -0.7), expected, rtol=1e-5)


def test_kl_against_scipy_entropy_and_monte_carlo():
  mean, log_std = np.array([[0.5, -1.0, 2.0], [0, 0, 0]]), np.array([[-0.5, 0.3, 0.0], [0, 0, 0]])
  entropy = scipy.stats.norm.entropy(mean, np.exp(log_std))
  cross = 0.5 * math.log(2 * math.pi) + 0.5 * (mean**2 + np.exp(2 * log_std))
  kl = densities.normal_kl(mean, log_std)
  np.testing.assert_allclose(kl, (cross - entropy).sum(1), rtol=1e-5, atol=1e-6)
  z = mean[0] + np.exp(log_std[0]) * np.random.default_rng(0).normal(size=(200_000, 3))
  log_q = densities.normal_log_prob(z, mean[0], log_std[0])
  sampled = log_q - densities.normal_log_prob(z, np.zeros(3), np.zeros(3))
  assert abs(sampled.mean() - kl[0]) < 4 * sampled.std() / math.sqrt(len(z))


@pytest.mark.parametrize('mean', [-1.3, -1.0, -0.2, 0.999, 4.0])
@pytest.mark.parametrize('log_scale', [-20.0, -7.0, -4.0, -1.0, 3.0])
def test_discretised_logistic_sums_to_one(mean, log_scale):
  x = pixels.to_signed(LEVELS)[:, None]
  log_prob = densities.discretised_logistic_log_prob(x, jnp.full_like(x, mean), jnp.full_like(x, log_scale))
  assert np.isfinite(log_prob).all()
  assert math.isclose(np.exp(np.asarray(log_prob, np.float64)).sum(), 1.0, abs_tol=1e-4)


def test_discretised_logistic_against_cdf_differences_in_float64():
  x = pixels.to_signed(LEVELS).astype(np.float64)
  edges = np.concatenate([[-np.inf], x[1:] - 1 / 255, [np.inf]])
  expected = np.log(np.diff(scipy.stats.logistic.cdf(edges, 0.1, math.exp(-2.0))))
  got = densities.discretised_logistic_log_prob(x[:, None], np.full((256, 1), 0.1), np.full((256, 1), -2.0))
  np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_discretised_logistic_gradients_are_finite_far_from_the_mean():
  def total(mean, log_scale):
    return densities.discretised_logistic_log_prob(jnp.array([[-1.0], [0.0], [1.0]]), mean, log_scale).sum()

  gradients = jax.grad(total, (0, 1))(jnp.array([[50.0], [-50.0], [-50.0]]), jnp.full((3, 1), -7.0))
  assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


def test_level_probabilities_of_a_density_sum_to_about_one():
  x = pixels.to_signed(LEVELS)[:, None]
  log_density = densities.normal_log_prob(x, np.zeros(1), np.log(0.1))
  assert math.isclose(np.exp(densities.density_to_level_log_prob(log_density, 1)).sum(), 1.0, rel_tol=1e-4)


def test_dequantised_levels_round_back_and_fill_their_bins():
  keys = jax.random.split(jax.random.key(0), 64)
  image = np.full((64, 4, 4, 1), 77, np.uint8)
  levels = (densities.dequantise(keys, jnp.asarray(pixels.to_signed(image))) + 1) * 127.5
  assert np.array_equal(pixels.to_uint8(levels / 127.5 - 1), image)
  assert levels.min() < 76.55 and levels.max() > 77.45


def test_binarised_pixels_have_their_probabilities_and_follow_their_keys():
  keys = jax.random.split(jax.random.key(0), 4000)
  unit = jnp.tile(jnp.array([0.0, 0.25, 0.9, 1.0]), (4000, 1))
  bits = densities.binarise(keys, unit)
  assert set(np.unique(bits)) == {0.0, 1.0} and bits.dtype == np.float32
  np.testing.assert_allclose(bits.mean(0), unit[0], atol=0.03)
  assert np.array_equal(bits[7:9], densities.binarise(keys[7:9], unit[7:9]))


def test_bits_per_dimension_of_a_uniform_byte():
  assert math.isclose(densities.nats_to_bpd(784 * math.log(256.0), 784), 8.0)


def test_log_densities_of_bfloat16_are_float32():
  x = jnp.ones((2, 3), jnp.bfloat16)
  for log_prob in (densities.bernoulli_log_prob(x, x), densities.normal_log_prob(x, x, x), densities.normal_kl(x, x)):
    assert log_prob.dtype == jnp.float32
