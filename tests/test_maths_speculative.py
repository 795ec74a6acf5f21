"""Speculative decoding: the distribution and the text of the model alone, whatever drafts for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gen_ai.core.method import Reader
from gen_ai.maths.sampling import Decoding, Rule
from gen_ai.maths.speculative import Speculation
from gen_ai.maths.stops import automaton

V = 4
GREEDY = Rule(temperature=0.0)
PROMPTS = np.array([[3, 1, 2, 0, 3], [2, -1, -1, -1, -1], [0, 2, 1, -1, -1]])


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


@functools.cache
def reader(seed, context=32, sharpness=1.0, size=V):
  """A model whose logits depend on the last two tokens in its cache and on how many there are."""
  here, before, count = (
    sharpness * jax.random.normal(key, (rows, size))
    for key, rows in zip(keys(3, seed), (size, size + 1, context), strict=True)
  )

  def extend(cache, tokens, positions, pick, fresh):
    row = jnp.arange(len(tokens))[:, None]
    cache = (jnp.full_like(cache, -1) if fresh else cache).at[0, row, positions].set(tokens, mode='drop')
    at = jnp.minimum(jnp.take_along_axis(positions, pick.reshape(len(pick), -1), 1), context - 1)
    earlier = jnp.where(at > 0, cache[0, row, at - 1], size)
    logits = here[cache[0, row, at]] + before[earlier] + count[at]
    return (logits if pick.ndim == 2 else logits[:, 0]), cache

  return Reader(extend, lambda B: jnp.full((1, B, context), -1, jnp.int32), context)


def plain(model, prompt, length, own, rule=Rule(), stops=None):  # noqa: B008
  def run(prompt):
    decoding = Decoding(model, length, own, rule, stops)
    return decoding.advance(decoding.start(prompt), length).text

  return np.asarray(jax.jit(run)(jnp.asarray(prompt)))


def speculated(model, draft, prompt, length, own, rule=Rule(), stops=None, tokens=3):  # noqa: B008
  """(text, everything)."""

  def run(prompt):
    speculation = Speculation(model, draft, tokens, length, own, rule, stops)
    return speculation.advance(speculation.start(prompt), length)

  found = jax.jit(run)(jnp.asarray(prompt))
  return np.asarray(found.text), found


@pytest.mark.parametrize(
  ('rule', 'draft', 'context'),
  [
    (Rule(), 'another', 32),
    (Rule(), 'another', 3),
    (Rule(temperature=0.7, top_k=3), 'another', 3),
    (Rule(top_p=0.8, repetition=1.5), 'another', 32),
    (Rule(min_p=0.2), 'itself', 32),
  ],
)
def test_texts_have_the_distribution_of_the_model_alone(rule, draft, context):
  n, length = 20_000, 4
  model, prompt = reader(1, context), np.tile([[2, 1]], (n, 1))
  alone = plain(model, prompt, length, keys(n, 1), rule)
  small = model if draft == 'itself' else reader(2, 5, 2.0)
  text, found = speculated(model, small, prompt, length, keys(n, 2), rule)
  which = [(rows[:, 2:] @ V ** np.arange(length)).astype(int) for rows in (alone, text)]
  counts = np.stack([np.bincount(each, minlength=V**length) for each in which])
  likely = counts.sum(0) >= 10
  table = np.concatenate([counts[:, likely], counts[:, ~likely].sum(1, keepdims=True)], 1)
  # Seeds are fixed: this says that a right program had a chance of 1 in 1,000 to fail when it was written.
  assert stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 0.001
  rate = found.accepted.sum() / (found.accepted.sum() + found.rejected.sum())
  assert rate == 1 if draft == 'itself' else 0.2 < rate < 0.9


@pytest.mark.parametrize(('rule', 'tokens'), [(Rule(), 3), (GREEDY, 1), (Rule(top_k=2, repetition=1.5), 3)])
def test_a_model_that_drafts_for_itself_gives_the_text_of_plain_decoding(rule, tokens):
  model = reader(1)
  text, found = speculated(model, model, PROMPTS, 11, keys(3), rule, tokens=tokens)
  np.testing.assert_array_equal(text, plain(model, PROMPTS, 11, keys(3), rule))
  assert not found.rejected.any() and (found.made == 11).all()
  assert found.passes.tolist() == [-(-11 // (tokens + 1))] * 3
  assert (found.accepted == 11 - found.passes + (11 % (tokens + 1) != 0)).all()


@pytest.mark.parametrize(
  ('context', 'drafts', 'tokens', 'repetition'),
  [(32, 32, 5, 3.0), (32, 2, 3, 0.0), (5, 32, 2, 0.0), (4, 4, 3, 3.0), (1, 3, 1, 0.0), (2, 1, 5, 0.0)],
)
def test_greedy_text_is_that_of_plain_decoding(context, drafts, tokens, repetition):
  model, rule = reader(1, context, size=30), Rule(temperature=0.0, repetition=repetition)
  text, found = speculated(model, reader(1, drafts, 1.1, 30), PROMPTS, 20, keys(3), rule, tokens=tokens)
  np.testing.assert_array_equal(text, plain(model, PROMPTS, 20, keys(3), rule))
  assert (found.made == 20).all()


def test_rows_together_equal_each_alone_and_pieces_the_whole():
  model, draft, own = reader(1, 6), reader(2, 8), keys(3)
  together, _ = speculated(model, draft, PROMPTS, 15, own)
  for row, prompt in enumerate(PROMPTS):
    alone, _ = speculated(model, draft, prompt[prompt >= 0][None], 15, own[row : row + 1])
    np.testing.assert_array_equal(together[row][together[row] >= 0], alone[0])
  speculation = Speculation(model, draft, 3, 15, own)
  now, advance = jax.jit(speculation.start)(jnp.asarray(PROMPTS)), jax.jit(speculation.advance)
  for upto in (1, 2, 7, 15):
    now = advance(now, upto)
    assert (now.made >= upto).all()
    shown = np.where(np.arange(20) < (now.given + now.made)[:, None], together, -1)
    np.testing.assert_array_equal(now.text, shown)
  assert now.done.all()


@pytest.mark.parametrize('rule', [GREEDY, Rule()], ids=str)
def test_a_row_ends_after_its_stop_and_the_others_go_on(rule):
  model, own = reader(1), keys(3)
  draft = reader(2) if rule == GREEDY else model  # which draw what plain decoding draws
  whole = plain(model, PROMPTS, 20, own, rule)
  stop = whole[0, 10:12].tolist()
  stops = automaton([stop], [[token] for token in range(V)])
  expected = plain(model, PROMPTS, 20, own, rule, stops)
  assert (expected[0, 12:] == -1).all() and (expected[0, :12] >= 0).any()
  text, found = speculated(model, draft, PROMPTS, 20, own, rule, stops)
  np.testing.assert_array_equal(text, expected)
  assert found.done.all() and np.array_equal(found.made, (expected >= 0).sum(1) - (PROMPTS >= 0).sum(1))
