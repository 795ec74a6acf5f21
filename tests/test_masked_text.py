"""Masked diffusion of text: bounds in closed form, what a sampler draws and leaves alone, and blocks of texts."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import masked_text
from gen_ai.core.errors import UserError
from gen_ai.data.text import ByteVocab
from gen_ai.evaluate.examples import ExamplePass
from gen_ai.maths.diffusion import quantiles
from gen_ai.maths.masked_diffusion import MASKS, ORDERS, Writing, fill, hide, times
from gen_ai.maths.sampling import Rule
from gen_ai.maths.stops import automaton

RNG = np.random.default_rng(0)


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


# What is hidden, and what that weighs.


def every_draw(L):
  """(t [n], noise [n, L]) of all numbers of hidden tokens and all orders: what 'counted' draws, each as likely."""
  orders = np.array(list(itertools.permutations(range(L))), np.float32) / L
  return np.repeat(np.arange(1, L + 1) / L, len(orders)).astype(np.float32), np.tile(orders, (L, 1))


def test_counted_masks_hide_every_number_of_tokens_and_their_mean_is_the_whole_cost():
  t, noise = every_draw(4)
  found = hide('counted', jnp.asarray(t), jnp.asarray(noise), jnp.ones(noise.shape, bool))
  assert np.bincount(found.where.sum(1)).tolist() == [0, 24, 24, 24, 24]
  cost = np.array([0.1, 2.0, 0.7, 5.0])  # of independent tokens: the same, whatever else is hidden
  bound = (np.asarray(found.where) * cost).sum(1) * np.asarray(found.weight)
  assert bound.mean() == pytest.approx(cost.sum(), rel=1e-6)
  ended = jnp.asarray([[True, True, True, False]])
  short = hide('counted', jnp.ones(1), jnp.zeros((1, 4)), ended)
  np.testing.assert_array_equal(short.where, ended)
  assert short.weight == 1 and hide('counted', jnp.ones(1), jnp.zeros((1, 4)), ended & False).weight == 0


def test_independent_masks_have_the_same_mean():
  n, cost = 100_000, np.array([0.1, 2.0, 0.7, 5.0])
  noise = jax.random.uniform(jax.random.key(0), (n, 4))
  for masks in MASKS:
    found = hide(masks, quantiles(jnp.float32(0.3), n), noise, jnp.ones((n, 4), bool))
    bound = (np.asarray(found.where) * cost).sum(1) * np.asarray(found.weight)
    assert bound.mean() == pytest.approx(cost.sum(), rel=0.02), masks


def test_times_lie_evenly_over_draws_and_examples_and_belong_to_the_example():
  first = jnp.uint32(123456789)
  found = np.asarray(times(jnp.arange(50), first, 4))
  assert found.min() > 0 and found.max() <= 1
  np.testing.assert_allclose(np.diff(np.sort(found, 1), axis=1), 0.25, atol=1e-6)
  assert np.diff(np.sort(found.ravel())).max() < 3 / found.size, 'no gap is much wider than an even one'
  np.testing.assert_array_equal(times(jnp.array([7, 49]), first, 4), found[[7, 49]])
  far = np.asarray(times(jnp.arange(2**31 - 51, 2**31 - 1, dtype=jnp.int32), first, 1))
  assert far.shape == (50, 1) and np.diff(np.sort(far.ravel())).max() < 3 / 50


# Two tokens whose joint distribution is known: what a model of them says in one order and in the other.

JOINT = np.array([[0.30, 0.05, 0.05], [0.02, 0.20, 0.08], [0.10, 0.05, 0.15]])


def tables(perfect):
  """(p(x1), p(x2), p(x2 | x1), p(x1 | x2)) of a model; an imperfect one's are of no joint distribution."""
  second, first = JOINT / JOINT.sum(1, keepdims=True), JOINT.T / JOINT.sum(0)[:, None]
  return JOINT.sum(1), JOINT.sum(0), second if perfect else second[::-1], first


def of_pairs(one, two, second, first):
  """The logits of a model of pairs, as `fill` asks for them."""

  def logits_of(tokens, hidden):
    at = jnp.where(hidden, 0, tokens)
    left = jnp.where(hidden[:, 1:], one, first[at[:, 1]])
    right = jnp.where(hidden[:, :1], two, second[at[:, 0]])
    return jnp.log(jnp.stack([left, right], 1))

  return logits_of


