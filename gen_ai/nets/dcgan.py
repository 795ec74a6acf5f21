"""DCGAN-style generator (arXiv 1511.06434) for images whose sides halve to at least 4; its discriminator is a
`gan.Discriminator` around `pyramid.Downsample`.

Deviations: 28 starts from a 7x7 grid; kernels are 4x4 (the paper's figure has 5x5), a multiple of the stride, so that
every output pixel is reached by equally many taps; `norm` is a choice, since a gradient penalty forbids batch moments
in the critic (arXiv 1704.00028, section 4).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.method import Array, Reduce, identity
from gen_ai.nets.pyramid import Upsample


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
