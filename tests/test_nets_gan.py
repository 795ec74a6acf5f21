"""Spectral normalisation against SVD, conditioning against its formulas, residual networks and self-attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.nets import gan as gan_nets
from gen_ai.nets import mlp, pyramid, resnet_gan, spectral
from gen_ai.nets.conv import Conv


def refreshed(module, variables, x, times):
  for _ in range(times):
    _, changed = module.apply(variables, x, mutable=['spectral'])
    variables = {**variables, **changed}
  return variables


@pytest.mark.parametrize(
  'module', [spectral.Dense(5, spectral=True), Conv(5, (3, 3), spectral=True)], ids=['dense', 'conv']
)
def test_power_iteration_finds_the_largest_singular_value(module):
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
  variables = module.init(jax.random.key(1), x)
  variables = refreshed(module, variables, x, 60)
  matrix = np.asarray(variables['params']['kernel']).reshape(-1, 5)
  largest = np.linalg.svd(matrix, compute_uv=False)[0]
  np.testing.assert_allclose(variables['spectral']['sigma'], largest, rtol=1e-5)
  # What the layer multiplies by has norm 1.
  scaled = {'params': {**variables['params'], 'kernel': variables['params']['kernel'] / largest}}
  plain = type(module)(**{f: getattr(module, f) for f in ('features', 'kernel_size') if hasattr(module, f)})
  np.testing.assert_allclose(module.apply(variables, x), plain.apply(scaled, x), rtol=1e-4, atol=1e-6)


def test_spectral_vectors_stay_where_the_collection_is_not_mutable():
  module, x = spectral.Dense(5, spectral=True), jnp.ones((2, 3))
  variables = module.init(jax.random.key(1), x)
  once = module.apply(variables, x)
  np.testing.assert_array_equal(once, module.apply(variables, x))
  moved = refreshed(module, variables, x, 1)
  assert np.abs(moved['spectral']['u'] - variables['spectral']['u']).max() > 0


def test_the_gradient_of_a_normalised_weight_is_the_papers():
  # arXiv 1802.05957, eq. 12: (g - lambda u v^T) / sigma with lambda = <g, W_SN>, singular vectors held constant.
  kernel = jax.random.normal(jax.random.key(0), (4, 3))
  u = jnp.ones(3)
  for _ in range(100):
    u, sigma = spectral.power_iteration(kernel, u, True)
  g = jax.random.normal(jax.random.key(1), (4, 3))

  def value(kernel):
    return (g * kernel / spectral.power_iteration(kernel, u, False)[1]).sum()

  left = np.asarray(kernel @ u / sigma)
  by_hand = (g - (g * kernel / sigma).sum() * np.outer(left, u)) / sigma
  np.testing.assert_allclose(jax.grad(value)(kernel), by_hand, rtol=1e-4, atol=1e-5)


X = jax.random.normal(jax.random.key(7), (4, 16, 16, 1))
LABEL = jnp.array([0, 2, 1, 2])


def critic(condition, **options):
  module = gan_nets.Discriminator(pyramid.Downsample(2), condition=condition, num_classes=3, **options)
  variables = module.init(jax.random.key(0), X, train=True, label=LABEL)
  return module, jax.tree.map(lambda p: p + 0.1, variables)


def test_the_projection_discriminator_is_its_formula():
  module, variables = critic('projection')
  params = variables['params']
  h = np.asarray(pyramid.Downsample(2).apply({'params': params['trunk']}, X, train=True)).reshape(4, -1)
  psi = h @ params['score']['kernel'][:, 0] + params['score']['bias']
  expected = psi + (np.asarray(params['projection']['embedding'])[LABEL] * h).sum(1)
  np.testing.assert_allclose(module.apply(variables, X, train=True, label=LABEL).logits, expected, rtol=1e-5)
  other = module.apply(variables, X, train=True, label=LABEL[::-1]).logits
  assert np.abs(other - expected)[:2].max() > 1e-3


def test_an_auxiliary_discriminator_tells_classes_and_looks_at_no_label():
  module, variables = critic('auxiliary')
  scores = module.apply(variables, X, train=True, label=LABEL)
  assert scores.logits.shape == (4,) and scores.classes.shape == (4, 3)
  np.testing.assert_array_equal(scores.logits, module.apply(variables, X, train=True).logits)


def test_labels_join_images_as_planes_and_vectors_as_numbers():
  planes = gan_nets.label_planes(X, LABEL, 3)
  assert planes.shape == (4, 16, 16, 4)
  np.testing.assert_array_equal(planes[1, :, :, 1:].mean((0, 1)), [0, 0, 1])
  np.testing.assert_array_equal(planes[..., :1], X)
  module = gan_nets.Discriminator(mlp.MLPFeatures((8,)), condition='concat', num_classes=3, flat=True)
  params = module.init(jax.random.key(0), X, train=True, label=LABEL)['params']
  assert params['trunk']['Dense_0']['kernel'].shape == (16 * 16 + 3, 8)
  module, variables = critic('concat')
  first, second = (module.apply(variables, X, train=True, label=label).logits for label in (LABEL, LABEL[::-1]))
  assert np.abs(first - second)[:2].max() > 1e-3


def test_a_generator_sees_its_label():
  module = gan_nets.Generator(mlp.MLPGenerator((2, 2, 1), (3,)), 3)
  z = jnp.ones((2, 4))
  variables = module.init(jax.random.key(0), z, train=True, label=jnp.array([0, 0]))
  assert variables['params']['body']['MLP_0']['Dense_0']['kernel'].shape == (4 + 3, 3)
  same, other = module.apply(variables, z, train=True, label=jnp.array([0, 1]))
  assert np.abs(same - other).max() > 1e-3


@pytest.mark.parametrize('shape', [(28, 28, 1), (32, 32, 3), (64, 64, 3)], ids=str)
@pytest.mark.parametrize('attention', [False, True])
def test_residual_networks_of_every_size(shape, attention):
  options = {'width': 8, 'attention': attention}
  generator, trunk = resnet_gan.ResNetGenerator(shape, **options), resnet_gan.ResNetTrunk(**options)
  z, x = jnp.zeros((2, 6)), jnp.zeros((2, *shape))
  y, _ = jax.eval_shape(partial(generator.init_with_output, train=True), jax.random.key(0), z)
  h, variables = jax.eval_shape(partial(trunk.init_with_output, train=True), jax.random.key(0), x)
  assert y.shape == (2, *shape) and y.dtype == jnp.float32
  assert h.shape == (2, 8 * 2 ** (pyramid.num_stages(*shape[:2]) - 1)) and h.dtype == jnp.float32
  assert ('attention' in variables['params']) == attention


def test_self_attention_is_its_formula_and_starts_as_the_identity():
  module = resnet_gan.SelfAttention()
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
  params = module.init(jax.random.key(1), x)['params']
  np.testing.assert_array_equal(module.apply({'params': params}, x), x)
  params = {**params, 'gamma': jnp.float32(0.7)}
  weight = {name: np.asarray(params[name]['kernel'])[0, 0] for name in ('query', 'key', 'value', 'out')}
  flat, small = np.asarray(x).reshape(2, 16, 8), np.asarray(resnet_gan.halve(x)).reshape(2, 4, 8)
  scores = np.exp(flat @ weight['query'] @ (small @ weight['key']).swapaxes(1, 2))
  seen = scores / scores.sum(-1, keepdims=True) @ (small @ weight['value']) @ weight['out']
  expected = np.asarray(x) + 0.7 * seen.reshape(2, 4, 4, 8)
  np.testing.assert_allclose(module.apply({'params': params}, x), expected, rtol=1e-4, atol=1e-5)


def test_self_attention_needs_channels():
  with pytest.raises(UserError, match='4 channels.*at least 8.*config.model.width'):
    resnet_gan.SelfAttention().init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))


def test_halving_and_doubling():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  np.testing.assert_array_equal(resnet_gan.halve(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
  np.testing.assert_array_equal(resnet_gan.halve(resnet_gan.double(x)), x)


def test_blocks_without_norm_or_spectrum_start_as_plain_paths():
  x = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
  params = resnet_gan.ResNetTrunk(2, spectral=False).init(jax.random.key(1), x, train=True)['params']
  block = params['Block_2']
  assert np.abs(block['Conv_1']['kernel']).max() == 0 < np.abs(block['Conv_0']['kernel']).max()
  params = resnet_gan.ResNetTrunk(2).init(jax.random.key(1), x, train=True)['params']
  assert np.abs(params['Block_2']['Conv_1']['kernel']).max() > 0
