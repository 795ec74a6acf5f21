"""Encoders (image to the moments of a latent) and decoders (latent to the raw parameters of a pixel likelihood).

A decoder gives `outputs` numbers a channel, side by side in the last axis: 1 for Bernoulli logits or a mean, 2 for a
mean and a log-scale. What they mean is the likelihood's affair.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.nets.mlp import MLP
from gen_ai.nets.pyramid import Downsample, Upsample
from gen_ai.types import Array


def _moments(h: Array) -> tuple[Array, Array]:
  """[B, 2 Z] -> (mean, log_std), float32 [B, Z]."""
  mean, log_std = jnp.split(h.astype(jnp.float32), 2, -1)
  return mean, log_std


class MLPEncoder(nn.Module):
  """Flattened image to latent moments."""

  latent: int
  widths: Sequence[int] = (512, 256)
  activation: str = 'relu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """[B, H, W, C] -> (mean, log_std), float32 [B, Z]."""
    return _moments(MLP((*self.widths, 2 * self.latent), self.activation, self.dtype)(x.reshape(x.shape[0], -1)))


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
  def __call__(self, x: Array) -> tuple[Array, Array]:
    """[B, H, W, C] -> (mean, log_std), float32 [B, Z]; raises UserError on sides it cannot halve."""
    # No norm to train or to freeze, so `train` is a formality. N(0, 0.02) is for adversarial training.
    h = Downsample(self.width, self.activation, weight_init='lecun', lowering=self.lowering, dtype=self.dtype)(
      x, train=True
    )
    return _moments(nn.Dense(2 * self.latent, dtype=self.dtype)(h.reshape(h.shape[0], -1)))


class ConvDecoder(nn.Module):
  """A projection, then doublings to likelihood parameters."""

  shape: tuple[int, int, int]  # H, W, C
  outputs: int = 1
  width: int = 32
  activation: str = 'relu'
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
      upsample=self.upsample,
      weight_init='lecun',
      lowering=self.lowering,
      dtype=self.dtype,
    )
    return trunk(z, train=True).astype(jnp.float32)
