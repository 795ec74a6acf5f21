"""Image networks: sizes, parameter counts, independence of examples, and the batch split over devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen_ai.core.errors import UserError
from gen_ai.nets import dcgan, mlp, pyramid, vae
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.gan import Discriminator


def mlp_discriminator(widths=(1024, 512, 256)):
  return Discriminator(mlp.MLPFeatures(widths), flat=True)


def dcgan_discriminator(width=64, weight_init='normal', **options):
  return Discriminator(pyramid.Downsample(width, weight_init=weight_init, **options), weight_init=weight_init)


IMAGES = [(28, 28, 1), (32, 32, 3), (64, 64, 3)]
TINY = {
  'mlp_generator': lambda shape: mlp.MLPGenerator(shape, (8,)),
  'mlp_discriminator': lambda shape: mlp_discriminator((8,)),
  'dcgan_generator': lambda shape: dcgan.DCGANGenerator(shape, width=2, norm='group'),
  'dcgan_resize_generator': lambda shape: dcgan.DCGANGenerator(shape, width=2, norm='none', upsample='resize'),
  'dcgan_discriminator': lambda shape: dcgan_discriminator(width=2, norm='group'),
  'mlp_encoder': lambda shape: vae.MLPEncoder(5, (8,)),
  'mlp_decoder': lambda shape: vae.MLPDecoder(shape, 2, (8,)),
  'residual_encoder': lambda shape: vae.ResidualEncoder(5, width=2),
  'residual_decoder': lambda shape: vae.ResidualDecoder(shape, 2, width=2),
  'conv_encoder': lambda shape: vae.ConvEncoder(5, width=2),
  'conv_decoder': lambda shape: vae.ConvDecoder(shape, 2, width=2),
}


def call(name, module, shape, n=3):
  """(the module's function of one batch, such a batch)."""
  maker = name.endswith(('generator', 'decoder'))
  batch = jax.random.normal(jax.random.key(0), (n, 6) if maker else (n, *shape))
  options = {} if name.endswith('coder') else {'train': True}
  return partial(module.apply, **options), partial(module.init, **options), batch


def count(module, *args):
  shapes = jax.eval_shape(partial(module.init, train=True), jax.random.key(0), *args)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))


@pytest.mark.parametrize('shape', IMAGES, ids=str)
@pytest.mark.parametrize('name', TINY)
def test_shapes_and_types(name, shape):
  H, W, C = shape
  apply, init, batch = call(name, TINY[name](shape), shape)
  y = jax.eval_shape(lambda key, x: apply(init(key, x), x), jax.random.key(0), batch)
  expected = {'generator': (3, *shape), 'discriminator': (3,), 'encoder': (3, 5), 'decoder': (3, H, W, 2 * C)}
  for leaf in jax.tree.leaves(y):
    assert leaf.shape == expected[name.split('_')[-1]] and leaf.dtype == jnp.float32


@pytest.mark.parametrize('name', TINY)
def test_examples_are_independent_also_when_split_over_devices(name):
  shape = (16, 16, 1)
  apply, init, batch = call(name, TINY[name](shape), shape, n=8)
  variables = jax.tree.map(lambda p: p + 0.1, jax.jit(init)(jax.random.key(0), batch))  # biases too
  apply = jax.jit(apply)
  y = apply(variables, batch)
  mesh = Mesh(np.array(jax.devices()), ('data',))
  sharded = apply(variables, jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data'))))
  close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, sharded, y)
  jax.tree.map(lambda a, b: close(a, b[5:6]), apply(variables, batch[5:6]), y)
  assert all(np.abs(leaf[0] - leaf[1]).max() > 1e-4 for leaf in jax.tree.leaves(y))


def test_one_lane_of_a_run_axis_equals_a_run_alone():
  module = dcgan_discriminator(width=2)
  x = jax.random.normal(jax.random.key(0), (3, 2, 16, 16, 1))
  run = jax.jit(lambda key, x: module.apply(module.init(key, x, train=True), x, train=True).logits)
  keys = jax.random.split(jax.random.key(1), 3)
  np.testing.assert_allclose(jax.jit(jax.vmap(run))(keys, x)[1], run(keys[1], x[1]), rtol=1e-4, atol=1e-6)


def test_the_founding_note_has_its_parameters():
  generator = 100 * 256 + 256 + 256 * 512 + 512 + 512 * 1024 + 1024 + 1024 * 784 + 784
  discriminator = 784 * 1024 + 1024 + 1024 * 512 + 512 + 512 * 256 + 256 + 256 + 1
  assert (generator, discriminator) == (1_486_352, 1_460_225)
  assert count(mlp.MLPGenerator((28, 28, 1)), jnp.zeros((1, 100))) == generator
  assert count(mlp_discriminator(), jnp.zeros((1, 28, 28, 1))) == discriminator


