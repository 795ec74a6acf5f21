"""Encoder to a grid of vectors and decoder from it (VQ-VAE, arXiv 1711.00937, section 4.1); pre-activation blocks."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.method import Array
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.classifier import ResidualBlock
from gen_ai.nets.conv import Conv, ConvTranspose
from gen_ai.nets.norms import normalise


class GridEncoder(nn.Module):
  """Strided 4x4 convolutions, residual blocks, and a linear map to vectors of `dim`."""

  dim: int
  width: int = 32
  downsamples: int = 2
  blocks: int = 1
  activation: str = 'silu'
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> float32 [B, H / 2^downsamples, W / 2^downsamples, dim]."""
    options = {'lowering': self.lowering, 'dtype': self.dtype}
    activation = activation_fn(self.activation)
    for stage in range(self.downsamples):
      x = x if stage == 0 else activation(x)
      x = Conv(self.width * 2**stage, (4, 4), (2, 2), **options)(x)
    for _ in range(self.blocks):
      x = ResidualBlock(x.shape[-1], 1, self.activation, **options)(x)
    x = activation(normalise('group', x, train=False, dtype=self.dtype))
    return Conv(self.dim, (1, 1), **options)(x).astype(jnp.float32)


class GridDecoder(nn.Module):
  """A 3x3 convolution, residual blocks, transposed 4x4 convolutions."""

  channels: int
  width: int = 32
  downsamples: int = 2
  blocks: int = 1
  activation: str = 'silu'
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    """[B, h, w, dim] -> float32 [B, h 2^downsamples, w 2^downsamples, channels], unbounded."""
    options = {'lowering': self.lowering, 'dtype': self.dtype}
    activation = activation_fn(self.activation)
    x = Conv(self.width * 2 ** (self.downsamples - 1), (3, 3), **options)(z)
    for _ in range(self.blocks):
      x = ResidualBlock(x.shape[-1], 1, self.activation, **options)(x)
    x = activation(normalise('group', x, train=False, dtype=self.dtype))
    for stage in reversed(range(self.downsamples - 1)):
      x = activation(ConvTranspose(self.width * 2**stage, (4, 4), (2, 2), **options)(x))
    return ConvTranspose(self.channels, (4, 4), (2, 2), **options)(x).astype(jnp.float32)