def bound_of(logits_of):
  """[3, 3] the bound of every pair, exactly: over all masks."""
  t, noise = every_draw(2)
  found = hide('counted', jnp.asarray(t), jnp.asarray(noise), jnp.ones(noise.shape, bool))
  pairs = jnp.array(list(itertools.product(range(3), repeat=2)))
  total = 0.0
  for where, weight in zip(found.where, found.weight, strict=True):
    hidden = jnp.broadcast_to(where, pairs.shape)
    log_p = jax.nn.log_softmax(logits_of(jnp.where(hidden, 3, pairs), hidden))
    total += weight * -(jnp.take_along_axis(log_p, pairs[..., None], -1)[..., 0] * hidden).sum(1) / len(t)
  return np.asarray(total).reshape(3, 3)


def test_the_bound_of_a_perfect_model_is_the_likelihood_and_of_another_the_mean_over_orders():
  tabled = [jnp.asarray(table, jnp.float32) for table in tables(True)]
  np.testing.assert_allclose(bound_of(of_pairs(*tabled)), -np.log(JOINT), rtol=1e-5)
  one, two, second, first = tables(False)
  orders = np.stack([one[:, None] * second, two[None] * first.T])
  bound = bound_of(of_pairs(*(jnp.asarray(table, jnp.float32) for table in tables(False))))
  np.testing.assert_allclose(bound, -np.log(orders).mean(0), rtol=1e-5)
  exact = -np.log(orders.mean(0))  # of what the sampler draws: either order
  assert (bound >= exact - 1e-6).all() and (bound > exact + 0.01).any()


def test_the_sampler_draws_from_the_model_one_token_at_a_time_and_from_its_margins_at_once():
  n = 40_000
  logits_of = of_pairs(*(jnp.asarray(table, jnp.float32) for table in tables(False)))
  one, two, second, first = tables(False)
  blank, hidden = jnp.zeros((n, 2), jnp.int32), jnp.ones((n, 2), bool)

  def drawn(hidden, **how):
    found = fill(logits_of, blank, hidden, keys(n), **how)
    counts = np.zeros((3, 3))
    np.add.at(counts, tuple(np.asarray(found.tokens).T), 1 / n)
    return counts, np.unique(found.evaluations).tolist()

  orders = (one[:, None] * second + two[None] * first.T) / 2
  for how, expected, evaluations in (({}, orders, [2]), ({'steps': 1}, np.outer(one, two), [1])):
    counts, found = drawn(hidden, **how)
    np.testing.assert_allclose(counts, expected, atol=0.01)
    assert found == evaluations
  given, _ = drawn(hidden.at[:, 0].set(False), steps=9)
  np.testing.assert_allclose(given, [second[0], [0] * 3, [0] * 3], atol=0.01)


# Texts, by a model that knows what follows a token: the next number.

V, C = 10, 12


def counting(tokens, columns):
  """Sure of what follows a token that is not hidden, and of nothing else."""
  before = jnp.take_along_axis(tokens, jnp.maximum(columns - 1, 0), 1)
  sure = (columns > 0) & (before < V)
  return jnp.where(sure[..., None], 40.0 * jax.nn.one_hot((before + 1) % V, V), 0.0)


def written(prompt, pieces=(99,), **how):
  settings = {'length': 21, 'block': 8, 'order': 'confident', 'key': keys(len(prompt)), **how}
  writing = Writing(counting, V, C, **settings)

  @jax.jit
  def run(prompt):
    now = writing.start(prompt)
    for count in pieces:
      now = writing.advance(now, count)
    return now

  return run(jnp.asarray(prompt, jnp.int32))


def prompts():
  """int32 [2, 15]: one longer than the context, and one of a token."""
  found = np.full((2, 15), -1)
  found[0], found[1, 0] = np.arange(15) % V, 7
  return found


def test_blocks_follow_prompts_of_any_length_beyond_the_context():
  found = written(prompts())
  for row, given in zip(np.asarray(found.text), (15, 1), strict=True):
    first = row[0]
    np.testing.assert_array_equal(row[: given + 21], (first + np.arange(given + 21)) % V)
    assert (row[given + 21 :] == -1).all()
  assert found.evaluations.tolist() == [21, 21] and found.done.all()


def test_a_text_is_the_same_alone_and_in_pieces():
  both = written(prompts(), order='random')
  alone = written(prompts()[1:, :1], (3, 9, 20, 99), order='random', key=keys(2)[1:])
  np.testing.assert_array_equal(alone.text[0], both.text[1, :22])
  drawn = np.asarray(alone.text[0])
  assert drawn.max() < V and not np.array_equal(drawn, (7 + np.arange(22)) % V), (
    'neighbours that are hidden tell nothing'
  )


