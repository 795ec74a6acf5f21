"""The language model: causality, incremental decoding, windows, dropout, initial weights and counts."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.maths.sampling import Rule, generate
from gen_ai.maths.stops import automaton
from gen_ai.nets import attention
from gen_ai.nets.transformer import MATRICES, SHARDING, Architecture, Dropout, Transformer
from gen_ai.parallel import mesh

GPT2 = Architecture(vocab_size=11, context=8, layers=2, heads=2, width=8)
MODERN = dataclasses.replace(
  GPT2,
  heads=4,
  kv_heads=2,
  width=16,
  gated=True,
  activation='silu',
  norm='rms',
  positions='rope',
  bias=False,
  qk_norm=True,
  tied=False,
  softcap=5.0,
  pattern='SL',
  window=3,
)
TOKENS = jax.random.randint(jax.random.key(0), (3, 8), 0, 11)
MODEL = Transformer(GPT2)


def randomised(arch):
  """Variables away from zero biases and tiny weights, so that every part of the network matters."""
  initial = jax.jit(partial(Transformer(arch).init, train=False))(jax.random.key(1), TOKENS)
  return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), initial)


@pytest.fixture(scope='module')
def variables():
  return randomised(GPT2)


@pytest.fixture(scope='module', params=[GPT2, MODERN], ids=['gpt2', 'modern'])
def made(request):
  """(architecture, variables, logits of tokens) of each layout."""
  return request.param, randomised(request.param), jax.jit(partial(Transformer(request.param).apply, train=False))


forward = jax.jit(partial(MODEL.apply, train=False))


@pytest.mark.parametrize('position', range(8))
def test_a_token_changes_no_logits_before_it(made, position):
  _, variables, forward = made
  before = forward(variables, TOKENS)
  after = forward(variables, TOKENS.at[1, position].set((TOKENS[1, position] + 1) % 11))
  assert before.shape == (3, 8, 11) and before.dtype == jnp.float32
  np.testing.assert_array_equal(after[1, :position], before[1, :position])
  np.testing.assert_array_equal(after[::2], before[::2])
  assert (np.abs(after[1, position:] - before[1, position:]).max(-1) > 1e-5).all()


def test_positions_matter(variables):
  logits = forward(variables, jnp.full((1, 8), 4))
  assert np.abs(logits[0, 0] - logits[0, 5]).max() > 1e-3


def test_a_window_hides_what_is_farther_away():
  arch = dataclasses.replace(MODERN, layers=1, pattern='S')
  variables, forward = randomised(arch), jax.jit(partial(Transformer(arch).apply, train=False))
  before, after = forward(variables, TOKENS), forward(variables, TOKENS.at[:, 1].add(1))
  changed = np.abs(before - after).max((0, 2)) > 1e-6
  assert changed.tolist() == [False, True, True, True, False, False, False, False]


def test_documents_in_one_row_do_not_see_each_other():
  for arch in (GPT2, MODERN):
    variables, model = randomised(arch), Transformer(arch)
    parts = jnp.broadcast_to(jnp.array([0, 0, 0, 1, 1, 1, 1, 1]), (3, 8))
    positions = jnp.array([0, 1, 2, 0, 1, 2, 3, 4])
    packed = model.apply(variables, TOKENS, False, positions, parts)
    np.testing.assert_allclose(packed[:, 3:], model.apply(variables, TOKENS[:, 3:], False), rtol=1e-4, atol=1e-5)


def extend_fn(model, variables):
  def extend(cache, tokens, positions, pick, fresh):
    return model.apply(variables, cache, tokens, positions, pick, fresh, method='extend')

  return extend


@pytest.mark.parametrize('read', [1, 3, 8])
def test_reading_at_once_and_token_by_token_equal_the_full_forward(made, read):
  arch, variables, forward = made
  model, expected = Transformer(arch), forward(variables, TOKENS)
  extend = jax.jit(extend_fn(model, variables), static_argnums=4)
  positions = jnp.broadcast_to(jnp.arange(read), (3, read))
  logits, cache = extend(model.init_cache(3), TOKENS[:, :read], positions, jnp.full(3, read - 1), True)
  np.testing.assert_allclose(logits, expected[:, read - 1], rtol=1e-4, atol=1e-5)
  for t in range(read, 8):
    logits, cache = extend(cache, TOKENS[:, t : t + 1], jnp.full((3, 1), t), jnp.zeros(3, int), False)
    np.testing.assert_allclose(logits, expected[:, t], rtol=1e-4, atol=1e-5)


def continued(model, variables, prompt, length, rule, stops=(), number=0):
  own = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(number, number + len(prompt)))
  table = automaton(stops, [[token] for token in range(model.arch.vocab_size)]) if stops else None
  run = jax.jit(
    lambda prompt: generate(
      extend_fn(model, variables), model.init_cache(len(prompt)), prompt, length, model.arch.context, own, rule, table
    )
  )
  return np.asarray(run(jnp.asarray(prompt)))


def test_greedy_generation_equals_repeated_full_forwards(made):
  arch, variables, forward = made
  tokens = continued(Transformer(arch), variables, TOKENS[:, :2], 6, Rule(temperature=0.0))
  expected = TOKENS[:, :2]
  for t in range(2, 8):
    logits = forward(variables, jnp.pad(expected, ((0, 0), (0, 8 - t))))[:, t - 1]
    expected = jnp.concatenate([expected, logits.argmax(-1, keepdims=True)], 1)
  assert np.array_equal(tokens, expected)


@pytest.mark.parametrize('length', [3, 20])
def test_prompts_of_unlike_lengths_together_equal_each_alone(made, length):
  arch, variables, _ = made
  prompts = np.full((3, 4), -1, np.int32)
  for row, size in enumerate((4, 1, 3)):
    prompts[row, :size] = TOKENS[row, :size]
  together = continued(Transformer(arch), variables, prompts, length, Rule())
  for row, size in enumerate((4, 1, 3)):
    alone = continued(Transformer(arch), variables, prompts[row : row + 1, :size], length, Rule(), number=row)[0]
    np.testing.assert_array_equal(together[row, : size + length], alone)
    assert (alone >= 0).all() and (together[row, size + length :] == -1).all()


def test_a_text_ends_after_a_stop_sequence_of_its_own(made):
  arch, variables, _ = made
  whole = continued(Transformer(arch), variables, TOKENS[:, :2], 20, Rule())
  stop = tuple(whole[1, 6:8].tolist())
  cut = continued(Transformer(arch), variables, TOKENS[:, :2], 20, Rule(), [stop, (99,)])
  for row in range(3):
    pairs = [tuple(whole[row, i : i + 2].tolist()) for i in range(2, 21)]
    end = 2 + pairs.index(stop) + 2 if stop in pairs else 22
    np.testing.assert_array_equal(cut[row, :end], whole[row, :end])
    assert (cut[row, end:] == -1).all()
  assert (cut[1, 8:] == -1).all()


def test_every_parameter_matches_one_row_of_the_tables(made):
  arch, variables, _ = made
  stacked = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables['params']):
    axes = mesh.row_of(path, SHARDING)
    assert len(axes) == leaf.ndim
    stacked += axes[0] == mesh.LAYER
  assert stacked and len(MATRICES) == 11


def test_grouped_queries_and_rotary_positions_by_hand():
  key = jax.random.normal(jax.random.key(0), (1, 5, 2, 4))
  value, query = key[:, ::-1], jax.random.normal(jax.random.key(1), (1, 5, 4, 4))
  mask = attention.causal_mask(jnp.arange(5), jnp.arange(5))
  weights = attention.weights(query, key, mask)
  repeated = attention.weights(query, jnp.repeat(key, 2, 2), mask)
  np.testing.assert_allclose(weights, repeated, rtol=1e-6)
  np.testing.assert_allclose(
    attention.weighted(weights, value), attention.causal(query, key, value), rtol=1e-5, atol=1e-6
  )
  turned = attention.rotated(query, jnp.arange(5), 100.0)
  for pair, theta in ((0, 1.0), (1, 0.1)):
    z = query[..., pair] + 1j * query[..., pair + 2]
    z = z * np.exp(1j * np.arange(5) * theta)[:, None]
    np.testing.assert_allclose(turned[..., pair], z.real, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(turned[..., pair + 2], z.imag, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_what_is_computed_again_changes_no_gradient(made, remat):
  arch, variables, _ = made

  def gradient(arch):
    return jax.jit(jax.grad(lambda v: (Transformer(arch).apply(v, TOKENS, True) ** 2).mean()))(variables)

  for a, b in zip(
    *(jax.tree.leaves(gradient(dataclasses.replace(arch, remat=r))) for r in ('none', remat)), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_layers_are_one_scan_however_many():
  def lines(layers):
    model = Transformer(dataclasses.replace(MODERN, layers=layers))
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), TOKENS)
    return len(jax.jit(partial(model.apply, train=False)).lower(shapes, TOKENS).as_text().splitlines())

  # On a CPU a turn of the loop is four groups of layers.
  assert lines(96) == lines(48) < 1.2 * lines(8)


@pytest.mark.parametrize('use_bias', [True, False])
def test_parameter_count(use_bias):
  V, T, L, D = 65, 64, 4, 128
  model = Transformer(Architecture(V, T, L, 4, D, bias=use_bias))
  shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, T), jnp.int32))
  kernels = V * D + T * D + L * (3 * D * D + D * D + 8 * D * D + 2 * D) + D
  biases = L * (3 * D + D + 4 * D + D + 2 * D) + D
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == kernels + biases * use_bias


def test_initial_weights_are_those_of_gpt2():
  model = Transformer(Architecture(64, 32, 3, 4, 64))
  params = jax.jit(partial(model.init, train=False))(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))['params']
  for layer in range(3):
    block = jax.tree.map(lambda p, layer=layer: p[layer], params['layers']['block_0'])
    for name, std in {'qkv': 0.02, 'mlp_in': 0.02, 'attention_out': 0.02 / 6**0.5, 'mlp_out': 0.02 / 6**0.5}.items():
      np.testing.assert_allclose(block[name]['kernel'].std(), std, rtol=0.05)
  np.testing.assert_allclose(params['token_embedding'].std(), 0.02, rtol=0.05)


def test_initial_loss_is_that_of_a_uniform_guess():
  model = Transformer(Architecture(64, 32, 3, 4, 64))
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
    return Transformer(dataclasses.replace(GPT2, dropout=rate)).apply(
      variables, TOKENS, train=True, rngs={'dropout': key}
    )

  train = jax.jit(train)
  keys = jax.random.split(jax.random.key(0))
  expected = forward(variables, TOKENS)
  assert np.abs(train(0.3, keys[0]) - train(0.3, keys[1])).max() > 1e-2
  np.testing.assert_allclose(train(0.0, keys[0]), expected, rtol=1e-4, atol=1e-5)
  evaluated = jax.jit(partial(Transformer(dataclasses.replace(GPT2, dropout=0.3)).apply, train=False))(
    variables, TOKENS
  )
  np.testing.assert_array_equal(evaluated, expected)


def test_bfloat16_is_near_float32_with_float32_logits(variables):
  logits = jax.jit(partial(Transformer(dataclasses.replace(GPT2, dtype=jnp.bfloat16)).apply, train=False))(
    variables, TOKENS
  )
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, forward(variables, TOKENS), atol=0.15)


def test_lanes_of_a_run_axis_equal_runs_alone(variables):
  stacked = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), variables)
  lanes = jax.jit(jax.vmap(partial(MODEL.apply, train=False), (0, None)))(stacked, TOKENS)
  np.testing.assert_allclose(lanes[0], forward(variables, TOKENS), rtol=1e-4, atol=1e-5)


def test_too_many_tokens_are_refused():
  with pytest.raises(UserError, match='9 tokens exceeds the context of 8'):
    MODEL.init(jax.random.key(0), jnp.zeros((1, 9), jnp.int32), train=False)


@pytest.mark.parametrize(
  ('changes', 'says'),
  [
    ({'norm': 'batch'}, "norm='batch' is none of layer, rms"),
    ({'heads': 3}, 'width=8 does not divide into 3 heads'),
    ({'kv_heads': 3, 'heads': 4}, 'heads=4 is no multiple of kv_heads=3'),
    ({'positions': 'rope', 'heads': 8}, 'heads of 1 numbers have none'),
    ({'pattern': 'LX'}, 'must be made of the letters'),
    ({'pattern': 'LLS', 'window': 2}, 'layers=2 is no multiple of the 3 letters'),
    ({'pattern': 'LS'}, 'needs window'),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, says):
  with pytest.raises(UserError, match=says):
    dataclasses.replace(GPT2, **changes).check()


def test_the_kernel_is_chosen_by_what_it_can_do():
  assert attention.kernel('gpu', jnp.bfloat16, 1024, 64) == 'cudnn'
  for changed in (
    ('cpu', jnp.bfloat16, 1024, 64),
    ('gpu', jnp.float32, 1024, 64),
    ('gpu', jnp.bfloat16, 192, 64),
    ('gpu', jnp.bfloat16, 1024, 256),
    ('gpu', jnp.bfloat16, 1024, 60),
  ):
    assert attention.kernel(*changed) == 'xla'


def test_with_full_attention_every_token_changes_all_logits_and_a_mask_has_none():
  arch = dataclasses.replace(MODERN, pattern='L', window=0, causal=False, unpredicted=1, tied=True)
  variables = randomised(arch)
  assert variables['params']['token_embedding'].shape == (12, 16)
  for dropout in (0.0, 1e-7):  # which keeps all, by the path that could drop weights
    model = Transformer(dataclasses.replace(arch, dropout=dropout))
    run = jax.jit(lambda tokens, model=model: model.apply(variables, tokens, True, rngs={'dropout': jax.random.key(0)}))
    before = run(TOKENS)
    assert before.shape == (3, 8, 11)
    for position in (0, 7):
      after = run(TOKENS.at[:, position].set(11))
      assert (np.abs(after - before).max((0, 2)) > 1e-4).all(), position
  with pytest.raises(UserError, match="pattern='SL'"):
    dataclasses.replace(MODERN, causal=False).check()
