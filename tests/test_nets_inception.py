"""The FID Inception network and its resize against pytorch-fid's, under the same random weights."""

import functools

import inception_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from gen_ai.evaluate.metrics import extractors, inception_weights
from gen_ai.nets import inception

TORCH_LEAF = {
  'kernel': 'conv.weight',
  'scale': 'bn.weight',
  'bias': 'bn.bias',
  'mean': 'bn.running_mean',
  'var': 'bn.running_var',
}


def torch_shapes():
  """{PyTorch's name: its shape} of our network's parameters."""
  image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
  params = jax.eval_shape(inception.Inception().init, jax.random.key(0), image)['params']
  shapes = {}
  for name, leaf in traverse_util.flatten_dict(params, sep='.').items():
    module, _, kind = name.rpartition('.')
    if module == 'fc':
      shapes[f'fc.{"weight" if kind == "kernel" else "bias"}'] = leaf.shape[::-1]
    else:
      shape = leaf.shape
      shapes[f'{module}.{TORCH_LEAF[kind]}'] = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
  return shapes


@functools.cache
def torch_weights():
  """A state dict of random weights, with the counts that PyTorch keeps besides."""
  weights = {name: reference.random_weight(name, shape) for name, shape in torch_shapes().items()}
  return weights | {'Mixed_5b.branch1x1.bn.num_batches_tracked': np.asarray(7)}


@functools.cache
def ours():
  """(features, logits) of the reference images under the reference weights."""
  params = inception_weights.parameters(inception_weights.from_torch(torch_weights()), 'the reference')
  x = jnp.concatenate([extractors.inception_input(image[None]) for image in reference.images()])
  apply = jax.jit(lambda params, x: inception.Inception().apply({'params': params}, x))
  return tuple(map(np.asarray, apply(params, x)))


def close(got, want):
  """Within 1e-3 of each value; values near 0, of which a ReLU leaves many, within 1e-3 of a typical one's tenth."""
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).mean())


def test_features_equal_those_of_pytorch_fid():
  want = np.load(reference.FIXTURE)['features']
  assert want.shape == (3, 2048)
  close(ours()[0], want)
  # The fixture tells the images apart, and more of them than the tolerance does.
  assert min(np.abs(want[i] - want[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.05 * want.mean()


def test_logits_are_the_last_layer_of_the_features():
  features, logits = ours()
  weights = torch_weights()
  assert logits.shape == (3, 1008)
  close(logits, features.astype(np.float64) @ weights['fc.weight'].T + weights['fc.bias'])


def test_features_equal_pytorch_fid_run_here():
  pytest.importorskip('torch', reason='PyTorch is not installed: the stored features of pytorch-fid are tested')
  pytest.importorskip('pytorch_fid', reason='pytorch-fid is not installed: its stored features are tested')
  close(ours()[0], reference.reference_features())


def plain_resize(x, H, W):
  """Bilinear, one output pixel after the other: the formula of PyTorch's documentation in float64."""
  h, w, C = x.shape
  out = np.zeros((H, W, C))
  for i in range(H):
    for j in range(W):
      y, z = max((i + 0.5) * h / H - 0.5, 0.0), max((j + 0.5) * w / W - 0.5, 0.0)
      a, b = int(y), int(z)
      c, d = min(a + 1, h - 1), min(b + 1, w - 1)
      p, q = y - a, z - b
      out[i, j] = (1 - p) * ((1 - q) * x[a, b] + q * x[a, d]) + p * ((1 - q) * x[c, b] + q * x[c, d])
  return out


@pytest.mark.parametrize(('old', 'new'), [((3, 5), (8, 7)), ((9, 4), (4, 9)), ((6, 6), (6, 6)), ((1, 2), (3, 3))])
def test_resize_is_bilinear_without_antialiasing(old, new):
  x = np.random.default_rng(0).random((2, *old, 3)).astype(np.float32)
  got = inception.resize(x, new)
  assert got.shape == (2, *new, 3)
  np.testing.assert_allclose(got, [plain_resize(image, *new) for image in x], atol=2e-6)


def test_grey_images_become_three_equal_channels_in_the_range_of_the_network():
  image = np.random.default_rng(0).integers(0, 256, (2, 10, 12, 1), np.uint8)
  image[0, 0, 0], image[0, -1, -1] = 0, 255
  x = np.asarray(extractors.inception_input(image))
  assert x.shape == (2, 299, 299, 3)
  assert x.min() == pytest.approx(-1.0)
  assert x.max() == pytest.approx(1.0)
  np.testing.assert_array_equal(x, np.repeat(x[..., :1], 3, -1))
  np.testing.assert_allclose(x[0], 2 * plain_resize(np.repeat(image[0], 3, -1) / 255, 299, 299) - 1, atol=1e-5)
