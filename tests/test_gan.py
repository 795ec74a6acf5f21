"""What the two players of a GAN may and may not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import gan
from gen_ai import config as config_lib
from gen_ai.errors import UserError
from gen_ai.types import identity

GANS = [name for name in tiny.CONFIGS if tiny.config(name).experiment == 'gan']


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize('name', GANS)
def test_each_update_leaves_the_other_player_untouched(name):
  config = tiny.config(name)
  spec = tiny.dataset(config).spec
  state = gan.build(config, spec).init(jax.random.key(0))
  update = gan.updates(config, gan.networks(config, spec, identity), identity)
  image = np.random.default_rng(0).integers(0, 256, (8, *spec.shape), np.uint8)
  z = jax.random.normal(jax.random.key(1), (8, config.model.latent))
  batch = {'image': jnp.asarray(image), 'z': z, 'eps': jnp.linspace(0.1, 0.9, 8)}
  after, _ = update.discriminator(state, batch, jax.random.key(2))
  for part in ('params', 'opt_state', 'stats'):
    assert same(getattr(after, part)['g'], getattr(state, part)['g']), part
  assert not same(after.params['d'], state.params['d'])
  after, _ = update.generator(state, {'z': z}, jax.random.key(2))
  for part in ('params', 'opt_state', 'stats'):
    assert same(getattr(after, part)['d'], getattr(state, part)['d']), part
  assert not same(after.params['g'], state.params['g'])


@pytest.mark.parametrize('n_critic', [1, 3])
def test_n_critic_updates_are_made_on_as_many_batches(n_critic):
  config = tiny.config('wgan_gp', loss__n_critic=n_critic, run__steps=4)
  program = tiny.program(config)
  assert program.batch_size == n_critic * config.data.batch_size
  state, _ = tiny.train(config)
  counts = {name: int(state.opt_state[name][0].count) for name in ('g', 'd')}
  assert counts == {'g': 4, 'd': 4 * n_critic}


def test_weights_are_clipped():
  state, _ = tiny.train(tiny.config('wgan_gp', loss__constraint='clip', loss__clip=0.01))
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.params['d'])) <= 0.01
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.params['g'])) > 0.01


@pytest.mark.parametrize('kind', ['minimax', 'non_saturating', 'least_squares', 'hinge', 'wasserstein'])
@pytest.mark.parametrize('constraint', ['none', 'r1'])
def test_every_loss_trains_with_every_constraint(kind, constraint):
  _, metrics = tiny.train(tiny.config('gan', loss__kind=kind, loss__constraint=constraint, run__steps=4))
  assert all(np.isfinite(value).all() for value in metrics.values())
  assert ('penalty' in metrics) == (constraint == 'r1')


def test_samples_come_from_averaged_weights_and_their_moments():
  config = tiny.config('dcgan', optim__ema_decay=0.5)
  state, _ = tiny.train(config)
  method = gan.build(config, tiny.dataset(config).spec)
  state = jax.tree.map(jnp.asarray, state)
  drawn = method.sample(state, jax.random.key(0), 4)
  swapped = state._replace(
    params={**state.params, 'g': state.ema['params']}, stats={**state.stats, 'g': state.ema['stats']}
  )
  plain = gan.build(tiny.config('dcgan', optim__ema_decay=0.0), tiny.dataset(config).spec)
  np.testing.assert_array_equal(drawn, plain.sample(swapped, jax.random.key(0), 4))
  assert not same(state.ema['stats'], state.stats['g'])


@pytest.mark.parametrize('field', ['loss.kind', 'loss.constraint', 'model.network', 'model.g_activation'])
def test_an_unknown_choice_is_refused_with_the_known_ones(field):
  config = config_lib.override(tiny.config('gan'), {field: 'nonsense'})
  with pytest.raises(UserError, match='nonsense.*(none of|choose one of)'):
    gan.build(config, tiny.dataset(config).spec).init(jax.random.key(0))
