"""Optimisers, schedules, averages and accumulated gradients against closed forms."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import optim
from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec, identity
from gen_ai.core.names import name_of
from gen_ai.data.text import ByteVocab
from gen_ai.nets.dit import DiT
from gen_ai.nets.transformer import MATRICES, Architecture, Transformer


def section(**fields):
  """config.optim with `fields` in place of its usual values."""
  config = config_lib.common('lm', 'python_stdlib').optim
  for name, value in fields.items():
    assert name in config
    config[name] = value
  return config


def shape(steps=100, **fields):
  """The schedule at counts 0, 1, ..., steps."""
  fn = optim.schedule_shape(section(**fields), steps)
  return np.array([float(fn(jnp.int32(i))) for i in range(steps + 1)])


def test_constant_and_warmup():
  np.testing.assert_allclose(shape(schedule='constant'), 1.0)
  warm = shape(schedule='constant', warmup_steps=10)
  np.testing.assert_allclose(warm[:10], np.arange(1, 11) / 11, rtol=1e-6)
  np.testing.assert_allclose(warm[10:], 1.0)


def test_linear_and_cosine():
  linear = shape(schedule='linear', end_factor=0.2, warmup_steps=20, decay_steps=60)
  np.testing.assert_allclose(linear[20:61], np.linspace(1, 0.2, 41), rtol=1e-5)
  np.testing.assert_allclose(linear[60:], 0.2, rtol=1e-5)
  cosine = shape(schedule='cosine', end_factor=0.1)  # to run.steps, where decay_steps is 0
  theirs = optax.cosine_decay_schedule(1.0, 100, alpha=0.1)
  np.testing.assert_allclose(cosine, [float(theirs(i)) for i in range(101)], rtol=1e-5)


def test_wsd_is_stable_and_then_falls():
  wsd = shape(schedule='wsd', end_factor=0.1, warmup_steps=10, cooldown=0.25)
  np.testing.assert_allclose(wsd[:10], np.arange(1, 11) / 11, rtol=1e-6)
  np.testing.assert_allclose(wsd[10:76], 1.0)
  np.testing.assert_allclose(wsd[75:], np.linspace(1, 0.1, 26), rtol=1e-5)


def test_the_schedule_is_nanogpts():
  """Its get_lr(it), written down from its README's CPU command: lr 1e-3, min_lr 1e-4, 100 warm-up, 2000 decay steps."""
  peak, least, warmup, decay = 1e-3, 1e-4, 100, 2000

  def nanogpt(it):
    if it < warmup:
      return peak * (it + 1) / (warmup + 1)
    if it > decay:
      return least
    ratio = (it - warmup) / (decay - warmup)
    return least + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (peak - least)

  fn = optim.schedule_shape(config_lib.load('configs/lm_shakespeare.py').optim, 2000)
  for it in (0, 1, 50, 99, 100, 101, 700, 1999, 2000, 2001, 5000):
    assert peak * float(fn(jnp.int32(it))) == pytest.approx(nanogpt(it), rel=1e-4), it


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'schedule': 'exponential'}, "config.optim.schedule='exponential' is none of constant, cosine, linear"),
    ({'schedule': 'cosine', 'warmup_steps': 100}, 'warmup_steps=100 leaves no update'),
    ({'name': 'adagrad'}, "config.optim.name='adagrad' is none of adam,"),
    *[
      ({'name': name, 'weight_decay': 0.1}, f'weight_decay is set, but {name} has none')
      for name in ('adam', 'sgd', 'rmsprop')
    ],
  ],
)
def test_mistakes(fields, message):
  with pytest.raises(UserError, match=message.replace('.', r'\.')):
    optim.optimiser(section(**fields), 100)


TARGET = {'kernel': jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), 'bias': jnp.array([0.5, -0.5])}


def distance(params):
  return sum(jnp.sum((params[name] - TARGET[name]) ** 2) for name in TARGET)


