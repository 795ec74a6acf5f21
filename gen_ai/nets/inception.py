"""The Inception v3 of the Frechet Inception distance, for inference.

Inception v3 is arXiv 1512.00567; FID is arXiv 1706.08500. FID's published network is a TensorFlow graph of 2015-12-05,
which differs from later ones: average pools leave the padding out, the last block pools by maximum, and there are 1008
logits. This one is equal to the port of it in the package pytorch-fid, whose weights it takes and whose names it keeps.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from gen_ai.core.method import Array

SIDE = 299  # pixels, of the square images that it takes
FEATURES = 2048
CLASSES = 1008
_EPSILON = 1e-3  # of the batch norms
_SAME = ((1, 1), (1, 1))


class BasicConv(nn.Module):
  """Convolution without bias, batch norm with fixed moments, ReLU. Odd kernels, padding 'SAME' or 'VALID'."""

  features: int
  kernel: tuple[int, int]
  stride: int = 1
  padding: str = 'SAME'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H', W', features]."""
    F = (self.features,)
    kernel = self.param('kernel', nn.initializers.he_normal(), (*self.kernel, x.shape[-1], *F))
    scale, bias = self.param('scale', nn.initializers.ones, F), self.param('bias', nn.initializers.zeros, F)
    mean, var = self.param('mean', nn.initializers.zeros, F), self.param('var', nn.initializers.ones, F)
    x = lax.conv_general_dilated(
      x, kernel, (self.stride, self.stride), self.padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    gain = scale * lax.rsqrt(var + _EPSILON)
    return nn.relu(x * gain + (bias - mean * gain))


def _average(x: Array) -> Array:
  """3x3 means of what lies within the image, size kept."""
  return nn.avg_pool(x, (3, 3), (1, 1), _SAME, count_include_pad=False)


def _reduced(x: Array) -> Array:
  return nn.max_pool(x, (3, 3), (2, 2), 'VALID')


def _chain(x: Array, name: str, *layers: tuple[int, int, int]) -> Array:
  """Layers (features, kernel rows, kernel columns) one after the other, called `name`_1, `name`_2, ..."""
  for number, (features, *kernel) in enumerate(layers, 1):
    x = BasicConv(features, (kernel[0], kernel[1]), name=f'{name}_{number}')(x)
  return x


class InceptionA(nn.Module):
  """5x5 and double 3x3 branches (arXiv 1512.00567, figure 5)."""

  pool_features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H, W, 224 + pool_features]."""
    return jnp.concatenate(
      [
        BasicConv(64, (1, 1), name='branch1x1')(x),
        _chain(x, 'branch5x5', (48, 1, 1), (64, 5, 5)),
        _chain(x, 'branch3x3dbl', (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        BasicConv(self.pool_features, (1, 1), name='branch_pool')(_average(x)),
      ],
      -1,
    )


class InceptionB(nn.Module):
  """Halves the grid (arXiv 1512.00567, figure 10)."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H', W', 480 + C]."""
    double = _chain(x, 'branch3x3dbl', (64, 1, 1), (96, 3, 3))
    return jnp.concatenate(
      [
        BasicConv(384, (3, 3), 2, 'VALID', name='branch3x3')(x),
        BasicConv(96, (3, 3), 2, 'VALID', name='branch3x3dbl_3')(double),
        _reduced(x),
      ],
      -1,
    )


class InceptionC(nn.Module):
  """7x7 convolutions in two factors (arXiv 1512.00567, figure 6)."""

  inner: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H, W, 768]."""
    c = self.inner
    return jnp.concatenate(
      [
        BasicConv(192, (1, 1), name='branch1x1')(x),
        _chain(x, 'branch7x7', (c, 1, 1), (c, 1, 7), (192, 7, 1)),
        _chain(x, 'branch7x7dbl', (c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)),
        BasicConv(192, (1, 1), name='branch_pool')(_average(x)),
      ],
      -1,
    )


class InceptionD(nn.Module):
  """Halves the grid again."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H', W', 512 + C]."""
    plain = _chain(x, 'branch3x3', (192, 1, 1))
    factored = _chain(x, 'branch7x7x3', (192, 1, 1), (192, 1, 7), (192, 7, 1))
    return jnp.concatenate(
      [
        BasicConv(320, (3, 3), 2, 'VALID', name='branch3x3_2')(plain),
        BasicConv(192, (3, 3), 2, 'VALID', name='branch7x7x3_4')(factored),
        _reduced(x),
      ],
      -1,
    )