@pytest.mark.parametrize(('steps', 'evaluations'), [(0, 21), (3, 9), (5, 15), (99, 21)])
def test_evaluations_are_those_of_every_block(steps, evaluations):
  assert written([[3]], steps=steps).evaluations.tolist() == [evaluations]  # blocks of 8, 8 and 5


def test_a_text_ends_behind_a_stop_and_asks_no_more_of_the_model():
  symbols = [[token] for token in range(V)]
  found = written([[3], [9]], stops=automaton([[0, 1]], symbols))
  rows = [[int(token) for token in row if token >= 0] for row in found.text]
  assert rows == [[3, 4, 5, 6, 7, 8, 9, 0, 1], [9, 0, 1]]
  assert found.evaluations.tolist() == [8, 8] and found.done.all()


def test_columns_beside_a_row_change_nothing_of_it():
  def logits_of(tokens, hidden):
    return jnp.zeros((*tokens.shape, V))

  for order in ORDERS:
    narrow, wide = (
      fill(logits_of, jnp.zeros((2, n), jnp.int32), jnp.arange(n) < jnp.array([[3], [5]]), keys(2), Rule(), 2, order)
      for n in (5, 9)
    )
    np.testing.assert_array_equal(narrow.tokens, wide.tokens[:, :5])
    assert narrow.evaluations.tolist() == [2, 2] and len(set(narrow.tokens[1].tolist())) > 1


# The family.

SMALL = {'model__norm': 'layer', 'model__bias': True, 'model__tied': False}


@pytest.fixture(scope='module')
def built():
  """(config, method, a state whose network says the same of every token, and of the others: log p of each)."""
  config = tiny.config('masked_text', **SMALL, eval__masks=16, sample__masks=64, data__tokens='byte')
  method = masked_text.build(config, tiny.dataset(config).spec)
  state = jax.tree.map(jnp.zeros_like, jax.jit(method.init)(jax.random.key(0)))
  log_p = np.log(RNG.dirichlet(np.ones(256)))
  params = {**state.params}
  params['final_norm'] = {**params['final_norm'], 'bias': params['final_norm']['bias'].at[0].set(1.0)}
  params['head'] = {'kernel': params['head']['kernel'].at[0].set(log_p)}
  return config, method, state._replace(params=params), log_p


def test_the_bound_of_independent_tokens_is_their_likelihood(built):
  config, method, state, log_p = built
  source = tiny.dataset(config).splits['validation']
  rows = source.read(source.eval_index(np.arange(source.evaluated)))
  batch = {**rows, 'mask': np.ones(source.evaluated, np.float32)}
  targets = rows['tokens'][:, 1:]
  assert (targets < 0).any(), 'the last window must be ragged'
  step = jax.jit(method.eval_step)
  found = step(state, batch, jax.random.key(1))
  exact = -log_p[targets[targets >= 0]].sum()
  total, count = found['loss_nats']
  assert count == (targets >= 0).sum() and float(total) == pytest.approx(exact, rel=0.01)
  bits, size = found['bits_per_byte']
  assert size == count and float(bits) == pytest.approx(float(total) / math.log(2), rel=1e-5)
  uniform = step(jax.tree.map(jnp.zeros_like, state), batch, jax.random.key(1))['bits_per_byte']
  assert float(uniform[0] / uniform[1]) == pytest.approx(8.0, rel=1e-6), 'whatever is hidden'


def test_a_score_is_the_bound_of_a_text_and_its_first_token_is_given(built):
  _, method, state, log_p = built
  text = np.full((2, 9), -1, np.int32)
  text[0], text[1, :4] = np.frombuffer(b'def f(x):', np.uint8), np.frombuffer(b'pass', np.uint8)
  found = jax.jit(method.tasks['score'].run)(state, {'prompt': text}, keys(2))
  for nats, total, bits, row in zip(found['nats'], found['bound_nats'], found['bound_bits'], text, strict=True):
    tokens = row[row >= 0]
    assert nats[0] == 0 and (nats[len(tokens) :] == 0).all() and nats.shape == (9,)
    assert float(total) == pytest.approx(-log_p[tokens[1:]].sum(), rel=0.15)
    assert float(total) == pytest.approx(float(nats.sum()), rel=1e-5)
    assert float(bits) == pytest.approx(float(total) / math.log(2), rel=1e-5)


