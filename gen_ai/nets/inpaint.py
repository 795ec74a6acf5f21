"""A generator that completes images: a U-Net (arXiv 1505.04597; as a generator arXiv 1611.07004, section 3.2.1)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.method import Array
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.conv import Conv, ConvTranspose
from gen_ai.nets.norms import normalise
from gen_ai.nets.pyramid import num_stages
from gen_ai.nets.vae import with_context


class CompletionGenerator(nn.Module):
  """Halvings to a coarse grid, where the latent joins, and doublings that see the halvings of their own size.

  Group norm: what is drawn for an image depends on that image alone.
  """

  channels: int  # of the result
  width: int = 32  # channels at half resolution, doubled at each halving
  activation: str = 'silu'
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, mask: Array, z: Array) -> Array:
    """Hidden images [B, H, W, C], masks [B, H, W, 1], latents [B, Z] -> float32 [B, H, W, channels] in [-1, 1].

    Raises UserError on sides that do not halve.
    """
    options = {'lowering': self.lowering, 'dtype': self.dtype}
    activation = activation_fn(self.activation)

    def settle(h: Array) -> Array:
      return activation(normalise('group', h, train=False, dtype=self.dtype))

    stages = num_stages(x.shape[1], x.shape[2])
    h = settle(Conv(self.width // 2 or 1, (3, 3), **options)(jnp.concatenate([x, mask.astype(x.dtype)], -1)))
    seen = []
    for stage in range(stages):
      seen.append(h)
      h = settle(Conv(self.width * 2**stage, (4, 4), (2, 2), **options)(h))
    h = settle(Conv(h.shape[-1], (3, 3), **options)(with_context(h, z)))
    for stage in reversed(range(stages)):
      h = settle(ConvTranspose(seen[stage].shape[-1], (4, 4), (2, 2), **options)(h))
      h = jnp.concatenate([h, seen[stage]], -1)
    return jnp.tanh(Conv(self.channels, (3, 3), **options)(h).astype(jnp.float32))