class InceptionE(nn.Module):
  """Branches that widen at their ends (arXiv 1512.00567, figure 7)."""

  max_pool: bool  # as the last block of FID's graph, where an average was meant

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H, W, 2048]."""

    def wide(h: Array, name: str) -> list[Array]:
      return [BasicConv(384, (1, 3), name=f'{name}a')(h), BasicConv(384, (3, 1), name=f'{name}b')(h)]

    pooled = nn.max_pool(x, (3, 3), (1, 1), _SAME) if self.max_pool else _average(x)
    return jnp.concatenate(
      [
        BasicConv(320, (1, 1), name='branch1x1')(x),
        *wide(_chain(x, 'branch3x3', (384, 1, 1)), 'branch3x3_2'),
        *wide(_chain(x, 'branch3x3dbl', (448, 1, 1), (384, 3, 3)), 'branch3x3dbl_3'),
        BasicConv(192, (1, 1), name='branch_pool')(pooled),
      ],
      -1,
    )


class Inception(nn.Module):
  """The whole network. All its numbers, moments included, are parameters."""

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """x [B, 299, 299, 3] in [-1, 1] -> (features of the last pool [B, 2048], logits [B, 1008])."""
    x = BasicConv(32, (3, 3), 2, 'VALID', name='Conv2d_1a_3x3')(x)
    x = BasicConv(32, (3, 3), 1, 'VALID', name='Conv2d_2a_3x3')(x)
    x = _reduced(BasicConv(64, (3, 3), name='Conv2d_2b_3x3')(x))
    x = BasicConv(80, (1, 1), name='Conv2d_3b_1x1')(x)
    x = _reduced(BasicConv(192, (3, 3), 1, 'VALID', name='Conv2d_4a_3x3')(x))
    for name, pool_features in (('Mixed_5b', 32), ('Mixed_5c', 64), ('Mixed_5d', 64)):
      x = InceptionA(pool_features, name=name)(x)
    x = InceptionB(name='Mixed_6a')(x)
    for name, inner in (('Mixed_6b', 128), ('Mixed_6c', 160), ('Mixed_6d', 160), ('Mixed_6e', 192)):
      x = InceptionC(inner, name=name)(x)
    x = InceptionD(name='Mixed_7a')(x)
    x = InceptionE(False, name='Mixed_7b')(x)
    x = InceptionE(True, name='Mixed_7c')(x)
    features = x.mean((1, 2))
    return features, nn.Dense(CLASSES, name='fc')(features)


def _bilinear(old: int, new: int) -> np.ndarray:
  """float32 [new, old]: the weights of old pixels in new ones, centres aligned, edges repeated, no antialiasing."""
  at = np.maximum((np.arange(new) + 0.5) * old / new - 0.5, 0.0)
  low = at.astype(np.int64)
  high, part = np.minimum(low + 1, old - 1), at - low
  weights = np.zeros((new, old))
  np.add.at(weights, (np.arange(new), low), 1.0 - part)
  np.add.at(weights, (np.arange(new), high), part)
  return weights.astype(np.float32)


def resize(unit: Array, shape: Sequence[int] = (SIDE, SIDE)) -> Array:
  """Bilinear resize as `torch.nn.functional.interpolate(align_corners=False, antialias=False)`, which pytorch-fid uses.

  Args:
    unit: float32 [B, H, W, C].
    shape: new (H, W).

  Returns:
    float32 [B, *shape, C].
  """
  rows, columns = (_bilinear(old, new) for old, new in zip(unit.shape[1:3], shape, strict=True))
  x = jnp.einsum('pw,bhwc->bhpc', columns, unit, precision=lax.Precision.HIGHEST)
  return jnp.einsum('oh,bhpc->bopc', rows, x, precision=lax.Precision.HIGHEST)
