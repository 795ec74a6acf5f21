"""The discriminator of a VAE-GAN (arXiv 1512.09300), in whose features reconstructions are compared."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.method import Array
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.pyramid import Downsample


class FeatureDiscriminator(nn.Module):
  """Halvings, whose result is the feature layer; then a hidden layer and a score."""

  width: int = 32  # channels at half resolution, doubled at each halving
  hidden: int = 128
  activation: str = 'leaky_relu'
  norm: str = 'group'  # or 'none': a penalty on gradients forbids batch moments
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """[B, H, W, C] -> (features float32 [B, F], logits float32 [B]); raises UserError on sides that do not halve."""
    h = Downsample(self.width, self.activation, self.norm, 'lecun', self.lowering, dtype=self.dtype)(x, train=True)
    features = h.reshape(h.shape[0], -1)
    h = activation_fn(self.activation)(nn.Dense(self.hidden, dtype=self.dtype)(features))
    return features.astype(jnp.float32), nn.Dense(1, dtype=self.dtype)(h)[:, 0].astype(jnp.float32)
