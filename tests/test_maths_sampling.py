"""Sampling tokens: support, frequencies, determinism and whole sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.maths.sampling import generate, sample_token

LOGITS = jnp.array([0.0, 3.0, 2.0, 2.5, -1.0])


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def draw(temperature=1.0, top_k=0, n=4000):
  return np.asarray(sample_token(keys(n), jnp.tile(LOGITS, (n, 1)), temperature, top_k))


@pytest.mark.parametrize(
  ('top_k', 'support'), [(1, {1}), (2, {1, 3}), (3, {1, 2, 3}), (0, set(range(5))), (9, set(range(5)))]
)
def test_top_k_keeps_exactly_the_likeliest(top_k, support):
  tokens = draw(temperature=2.0, top_k=top_k)
  assert set(tokens.tolist()) == support and tokens.dtype == np.int32


def test_top_k_keeps_k_tokens_of_equals():
  tokens = sample_token(keys(500), jnp.zeros((500, 6)), 1.0, 2)
  assert len(set(tokens.tolist())) == 2


@pytest.mark.parametrize('top_k', [0, 3])
def test_frequencies_follow_the_tempered_softmax(top_k):
  tokens = jax.jit(lambda t: sample_token(keys(20_000, 1), jnp.tile(LOGITS, (20_000, 1)), t, top_k))(0.7)
  weights = np.exp(np.asarray(LOGITS) / 0.7) * (np.isin(np.arange(5), [1, 2, 3]) | (top_k == 0))
  np.testing.assert_allclose(np.bincount(tokens, minlength=5) / 20_000, weights / weights.sum(), atol=0.015)


def test_temperature_zero_takes_the_likeliest():
  assert set(draw(temperature=0.0).tolist()) == {1}


def test_negative_top_k_is_refused():
  with pytest.raises(UserError, match='top_k is -1'):
    draw(top_k=-1)


def counting_step(cache, token, position):
  """The next token is the last one plus 1, mod 7; the cache records (position, token)."""
  logits = jax.nn.one_hot((token + 1) % 7, 7) * 100.0
  return logits, cache.at[position].set(token[0])


def test_generate_keeps_the_prompt_and_continues_it():
  prompt = jnp.array([[3, 1, 5], [0, 0, 2]])
  tokens = jax.jit(lambda: generate(counting_step, jnp.zeros(8, jnp.int32), prompt, 8, keys(2)))()
  assert tokens.tolist() == [[3, 1, 5, 6, 0, 1, 2, 3], [0, 0, 2, 3, 4, 5, 6, 0]]


def test_generate_with_more_length_starts_with_the_same_tokens():
  step_fn = lambda cache, token, position: (jnp.zeros((2, 50)), cache)  # noqa: E731
  short, long = (generate(step_fn, (), jnp.zeros((2, 1), jnp.int32), n, keys(2)) for n in (5, 9))
  assert np.array_equal(short, long[:, :5]) and len(set(long[0].tolist())) > 3


def test_a_row_is_drawn_by_its_own_key_whatever_stands_beside_it():
  step_fn = lambda cache, token, position: (jnp.zeros((token.shape[0], 50)), cache)  # noqa: E731
  draw = lambda own: np.asarray(generate(step_fn, (), jnp.zeros((len(own), 1), jnp.int32), 9, own))  # noqa: E731
  both = draw(keys(2))
  assert not np.array_equal(*both)
  np.testing.assert_array_equal(draw(keys(2)[1:]), both[1:])


def test_a_shorter_prompt_is_gone_on_from_while_a_longer_one_is_read():
  prompt = jnp.array([[3, 1, 5], [2, -1, -1], [6, 6, -1]])
  tokens = generate(counting_step, jnp.zeros(8, jnp.int32), prompt, 6, keys(3))
  assert tokens.tolist() == [[3, 1, 5, 6, 0, 1], [2, 3, 4, 5, 6, 0], [6, 6, 0, 1, 2, 3]]


@pytest.mark.parametrize(('given', 'length'), [(0, 4), (5, 4)])
def test_generate_refuses_a_prompt_that_does_not_fit(given, length):
  with pytest.raises(UserError, match=f'the prompt has {given} tokens'):
    generate(counting_step, jnp.zeros(8), jnp.zeros((1, given), jnp.int32), length, keys(1))


def test_generate_returns_a_prompt_of_full_length_untouched():
  prompt = jnp.array([[4, 2]])
  assert np.array_equal(generate(counting_step, jnp.zeros(2, jnp.int32), prompt, 2, keys(1)), prompt)
