"""Path length against a known Jacobian, its penalty against finite differences, and the running mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.maths.path_length import path_length, path_length_mean, path_length_penalty

B, L, D, SIDE = 3, 2, 5, 4
rng = np.random.default_rng(0)
JACOBIAN = jnp.asarray(rng.normal(size=(L, D, SIDE, SIDE, 1)), jnp.float32)


def linear(ws):
  return jnp.einsum('bld,ldhwc->bhwc', ws, JACOBIAN)


def test_of_a_linear_map_it_is_the_norm_of_the_jacobian_times_the_image():
  ws, noise = jnp.asarray(rng.normal(size=(B, L, D)), jnp.float32), rng.normal(size=(B, SIDE, SIDE, 1))
  found = path_length(linear, ws, jnp.asarray(noise, jnp.float32))
  slopes = np.einsum('bhwc,ldhwc->bld', noise / SIDE, JACOBIAN)  # y has noise over sqrt(H W)
  np.testing.assert_allclose(found, np.sqrt((slopes**2).sum(2).mean(1)), rtol=1e-5)


def test_it_is_the_length_of_a_directional_derivative_by_finite_differences():
  def curved(ws):
    return jnp.tanh(linear(ws)) + linear(ws) ** 2

  ws, noise = jnp.asarray(0.3 * rng.normal(size=(1, L, D)), jnp.float32), rng.normal(size=(1, SIDE, SIDE, 1))
  y, step = noise / SIDE, 1e-3
  slopes = np.zeros((L, D))
  for layer in range(L):
    for dim in range(D):
      move = jnp.zeros((1, L, D)).at[0, layer, dim].set(step)
      slopes[layer, dim] = (np.asarray(curved(ws + move) - curved(ws - move)) * y).sum() / (2 * step)
  expected = np.sqrt((slopes**2).sum(1).mean())
  assert float(path_length(curved, ws, jnp.asarray(noise, jnp.float32))[0]) == pytest.approx(expected, rel=1e-3)


def test_the_penalty_has_the_gradient_of_finite_differences():
  ws, noise = jnp.asarray(rng.normal(size=(B, L, D)), jnp.float32), jnp.asarray(rng.normal(size=(B, SIDE, SIDE, 1)))

  def penalty(scale):
    return path_length_penalty(path_length(lambda ws: jnp.sin(scale * linear(ws)), ws, noise), jnp.float32(0.7))

  step = 1e-3
  expected = (penalty(0.5 + step) - penalty(0.5 - step)) / (2 * step)
  assert float(jax.grad(penalty)(0.5)) == pytest.approx(float(expected), rel=1e-2)


def test_a_constant_map_has_length_zero_and_a_finite_gradient():
  def length(scale):
    return path_length(lambda ws: 0.0 * scale * linear(ws), jnp.ones((1, L, D)), jnp.ones((1, SIDE, SIDE, 1)))[0]

  assert float(length(1.0)) == 0.0
  assert float(jax.grad(length)(1.0)) == 0.0


def test_penalty_and_running_mean_by_hand():
  assert float(path_length_penalty(jnp.array([1.0, 3.0]), jnp.float32(2.5))) == pytest.approx((1.5**2 + 0.5**2) / 2)
  mean = jnp.float32(0.0)
  for value in (1.0, 2.0):
    mean = path_length_mean(mean, jnp.float32(value))
  assert float(mean) == pytest.approx(1.0 + 0.01 * (2.0 - 1.0))


def test_the_first_lengths_start_the_mean_and_are_not_pressed_towards_zero():
  lengths, none = jnp.array([1.0, 3.0]), jnp.float32(0.0)
  value, slope = jax.value_and_grad(path_length_penalty)(lengths, none)
  assert float(value) == 0.0
  np.testing.assert_array_equal(slope, 0.0)
  assert float(path_length_mean(none, lengths.mean())) == 2.0
