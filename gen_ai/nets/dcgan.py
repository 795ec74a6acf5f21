"""DCGAN-style generator and discriminator (arXiv 1511.06434) for images whose sides halve to at least 4.

Deviations: 28 starts from a 7x7 grid; kernels are 4x4 (the paper's figure has 5x5), a multiple of the stride, so that
every output pixel is reached by equally many taps; `norm` is a choice, since a gradient penalty forbids batch moments
in the critic (arXiv 1704.00028, section 4).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.nets.pyramid import Downsample, Upsample, kernel_init
from gen_ai.types import Array, Reduce, identity


class DCGANGenerator(nn.Module):
  """Latent to image: projection, doublings, tanh. `width` features feed the last layer, twice that the one before."""

  shape: tuple[int, int, int]  # H, W, C
  width: int = 64
  activation: str = 'relu'
  norm: str = 'batch'  # 'none' | 'batch' | 'group'
  upsample: str = 'deconv'  # | 'resize'
  weight_init: str = 'normal'  # N(0, 0.02^2) | 'lecun'
  lowering: str = 'auto'
  reduce: Reduce = identity  # see norms.BatchNorm
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array, train: bool) -> Array:
    """[B, Z] -> float32 [B, H, W, C] in [-1, 1]; raises UserError on sides it cannot reach (see `num_stages`)."""
    H, W, C = self.shape
    trunk = Upsample(
      (H, W),
      C,
      self.width,
      self.activation,
      self.norm,
      self.upsample,
      self.weight_init,
      self.lowering,
      self.reduce,
      self.dtype,
    )
    return jnp.tanh(trunk(z, train).astype(jnp.float32))


class DCGANDiscriminator(nn.Module):
  """Image to one unbounded score: halvings, then a linear map of the coarse grid."""

  width: int = 64
  activation: str = 'leaky_relu'
  norm: str = 'none'  # | 'batch' | 'group'; a penalty on gradients wants 'none' or 'group'
  weight_init: str = 'normal'  # N(0, 0.02^2) | 'lecun'
  lowering: str = 'auto'
  reduce: Reduce = identity
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[B, H, W, C] -> float32 [B]; raises UserError on sides it cannot halve (see `num_stages`)."""
    x = Downsample(self.width, self.activation, self.norm, self.weight_init, self.lowering, self.reduce, self.dtype)(
      x, train
    )
    x = x.reshape(x.shape[0], -1)
    return nn.Dense(1, kernel_init=kernel_init(self.weight_init), dtype=self.dtype)(x)[:, 0].astype(jnp.float32)
