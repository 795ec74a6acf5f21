"""The mixture of experts: its router by hand, its places, and that neither batch, mesh nor order changes a token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_contract import close

from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.nets import experts
from gen_ai.nets.transformer import SHARDING, Architecture, Transformer
from gen_ai.parallel import mesh

B, T, D, E, K, F = 2, 12, 8, 4, 2, 6


def mixture(capacity=0, gated=True):
  return experts.Experts(E, K, F, gated, jax.nn.silu, capacity, 0.5, 0.5, 0.5, jnp.float32)


@pytest.fixture(scope='module')
def x():
  return jax.random.normal(jax.random.key(1), (B, T, D))


def made(net, x, train=False, seed=0):
  params = net.init(jax.random.key(seed), x, False)['params']
  out, sown = net.apply({'params': params}, x, train, mutable=['losses'])
  return params, out, sown['losses']


def test_the_router_by_hand():
  logits = np.random.default_rng(0).normal(size=(B, T, E)).astype(np.float32)
  found = experts.route(jnp.asarray(logits), K)
  chance = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  order = np.argsort(-chance, -1)
  weights, share = np.zeros_like(chance), np.zeros((B, E))
  for b in range(B):
    for t in range(T):
      best = order[b, t, :K]
      weights[b, t, best] = chance[b, t, best] / chance[b, t, best].sum()
      share[b, best] += 1 / (K * T)
  np.testing.assert_allclose(found.weights, weights, rtol=1e-5)
  np.testing.assert_allclose(found.balance, T * E * (share * chance.mean(1)).sum(-1), rtol=1e-5)
  np.testing.assert_allclose(found.z, (np.log(np.exp(logits).sum(-1)) ** 2).sum(-1), rtol=1e-5)
  even = experts.route(jnp.zeros((1, T, E)), E)
  np.testing.assert_allclose(even.balance, T, rtol=1e-6)


@pytest.mark.parametrize('gated', [True, False])
def test_the_mixture_equals_a_loop_over_tokens(x, gated):
  params, out, _ = made(mixture(gated=gated), x)
  params = jax.tree.map(np.asarray, params)
  weights = np.asarray(experts.route(x @ params['router']['kernel'], K).weights)
  for b in range(B):
    for t in range(T):
      total = np.zeros(D)
      for e in np.flatnonzero(weights[b, t]):
        before = np.einsum('d,dgf->gf', np.asarray(x[b, t]), params['experts_in']['kernel'][e])
        hidden = before[0] / (1 + np.exp(-before[0])) * (before[1] if gated else 1)
        total += weights[b, t, e] * hidden @ params['experts_out']['kernel'][e]
      np.testing.assert_allclose(out[b, t], total, rtol=1e-4, atol=1e-5)


def test_room_for_all_changes_nothing_and_a_full_expert_is_passed_by(x):
  _, whole, _ = made(mixture(), x)
  _, roomy, _ = made(mixture(capacity=100 * E), x, train=True)
  np.testing.assert_allclose(whole, roomy, rtol=1e-4, atol=1e-5)
  weights = experts.route(jnp.tile(jnp.array([9.0, 5.0, 0.0, 0.0]), (1, T, 1)), K).weights  # all want the first two
  count = experts.places(T, E, K, 100)
  assert count == T * K // E
  place = np.asarray(experts.limited(weights, count))
  assert place.sum((1, 3))[0].tolist() == [count, count, 0, 0]
  assert place[0, :count].sum() == K * count and not place[0, count:].any(), 'the first come first'
  assert (place.sum(1) <= 1).all(), 'a place holds one token'


def test_a_token_does_not_depend_on_those_after_it(x):
  net = mixture(capacity=75)
  _, whole, _ = made(net, x, train=True)
  _, part, _ = made(net, x.at[:, 7:].set(3.0), train=True)
  np.testing.assert_allclose(whole[:, :7], part[:, :7], rtol=1e-5, atol=1e-6)
  assert not np.allclose(whole[:, 7:], part[:, 7:])


def test_losses_of_rows_add_up_over_any_batch(x):
  net = mixture()
  _, _, together = made(net, x)
  for name in ('balance', 'router_z'):
    alone = [made(net, x[b : b + 1])[2][name][0] for b in range(B)]
    np.testing.assert_allclose(together[name][0], np.concatenate(alone), rtol=1e-5)


MOE = {
  'model__experts': 8,
  'model__chosen': 2,
  'model__heads': 2,
  'model__layers': 2,
  'model__width': 16,
  'mesh__min_shard': 16,
  'optim__ema_decay': 0.0,
  'data__batch_size': 16,
}


@pytest.mark.parametrize(('data', 'fsdp', 'expert', 'tensor'), [(1, 1, 8, 1), (1, 2, 2, 2)])
def test_experts_over_devices_equal_one_device(data, fsdp, expert, tensor):
  alone, one = tiny.train(tiny.exact('lm', **MOE), 1, 4)
  sizes = {'mesh__data': data, 'mesh__fsdp': fsdp, 'mesh__expert': expert, 'mesh__tensor': tensor}
  config = tiny.exact('lm', **MOE, **sizes)
  spread, eight = tiny.train(config, 8, 4)
  close(alone.params, spread.params)
  close(one, eight)
  kernels = tiny.program(config, 8).init().params['layers']['block_0']['mixture']['experts_in']['kernel']
  assert 'expert' in str(kernels.sharding.spec)
  assert {'balance', 'router_z'} < one.keys()


def test_every_parameter_of_a_mixture_matches_one_row_of_the_tables():
  arch = Architecture(11, 8, 2, 2, 16, experts=4, bias=False, gated=True)
  params = Transformer(arch).init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32), train=False)['params']
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    assert len(mesh.row_of(path, SHARDING)) == leaf.ndim


def test_a_cache_of_a_mixture_goes_on_as_the_whole_does():
  arch = Architecture(11, 8, 2, 2, 16, experts=4, capacity=100, bias=False, gated=True)
  net, tokens = Transformer(arch), jnp.arange(8)[None] % 11
  params = net.init(jax.random.key(0), tokens, train=False)['params']
  whole = net.apply({'params': params}, tokens, train=False)
  cache = net.init_cache(1)
  for i in range(8):
    row = jnp.array([[i]])
    logits, cache = net.apply(
      {'params': params}, cache, tokens[:, i : i + 1], row, jnp.zeros(1, jnp.int32), method='extend'
    )
    np.testing.assert_allclose(logits, whole[:, i], rtol=2e-4, atol=2e-5)


def test_sizes_that_do_not_fit_are_refused():
  for overrides, says in (({'chosen': 9}, 'chosen=9 must be from 1 to'), ({'bias': True}, 'experts have no biases')):
    config = tiny.config('lm', model__experts=8, **{f'model__{name}': value for name, value in overrides.items()})
    with pytest.raises(UserError, match=says):
      config_lib.builder(config)(config, tiny.dataset(config).spec)
