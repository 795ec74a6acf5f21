"""StyleGAN2's parts against their textbook forms: demodulation, filters, mixing, truncation, deviation, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from gen_ai.core.errors import UserError
from gen_ai.nets.equalised import EqualisedConv, EqualisedDense, ModulatedConv, blur, downsample, leaky, upsample
from gen_ai.nets.stylegan2 import COLLECTION, StyleDiscriminator, StyleGenerator, minibatch_deviation

rng = np.random.default_rng(0)


def normal(*shape):
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def own_kernels(variables, w, demodulate=True):
  """A kernel for every example [B, 3, 3, C, F] by eqs. 1 to 3, in float64."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables['params'])
  dense = params['style']
  style = np.asarray(w, np.float64) @ dense['kernel'] / np.sqrt(w.shape[1]) + dense['bias']
  kernel = params['kernel'] / np.sqrt(np.prod(params['kernel'].shape[:3]))
  own = kernel[None] * style[:, None, None, :, None]
  return own / np.sqrt((own**2).sum((1, 2, 3), keepdims=True) + 1e-8) if demodulate else own


@pytest.mark.parametrize('demodulate', [True, False])
def test_modulation_is_a_kernel_for_every_example(demodulate):
  x, w = normal(3, 6, 5, 4), normal(3, 7)
  net = ModulatedConv(2, demodulate=demodulate)
  variables = net.init(jax.random.key(0), x, w)
  kernels = own_kernels(variables, w, demodulate)
  padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  expected = np.stack(
    [sum(padded[b, i : i + 6, j : j + 5] @ kernels[b, i, j] for i in range(3) for j in range(3)) for b in range(3)]
  )
  np.testing.assert_allclose(net.apply(variables, x, w), expected, atol=1e-5)


def test_upsampling_modulation_is_a_kernel_for_every_example():
  # The textbook form: zeros between the pixels, the example's own kernel, then the filter.
  x, w = normal(2, 4, 4, 3), normal(2, 5)
  net = ModulatedConv(2, up=True)
  variables = net.init(jax.random.key(0), x, w)
  found, kernels = np.asarray(net.apply(variables, x, w)), own_kernels(variables, w)
  taps = np.array([1.0, 3, 3, 1]) / 8 * 2
  fir = np.outer(taps, taps)
  for b in range(2):
    spread = np.zeros((8, 8, 3))
    spread[::2, ::2] = x[b]
    for f in range(2):
      full = sum(signal.convolve2d(spread[..., c], kernels[b, :, :, c, f][::-1, ::-1]) for c in range(3))
      # The filter grows by 3 what the kernel has grown by 1: the middle of it is the result, as in the authors' code.
      np.testing.assert_allclose(found[b, ..., f], signal.convolve2d(full, fir)[2:10, 2:10], atol=1e-5)


def test_demodulated_results_have_unit_variance_whatever_the_style():
  x = normal(8, 32, 32, 16)
  net = ModulatedConv(32)
  variables = net.init(jax.random.key(1), x, normal(8, 4))
  for strength in (0.1, 10.0):
    found = np.asarray(net.apply(variables, x, strength * normal(8, 4)))
    assert found[:, 1:-1, 1:-1].std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize('m', [1.0, 0.01])
def test_equalised_weights_are_scaled_when_they_are_used(m):
  x = normal(500, 300)
  net = EqualisedDense(200, m)
  variables = net.init(jax.random.key(0), x)
  assert float(variables['params']['kernel'].std()) == pytest.approx(1 / m, rel=0.02)
  assert float(net.apply(variables, x).std()) == pytest.approx(1.0, rel=0.03)
  np.testing.assert_allclose(net.apply(variables, x), x @ (variables['params']['kernel'] * m / np.sqrt(300)), atol=1e-4)
  images = normal(8, 16, 16, 24)
  conv = EqualisedConv(64)
  found = conv.apply(conv.init(jax.random.key(0), images), images)
  assert float(found[:, 1:-1, 1:-1].std()) == pytest.approx(1.0, rel=0.05)


def test_resampling_keeps_constants_and_is_the_filter():
  ones = jnp.ones((1, 8, 8, 2))
  np.testing.assert_allclose(upsample(ones)[:, 2:-2, 2:-2], 1.0, atol=1e-6)
  np.testing.assert_allclose(downsample(ones)[:, 1:-1, 1:-1], 1.0, atol=1e-6)
  x = normal(1, 8, 6, 1)
  taps = np.array([1.0, 3, 3, 1]) / 8
  expected = signal.convolve2d(np.asarray(x)[0, ..., 0], np.outer(taps, taps))  # grows by 3: pads of 3 and 3
  np.testing.assert_allclose(blur(x, 3, 3)[0, ..., 0], expected, atol=1e-5)
  np.testing.assert_allclose(downsample(x)[0, ..., 0], expected[2:-1:2, 2:-1:2][:4, :3], atol=1e-5)
  np.testing.assert_allclose(blur(x, 3, 3, gain=2.0), 4 * blur(x, 3, 3), atol=1e-5)


