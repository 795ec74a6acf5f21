"""Multilayer perceptrons, and the generator and discriminator of the original GAN built of them."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.nets.activation import activation_fn
from gen_ai.types import Array


class MLP(nn.Module):
  """Dense layers of the given widths, with an activation between them and none after the last."""

  features: Sequence[int]
  activation: str = 'relu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, D] -> [B, features[-1]]; raises UserError on an unknown activation."""
    activation = activation_fn(self.activation)
    for width in self.features[:-1]:
      x = activation(nn.Dense(width, dtype=self.dtype)(x))
    return nn.Dense(self.features[-1], dtype=self.dtype)(x)


class MLPGenerator(nn.Module):
  """Latent to image: the widths, then H W C values through tanh."""

  shape: tuple[int, int, int]  # H, W, C
  widths: Sequence[int] = (256, 512, 1024)
  activation: str = 'relu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, z: Array, train: bool) -> Array:
    """[B, Z] -> float32 [B, H, W, C] in [-1, 1]. `train` changes nothing: every generator is called alike."""
    x = MLP((*self.widths, math.prod(self.shape)), self.activation, self.dtype)(z)
    return jnp.tanh(x.astype(jnp.float32)).reshape(-1, *self.shape)


class MLPDiscriminator(nn.Module):
  """Image to one unbounded score."""

  widths: Sequence[int] = (1024, 512, 256)
  activation: str = 'relu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[B, H, W, C] -> float32 [B]. `train` changes nothing: every discriminator is called alike."""
    logits = MLP((*self.widths, 1), self.activation, self.dtype)(x.reshape(x.shape[0], -1))
    return logits[:, 0].astype(jnp.float32)
