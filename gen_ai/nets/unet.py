"""A residual U-Net with attention as a denoiser (DDPM, arXiv 2006.11239, appendix B; ADM, arXiv 2105.05233, section 3).

Sides halve by means of 2x2 pixels and double by nearest neighbours, without convolutions of their own (arXiv
2301.11093, appendix B): the blocks on either side have those.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array
from gen_ai.nets import attention
from gen_ai.nets.conditioning import Conditioning, modulated
from gen_ai.nets.conv import Conv
from gen_ai.nets.norms import normalise
from gen_ai.nets.pyramid import double, halve
from gen_ai.nets.transformer import Dropout

_zeros = nn.initializers.zeros


class ModulatedBlock(nn.Module):
  """Norm, SiLU and 3x3 convolution, twice, beside a shortcut; the second norm is shifted and scaled by a vector.

  Its last convolution is zero at first. The shortcut is a 1x1 convolution where the number of channels changes.
  """

  features: int
  dropout: float | Array
  lowering: str
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, condition: Array, train: bool) -> Array:
    """[B, H, W, C], [B, E] -> [B, H, W, features]."""
    options: dict[str, Any] = {'lowering': self.lowering, 'dtype': self.dtype}
    h = jax.nn.silu(normalise('group', x, train, dtype=self.dtype))
    h = Conv(self.features, (3, 3), **options)(h)
    shift, scale = jnp.split(nn.Dense(2 * self.features, dtype=self.dtype, name='modulation')(condition), 2, -1)
    h = jax.nn.silu(modulated(normalise('group', h, train, dtype=self.dtype), shift, scale))
    h = Conv(self.features, (3, 3), kernel_init=_zeros, **options)(Dropout(self.dropout)(h, train))
    if x.shape[-1] != self.features:
      x = Conv(self.features, (1, 1), name='shortcut', **options)(x)
    return x + h


class PixelAttention(nn.Module):
  """Attention of all pixels to each other behind a norm, added to its input; adds nothing at first."""

  head_width: int
  differentiable_forward: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H, W, C]."""
    B, H, W, C = x.shape
    h = normalise('group', x, train=False, dtype=self.dtype).reshape(B, H * W, C)
    heads = next(n for n in range(max(1, C // self.head_width), 0, -1) if C % n == 0)
    qkv = nn.Dense(3 * C, use_bias=False, dtype=self.dtype, name='qkv')(h).reshape(B, H * W, 3, heads, C // heads)
    query, key = (attention.rms_normalised(qkv[:, :, i]) for i in range(2))
    h = attention.full(query, key, qkv[:, :, 2], differentiable_forward=self.differentiable_forward)
    h = nn.Dense(C, kernel_init=_zeros, dtype=self.dtype, name='attention_out')(h.reshape(B, H, W, C))
    return x + h


class UNet(nn.Module):
  """The denoiser. What it says is exactly 0 at first.

  Attributes:
    shape: of an example, [H, W, C].
    width: channels of the finest level.
    multipliers: of the channels, one a level; sides halve from each to the next: 28, 14, 7 of three.
    blocks: residual blocks of a level, on the way down and on the way up.
    attention: levels, from 0, whose blocks are followed by attention; the middle always has it.
    head_width: of attention, where there are as many channels.
    num_classes: of labels, without the null class; 0: labels are not taken.
    dropout: between the convolutions of a block; may be traced, a Python 0 switches it off.
    lowering: of convolutions, see `gen_ai.nets.conv`.
    differentiable_forward: whether `jax.jvp` can go through, on every device.
    dtype: of activations and of the weights in products; norms, softmax and the last convolution are float32.

  Raises:
    UserError: sides that do not halve so often, or no image, when it is constructed.
  """

  shape: tuple[int, ...]
  width: int = 64
  multipliers: tuple[int, ...] = (1, 2, 2)
  blocks: int = 2
  attention: tuple[int, ...] = (1,)
  head_width: int = 32
  num_classes: int = 0
  dropout: float | Array = 0.0
  lowering: str = 'auto'
  differentiable_forward: bool = False
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    """Checks the sizes."""
    halvings, levels = len(self.multipliers) - 1, range(len(self.multipliers))
    if len(self.shape) != 3:
      raise UserError(
        f'config.model.network=unet takes images, not vectors of {self.shape[0]} numbers; dit and mlp do.'
      )
    if any(side % 2**halvings for side in self.shape[:2]):
      most = max(n for n in levels if all(side % 2**n == 0 for side in self.shape[:2]))
      raise UserError(
        f'config.model.multipliers={tuple(self.multipliers)} halves the sides {halvings} times; those of '
        f'{self.shape[0]}x{self.shape[1]} pixels can be halved {most} times: take {most + 1} numbers or fewer.'
      )
    if not set(self.attention) <= set(levels):
      raise UserError(
        f'config.model.attention={tuple(self.attention)} must name levels from 0 to {halvings}, one for each of '
        f'config.model.multipliers={tuple(self.multipliers)}.'
      )
    super().__post_init__()

  @nn.compact
  def __call__(
    self, x: Array, c: Array, label: Array | None = None, train: bool = False, r: Array | None = None
  ) -> Array:
    """x [B, H, W, C] -> [B, H, W, C], float32 or as wide as x; `c`, `label` and `r` as `Conditioning` has them."""
    wide = jnp.promote_types(jnp.float32, x.dtype)
    condition = Conditioning(4 * self.width, self.num_classes, name='condition')(c, label, r)

    def block(h: Array, features: int, attends: bool, name: str) -> Array:
      h = ModulatedBlock(features, self.dropout, self.lowering, self.dtype, name=name)(h, condition, train)
      if attends:
        h = PixelAttention(self.head_width, self.differentiable_forward, self.dtype, name=f'{name}_attention')(h)
      return h

    widths = [self.width * multiplier for multiplier in self.multipliers]
    h = Conv(self.width, (3, 3), lowering=self.lowering, dtype=self.dtype, name='stem')(x)
    skips = []
    for level, features in enumerate(widths):
      h = halve(h) if level else h
      for number in range(self.blocks):
        h = block(h, features, level in self.attention, f'down_{level}_{number}')
        skips.append(h)
    h = block(block(h, widths[-1], True, 'middle_0'), widths[-1], False, 'middle_1')
    for level, features in reversed(list(enumerate(widths))):
      for number in range(self.blocks):
        h = block(jnp.concatenate([h, skips.pop()], -1), features, level in self.attention, f'up_{level}_{number}')
      h = double(h) if level else h
    h = jax.nn.silu(normalise('group', h.astype(wide), train, dtype=wide))
    return Conv(self.shape[-1], (3, 3), kernel_init=_zeros, lowering=self.lowering, dtype=wide, name='head')(h)