def test_rmsprop_adds_eps_to_the_root():
  # Gradients far below the root of eps, as those of a clipped critic: the first step is lr / sqrt(1 - b2) all the same.
  rule = optim.optimiser(section(name='rmsprop', lr=0.1, b1=0.0, b2=0.9, eps=1e-8), 100)
  w = jnp.ones(3)
  change, _ = rule.update(jnp.full(3, 1e-5), rule.init(w), w)
  np.testing.assert_allclose(change, -0.1 * 1e-5 / (np.sqrt(0.1) * 1e-5 + 1e-8), rtol=1e-5)


@pytest.mark.parametrize('name', optim.OPTIMISERS)
def test_every_optimiser_descends_with_a_traced_learning_rate(name):
  floats = ('lr', 'b1', 'b2', 'eps')
  base = section(name=name)
  traces = []

  @jax.jit
  def descend(values):
    traces.append(1)
    rule = optim.optimiser(ConfigDict({**base.to_dict(), **values}), 200)

    def body(carry, _):
      params, state = carry
      change, state = rule.update(jax.grad(distance)(params), state, params)
      return (jax.tree.map(jnp.add, params, change), state), None

    start = jax.tree.map(jnp.zeros_like, TARGET)
    return distance(jax.lax.scan(body, (start, rule.init(start)), None, 200)[0][0])

  values = {field: np.float32(base[field]) for field in floats}
  before = float(distance(jax.tree.map(jnp.zeros_like, TARGET)))
  largest = 5e-2 if name == 'muon' else 1e-2  # its updates are a fifth of those that Adam makes of exact gradients
  ends = [float(descend({**values, 'lr': np.float32(lr)})) for lr in (1e-5, largest)]
  assert ends[1] < 0.3 * before
  assert ends[1] < 0.9 * ends[0], 'the learning rate does not reach the update'
  assert len(traces) == 1


def first_change(params, grads, **fields):
  rule = optim.optimiser(section(**fields), 100)
  return rule.update(grads, rule.init(params), params)[0]


# Module and name of every parameter of these configs, '#' for a number, by the rule that moves it.
DIGITS = Spec('image', (28, 28, 1), 10)
GROUPS = {
  'lm': {
    'muon': 'attention_out/kernel mlp_in/kernel mlp_out/kernel qkv/kernel',
    'adam': 'attention_norm/bias attention_norm/scale attention_out/bias final_norm/bias final_norm/scale head/kernel '
    'mlp_in/bias mlp_norm/bias mlp_norm/scale mlp_out/bias position_embedding qkv/bias token_embedding',
  },
  'cgan': {
    'muon': 'ConvTranspose_#/kernel Conv_#/kernel Dense_#/kernel',
    'adam': 'BatchNorm_#/bias BatchNorm_#/scale ConvTranspose_#/bias Conv_#/bias classes/bias classes/kernel '
    'score/bias score/kernel',
  },
  'sngan': {
    'muon': 'Conv_#/kernel Dense_#/kernel key/kernel out/kernel query/kernel value/kernel',
    'adam': 'BatchNorm_#/bias BatchNorm_#/scale Conv_#/bias Dense_#/bias attention/gamma projection/embedding '
    'score/bias score/kernel',
  },
  'stylegan2': {
    'muon': 'EqualisedDense_#/kernel ModulatedConv_#/kernel features/kernel first_#/kernel from_rgb/kernel last/kernel '
    'second_#/kernel skip_#/kernel style/kernel',
    'adam': 'EqualisedDense_#/bias features/bias first/bias first/noise_strength first_#/bias from_rgb/bias '
    'g/rgb_bias_# g/start last/bias same_#/bias same_#/noise_strength score/bias score/kernel second_#/bias '
    'style/bias to_rgb_#/kernel up_#/bias up_#/noise_strength',
  },
  'classifier': {
    'muon': 'Conv_#/kernel',
    'adam': 'Conv_#/bias GroupNorm_#/bias GroupNorm_#/scale head/bias head/kernel',
  },
}
CHANGES = {
  'lm': {'model__bias': True, 'model__norm': 'layer', 'model__positions': 'learned', 'model__tied': False},
  'cgan': {'model__condition': 'auxiliary'},
  'sngan': {'model__condition': 'projection', 'model__attention': True, 'model__width': 8},
}


