"""A residual image classifier without batch statistics: what it says of an image depends on that image alone."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.method import Array
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.conv import Conv
from gen_ai.nets.norms import normalise


class ResidualBlock(nn.Module):
  """Norm, activation and convolution, twice, beside a shortcut (arXiv 1603.05027, figure 4e).

  The shortcut is a 1x1 convolution where the shape changes.
  """

  features: int
  stride: int = 1
  activation: str = 'silu'
  norm: str = 'group'
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
    activation = activation_fn(self.activation)
    strides, options = (self.stride, self.stride), {'lowering': self.lowering, 'dtype': self.dtype}
    h = activation(normalise(self.norm, x, train=False, dtype=self.dtype))
    if self.stride > 1 or x.shape[-1] != self.features:
      x = Conv(self.features, (1, 1), strides, use_bias=False, **options)(h)
    h = Conv(self.features, (3, 3), strides, use_bias=False, **options)(h)
    h = activation(normalise(self.norm, h, train=False, dtype=self.dtype))
    return x + Conv(self.features, (3, 3), **options)(h)


class Classifier(nn.Module):
  """A strided stem, `blocks` residual blocks at every resolution, a mean over pixels, and a linear head.

  From one resolution to the next the sides halve and the channels double, from `width` until the sides are 4 or less.
  The penultimate activations are `features` channels after the last norm and activation, averaged over pixels.
  """

  num_classes: int
  features: int = 128
  width: int = 32
  blocks: int = 1
  activation: str = 'silu'
  norm: str = 'group'  # or 'none': batch norm would need statistics
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """x [B, H, W, C] in [-1, 1] -> (features float32 [B, features], logits float32 [B, num_classes])."""
    options = {'lowering': self.lowering, 'dtype': self.dtype}
    block = {'activation': self.activation, 'norm': self.norm, **options}
    h = Conv(self.width, (4, 4), (2, 2), use_bias=False, **options)(x)
    width, stride = self.width, 1
    while stride == 1 or max(h.shape[1:3]) > 4:
      for number in range(self.blocks):
        h = ResidualBlock(width, stride if number == 0 else 1, **block)(h)
      width, stride = 2 * width, 2
    h = Conv(self.features, (1, 1), use_bias=False, **options)(h)
    h = activation_fn(self.activation)(normalise(self.norm, h, train=False, dtype=self.dtype))
    pooled = h.astype(jnp.float32).mean((1, 2))
    return pooled, nn.Dense(self.num_classes, name='head')(pooled)
