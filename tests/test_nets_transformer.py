"""The language model: causality, incremental decoding, dropout, initial weights and counts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.maths.sampling import generate
from gen_ai.nets.transformer import Dropout, Transformer

MODEL = Transformer(vocab_size=11, context=8, num_layers=2, num_heads=2, width=8)
TOKENS = jax.random.randint(jax.random.key(0), (3, 8), 0, 11)


@pytest.fixture(scope='module')
def variables():
  initial = jax.jit(partial(MODEL.init, train=False))(jax.random.key(1), TOKENS)
  # Away from zero biases and tiny weights, so that every part of the network matters.
  return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), initial)


forward = jax.jit(partial(MODEL.apply, train=False))


@pytest.mark.parametrize('position', range(8))
def test_a_token_changes_no_logits_before_it(variables, position):
  before = forward(variables, TOKENS)
  after = forward(variables, TOKENS.at[1, position].set((TOKENS[1, position] + 1) % 11))
  assert before.shape == (3, 8, 11) and before.dtype == jnp.float32
  np.testing.assert_array_equal(after[1, :position], before[1, :position])
  np.testing.assert_array_equal(after[::2], before[::2])
  assert (np.abs(after[1, position:] - before[1, position:]).max(-1) > 1e-5).all()


def test_positions_matter(variables):
  logits = forward(variables, jnp.full((1, 8), 4))
  assert np.abs(logits[0, 0] - logits[0, 5]).max() > 1e-3


def decode(variables, tokens):
  def step(cache, inputs):
    logits, cache = MODEL.apply(variables, cache, *inputs, method='decode_step')
    return cache, logits

  _, logits = jax.lax.scan(step, MODEL.init_cache(tokens.shape[0]), (tokens.T, jnp.arange(tokens.shape[1])))
  return logits.swapaxes(0, 1)


def test_incremental_decoding_equals_the_full_forward(variables):
  np.testing.assert_allclose(jax.jit(decode)(variables, TOKENS), forward(variables, TOKENS), rtol=1e-4, atol=1e-5)


def test_greedy_generation_equals_repeated_full_forwards(variables):
  step_fn = partial(MODEL.apply, variables, method='decode_step')
  start = MODEL.init_cache(3)
  own = jax.random.split(jax.random.key(0), 3)
  tokens = jax.jit(lambda prompt: generate(step_fn, start, prompt, 8, own, 0.0))(TOKENS[:, :2])
  expected = TOKENS[:, :2]
  for t in range(2, 8):
    logits = forward(variables, jnp.pad(expected, ((0, 0), (0, 8 - t))))[:, t - 1]
    expected = jnp.concatenate([expected, logits.argmax(-1, keepdims=True)], 1)
  assert np.array_equal(tokens, expected)


@pytest.mark.parametrize('use_bias', [True, False])
def test_parameter_count(use_bias):
  V, T, L, D = 65, 64, 4, 128
  model = Transformer(V, T, L, 4, D, use_bias=use_bias)
  shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, T), jnp.int32))
  kernels = V * D + T * D + L * (3 * D * D + D * D + 8 * D * D + 2 * D) + D
  biases = L * (3 * D + D + 4 * D + D + 2 * D) + D
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == kernels + biases * use_bias


def test_initial_weights_are_those_of_gpt2():
  model = Transformer(64, 32, 3, 4, 64)
  params = jax.jit(partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))['params']
  for layer in range(3):
    block = params[f'blocks_{layer}']
    for name, std in {'qkv': 0.02, 'mlp_in': 0.02, 'attention_out': 0.02 / 6**0.5, 'mlp_out': 0.02 / 6**0.5}.items():
      np.testing.assert_allclose(block[name]['kernel'].std(), std, rtol=0.05)
  np.testing.assert_allclose(params['token_embedding'].std(), 0.02, rtol=0.05)


def test_initial_loss_is_that_of_a_uniform_guess():
  model = Transformer(64, 32, 3, 4, 64)
  logits, _ = jax.jit(partial(model.init_with_output, train=False))(jax.random.key(0), jnp.arange(32)[None])
  np.testing.assert_allclose(jax.nn.log_softmax(logits).mean(), -np.log(64), rtol=0.02)


def test_embeddings_are_tied(variables):
  zeroed = jax.tree.map(lambda p: p, variables)
  zeroed['params']['token_embedding'] = zeroed['params']['token_embedding'].at[3].set(0.0)
  tokens = jnp.where(TOKENS == 3, 4, TOKENS)
  assert not forward(zeroed, tokens)[..., 3].any() and forward(variables, tokens)[..., 3].any()


def test_dropout_keeps_the_mean_with_a_traced_rate():
  x = jnp.ones((200, 200))
  drop = jax.jit(lambda rate: Dropout(rate).apply({}, x, train=True, rngs={'dropout': jax.random.key(0)}))
  for rate in (0.1, 0.5):
    y = drop(rate)
    np.testing.assert_allclose(y.mean(), 1.0, atol=0.02)
    np.testing.assert_allclose((y == 0).mean(), rate, atol=0.02)
  np.testing.assert_array_equal(drop(0.0), x)


def test_dropout_off_compiles_to_nothing_and_needs_no_key(variables):
  off = str(jax.make_jaxpr(partial(MODEL.apply, train=True))(variables, TOKENS))
  assert off == str(jax.make_jaxpr(partial(MODEL.apply, train=False))(variables, TOKENS))
  assert 'random_bits' not in off


def test_dropout_of_the_model_is_random_in_training_alone(variables):
  def train(rate, key):
    return MODEL.clone(dropout=rate).apply(variables, TOKENS, train=True, rngs={'dropout': key})

  train = jax.jit(train)
  keys = jax.random.split(jax.random.key(0))
  expected = forward(variables, TOKENS)
  assert np.abs(train(0.3, keys[0]) - train(0.3, keys[1])).max() > 1e-2
  np.testing.assert_allclose(train(0.0, keys[0]), expected, rtol=1e-4, atol=1e-5)
  evaluated = jax.jit(partial(MODEL.clone(dropout=0.3).apply, train=False))(variables, TOKENS)
  np.testing.assert_array_equal(evaluated, expected)


def test_bfloat16_is_near_float32_with_float32_logits(variables):
  logits = jax.jit(partial(MODEL.clone(dtype=jnp.bfloat16).apply, train=False))(variables, TOKENS)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, forward(variables, TOKENS), atol=0.15)


def test_lanes_of_a_run_axis_equal_runs_alone(variables):
  stacked = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), variables)
  lanes = jax.jit(jax.vmap(partial(MODEL.apply, train=False), (0, None)))(stacked, TOKENS)
  np.testing.assert_allclose(lanes[0], forward(variables, TOKENS), rtol=1e-4, atol=1e-5)


def test_too_many_tokens_and_odd_heads_are_refused():
  with pytest.raises(UserError, match='9 tokens exceeds the context of 8'):
    MODEL.init(jax.random.key(0), jnp.zeros((1, 9), jnp.int32), train=False)
  with pytest.raises(UserError, match='8 does not divide into 3 heads'):
    MODEL.clone(num_heads=3).init(jax.random.key(0), TOKENS, train=False)
