"""A Transformer over patches of images as a denoiser (DiT, arXiv 2212.09748, with adaLN-zero), of the language model's
own blocks: RMS norms, normalised queries and keys, a gated MLP, attention to all tokens.

Patches are pixels, as in JiT (arXiv 2511.13720). Positions are learned and begin as the sines and cosines of row and
column: images have one size, so that nothing need be extrapolated, and unlike rotations they cost nothing a layer.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gen_ai.core import lowering
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array
from gen_ai.nets.conditioning import Conditioning, modulated
from gen_ai.nets.transformer import Architecture, norm_of, stack


def patches(x: Array, patch: int) -> Array:
  """Images [B, H, W, C] as [B, H W / p^2, p p C], row by row; vectors [B, D] as runs of p numbers [B, D / p, p]."""
  if x.ndim == 2:
    return x.reshape(x.shape[0], -1, patch)
  B, H, W, C = x.shape
  x = x.reshape(B, H // patch, patch, W // patch, patch, C).swapaxes(2, 3)
  return x.reshape(B, -1, patch * patch * C)


def unpatched(tokens: Array, shape: tuple[int, ...], patch: int) -> Array:
  """Examples [B, *shape] of their patches; the inverse of `patches`."""
  B = tokens.shape[0]
  if len(shape) == 1:
    return tokens.reshape(B, *shape)
  H, W, C = shape
  return tokens.reshape(B, H // patch, W // patch, patch, patch, C).swapaxes(2, 3).reshape(B, H, W, C)


def position_features(grid: tuple[int, ...], width: int) -> np.ndarray:
  """Sines and cosines of the places in a grid, float32 [places, width]: an even share of the numbers for each axis.

  Wavelengths are those of arXiv 1706.03762, section 3.5. Numbers that are left over are 0.
  """
  pairs = width // (2 * len(grid))
  frequency = 10_000.0 ** (-np.arange(pairs) / max(pairs, 1))
  places = np.stack(np.meshgrid(*map(np.arange, grid), indexing='ij'), -1).reshape(-1, len(grid))
  angle = (places[:, :, None] * frequency).reshape(len(places), -1)
  features = np.concatenate([np.sin(angle), np.cos(angle)], -1)
  return np.pad(features, ((0, 0), (0, width - features.shape[1]))).astype(np.float32)


class DiT(nn.Module):
  """The denoiser. What it says is exactly 0 at first.

  Attributes:
    shape: of an example, [H, W, C] or [D].
    patch: p, pixels of a side of a token, or numbers of a vector's.
    width: of the residual stream.
    layers: number of blocks.
    heads: of attention.
    mlp_width: of the hidden layer; 0: see `Architecture`.
    bottleneck: numbers through which a patch is embedded by two linear maps, for patches of many numbers (arXiv
      2511.13720, section 4.4); 0: by one.
    num_classes: of labels, without the null class; 0: labels are not taken.
    dropout: see `Architecture`.
    remat: what the backward pass computes again, see `Architecture`.
    differentiable_forward: whether `jax.jvp` can go through, on every device.
    dtype: of activations and of the weights in matrix products; norms, softmax and both ends are float32.

  Raises:
    UserError: a patch that does not divide the sides, or sizes that do not fit together, when it is constructed.
  """

  shape: tuple[int, ...]
  patch: int = 4
  width: int = 192
  layers: int = 6
  heads: int = 6
  mlp_width: int = 0
  bottleneck: int = 0
  num_classes: int = 0
  dropout: float | Array = 0.0
  remat: str = 'none'
  differentiable_forward: bool = False
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    """Checks the sizes."""
    sides = self.shape[:-1] or self.shape
    if any(side % self.patch for side in sides):
      what = f'the sides of {"x".join(map(str, sides))} pixels' if len(sides) > 1 else f'a vector of {sides[0]} numbers'
      fitting = [p for p in range(1, min(sides) + 1) if all(side % p == 0 for side in sides)]
      raise UserError(
        f'config.model.patch={self.patch} does not divide {what}; these do: {", ".join(map(str, fitting))}.'
      )
    self.architecture.check('config.model.{}'.format)
    super().__post_init__()

  @property
  def grid(self) -> tuple[int, ...]:
    """Tokens a side."""
    return tuple(side // self.patch for side in self.shape[:-1] or self.shape)

  @property
  def architecture(self) -> Architecture:
    """Of the blocks."""
    return Architecture(
      vocab_size=0,
      context=math.prod(self.grid),
      layers=self.layers,
      heads=self.heads,
      width=self.width,
      mlp_width=self.mlp_width,
      gated=True,
      activation='silu',
      norm='rms',
      bias=False,
      qk_norm=True,
      dropout=self.dropout,
      remat=self.remat,
      causal=False,
      modulated=True,
      differentiable_forward=self.differentiable_forward,
      dtype=self.dtype,
    )

  def _positions(self) -> Array:
    def init(key: Any) -> Array:
      del key
      return jnp.asarray(position_features(self.grid, self.width))

    params = {'position_embedding': self.param('position_embedding', init)}
    whole: Array = lowering.gather_layer(params)['position_embedding']
    return whole

  @nn.compact
  def __call__(
    self, x: Array, c: Array, label: Array | None = None, train: bool = False, r: Array | None = None
  ) -> Array:
    """x [B, *shape] -> [B, *shape], float32 or as wide as x.

    Args:
      x: noisy examples.
      c, label, r: see `Conditioning`.
      train: whether dropout is on; it then needs `rngs={'dropout': key}`.
    """
    arch, wide = self.architecture, jnp.promote_types(jnp.float32, x.dtype)
    condition = Conditioning(self.width, self.num_classes, name='condition')(c, label, r)
    h = patches(x.astype(wide), self.patch)
    if self.bottleneck:
      h = nn.Dense(self.bottleneck, use_bias=False, name='patch_narrow')(h)
    h = nn.Dense(self.width, name='patch_in')(h) + self._positions()
    h = lowering.constrain_batch(h.astype(self.dtype))
    h, _ = stack(arch, self.is_initializing())(h, None, train, None, None, False, condition)
    zeros = nn.initializers.zeros
    final = nn.Dense(2 * self.width, kernel_init=zeros, name='final_modulation')(condition)
    h = modulated(norm_of(arch, 'final_norm')(h).astype(wide), *jnp.split(final, 2, -1))
    out = nn.Dense(math.prod(self.shape) // arch.context, kernel_init=zeros, name='patch_out')(h)
    return unpatched(out, self.shape, self.patch)