def test_the_convolutional_pair_has_its_parameters():
  generator = 100 * 6272 + 2 * 128 + 16 * 128 * 64 + 2 * 64 + 16 * 64 * 1 + 1  # norms have scale and bias
  discriminator = 16 * 64 + 64 + 16 * 64 * 128 + 128 + 6272 + 1
  assert count(dcgan.DCGANGenerator((28, 28, 1)), jnp.zeros((1, 100))) == generator
  assert count(dcgan_discriminator(), jnp.zeros((1, 28, 28, 1))) == discriminator
  normed = discriminator - 128 + 2 * 128  # of the second layer alone
  assert count(dcgan_discriminator(norm='group'), jnp.zeros((1, 28, 28, 1))) == normed


def test_generators_stay_in_range_and_use_relu_between_layers():
  module = mlp.MLPGenerator((2, 2, 1), (3,))
  variables = module.init(jax.random.key(0), jnp.zeros((1, 2)), train=True)
  x = module.apply(variables, 100.0 * jnp.ones((4, 2)), train=True)
  assert np.abs(x).max() <= 1.0
  hidden = variables['params']['MLP_0']
  by_hand = np.maximum(np.full((4, 2), 100.0) @ hidden['Dense_0']['kernel'], 0) @ hidden['Dense_1']['kernel']
  np.testing.assert_allclose(x.reshape(4, 4), np.tanh(by_hand), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(('name', 'std'), [('normal', 0.02), ('lecun', (6272**-0.5))])
def test_initial_weights(name, std):
  module = dcgan_discriminator(weight_init=name)
  init = jax.jit(partial(module.init, train=True))
  kernel = init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))['params']['score']['kernel']
  np.testing.assert_allclose(kernel.std(), std, rtol=0.05)


def test_batch_norm_couples_examples_in_training_only():
  module = dcgan.DCGANGenerator((16, 16, 1), width=2, norm='batch', weight_init='lecun')
  z = jax.random.normal(jax.random.key(0), (4, 6))
  variables = jax.jit(partial(module.init, train=True))(jax.random.key(1), z)
  train = jax.jit(partial(module.apply, train=True, mutable=['batch_stats']))
  trained, updated = train(variables, z)
  assert jax.tree.structure(updated['batch_stats']) == jax.tree.structure(variables['batch_stats'])
  halves, _ = train(variables, z[:2])
  assert np.abs(halves - trained[:2]).max() > 1e-3
  frozen = jax.jit(partial(module.apply, {**variables, **updated}, train=False))
  np.testing.assert_allclose(frozen(z)[:2], frozen(z[:2]), rtol=1e-4, atol=1e-5)


def test_bfloat16_networks_keep_float32_parameters_and_results():
  for module, x in (
    (dcgan.DCGANGenerator((16, 16, 1), width=2, dtype=jnp.bfloat16), jnp.ones((2, 6))),
    (dcgan_discriminator(width=2, norm='batch', dtype=jnp.bfloat16), jnp.ones((2, 16, 16, 1))),
  ):
    y, variables = jax.eval_shape(partial(module.init_with_output, train=True), jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves((y, variables))} == {jnp.dtype('float32')}


@pytest.mark.parametrize(
  ('sides', 'stages'), [((28, 28), 2), ((32, 32), 3), ((64, 64), 4), ((16, 24), 2), ((48, 96), 3)]
)
def test_stages(sides, stages):
  assert pyramid.num_stages(*sides) == stages


@pytest.mark.parametrize('sides', [(8, 8), (30, 30), (28, 30), (27, 27)])
def test_sides_that_do_not_halve_are_refused_with_those_that_do(sides):
  with pytest.raises(UserError, match=f'{sides[0]}x{sides[1]} images.*multiples of 4 and at least 16.*28, 32 or 64'):
    dcgan_discriminator().init(jax.random.key(0), jnp.zeros((1, *sides, 1)), train=True)
  with pytest.raises(UserError, match='multiples of 4'):
    dcgan.DCGANGenerator((*sides, 1)).init(jax.random.key(0), jnp.zeros((1, 6)), train=True)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'upsample': 'bilinear'}, "'bilinear'.*deconv, resize"),
    ({'weight_init': 'he'}, "'he'.*normal, lecun"),
    ({'activation': 'swish'}, "'swish'.*relu, leaky_relu"),
    ({'norm': 'layer'}, "'layer'.*none, batch, group"),
  ],
)
def test_unknown_options_list_the_known_ones(options, message):
  with pytest.raises(UserError, match=message):
    dcgan.DCGANGenerator((16, 16, 1), **options).init(jax.random.key(0), jnp.zeros((1, 6)), train=True)


def test_gelu_is_the_exact_one():
  x = jnp.linspace(-6, 6, 101)
  np.testing.assert_allclose(activation_fn('gelu')(x), jax.nn.gelu(x, approximate=False), atol=2e-6)
  assert np.abs(activation_fn('gelu')(x) - jax.nn.gelu(x, approximate=True)).max() > 1e-4
