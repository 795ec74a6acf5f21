"""A residual MLP as a denoiser of vectors, or of anything else flattened (as in MAR, arXiv 2406.11838, section 4.2)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_ai.core.method import Array
from gen_ai.nets.conditioning import Conditioning, modulated
from gen_ai.nets.transformer import Dropout


class DenoiserMLP(nn.Module):
  """Blocks of norm, two dense layers and a gate, each shifted, scaled and gated by what is told; 0 at first.

  Attributes:
    shape: of an example.
    width: of the residual stream and of hidden layers.
    blocks: number of them.
    embedding: width of the vector of noise level and label. Every block has a map from it to 3 `width`, which would
      cost more than the block if it were as wide.
    num_classes: of labels, without the null class; 0: labels are not taken.
    dropout: of hidden layers; may be traced, a Python 0 switches it off.
    dtype: of activations and of the weights in matrix products; norms and both ends are float32.
  """

  shape: tuple[int, ...]
  width: int = 512
  blocks: int = 4
  embedding: int = 128
  num_classes: int = 0
  dropout: float | Array = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Array, c: Array, label: Array | None = None, train: bool = False, r: Array | None = None
  ) -> Array:
    """x [B, *shape] -> [B, *shape], float32 or as wide as x; `c`, `label` and `r` as `Conditioning` has them."""
    wide, zeros = jnp.promote_types(jnp.float32, x.dtype), nn.initializers.zeros
    condition = Conditioning(self.embedding, self.num_classes, name='condition')(c, label, r)
    h = nn.Dense(self.width, name='into')(x.reshape(x.shape[0], -1).astype(wide)).astype(self.dtype)
    for number in range(self.blocks):
      made = nn.Dense(3 * self.width, kernel_init=zeros, dtype=self.dtype, name=f'modulation_{number}')(condition)
      shift, scale, gate = jnp.split(made, 3, -1)
      y = modulated(nn.RMSNorm(use_scale=False, dtype=self.dtype)(h), shift, scale)
      y = jax.nn.silu(nn.Dense(self.width, dtype=self.dtype, name=f'in_{number}')(y))
      y = Dropout(self.dropout)(y, train)
      h = h + gate * nn.Dense(self.width, dtype=self.dtype, name=f'out_{number}')(y)
    made = nn.Dense(2 * self.width, kernel_init=zeros, name='final_modulation')(condition)
    h = modulated(nn.RMSNorm(use_scale=False)(h.astype(wide)), *jnp.split(made, 2, -1))
    return nn.Dense(math.prod(self.shape), kernel_init=zeros, name='head')(h).reshape(x.shape[0], *self.shape)
