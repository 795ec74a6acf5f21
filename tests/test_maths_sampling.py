"""Sampling tokens: support, frequencies, determinism and whole sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.maths.sampling import Rule, filtered, generate, sample_token
from gen_ai.maths.stops import automaton

LOGITS = jnp.array([0.0, 3.0, 2.0, 2.5, -1.0])


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def draw(temperature=1.0, top_k=0, n=4000):
  return np.asarray(sample_token(keys(n), jnp.tile(LOGITS, (n, 1)), Rule(temperature=temperature, top_k=top_k)))


@pytest.mark.parametrize(
  ('top_k', 'support'), [(1, {1}), (2, {1, 3}), (3, {1, 2, 3}), (0, set(range(5))), (9, set(range(5)))]
)
def test_top_k_keeps_exactly_the_likeliest(top_k, support):
  tokens = draw(temperature=2.0, top_k=top_k)
  assert set(tokens.tolist()) == support and tokens.dtype == np.int32


def test_top_k_keeps_k_tokens_of_equals():
  tokens = sample_token(keys(500), jnp.zeros((500, 6)), Rule(top_k=2))
  assert len(set(tokens.tolist())) == 2


@pytest.mark.parametrize('top_k', [0, 3])
def test_frequencies_follow_the_tempered_softmax(top_k):
  rule = lambda t: Rule(temperature=t, top_k=top_k)  # noqa: E731
  tokens = jax.jit(lambda t: sample_token(keys(20_000, 1), jnp.tile(LOGITS, (20_000, 1)), rule(t)))(0.7)
  weights = np.exp(np.asarray(LOGITS) / 0.7) * (np.isin(np.arange(5), [1, 2, 3]) | (top_k == 0))
  np.testing.assert_allclose(np.bincount(tokens, minlength=5) / 20_000, weights / weights.sum(), atol=0.015)


def test_temperature_zero_takes_the_likeliest():
  assert set(draw(temperature=0.0).tolist()) == {1}


def test_negative_top_k_is_refused():
  with pytest.raises(UserError, match='top_k is -1'):
    draw(top_k=-1)


def left(rule, seen=None):
  """Which of the five tokens keep a chance."""
  return np.flatnonzero(np.isfinite(filtered(LOGITS[None], rule, seen)[0])).tolist()


@pytest.mark.parametrize(
  ('top_p', 'tokens'), [(0.3, [1]), (0.5, [1, 3]), (0.8, [1, 2, 3]), (0.97, [0, 1, 2, 3]), (0.999, [0, 1, 2, 3, 4])]
)
def test_top_p_keeps_the_likeliest_that_hold_the_share(top_p, tokens):
  p = np.exp(LOGITS) / np.exp(LOGITS).sum()
  ordered = np.sort(p)[::-1]
  assert sum(ordered[: len(tokens)]) >= top_p > sum(ordered[: len(tokens) - 1])
  assert left(Rule(top_p=top_p)) == tokens


def test_min_p_keeps_what_is_near_the_likeliest():
  assert left(Rule(min_p=0.5)) == [1, 3]  # e^-0.5 = 0.61, e^-1 = 0.37
  assert left(Rule(min_p=0.3)) == [1, 2, 3]
  assert left(Rule(min_p=0.3, temperature=0.4)) == [1]  # of what is drawn from: e^(-0.5 / 0.4) = 0.29


def test_the_repetition_penalty_lowers_what_the_text_holds():
  seen = jnp.array([[False, True, False, False, True]])
  rule = Rule(repetition=2.0)
  np.testing.assert_allclose(filtered(LOGITS[None], rule, seen)[0], [0.0, 1.5, 2.0, 2.5, -2.0])
  greedy = sample_token(keys(1), LOGITS[None], rule._replace(temperature=0.0), seen)
  assert greedy.tolist() == [3]


def counting(cache, tokens, positions, pick, fresh):
  """The next token is the picked one plus 1, mod 7; the cache keeps the tokens at their positions."""
  row = jnp.arange(len(tokens))
  cache = cache.at[0, row[:, None], positions].set(tokens, mode='drop')
  return jax.nn.one_hot((tokens[row, pick] + 1) % 7, 7) * 100.0 + 1.0, cache


def count_on(prompt, length, context=32, rule=Rule(), stops=()):  # noqa: B008
  prompt = jnp.asarray(prompt)
  n, table = len(prompt), automaton(stops, [[token] for token in range(7)]) if stops else None
  run = jax.jit(
    lambda prompt: generate(
      counting, jnp.zeros((1, n, context), jnp.int32), prompt, length, context, keys(n), rule, table
    )
  )
  return run(prompt).tolist()


@pytest.mark.parametrize('context', [3, 4, 5, 8, 32])
def test_generate_keeps_the_prompt_and_continues_it_beyond_the_context(context):
  texts = count_on([[3, 1, 5], [0, 0, 2]], 9, context)
  assert texts == [[3, 1, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0], [0, 0, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]]


def test_a_shorter_prompt_is_gone_on_from_at_once():
  texts = count_on([[3, 1, 5], [2, -1, -1], [6, 6, -1]], 3)
  assert texts == [[3, 1, 5, 6, 0, 1], [2, 3, 4, 5, -1, -1], [6, 6, 0, 1, 2, -1]]


@pytest.mark.parametrize('context', [1, 2, 3, 4, 5, 9])
def test_rows_of_any_lengths_use_up_their_context_each_by_itself(context):
  def looking(cache, tokens, positions, pick, fresh):
    """The next token is the sum, mod 7, of all that the cache holds: it tells how far a row looks back."""
    row = jnp.arange(len(tokens))
    cache = jnp.zeros_like(cache) if fresh else cache
    cache = cache.at[0, row[:, None], positions].set(tokens, mode='drop')
    upto = positions[row, pick]
    total = jnp.where(jnp.arange(context) <= upto[:, None], cache[0], 0).sum(1)
    return jax.nn.one_hot(total % 7, 7) * 100.0, cache

  def texts(prompt):
    prompt = jnp.asarray(prompt)
    return generate(
      looking, jnp.zeros((1, len(prompt), context), jnp.int32), prompt, 12, context, keys(len(prompt))
    ).tolist()

  prompts = [[3, 1, 5, 2, 6], [2, -1, -1, -1, -1], [6, 4, 1, -1, -1]]
  for together, prompt in zip(texts(prompts), prompts, strict=True):
    alone = [token for token in prompt if token >= 0]
    assert [token for token in together if token >= 0] == texts([alone])[0]


def test_a_row_ends_after_its_stop():
  texts = count_on([[3, 1], [4, -1], [5, 6]], 6, stops=[(5, 6), (4,)])
  assert texts == [[3, 1, 2, 3, 4, -1, -1, -1], [4, 5, 6, -1, -1, -1, -1, -1], [5, 6, 0, 1, 2, 3, 4, -1]]


def test_a_repetition_penalty_looks_at_the_whole_text():
  texts = count_on([[3, 1]], 4, rule=Rule(temperature=0.0, repetition=1e6))
  assert texts[0][:3] == [3, 1, 2] and len(set(texts[0])) == 6


def uniform(cache, tokens, positions, pick, fresh):
  return jnp.zeros((len(tokens), 50)), cache


def drawn(own, length=9):
  return np.asarray(generate(uniform, (), jnp.zeros((len(own), 1), jnp.int32), length, 32, own))


def test_generate_with_more_length_starts_with_the_same_tokens():
  short, long = drawn(keys(2), 5), drawn(keys(2), 9)
  assert np.array_equal(short, long[:, :6]) and len(set(long[0].tolist())) > 3


def test_a_row_is_drawn_by_its_own_key_whatever_stands_beside_it():
  both = drawn(keys(2))
  assert not np.array_equal(*both)
  np.testing.assert_array_equal(drawn(keys(2)[1:]), both[1:])


def test_generate_refuses_an_empty_prompt():
  with pytest.raises(UserError, match='the prompt has no token'):
    generate(uniform, (), jnp.zeros((1, 0), jnp.int32), 4, 32, keys(1))
