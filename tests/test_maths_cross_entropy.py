"""Cross-entropy in tiles of the vocabulary: value and gradient of the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_ai.maths.cross_entropy import tiled, token_loss

HIDDEN = jax.random.normal(jax.random.key(0), (3, 10, 4))
HEAD = jax.random.normal(jax.random.key(1), (4, 7))
TARGETS = jax.random.randint(jax.random.key(2), (3, 10), 0, 7)


def test_nats_are_those_of_optax_and_the_normaliser_is_the_log_of_the_sum():
  logits = HIDDEN @ HEAD
  found = token_loss(logits, TARGETS)
  expected = optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS)
  np.testing.assert_allclose(found.nats, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found.normaliser, np.log(np.exp(logits).sum(-1)), rtol=1e-5)


def logits(rows, hidden):
  return hidden @ rows.T


@pytest.mark.parametrize('tile', [0, 1, 3, 5, 7, 20])
def test_tiles_give_the_value_and_the_gradient_of_the_whole(tile):
  def total(hidden, head, tile):
    found = tiled(logits, head.T, hidden, TARGETS, tile)
    assert found.nats.shape == TARGETS.shape
    return (found.nats * jnp.arange(10)).sum() + 0.1 * (found.normaliser**2).sum()

  value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)(HIDDEN, HEAD, tile)
  whole, expected = jax.value_and_grad(total, (0, 1))(HIDDEN, HEAD, 0)
  np.testing.assert_allclose(value, whole, rtol=1e-5)
  for a, b in zip(gradients, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_tiles_of_large_logits_neither_overflow_nor_lose_them():
  found = tiled(logits, 300 * HEAD.T, HIDDEN, TARGETS, 3)
  np.testing.assert_allclose(found.nats, token_loss(HIDDEN @ HEAD * 300, TARGETS).nats, rtol=1e-5, atol=1e-3)


def test_tiles_never_hold_all_logits():
  B, T, D, V = 2, 64, 8, 1000
  hidden, head, targets = jnp.ones((B, T, D)), jnp.ones((V, D)), jnp.zeros((B, T), jnp.int32)

  def loss(hidden, head, tile):
    return tiled(logits, head, hidden, targets, tile).nats.sum()

  def temporary(tile):
    fn = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    return fn.lower(hidden, head, tile).compile().memory_analysis().temp_size_in_bytes

  assert temporary(0) > B * T * V * 4 > 2 * temporary(100)