@pytest.mark.parametrize('name', GROUPS)
def test_every_parameter_of_muon_is_in_the_group_of_its_name(name):
  spec = Spec('text', (16,), vocab=ByteVocab()) if name == 'lm' else DIGITS
  config = tiny.config(name, **CHANGES.get(name, {}))
  state = jax.eval_shape(config_lib.builder(config)(config, spec).init, jax.random.key(0))
  found = {'muon': set(), 'adam': set()}
  for path, group in jax.tree_util.tree_leaves_with_path(optim.groups(state.params)):
    parts = re.sub(r'_\d+', '_#', jax.tree_util.keystr(path, simple=True, separator='/')).split('/')
    found[group].add('/'.join(parts[-2:]))
  assert {group: ' '.join(sorted(names)) for group, names in found.items()} == GROUPS[name]


# Every parameter of the Transformer's layouts, without 'layers/block_0/', by the rule of 'muon' that moves it.
NORMS = 'attention_norm/scale final_norm/scale mlp_norm/scale'
LAYOUTS = {
  'gpt2': {
    'muon': 'attention_out/kernel mlp_in/kernel mlp_out/kernel qkv/kernel',
    'adam': 'attention_norm/bias attention_norm/scale attention_out/bias final_norm/bias final_norm/scale mlp_in/bias '
    'mlp_norm/bias mlp_norm/scale mlp_out/bias position_embedding qkv/bias token_embedding',
  },
  'modern': {
    'muon': 'attention_out/kernel mlp_in/kernel mlp_out/kernel qkv/kernel',
    'adam': f'{NORMS} token_embedding',
  },
  'untied': {
    'muon': 'attention_out/kernel mlp_in/kernel mlp_out/kernel qkv/kernel',
    'adam': 'attention_norm/scale final_norm/scale head/kernel mlp_norm/scale token_embedding',
  },
  'experts': {
    'muon': 'attention_out/kernel mixture/experts_in/kernel mixture/experts_out/kernel mixture/router/kernel '
    'qkv/kernel',
    'adam': f'{NORMS} token_embedding',
  },
  'dit': {
    'muon': 'attention_out/kernel condition/interval_in/kernel condition/interval_out/kernel condition/time_in/kernel '
    'condition/time_out/kernel final_modulation/kernel mlp_in/kernel mlp_out/kernel modulation/kernel patch_in/kernel '
    'patch_narrow/kernel qkv/kernel',
    'adam': 'condition/interval_in/bias condition/interval_out/bias condition/label_embedding condition/time_in/bias '
    'condition/time_out/bias final_modulation/bias modulation/bias patch_in/bias patch_out/bias patch_out/kernel '
    'position_embedding',
  },
  'lora': {
    'muon': 'attention_out/kernel attention_out/lora_a attention_out/lora_b mlp_in/kernel mlp_in/lora_a mlp_in/lora_b '
    'mlp_out/kernel mlp_out/lora_a mlp_out/lora_b qkv/kernel qkv/lora_a qkv/lora_b',
    'adam': f'{NORMS} token_embedding',
  },
}
MODERN = {'gated': True, 'activation': 'silu', 'norm': 'rms', 'positions': 'rope', 'bias': False, 'kv_heads': 2}
BUILT = {
  'gpt2': {'kv_heads': 2},
  'modern': MODERN,
  'untied': {**MODERN, 'tied': False},
  'experts': {**MODERN, 'experts': 2},
  'lora': {**MODERN, 'lora': 2},
}


