"""The two convolutional trunks: halve an image down to a coarse grid, and double a coarse grid up to an image.

Channels double as sides halve, as in DCGAN (arXiv 1511.06434, section 3 and figure 1).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Reduce, identity
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.conv import Conv, ConvTranspose
from gen_ai.nets.norms import normalise

UPSAMPLES = ('deconv', 'resize')
INITS = ('normal', 'lecun')
_MIN_SIDE = 4  # of the coarse grid


def num_stages(height: int, width: int) -> int:
  """How often both sides halve without remainder and stay at least 4: 28 -> 7 in 2, 32 -> 4 in 3, 64 -> 4 in 4.

  Raises:
    UserError: sides that do not halve at least twice.
  """
  stages, sides = 0, (height, width)
  while all(side % 2 == 0 and side // 2 >= _MIN_SIDE for side in sides):
    stages, sides = stages + 1, (sides[0] // 2, sides[1] // 2)
  if stages < 2:
    raise UserError(
      f'convolutional networks cannot take {height}x{width} images: both sides must be multiples of 4 and at least 16,'
      ' such as 28, 32 or 64. Resize the images, or choose an MLP network where there is one.'
    )
  return stages


def kernel_init(name: str) -> nn.initializers.Initializer:
  """'normal': N(0, 0.02^2), arXiv 1511.06434, section 4. 'lecun': variance 1 / fan in. Raises UserError on others."""
  if name not in INITS:
    raise UserError(f'unknown weight init {name!r}; choose one of: {", ".join(INITS)}')
  return nn.initializers.normal(0.02) if name == 'normal' else nn.initializers.lecun_normal()


def halve(x: Array) -> Array:
  """[B, H, W, C] -> [B, H / 2, W / 2, C], means of 2x2 pixels."""
  B, H, W, C = x.shape
  return x.reshape(B, H // 2, 2, W // 2, 2, C).mean((2, 4))


def double(x: Array) -> Array:
  """[B, H, W, C] -> [B, 2 H, 2 W, C], nearest neighbours."""
  return x.repeat(2, 1).repeat(2, 2)


class Downsample(nn.Module):
  """4x4 convolutions of stride 2 with `width`, 2 `width`, 4 `width`... features; no norm on the first, as in DCGAN."""

  width: int
  activation: str = 'leaky_relu'
  norm: str = 'none'
  weight_init: str = 'normal'
  lowering: str = 'auto'
  reduce: Reduce = identity
  dtype: Any = jnp.float32
  spectral: bool = False  # see gen_ai.nets.spectral

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[B, H, W, C] -> [B, h, w, F]; raises UserError on sides it cannot halve."""
    activation = activation_fn(self.activation)
    for stage in range(num_stages(x.shape[1], x.shape[2])):
      norm = self.norm if stage else 'none'
      x = Conv(
        self.width * 2**stage,
        (4, 4),
        (2, 2),
        use_bias=norm == 'none',  # a norm has a bias of its own
        kernel_init=kernel_init(self.weight_init),
        lowering=self.lowering,
        dtype=self.dtype,
        spectral=self.spectral,
      )(x)
      x = activation(normalise(norm, x, train, self.reduce, self.dtype))
    return x


class Upsample(nn.Module):
  """A projection to the coarse grid, then doublings, to `width` features before the last one, which gives `channels`.

  The last stage has neither norm nor activation. 'deconv' doubles by a 4x4 transposed convolution of
  stride 2, 'resize' by nearest neighbours and a 3x3 convolution (no checkerboard, doi 10.23915/distill.00003).
  """

  shape: tuple[int, int]  # H, W of the result
  channels: int
  width: int
  activation: str = 'relu'
  norm: str = 'none'
  upsample: str = 'deconv'
  weight_init: str = 'normal'
  lowering: str = 'auto'
  reduce: Reduce = identity
  dtype: Any = jnp.float32

  def _double(self, x: Array, features: int, use_bias: bool) -> Array:
    options = {
      'use_bias': use_bias,
      'kernel_init': kernel_init(self.weight_init),
      'lowering': self.lowering,
      'dtype': self.dtype,
    }
    if self.upsample == 'deconv':
      return ConvTranspose(features, (4, 4), (2, 2), **options)(x)
    return Conv(features, (3, 3), **options)(double(x))

  @nn.compact
  def __call__(self, z: Array, train: bool) -> Array:
    """[B, Z] -> [B, H, W, channels]; raises UserError on sides it cannot reach or an unknown option."""
    if self.upsample not in UPSAMPLES:
      raise UserError(f'unknown upsample {self.upsample!r}; choose one of: {", ".join(UPSAMPLES)}')
    activation = activation_fn(self.activation)
    stages = num_stages(*self.shape)
    h, w = (side // 2**stages for side in self.shape)
    use_bias = self.norm == 'none'  # a norm has a bias of its own
    features = self.width * 2 ** (stages - 1)
    x = nn.Dense(h * w * features, use_bias=use_bias, kernel_init=kernel_init(self.weight_init), dtype=self.dtype)(z)
    x = activation(normalise(self.norm, x.reshape(-1, h, w, features), train, self.reduce, self.dtype))
    for stage in reversed(range(stages - 1)):
      x = self._double(x, self.width * 2**stage, use_bias)
      x = activation(normalise(self.norm, x, train, self.reduce, self.dtype))
    return self._double(x, self.channels, use_bias=True)
