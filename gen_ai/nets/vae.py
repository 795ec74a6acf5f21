"""Encoders (image to the moments of a latent) and decoders (latent to the raw parameters of a pixel likelihood).

A decoder gives `outputs` numbers a channel, side by side in the last axis: 1 for Bernoulli logits or a mean, 2 for a
mean and a log-scale. What they mean is the likelihood's affair.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.method import Array
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.classifier import ResidualBlock
from gen_ai.nets.conv import Conv, ConvTranspose
from gen_ai.nets.mlp import MLP
from gen_ai.nets.norms import normalise
from gen_ai.nets.pyramid import Downsample, Upsample, double, num_stages


def with_context(x: Array, context: Array | None) -> Array:
  """Images [B, H, W, C] with the numbers `context` [B, D] beside their channels, one constant plane each."""
  if context is None:
    return x
  planes = context.astype(x.dtype)[:, None, None]
  return jnp.concatenate([x, jnp.broadcast_to(planes, (*x.shape[:-1], context.shape[-1]))], -1)


def _moments(h: Array) -> tuple[Array, Array]:
  """[..., 2 Z] -> (mean, log_std), float32 [..., Z]."""
  mean, log_std = jnp.split(h.astype(jnp.float32), 2, -1)
  return mean, log_std


class MLPMoments(nn.Module):
  """Vectors to the moments of a latent: what joins two stochastic layers."""

  latent: int
  widths: Sequence[int] = (100,)
  activation: str = 'tanh'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, h: Array) -> tuple[Array, Array]:
    """[..., D] -> (mean, log_std), float32 [..., Z]."""
    return _moments(MLP((*self.widths, 2 * self.latent), self.activation, self.dtype)(h))


class MLPEncoder(nn.Module):
  """Flattened image, and what else is known of it, to latent moments."""

  latent: int
  widths: Sequence[int] = (512, 256)
  activation: str = 'relu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
    """[B, H, W, C], [B, D] -> (mean, log_std), float32 [B, Z]."""
    h = x.reshape(x.shape[0], -1)
    h = h if context is None else jnp.concatenate([h, context.astype(h.dtype)], -1)
    return _moments(MLP((*self.widths, 2 * self.latent), self.activation, self.dtype)(h))


class MLPDecoder(nn.Module):
  """Latent to likelihood parameters."""

  shape: tuple[int, int, int]  # H, W, C
  outputs: int = 1
  widths: Sequence[int] = (256, 512)
  activation: str = 'relu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    """[B, Z] -> float32 [B, H, W, C * outputs], unbounded."""
    H, W, C = self.shape
    h = MLP((*self.widths, math.prod(self.shape) * self.outputs), self.activation, self.dtype)(z)
    return h.astype(jnp.float32).reshape(-1, H, W, C * self.outputs)


class ConvEncoder(nn.Module):
  """Halvings, then a linear map of the coarse grid to latent moments."""

  latent: int
  width: int = 32
  activation: str = 'relu'
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
    """[B, H, W, C], [B, D] -> (mean, log_std), float32 [B, Z]; raises UserError on sides it cannot halve."""
    # No norm to train or to freeze, so `train` is a formality. N(0, 0.02) is for adversarial training.
    h = Downsample(self.width, self.activation, weight_init='lecun', lowering=self.lowering, dtype=self.dtype)(
      with_context(x, context), train=True
    )
    return _moments(nn.Dense(2 * self.latent, dtype=self.dtype)(h.reshape(h.shape[0], -1)))


class ConvDecoder(nn.Module):
  """A projection, then doublings to likelihood parameters."""

  shape: tuple[int, int, int]  # H, W, C
  outputs: int = 1
  width: int = 32
  activation: str = 'relu'
  norm: str = 'none'
  upsample: str = 'deconv'  # | 'resize'
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    """[B, Z] -> float32 [B, H, W, C * outputs], unbounded; raises UserError on sides it cannot reach."""
    H, W, C = self.shape
    trunk = Upsample(
      (H, W),
      C * self.outputs,
      self.width,
      self.activation,
      self.norm,
      upsample=self.upsample,
      weight_init='lecun',
      lowering=self.lowering,
      dtype=self.dtype,
    )
    return trunk(z, train=True).astype(jnp.float32)


class ResidualEncoder(nn.Module):
  """A strided stem, a residual block at every resolution of `num_stages`, and a linear map to latent moments."""

  latent: int
  width: int = 32  # channels at half resolution, doubled at each halving
  activation: str = 'silu'
  norm: str = 'group'  # or 'none'
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, context: Array | None = None) -> tuple[Array, Array]:
    """[B, H, W, C], [B, D] -> (mean, log_std), float32 [B, Z]; raises UserError on sides it cannot halve."""
    options = {'lowering': self.lowering, 'dtype': self.dtype}
    stages = num_stages(x.shape[1], x.shape[2])
    h = Conv(self.width, (4, 4), (2, 2), **options)(with_context(x, context))
    for stage in range(stages):
      stride = 2 if stage else 1
      h = ResidualBlock(self.width * 2**stage, stride, self.activation, self.norm, **options)(h)
    h = activation_fn(self.activation)(normalise(self.norm, h, train=False, dtype=self.dtype))
    return _moments(nn.Dense(2 * self.latent, dtype=self.dtype)(h.reshape(h.shape[0], -1)))


class ResidualDecoder(nn.Module):
  """A projection to the coarse grid, a residual block a resolution but the last, and a transposed convolution."""

  shape: tuple[int, int, int]  # H, W, C
  outputs: int = 1
  width: int = 32  # channels at half resolution, doubled at each halving
  activation: str = 'silu'
  norm: str = 'group'  # or 'none'
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    """[B, Z] -> float32 [B, H, W, C * outputs], unbounded; raises UserError on sides it cannot reach."""
    H, W, C = self.shape
    stages = num_stages(H, W)
    h, w, features = H // 2**stages, W // 2**stages, self.width * 2 ** (stages - 1)
    options = {'lowering': self.lowering, 'dtype': self.dtype}
    x = nn.Dense(h * w * features, dtype=self.dtype)(z).reshape(-1, h, w, features)
    for stage in reversed(range(stages)):
      x = ResidualBlock(self.width * 2**stage, 1, self.activation, self.norm, **options)(x)
      x = double(x) if stage else x
    x = activation_fn(self.activation)(normalise(self.norm, x, train=False, dtype=self.dtype))
    return ConvTranspose(C * self.outputs, (4, 4), (2, 2), **options)(x).astype(jnp.float32)
