"""Residual generator and discriminator trunk of SNGAN (arXiv 1802.05957, tables 3 and 4), and self-attention.

Deviations: channels double as sides halve, from `width` at full resolution (the paper keeps 256 or 128 everywhere),
which costs as much at every resolution; the coarse grid is `pyramid.num_stages`' (7x7 for 28 pixels); the discriminator
has a block a halving and one more at the coarse grid. With neither norm nor spectral normalisation each block's second
convolution starts at zero, so that the stack starts as a plain path (Fixup, arXiv 1901.09321; R3GAN, arXiv 2501.05441,
section 3).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Reduce, identity
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.conv import Conv
from gen_ai.nets.norms import normalise
from gen_ai.nets.pyramid import double, halve, num_stages
from gen_ai.nets.spectral import Dense

ATTENTION_SHARE = 8  # channels a query channel, arXiv 1805.08318, section 3


class SelfAttention(nn.Module):
  """Every pixel looks at all pixels (SAGAN, arXiv 1805.08318, eqs. 1 to 3); keys and values of halved images.

  The output is scaled by `gamma`, which starts at 0, and added to the input. Softmax in float32.
  """

  spectral: bool = False
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H, W, C]; even sides. Raises UserError where there are fewer channels than 8."""
    B, H, W, C = x.shape
    if C < ATTENTION_SHARE:
      raise UserError(
        f'self-attention over {C} channels leaves its queries none: it needs at least {ATTENTION_SHARE}.'
        ' Raise config.model.width.'
      )
    options = {'use_bias': False, 'lowering': self.lowering, 'dtype': self.dtype, 'spectral': self.spectral}
    query = Conv(C // ATTENTION_SHARE, (1, 1), name='query', **options)(x).reshape(B, H * W, -1)
    small = halve(x)
    key = Conv(C // ATTENTION_SHARE, (1, 1), name='key', **options)(small).reshape(B, H * W // 4, -1)
    value = Conv(C // 2, (1, 1), name='value', **options)(small).reshape(B, H * W // 4, -1)
    weights = jax.nn.softmax(jnp.einsum('bqc,bkc->bqk', query, key, preferred_element_type=jnp.float32), -1)
    seen = jnp.einsum('bqk,bkc->bqc', weights.astype(self.dtype), value).reshape(B, H, W, -1)
    gamma = self.param('gamma', nn.initializers.zeros, (), jnp.float32)
    return x + gamma.astype(self.dtype) * Conv(C, (1, 1), name='out', **options)(seen)


class Block(nn.Module):
  """Norm, activation and 3x3 convolution, twice, beside a 1x1 shortcut; doubled before or halved after."""

  features: int
  resample: str  # 'up' | 'down' | 'none'
  activation: str = 'relu'
  norm: str = 'none'
  first: bool = False  # of a discriminator: no activation before the first convolution (the paper's "optimised" block)
  zero_init: bool = False  # the second convolution starts at zero
  spectral: bool = False
  lowering: str = 'auto'
  reduce: Reduce = identity
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[B, H, W, C] -> [B, H', W', features]."""
    options = {'lowering': self.lowering, 'dtype': self.dtype, 'spectral': self.spectral}
    activation = activation_fn(self.activation)
    last = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
    h = x if self.first else activation(normalise(self.norm, x, train, self.reduce, self.dtype))
    if self.resample == 'up':
      h, x = double(h), double(x)
    h = Conv(self.features, (3, 3), **options)(h)
    h = activation(normalise(self.norm, h, train, self.reduce, self.dtype))
    h = Conv(self.features, (3, 3), kernel_init=last, **options)(h)
    if x.shape[-1] != self.features:
      x = Conv(self.features, (1, 1), **options)(x)
    x = x + h
    return halve(x) if self.resample == 'down' else x


class ResNetGenerator(nn.Module):
  """Latent to image: a projection to the coarse grid, an up-block a doubling, norm, activation, 3x3, tanh."""

  shape: tuple[int, int, int]  # H, W, C
  width: int = 32  # channels at full resolution
  activation: str = 'relu'
  norm: str = 'batch'
  attention: bool = False  # before the last doubling
  spectral: bool = False
  lowering: str = 'auto'
  reduce: Reduce = identity
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array, train: bool) -> Array:
    """[B, Z] -> float32 [B, H, W, C] in [-1, 1]; raises UserError on sides it cannot reach."""
    H, W, C = self.shape
    stages = num_stages(H, W)
    h, w, features = H // 2**stages, W // 2**stages, self.width * 2 ** (stages - 1)
    options = {'lowering': self.lowering, 'dtype': self.dtype, 'spectral': self.spectral}
    x = Dense(h * w * features, self.spectral, dtype=self.dtype)(z).reshape(-1, h, w, features)
    for stage in reversed(range(stages)):
      if self.attention and stage == 0:
        x = SelfAttention(name='attention', **options)(x)
      zero_init = self.norm == 'none' and not self.spectral  # a matrix of zeros has no spectrum to divide by
      x = Block(
        self.width * 2**stage, 'up', self.activation, self.norm, zero_init=zero_init, reduce=self.reduce, **options
      )(x, train)
    x = activation_fn(self.activation)(normalise(self.norm, x, train, self.reduce, self.dtype))
    return jnp.tanh(Conv(C, (3, 3), **options)(x).astype(jnp.float32))


class ResNetTrunk(nn.Module):
  """Image to features: a down-block a halving, one more block, activation, and a sum over the coarse grid.

  Without spectral normalisation it is a mean.
  """

  width: int = 32  # channels at half resolution
  activation: str = 'relu'
  norm: str = 'none'
  attention: bool = False  # after the first halving
  spectral: bool = True
  lowering: str = 'auto'
  reduce: Reduce = identity
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[B, H, W, C] -> float32 [B, F]; raises UserError on sides it cannot halve."""
    stages = num_stages(x.shape[1], x.shape[2])
    options = {'lowering': self.lowering, 'dtype': self.dtype, 'spectral': self.spectral}
    zero_init = self.norm == 'none' and not self.spectral
    block: dict[str, Any] = {
      'activation': self.activation,
      'norm': self.norm,
      'zero_init': zero_init,
      'reduce': self.reduce,
    }
    for stage in range(stages):
      x = Block(self.width * 2**stage, 'down', first=stage == 0, **block, **options)(x, train)
      if self.attention and stage == 0:
        x = SelfAttention(name='attention', **options)(x)
    x = Block(self.width * 2 ** (stages - 1), 'none', **block, **options)(x, train)
    x = activation_fn(self.activation)(normalise(self.norm, x, train, self.reduce, self.dtype))
    x = x.astype(jnp.float32)
    # A sum of 49 places is a loud score where no spectral norm bounds the features: R1 would have to undo that first.
    return x.sum((1, 2)) if self.spectral else x.mean((1, 2))