def test_a_halving_convolution_is_blur_then_stride():
  x = normal(2, 8, 8, 3)
  net = EqualisedConv(4, down=True, use_bias=False)
  variables = net.init(jax.random.key(0), x)
  assert net.apply(variables, x).shape == (2, 4, 4, 4)
  kernel = np.asarray(variables['params']['kernel']) / np.sqrt(27)
  h = np.asarray(blur(x, 2, 2))
  expected = sum(h[:, i : i + 7 : 2, j : j + 7 : 2] @ kernel[i, j] for i in range(3) for j in range(3))
  np.testing.assert_allclose(net.apply(variables, x), expected, atol=1e-5)


def test_the_activation_keeps_the_mean_square():
  x = normal(100_000)
  assert float((leaky(x) ** 2).mean()) == pytest.approx(1.04, abs=0.02)


def generator(**options):
  return StyleGenerator(
    **{'shape': (28, 28, 1), 'latent': 6, 'width': 5, 'channels': 2, 'max_channels': 4, 'mapping_layers': 2, **options}
  )


def started(net, n=4, seed=0, train=True, label=None):
  key = jax.random.key(seed)
  z, noise = jax.random.normal(key, (n, net.latent)), jax.random.split(key, n)
  variables = jax.jit(lambda: net.init(jax.random.key(1), z, train=train, label=label, noise=noise))()
  return variables, z, noise


def with_strength(variables, value):
  def change(path, leaf):
    return jnp.full_like(leaf, value) if 'noise_strength' in jax.tree_util.keystr(path) else leaf

  return {**variables, 'params': jax.tree_util.tree_map_with_path(change, variables['params'])}


@pytest.fixture(scope='module')
def style():
  net = generator()
  return (net, *started(net))


def test_noise_matters_by_its_strength_and_by_its_key(style):
  net, variables, z, noise = style
  draw = jax.jit(lambda v, noise: net.apply(v, z, train=False, noise=noise))
  other = jax.random.split(jax.random.key(9), len(z))
  np.testing.assert_array_equal(draw(variables, noise), draw(variables, other))
  strong = with_strength(variables, 0.5)
  assert np.abs(draw(strong, noise) - draw(strong, other)).max() > 1e-2
  some = np.asarray(draw(strong, noise))
  alone = net.apply(strong, z[1:2], train=False, noise=noise[1:2])
  np.testing.assert_allclose(alone, some[1:2], atol=1e-5)


def test_an_image_ends_in_tanh_only_if_asked(style):
  net, variables, z, noise = style
  strong = jax.tree.map(lambda leaf: 3.0 * leaf, variables['params'])  # so that some pixels leave [-1, 1]
  draw = lambda net, train: np.asarray(net.apply({**variables, 'params': strong}, z, train=train, noise=noise))  # noqa: E731
  for train in (False, True):
    published = draw(net, train)
    assert np.abs(published).max() > 1.0
    np.testing.assert_allclose(draw(generator(output='tanh'), train), np.tanh(published), atol=1e-6)


def test_truncation_zero_is_one_image_and_one_is_none(style):
  net, variables, z, noise = style
  w_avg = normal(5)
  variables = {**variables, COLLECTION: {'w_avg': w_avg}}
  one = np.asarray(generator(truncation=0.0).apply(variables, z, train=False, noise=noise))
  np.testing.assert_allclose(one, one[:1].repeat(len(z), 0), atol=1e-6)
  ws = jnp.broadcast_to(w_avg, (1, net.num_layers, 5))
  np.testing.assert_allclose(one[:1], net.apply(variables, ws, noise[:1], method='synthesis'), atol=1e-5)
  w = net.apply(variables, z, method='mapping')
  half = generator(truncation=0.5).apply(variables, z, train=False, noise=noise)
  ws = jnp.broadcast_to((w_avg + 0.5 * (w - w_avg))[:, None], (len(z), net.num_layers, 5))
  np.testing.assert_allclose(half, net.apply(variables, ws, noise, method='synthesis'), atol=1e-5)


def test_styles_mix_from_a_random_layer_on(style):
  net, variables, z, noise = style
  n, L = 400, net.num_layers
  noise = jax.random.split(jax.random.key(4), n)
  w = jnp.ones((n, 5)) * 100.0  # no mapping gives such a style
  mixed = lambda net: np.asarray(  # noqa: E731
    net.apply(variables, w, None, noise, method='_mixed')
  )
  kept = (mixed(generator(mixing=0.7)) == 100.0).all(-1)
  cuts = kept.sum(1)
  # The first styles are kept, then none: a cut from 1 to L - 1, or no cut.
  np.testing.assert_array_equal(kept, np.arange(L) < cuts[:, None])
  assert set(cuts) == set(range(1, L + 1))
  assert (cuts < L).mean() == pytest.approx(0.7, abs=0.08)
  assert (mixed(generator(mixing=1e-9)) == 100.0).all()