@pytest.fixture(scope='module')
def fresh():
  """(method, a state as it is drawn)."""
  config = tiny.config('masked_text', data__tokens='byte', sample__steps=3, sample__temperature=3.0)
  method = masked_text.build(config, tiny.dataset(config).spec)
  return method, jax.jit(method.init)(jax.random.key(0))


def test_a_token_is_told_from_those_on_both_sides_and_not_from_itself(fresh):
  method, state = fresh
  loud = state._replace(params=jax.tree.map(lambda leaf: 8.0 * leaf, state.params))
  score = jax.jit(method.tasks['score'].run)
  pairs = np.stack([np.full(256, 100), np.arange(256)], 1)
  found = score(loud, {'prompt': pairs}, keys(256))['bound_nats']  # one token is hidden: the bound is its likelihood
  assert np.exp(-np.asarray(found)).sum() == pytest.approx(1.0, rel=1e-4) and np.ptp(found) > 1
  one, other = score(loud, {'prompt': np.array([[100, 101, 102], [100, 101, 7]])}, jnp.repeat(keys(1), 2))['nats']
  assert one[1] != other[1], 'what follows it is of no matter'


def test_prompts_are_kept_and_a_mask_is_never_drawn(fresh):
  method, state = fresh
  prompt = np.full((3, 20), -1, np.int32)
  for row, text in zip(prompt, (b'def', b'x', b'import numpy as np'), strict=True):
    row[: len(text)] = np.frombuffer(text, np.uint8)
  found = jax.jit(method.tasks['generate'].run)(state, {'prompt': prompt}, keys(3))
  for row, given, told in zip(np.asarray(found['sample']), prompt, found['given'], strict=True):
    assert told == (given >= 0).sum() and (row[:told] == given[given >= 0]).all()
    assert ((row[told : told + 40] >= 0) & (row[told : told + 40] < 256)).all() and (row[told + 40 :] == -1).all()
  assert found['evaluations'].tolist() == [15] * 3  # 5 blocks of 8
  assert 'the prompt has 18 tokens; with a block of 8' in method.tasks['generate'].check({'prompt': prompt})


def test_holes_are_filled_and_nothing_else_is_touched(fresh):
  method, state = fresh
  vocab = ByteVocab()
  texts = [masked_text.with_holes(text, vocab) for text in ('a<mask>c', '<mask*9>z', 'ab<mask*2>ef<mask>')]
  given = np.full((3, 10), -1, np.int32)
  for row, tokens in zip(given, texts, strict=True):
    row[: len(tokens)] = tokens
  found = jax.jit(method.tasks['complete'].run)(state, {'prompt': given}, keys(3))
  holes, sample = given == 256, np.asarray(found['sample'])
  np.testing.assert_array_equal(sample[~holes], given[~holes])
  assert (sample[holes] < 256).all() and (sample[holes] >= 0).all()
  assert found['evaluations'].tolist() == [1, 3, 3]


def test_holes_in_a_text_of_a_vocabulary_with_separators():
  class Vocab(ByteVocab):
    separator = 0

    def encode(self, text):
      return np.concatenate([[0], super().encode(text)])

  assert masked_text.with_holes('a<mask*2>b', Vocab()).tolist() == [97, 256, 256, 98]
  for text in ('abc', '<mask*0>', ''):
    with pytest.raises(UserError, match='has nothing to fill in'):
      masked_text.with_holes(text, Vocab())


def test_what_does_not_fit_is_refused(fresh):
  method, _ = fresh
  with pytest.raises(UserError, match=r'config.sample.block=17 must be at most config.data.block_size=16'):
    config = tiny.config('masked_text', sample__block=17)
    masked_text.build(config, tiny.dataset(config).spec)
  for task, most in (('complete', 16), ('score', 17)):
    assert method.tasks[task].check({'prompt': np.zeros((1, most))}) == ''
    with pytest.raises(UserError, match=f'at most {most} '):
      method.tasks[task].check({'prompt': np.zeros((1, most + 1))})


def test_it_is_measured_on_the_same_tokens_as_a_language_model_and_its_figures_are_bounds():
  found = {}
  for name in ('lm_shakespeare', 'masked_text'):
    config = tiny.config(name)
    program, source = tiny.program(config), tiny.dataset(config).splits['validation']
    names = ExamplePass(program, config, source).metric_names()
    found[name] = names, source.evaluated, tiny.dataset(config).fingerprint, program.observation, program.leading
    assert set(program.bounds) == ({*names, 'perplexity'} if name == 'masked_text' else set())
  assert found['lm_shakespeare'] == found['masked_text']
