"""Scaling by width: a coordinate check (Tensor Programs V, appendix D.1), and what each of its factors is for.

Networks of several widths make a few updates from the same data. The change of what they compute must be of one order
whatever the width: the slope of its logarithm over that of the width is about 0. It is not where any factor is missing.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai import config as config_lib
from gen_ai.core import optim
from gen_ai.core.names import row
from gen_ai.nets import attention, scaling
from gen_ai.nets.transformer import MATRICES, Architecture, Transformer

WIDTHS = (32, 96, 288)
STEPS, BATCH, T, VOCAB = 4, 8, 8, 16
TOKENS = jax.random.randint(jax.random.key(0), (BATCH, T + 1), 0, VOCAB)
RATES = {'adamw': 3e-3, 'muon': 3e-2}  # whose updates are as large
FACTORS = ('init', 'rates', 'output', 'attention')


@dataclasses.dataclass(frozen=True)
class Without(Architecture):
  """An architecture each of whose factors has an exponent, traced: 1 keeps it, 0 takes it away."""

  kept: Any = None

  @property
  def attention_scale(self):
    return (self.sizes[2] * self.growth ** self.kept['attention']) ** -0.5

  @property
  def output_scale(self):
    return super().output_scale ** self.kept['output']


def coordinates(net, params):
  """{what a network computes: an array}: scores of its attention, what its block adds, its logits."""
  tokens, positions = TOKENS[:, :-1], jnp.arange(T)

  def inside(self):
    x = self._embedded(tokens, positions)
    return x, self.layers(x, None, False, positions, None, False, None)[0]

  x, after = net.apply({'params': params}, method=inside)
  block = jax.tree.map(lambda leaf: leaf[0], params['layers']['block_0'])
  normalised = attention.rms_normalised(x, net.arch.norm_epsilon) * block['attention_norm']['scale']
  qkv = jnp.einsum('btd,dksh->btksh', normalised, block['qkv']['kernel'])
  scores = jnp.einsum('btkh,bskh->bkts', qkv[:, :, :, 0], qkv[:, :, :, 1]) * net.arch.attention_scale
  return {'scores': scores, 'block': after - x, 'logits': net.apply({'params': params}, tokens, False)}


@functools.partial(jax.jit, static_argnums=(0, 1))
def sizes(width, name, kept):
  """({what: its size}, {what: size of its change after some updates}) of a network; `kept` says by which factors."""
  arch = Without(VOCAB, T, 1, 2, width, norm='rms', bias=False, base_width=WIDTHS[0], kept=kept)
  net = Transformer(arch)
  params = net.init(jax.random.key(1), TOKENS[:, :-1], False)['params']
  params['layers'] = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * arch.growth ** (0.5 - 0.5 * kept['init']) if 'kernel' in str(path) else leaf,
    params['layers'],
  )
  rates = {pattern: rate ** kept['rates'] for pattern, rate in scaling.rates(arch.growth, name).items()}
  fields = config_lib.common('lm', 'python_stdlib').optim
  fields.update({'name': name, 'lr': RATES[name], 'b1': 0.9, 'b2': 0.99})
  rule = optim.optimiser(fields, STEPS, matrices=MATRICES, rates=rates)

  def loss(params):
    log_p = jax.nn.log_softmax(net.apply({'params': params}, TOKENS[:, :-1], True))
    return -jnp.take_along_axis(log_p, TOKENS[:, 1:, None], -1).mean()

  def update(carry, _):
    params, state = carry
    change, state = rule.update(jax.grad(loss)(params), state, params)
    return (jax.tree.map(jnp.add, params, change), state), None

  (after, _), _ = jax.lax.scan(update, (params, rule.init(params)), None, STEPS)
  first, last = coordinates(net, params), coordinates(net, after)
  change = jax.tree.map(jnp.subtract, last, first)
  return jax.tree.map(lambda x: jnp.sqrt((x**2).mean()), (first, change))


def slopes(name, *removed):
  """({what: slope of the logarithm of its size over that of the width}, the same of its change)."""
  kept = {factor: jnp.float32(factor not in removed) for factor in FACTORS}
  found = [sizes(width, name, kept) for width in WIDTHS]
  return jax.tree.map(lambda *each: np.polyfit(np.log(WIDTHS), np.log(each), 1)[0], *found)


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_what_a_network_learns_is_of_one_order_at_all_widths(name):
  _, change = slopes(name)
  # The change of scores is at first that of products with random numbers, which become smaller.
  assert all(-0.25 < slope < 0.15 for slope in change.values()), change
  _, change = slopes(name, *FACTORS)
  assert all(slope > 0.3 for slope in change.values()), change


@pytest.mark.parametrize('name', ['adamw', 'muon'])
@pytest.mark.parametrize(
  ('factor', 'what'), [('init', 'block'), ('rates', 'block'), ('output', 'logits'), ('attention', 'scores')]
)
def test_without_one_factor_something_grows_with_the_width(name, factor, what):
  _, change = slopes(name, factor)
  assert change[what] > 0.25, change


def test_factors_are_those_of_the_papers_table():
  """Table 8 of arXiv 2203.03466 for a network four times as wide, and the spectral condition for Muon."""
  wide = Architecture(VOCAB, T, 2, 2, 128, base_width=32)
  narrow = dataclasses.replace(wide, width=32)
  assert (wide.init_std, wide.output_scale) == (narrow.init_std / 2, 0.25)
  assert wide.attention_scale == (64 * 4) ** -0.5 and narrow.attention_scale is None
  assert dataclasses.replace(wide, head_width=16).attention_scale is None, 'heads that do not grow'
  for name, hidden, token in (('adamw', 1 / 4, 1.0), ('lion', 1 / 4, 1.0), ('muon', 1 / 2, 1.0), ('sgd', 1.0, 4.0)):
    rates = scaling.rates(wide.growth, name)
    for leaf, expected in {
      'layers/block_0/qkv/kernel': hidden,
      'layers/block_0/mixture/experts_out/kernel': hidden,
      'layers/block_0/mixture/router/kernel': 1 / 4,
      'layers/block_0/mlp_in/lora_a': 1 / 4,
      'layers/block_0/mlp_in/lora_b': token,
      'layers/block_0/qkv/bias': token,
      'token_embedding': token,
      'head/kernel': token,
    }.items():
      assert row(leaf, rates, 1.0) == expected, (name, leaf)
  assert narrow.growth == 1 and not scaling.rates(1.0, 'adamw'), 'at its base it is as without one'


def test_weight_decay_goes_by_the_learning_rate_alone():
  config = config_lib.common('lm', 'python_stdlib').optim
  config.update({'name': 'adamw', 'lr': 0.1, 'weight_decay': 0.5})
  params = {'qkv': {'kernel': jnp.ones((4, 4))}}
  rule = optim.optimiser(config, 10, rates=scaling.rates(4.0, 'adamw'))
  zero, one = (jax.tree.map(lambda p, v=v: jnp.full_like(p, v), params) for v in (0.0, 1.0))
  decay, both = (rule.update(grads, rule.init(params), params)[0]['qkv']['kernel'] for grads in (zero, one))
  np.testing.assert_allclose(decay, -0.1 * 0.5, rtol=1e-5)
  np.testing.assert_allclose(both - decay, -0.1 / 4, rtol=1e-4)
