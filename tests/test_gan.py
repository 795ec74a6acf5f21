"""What the two players of a GAN may and may not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import gan
from gen_ai import config as config_lib
from gen_ai.core.errors import UserError
from gen_ai.core.method import identity
from gen_ai.maths import adversarial
from gen_ai.sweep import trials

GANS = [name for name in tiny.STRUCTURES if tiny.config(name).experiment == 'gan']


def same(a, b):
  return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def made_batch(config, spec, n=8):
  """What one update gets."""
  image = np.random.default_rng(0).integers(0, 256, (n, *spec.shape), np.uint8)
  rows = {'image': jnp.asarray(image)}
  if config.model.condition != 'none':
    rows['label'] = jnp.arange(n) % spec.num_classes
  return gan.draws(config, rows, jax.random.key(1), 'd')


@pytest.mark.parametrize('name', GANS)
def test_each_update_leaves_the_other_player_untouched(name):
  config = tiny.config(name)
  spec = tiny.dataset(config).spec
  state = jax.eval_shape(gan.build(config, spec).init, jax.random.key(0))
  update = gan.updates(config, gan.networks(config, spec, identity), identity)
  batch = made_batch(config, spec)
  for player, other, fn in (('d', 'g', update.discriminator), ('g', 'd', update.generator)):
    changed = changes(fn, state, batch, jax.random.key(2))
    for part in ('params', 'opt_state', 'stats'):
      assert not any(jax.tree.leaves(getattr(changed, part)[other])), part
    assert all(jax.tree.leaves(changed.params[player]))


def changes(fn, state, *arguments):
  """A state of booleans: whether `fn` returns another leaf than the one it was given. Nothing is compiled."""
  closed, (after, _) = jax.make_jaxpr(fn, return_shape=True)(state, *arguments)
  leaves, structure = jax.tree.flatten(after)
  pairs = zip(closed.jaxpr.outvars, closed.jaxpr.invars[: len(leaves)], strict=False)
  return jax.tree.unflatten(structure, [after is not before for after, before in pairs])


def test_the_founding_notes_setting_is_a_sweep():
  base = config_lib.load('configs/gan.py')
  (trial,) = trials.resolve(base, trials.declared('configs/gan.py', 'note'))
  config = trial.config
  assert (config.model.g_widths, config.model.d_widths) == ((256, 512, 1024), (1024, 512, 256))
  assert (config.model.latent, config.model.g_activation, config.model.d_activation) == (100, 'relu', 'relu')
  assert (config.loss.kind, config.loss.constraint, config.loss.n_critic) == ('non_saturating', 'none', 1)
  assert (config.optim.name, config.optim.lr, config.optim.b1, config.optim.b2) == ('adam', 2e-4, 0.9, 0.999)
  assert (config.optim.schedule, config.optim.ema_decay, config.data.batch_size) == ('constant', 0.0, 128)
  # The default keeps its networks' sizes and its loss.
  for path in ('model.g_widths', 'model.d_widths', 'model.latent', 'loss.kind', 'data.name'):
    assert config_lib.flatten(base)[path] == config_lib.flatten(config)[path], path


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


CONSTRAINTS = config_lib.declared('gan')['loss.constraint'].choices


@pytest.mark.parametrize(
  ('kind', 'constraint'),
  [
    *((kind, 'r1') for kind in adversarial.KINDS),
    *(('hinge', constraint) for constraint in CONSTRAINTS),
  ],
)
def test_every_loss_and_every_constraint_trains(kind, constraint):
  _, metrics = tiny.train(tiny.config('gan', loss__kind=kind, loss__constraint=constraint, run__steps=4))
  assert all(np.isfinite(value).all() for value in metrics.values())
  assert ('penalty' in metrics) == (constraint in gan.PENALTIES)


def change(update, state, batch, player, step=0):
  """How one update of plain gradient descent changes a player."""
  after, metrics = update(state._replace(step=jnp.int32(step)), batch, jax.random.key(2))
  return jax.tree.map(jnp.subtract, after.params[player], state.params[player]), metrics


# A large step: weights under an equalised learning rate are large, and a small one would drown in their rounding.
SGD = {'optim__name': 'sgd', 'optim__b1': 0.0, 'optim__lr': 1e4}


@pytest.mark.parametrize(
  ('name', 'player', 'every', 'weight'),
  [
    ('dcgan', 'd', 'loss__penalty_every', {'loss__constraint': 'r1', 'model__d_norm': 'none'}),
    ('stylegan2', 'g', 'loss__path_every', {'loss__path_length': 2.0}),
  ],
)
def test_lazy_regularisation_equals_eager_in_expectation(name, player, every, weight):
  changes, shares = {}, {}
  for interval in (1, 3):
    config = tiny.config(name, **SGD, **weight, **{every: interval})
    spec = tiny.dataset(config).spec
    update = gan.updates(config, gan.networks(config, spec, identity), identity)
    update = jax.jit(update.discriminator if player == 'd' else update.generator)
    state = jax.jit(gan.build(config, spec).init)(jax.random.key(0))
    if 'path' in state.stats:  # a penalty needs a mean
      state = state._replace(stats={**state.stats, 'path': jnp.float32(0.1)})
    results = [change(update, state, made_batch(config, spec), player, step) for step in range(interval)]
    changes[interval] = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *(c for c, _ in results))
    shares[interval] = [float(m['penalty' if player == 'd' else 'path_penalty']) for _, m in results]
  assert shares[1][0] > 0 and shares[3][1:] == [0.0, 0.0]
  assert shares[3][0] == pytest.approx(3 * shares[1][0], rel=1e-5)
  for a, b in zip(jax.tree.leaves(changes[1]), jax.tree.leaves(changes[3]), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max(initial=1e-6))


def test_the_half_life_of_the_average_is_in_images():
  # Batches of 16 and a half-life of 64 images: a quarter of a halving an update, when the first updates are over.
  config = tiny.config('gan', optim__ema_decay=0.0, optim__ema_halflife=64.0, optim__schedule='constant', run__steps=40)
  spec = tiny.dataset(config).spec
  method = gan.build(config, spec)
  state = jax.jit(method.init)(jax.random.key(0))
  state = state._replace(step=jnp.int32(10_000))
  batch = {'image': jnp.zeros((16, *spec.shape), jnp.uint8), 'index': jnp.arange(16)}
  after, _ = jax.jit(method.train_step)(state, batch, jax.random.key(1))
  decay = 0.5**0.25
  for old, new, mean in zip(
    *map(jax.tree.leaves, (state.params['g'], after.params['g'], after.ema['params'])), strict=True
  ):
    np.testing.assert_allclose(mean, decay * old + (1 - decay) * new, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('condition', ['concat', 'projection', 'auxiliary'])
@pytest.mark.parametrize('network', ['mlp', 'dcgan', 'stylegan2'])
def test_every_condition_trains_with_every_kind_of_network(condition, network):
  small = {
    'mlp': {'model__g_widths': (8,), 'model__d_widths': (8,)},
    'dcgan': {'model__width': 4},
    'stylegan2': {'model__style': 4, 'model__mapping_layers': 1, 'model__width': 4, 'model__max_width': 4},
  }[network]
  small |= {'loss__constraint': 'none'}  # a second derivative of every network would be compiled
  config = tiny.config('gan', model__condition=condition, model__network=network, run__steps=2, **small)
  spec = tiny.dataset(config).spec
  method = gan.build(config, spec)
  if network == 'stylegan2':  # a minute each to compile: one without a condition is trained by the contract
    state = jax.jit(method.init)(jax.random.key(0))
    batch = tiny.dataset(config).splits['train'].read(np.arange(config.data.batch_size))
    metrics = jax.eval_shape(method.train_step, state, batch, jax.random.key(0))[1]
  else:
    state, metrics = tiny.train(config)
    assert all(np.isfinite(value).all() for value in metrics.values())
  assert ('class_nats_real' in metrics) == (condition == 'auxiliary')
  rows = np.asarray(jax.jit(method.visualizations['classes'])(state, {}, jax.random.key(0))).reshape(
    spec.num_classes, 8, -1
  )
  assert np.abs(rows[0] - rows[1]).max() > 1e-4, 'the label changes the image'


def test_labels_are_needed_where_they_are_used():
  config = tiny.config('cgan')
  unlabelled = tiny.dataset(config).spec._replace(num_classes=0)
  with pytest.raises(UserError, match="condition='projection' needs labels.*mnist_5k.*condition=none"):
    gan.build(config, unlabelled)


def test_the_controller_of_augmentation_moves_while_training():
  # The discriminator is right about all reals soon: the probability rises by interval * batch / speed at every move.
  ada = {'augment__kind': 'ada', 'augment__groups': 'color'}  # the group that compiles quickest
  config = tiny.config('gan', **ada, augment__interval=2, augment__speed=320, augment__target=-1.0)
  _, metrics = tiny.train(config)
  p = metrics['augment_p']
  assert p[0] == 0.0 and p[-1] > 0.0
  np.testing.assert_allclose(np.unique(np.diff(p).round(6)), [0.0, 0.1], atol=1e-6)


@pytest.mark.parametrize('kind', ['diffaugment', 'ada'])
def test_augmented_penalties_are_finite(kind):
  config = tiny.config('gan', augment__kind=kind, loss__constraint='r1')
  spec = tiny.dataset(config).spec
  update = gan.updates(config, gan.networks(config, spec, identity), identity).discriminator
  state = jax.jit(gan.build(config, spec).init)(jax.random.key(0))
  if 'ada' in state.stats:  # at its start, a probability of 0, it changes nothing
    state = state._replace(stats={**state.stats, 'ada': state.stats['ada']._replace(p=jnp.float32(1.0))})
  state, metrics = jax.jit(update)(state, made_batch(config, spec), jax.random.key(1))
  assert float(metrics['penalty']) > 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))


def test_singular_values_are_recorded_and_used():
  _, metrics = tiny.train(tiny.config('sngan'))
  assert (metrics['sigma_max_d'] >= metrics['sigma_min_d']).all()
  assert (metrics['sigma_min_d'] > 0).all()
  assert not any(name.startswith('sigma') for name in tiny.train(tiny.config('gan'))[1])


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'model.network': 'stylegan2', 'model.g_output': 'relu'}, "g_output='relu' is none of linear, tanh"),
    ({'loss.path_length': 1.0}, "no field 'loss.path_length': it is for config.model.network 'stylegan2'"),
    ({'loss.penalty_every': 0}, 'at least 1'),
    ({'augment.kind': 'ada', 'loss.kind': 'least_squares'}, "ada goes by the sign.*kind='least_squares'"),
    ({'model.network': 'stylegan2', 'model.mapping_lr': 0.0}, 'mapping_lr=0.0 must be more than 0'),
    ({'model.network': 'stylegan2', 'model.mapping_lr': -0.1}, 'mapping_lr=-0.1 must be more than 0'),
    ({'model.network': 'stylegan2', 'model.mixing': 1.5}, 'mixing=1.5 must be from 0 to 1'),
    ({'sample.truncation': 0.5}, "no field 'sample.truncation'.*network='mlp'"),
    ({'loss.constraint': 'clip', 'loss.clip': 0.0}, 'clip=0.0 .*positive'),
    ({'loss.constraint': 'clip', 'loss.clip': -0.1}, 'clip=-0.1 .*positive'),
    ({'loss.penalty': -1.0}, 'penalty=-1.0 must be at least 0'),
    ({'loss.d_lr_factor': -1.0}, 'd_lr_factor=-1.0 must be at least 0'),
    ({'augment.kind': 'flip'}, 'none of none, diffaugment, ada'),
    ({'augment.policy': 'color,colour'}, "has 'colour', which is none of color"),
    ({'model.network': 'stylegan2', 'data.image_size': 30}, '30x30 images.*multiples of 4'),
  ],
)
def test_what_does_not_fit_is_refused_by_name(overrides, message):
  size = overrides.get('data.image_size', 28)
  spec = tiny.dataset(tiny.config('gan')).spec._replace(shape=(size, size, 1))
  with pytest.raises(UserError, match=message):
    config = config_lib.override(tiny.config('gan'), overrides)
    config_lib.validate(config)
    jax.eval_shape(gan.build(config, spec).init, jax.random.key(0))


def test_samples_come_from_averaged_weights_and_their_moments():
  config = tiny.config('dcgan', optim__ema_decay=0.5)
  state, _ = tiny.train(config)
  method = gan.build(config, tiny.dataset(config).spec)
  state = jax.tree.map(jnp.asarray, state)
  sample = lambda method, state: tiny.sample(method, state, jax.random.key(0), 4)  # noqa: E731
  drawn = sample(method, state)
  swapped = state._replace(
    params={**state.params, 'g': state.ema['params']}, stats={**state.stats, 'g': state.ema['stats']}
  )
  plain = gan.build(tiny.config('dcgan', optim__ema_decay=0.0), tiny.dataset(config).spec)
  np.testing.assert_array_equal(drawn, sample(plain, swapped))
  assert not same(state.ema['stats'], state.stats['g'])


@pytest.mark.parametrize('field', ['loss.kind', 'loss.constraint', 'model.network', 'model.g_activation'])
def test_an_unknown_choice_is_refused_with_the_known_ones(field):
  config = config_lib.override(tiny.config('gan'), {field: 'nonsense'})
  with pytest.raises(UserError, match='nonsense.*(none of|choose one of)'):
    config_lib.validate(config)
    gan.build(config, tiny.dataset(config).spec).init(jax.random.key(0))