def shapes_of(layout):
  if layout == 'dit':
    net, c = DiT((4, 4, 1), 2, 16, layers=2, heads=4, bottleneck=2, num_classes=3), jnp.zeros(1)
    return jax.eval_shape(lambda key: net.init(key, jnp.zeros((1, 4, 4, 1)), c, r=c)['params'], jax.random.key(0))
  arch = Architecture(11, 8, layers=2, heads=4, width=16, **BUILT[layout])
  return jax.eval_shape(
    lambda key: Transformer(arch).init(key, jnp.zeros((1, 8), jnp.int32), False)['params'], jax.random.key(0)
  )


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_parameter_of_a_transformer_is_listed_with_its_rule(layout):
  found = {'muon': [], 'adam': []}
  for path, group in jax.tree_util.tree_leaves_with_path(optim.groups(shapes_of(layout))):
    found[group].append(name_of(path).removeprefix('layers/block_0/'))
  assert {group: ' '.join(sorted(names)) for group, names in found.items()} == LAYOUTS[layout]


def test_muon_moves_kernels_as_optax_does_and_the_rest_as_adamw():
  """Against optax.contrib.muon on matrices of our choice, and AdamW itself; both at the pace of one learning rate."""
  draw = np.random.default_rng(0)
  shapes = {
    'Conv_0': {'kernel': (3, 3, 8, 16), 'bias': (16,)},
    'Dense_0': {'kernel': (32, 8)},
    'embedding': (64, 32),
    'score': {'kernel': (32, 1)},
  }
  params, grads = (
    jax.tree.map(
      lambda shape: jnp.asarray(draw.normal(size=shape), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    for _ in range(2)
  )
  fields = {'lr': 0.1, 'b1': 0.95, 'weight_decay': 0.0}
  change = first_change(params, grads, name='muon', **fields)
  adam = first_change(params, grads, name='adamw', **fields)
  for ours, theirs in (
    (change['Conv_0']['bias'], adam['Conv_0']['bias']),
    (change['embedding'], adam['embedding']),
    (change['score']['kernel'], adam['score']['kernel']),
  ):
    np.testing.assert_array_equal(ours, theirs)
  for module in ('Conv_0', 'Dense_0'):
    w, g = (tree[module]['kernel'].reshape(-1, tree[module]['kernel'].shape[-1]) for tree in (params, grads))
    reference = optax.contrib.muon(0.1, beta=0.95, consistent_rms=0.2)
    expected, _ = reference.update(g, reference.init(w), w)
    np.testing.assert_allclose(change[module]['kernel'].reshape(w.shape), expected, rtol=1e-5, atol=1e-7)
    assert 0.1 < float(jnp.sqrt(jnp.mean(change[module]['kernel'] ** 2))) / 0.1 < 0.3
  decayed = first_change(params, jax.tree.map(jnp.zeros_like, grads), name='muon', **fields | {'weight_decay': 0.5})
  assert {
    jax.tree_util.keystr(path, simple=True, separator='/'): bool(leaf.any())
    for path, leaf in jax.tree_util.tree_leaves_with_path(decayed)
  } == {
    'Conv_0/kernel': True,
    'Conv_0/bias': False,
    'Dense_0/kernel': True,
    'embedding': True,
    'score/kernel': True,
  }


def matrices_of(name, k):
  """The matrices in the kernel of a layer: of each query head of a group, of the keys, of a gate, of an expert."""
  module, leaf = name.split('/')[-2:]
  if module == 'qkv' and leaf != 'lora_a':
    return [k[:, :, slot].reshape(len(k), -1) for slot in range(k.shape[2])]
  if module == 'attention_out' and leaf != 'lora_b':
    return [k.reshape(-1, k.shape[-1])]
  if module == 'modulation':
    return [k[:, branch, kind] for branch in range(2) for kind in range(3)]
  if module == 'mlp_in' and leaf != 'lora_a':
    return [k[:, part] for part in range(k.shape[1])]
  if module == 'experts_in':
    return [one[:, part] for one in k for part in range(k.shape[2])]
  return list(k) if module == 'experts_out' else [k]


@jax.jit
def optax_muon(gradient):
  rule = optax.contrib.muon(0.1, beta=0.95, consistent_rms=0.2)
  return rule.update(gradient, rule.init(gradient), gradient)[0]


@pytest.mark.parametrize('layout', ['gpt2', 'experts', 'lora', 'dit'])
def test_muon_moves_the_matrices_of_stacked_layers_as_each_alone(layout):
  """Two layers in one scan: each matrix by Optax's own Muon, what is no matrix as AdamW does."""
  draw = np.random.default_rng(0)
  shapes = {'layers': shapes_of('dit')['layers']} if layout == 'dit' else shapes_of(layout)
  params, grads = (
    jax.tree.map(lambda p: jnp.asarray(draw.normal(size=p.shape), jnp.float32), shapes) for _ in range(2)
  )
  fields = {'lr': 0.1, 'b1': 0.95, 'weight_decay': 0.0}

  def change_of(name):
    rule = optim.optimiser(section(name=name, **fields), 10, matrices=MATRICES)
    return jax.jit(lambda params, grads: rule.update(grads, rule.init(params), params)[0])(params, grads)

  change, adam = change_of('muon'), change_of('adamw')
  groups, seen = jax.tree.leaves(optim.groups(params)), 0
  for (path, found), g, theirs, group in zip(
    jax.tree_util.tree_leaves_with_path(change), *map(jax.tree.leaves, (grads, adam)), groups, strict=True
  ):
    if group == 'adam':
      np.testing.assert_allclose(found, theirs, rtol=1e-5)
      continue
    for layer in range(2):
      for ours, gradient in zip(*(matrices_of(name_of(path), leaf[layer]) for leaf in (found, g)), strict=True):
        assert ours.ndim == 2
        np.testing.assert_allclose(ours, optax_muon(gradient), rtol=1e-4, atol=1e-6, err_msg=f'{path} {layer}')
        seen += 1
  assert (
    seen
    == 2
    * {
      'gpt2': 4 + 1 + 1 + 1,
      'experts': 4 + 1 + 1 + 2 * 2 + 2,
      'lora': 4 + 1 + 2 + 1 + (1 + 4) + 2 + 3 + 2,
      'dit': 3 + 1 + 2 + 1 + 6,
    }[layout]
  )


@pytest.mark.parametrize('name', ['adamw', 'lion', 'muon'])
def test_weight_decay_leaves_norms_and_biases_of_stacked_layers_alone(name):
  params = {
    'layers': {n: {leaf: jnp.ones((3, 4))} for n, leaf in (('norm', 'scale'), ('mlp', 'bias'), ('mlp_in', 'kernel'))}
  }
  change = first_change(params, jax.tree.map(jnp.zeros_like, params), name=name, lr=0.1, weight_decay=0.5)
  moved = {n: any(bool(x.any()) for x in jax.tree.leaves(tree)) for n, tree in change['layers'].items()}
  assert moved == {'norm': False, 'mlp': False, 'mlp_in': True}


@pytest.mark.parametrize('name', ['adamw', 'lion', 'muon'])
def test_weight_decay_applies_to_matrices_only(name):
  zero = jax.tree.map(jnp.zeros_like, TARGET)
  change = first_change(TARGET, zero, name=name, lr=0.1, weight_decay=0.5)
  np.testing.assert_allclose(change['kernel'], -0.1 * 0.5 * TARGET['kernel'], rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(change['bias'], 0.0)


def test_clipping_bounds_the_global_norm():
  grads = {'kernel': jnp.full((3, 4), 3.0), 'bias': jnp.array([4.0, -2.0])}
  norm = float(optax.tree.norm(grads))
  for clip, expected in ((1.0, 1.0), (100.0, norm), (0.0, norm)):
    change = first_change(TARGET, grads, name='sgd', b1=0.0, lr=1.0, clip_norm=clip)
    assert float(optax.tree.norm(change)) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(change['kernel'][0, 0] / change['bias'][0], 3 / 4, rtol=1e-5)


def test_momentum_and_plain_sgd():
  grads = {'w': jnp.array([1.0])}
  for momentum, second in ((0.0, -0.1), (0.9, -0.19)):
    rule = optim.optimiser(section(name='sgd', b1=momentum, lr=0.1), 10)
    state = rule.init(grads)
    _, state = rule.update(grads, state, grads)
    change, _ = rule.update(grads, state, grads)
    assert float(change['w'][0]) == pytest.approx(second)


def test_a_second_network_has_its_own_pace_and_counts_in_steps():
  grads = {'w': jnp.array([1.0])}
  plain = section(name='sgd', b1=0.0, lr=0.1, schedule='linear', warmup_steps=0)
  slow = optim.optimiser(plain, 4, lr_factor=0.5, updates_per_step=2)
  state, seen = slow.init(grads), []
  for _ in range(6):
    change, state = slow.update(grads, state, grads)
    seen.append(-float(change['w'][0]))
  np.testing.assert_allclose(seen, [0.05, 0.05, 0.0375, 0.0375, 0.025, 0.025], rtol=1e-5)


def update_of(parts=None, **options):
  """An updater by plain gradient descent at learning rate 0.5, momentum off, with an average of decay 0.1."""
  config = config_lib.common('lm', 'python_stdlib')
  config.optim.update({'name': 'sgd', 'b1': 0.0, 'lr': 0.5, 'ema_decay': 0.1})
  return optim.Updater(config, parts, **options)


def test_an_updater_moves_all_parameters_or_one_part_and_counts_once_a_step():
  params, grads = {'a': jnp.ones(2), 'b': jnp.ones(3)}, {'a': jnp.full(2, 0.2), 'b': jnp.full(3, 0.4)}
  whole = update_of()
  state = whole.advance(whole.update(whole.init(params, stats='kept'), grads))
  np.testing.assert_allclose(state.params['a'], 0.9)
  np.testing.assert_allclose(state.params['b'], 0.8)
  assert (int(state.step), state.stats) == (1, 'kept')
  parts = update_of({'a': optim.Pace(), 'b': optim.Pace(lr_factor=2.0)})
  start = parts.init(params)
  assert start.opt_state.keys() == {'a', 'b'}
  np.testing.assert_allclose(parts.update(start, grads).params['b'], 0.6)
  one = parts.update(start, grads['b'], 'b')
  assert one.params['a'] is params['a'] and one.opt_state['a'] is start.opt_state['a']
  np.testing.assert_allclose(one.params['b'], 0.6)
  assert int(one.step) == 0


def test_an_updater_averages_what_it_is_told_and_evaluates_by_it():
  params = {'a': jnp.ones(2), 'b': jnp.ones(3)}
  averaged = update_of(average=lambda state: {'a': state.params['a'], 'stats': state.stats})
  state = averaged.init(params, jnp.zeros(4))
  assert state.ema['a'] is not params['a'], 'a donated buffer cannot be given away twice'
  moved = averaged.advance(state._replace(params={**params, 'a': jnp.zeros(2)}, stats=jnp.ones(4)))
  np.testing.assert_allclose(averaged.eval_params(moved)['a'], 0.1, rtol=1e-6)
  np.testing.assert_allclose(averaged.eval_params(moved)['stats'], 0.9, rtol=1e-6)
  config = config_lib.common('lm', 'python_stdlib')
  plain = optim.Updater(config)
  state = plain.advance(plain.init(params))
  assert state.ema == () and plain.eval_params(state) is state.params


def test_a_half_life_counts_the_images_of_a_whole_step():
  config = config_lib.common('lm', 'python_stdlib')
  config.optim.ema_halflife = 640.0
  updater = optim.Updater(config, batches_per_step=5)  # 320 images: half of the half-life
  state = updater.init(jnp.ones(1))._replace(params=jnp.zeros(1), step=jnp.int32(1000))
  np.testing.assert_allclose(updater.advance(state).ema, 0.5**0.5, rtol=1e-6)


def test_micro_batches_partition_the_batch():
  batch = {'x': jnp.arange(24).reshape(12, 2), 'y': jnp.arange(12)}
  parts = optim.split_batch(batch, 3)
  assert parts['x'].shape == (3, 4, 2)
  assert sorted(np.ravel(parts['y'])) == list(range(12))
  np.testing.assert_array_equal(parts['y'][1], [1, 4, 7, 10])
  np.testing.assert_array_equal(parts['x'][..., 0], 2 * parts['y'])


@pytest.mark.parametrize('reduce', [identity, lambda tree: jax.tree.map(lambda x: 2 * x, tree)], ids=['jit', 'reduced'])
def test_accumulated_gradients_and_metrics_are_those_of_the_whole_batch(reduce):
  x = jax.random.normal(jax.random.key(0), (12, 3))
  params = {'w': jnp.array([1.0, -2.0, 0.5])}

  def loss_fn(params, stats, batch, key):
    error = batch['x'] @ params['w'] - 1
    loss = jnp.mean(error**2)
    return loss, ({'loss': loss, 'error': error.mean()}, {'seen': stats['seen'] + len(batch['x'])})

  stats = {'seen': jnp.int32(0)}
  whole = optim.gradients(loss_fn, params, stats, {'x': x}, jax.random.key(1), 1, reduce)
  parts = optim.gradients(loss_fn, params, stats, {'x': x}, jax.random.key(1), 4, reduce)
  assert jax.tree.structure(whole) == jax.tree.structure(parts)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, parts)
  expected = 2 * (2 * x.T @ (x @ params['w'] - 1) / 12 if reduce is not identity else x.T @ (x @ params['w'] - 1) / 12)
  np.testing.assert_allclose(parts[0]['w'], expected, rtol=1e-4)
  assert int(parts[2]['seen']) == 12, 'statistics go from one micro-batch to the next'


def test_micro_batches_draw_noise_of_their_own():
  def loss_fn(params, stats, batch, key):
    noise = jax.random.normal(key, ())
    return params['w'] * noise, ({'square': noise**2}, stats)

  params, batch = {'w': jnp.float32(1)}, {'x': jnp.ones(4)}
  _, metrics, _ = optim.gradients(loss_fn, params, (), batch, jax.random.key(0), 2, identity)
  noise = [jax.random.normal(jax.random.fold_in(jax.random.key(0), i)) for i in (0, 1)]
  assert float(metrics['square']) == pytest.approx(float((noise[0] ** 2 + noise[1] ** 2) / 2), rel=1e-5)


@pytest.mark.parametrize('parts', [1, 2, 4])
def test_sums_and_counts_weigh_every_token_alike_however_the_batch_is_cut(parts):
  """A mean of the means of micro-batches weighs the tokens of a short row more."""
  x = jax.random.normal(jax.random.key(0), (4, 6))
  mask = jnp.arange(6) < jnp.array([6, 1, 3, 0])[:, None]
  params = {'w': jnp.float32(1.5)}

  def loss_fn(params, stats, batch, key):
    square = jnp.where(batch['mask'], (params['w'] * batch['x'] - 1) ** 2, 0.0)
    mean = optim.Weighted(square.sum(), batch['mask'].sum().astype(jnp.float32))
    return mean, ({'loss': mean, 'rows': jnp.float32(len(batch['x']))}, stats)

  grads, metrics, _ = optim.gradients(loss_fn, params, (), {'x': x, 'mask': mask}, jax.random.key(0), parts, identity)
  tokens = np.asarray(x)[np.asarray(mask)]
  assert float(metrics['loss']) == pytest.approx(((1.5 * tokens - 1) ** 2).mean(), rel=1e-5)
  assert float(grads['w']) == pytest.approx((2 * tokens * (1.5 * tokens - 1)).mean(), rel=1e-5)
  assert float(metrics['rows']) == 4 / parts


def test_a_batch_without_a_token_has_a_gradient_of_zero():
  def loss_fn(params, stats, batch, key):
    return optim.Weighted(params['w'] * batch['x'].sum() * 0.0, jnp.float32(0.0)), ({}, stats)

  grads, _, _ = optim.gradients(loss_fn, {'w': jnp.float32(2)}, (), {'x': jnp.ones(4)}, jax.random.key(0), 2, identity)
  assert float(grads['w']) == 0.0