def test_mixing_is_for_training_alone(style):
  net, variables, z, noise = style
  plain = net.apply(variables, z, train=False, noise=noise)
  always = generator(mixing=0.999999)
  np.testing.assert_array_equal(always.apply(variables, z, train=False, noise=noise), plain)
  assert np.abs(always.apply(variables, z, train=True, noise=noise) - plain).max() > 1e-4


def test_the_mean_style_follows_what_is_drawn(style):
  net, variables, z, noise = style
  _, changed = net.apply(variables, z, train=True, noise=noise, mutable=[COLLECTION])
  w = net.apply(variables, z, method='mapping')
  np.testing.assert_allclose(changed[COLLECTION]['w_avg'], 0.005 * w.mean(0), rtol=1e-4, atol=1e-7)


def test_labels_reach_the_style():
  net = generator(num_classes=3)
  variables, z, noise = started(net, label=jnp.zeros(4, jnp.int32))
  w = [net.apply(variables, z, jnp.full(4, i), method='mapping') for i in (0, 1)]
  assert np.abs(w[0] - w[1]).max() > 1e-2


@pytest.mark.parametrize('group', [1, 2, 3, 4, 8])
def test_deviation_by_hand(group):
  x = rng.normal(size=(6, 3, 3, 2))
  size = {1: 1, 2: 2, 3: 3, 4: 3, 8: 6}[group]  # the largest divisor of 6 that is not above
  expected = np.zeros(6)
  for first in range(6 // size):
    members = [first + k * (6 // size) for k in range(size)]
    expected[members] = np.sqrt(x[members].var(0) + 1e-8).mean()
  np.testing.assert_allclose(minibatch_deviation(jnp.asarray(x, jnp.float32), group), expected, rtol=1e-4, atol=1e-6)


def test_a_discriminator_sees_its_group_in_training_and_a_mean_afterwards():
  net = StyleDiscriminator(channels=2, max_channels=4, group=4)
  x = normal(4, 28, 28, 1)
  variables = jax.jit(lambda: net.init(jax.random.key(0), x, train=True))()
  features, changed = net.apply(variables, x, train=True, mutable=[COLLECTION])
  alike, _ = net.apply(variables, x[:1].repeat(4, 0), train=True, mutable=[COLLECTION])
  assert np.abs(features[0] - alike[0]).max() > 1e-4
  assert float(changed[COLLECTION]['deviation']) > 0.0
  variables = {**variables, **changed}
  together, apart = (net.apply(variables, part, train=False) for part in (x, x[:1]))
  np.testing.assert_allclose(together[:1], apart, atol=1e-5)


@pytest.mark.parametrize(
  ('sides', 'channels', 'layers'),
  [
    ((28, 28), 1, 6),
    ((32, 32), 3, 8),
    ((64, 64), 3, 10),
    ((128, 128), 3, 12),
    ((48, 64), 3, 8),
  ],
)
def test_sizes_from_28_to_128(sides, channels, layers):
  net = generator(shape=(*sides, channels))
  z, noise = jnp.zeros((2, 6)), jax.random.split(jax.random.key(0), 2)
  draw = lambda: net.init_with_output(jax.random.key(0), z, train=True, noise=noise)  # noqa: E731
  x, _ = jax.eval_shape(draw)
  assert (x.shape, x.dtype) == ((2, *sides, channels), jnp.float32)
  assert net.num_layers == layers
  trunk = StyleDiscriminator(channels=2, max_channels=4)
  features, _ = jax.eval_shape(lambda: trunk.init_with_output(jax.random.key(0), jnp.zeros(x.shape), train=True))
  assert (features.shape, features.dtype) == ((2, 4), jnp.float32)


def test_a_size_that_does_not_halve_is_refused():
  with pytest.raises(UserError, match='30x30 images.*multiples of 4'):
    jax.eval_shape(lambda: generator(shape=(30, 30, 1)).init(jax.random.key(0), jnp.zeros((2, 6)), train=True))
  with pytest.raises(UserError, match='30x30'):
    jax.eval_shape(
      lambda: StyleDiscriminator(channels=2).init(jax.random.key(0), jnp.zeros((2, 30, 30, 1)), train=True)
    )


def test_bfloat16_stays_near(style):
  net, variables, z, noise = style
  low = generator(dtype=jnp.bfloat16).apply(variables, z, train=False, noise=noise)
  full = net.apply(variables, z, train=False, noise=noise)
  assert low.dtype == jnp.float32
  np.testing.assert_allclose(low, full, atol=0.05 * np.abs(full).max() + 0.02)
