"""Multilayer perceptrons, and the generator and the trunk of the discriminator of the original GAN built of them."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.method import Array
from gen_ai.nets.activation import activation_fn
from gen_ai.nets.spectral import Dense


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


class MLPFeatures(nn.Module):
  """Trunk of a discriminator: dense layers of the given widths, each with its activation."""

  widths: Sequence[int] = (1024, 512, 256)
  activation: str = 'relu'
  spectral: bool = False  # see gen_ai.nets.spectral
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[B, D] -> [B, widths[-1]]. `train` changes nothing: every trunk is called alike."""
    activation = activation_fn(self.activation)
    for width in self.widths:
      x = activation(Dense(width, self.spectral, dtype=self.dtype)(x))
    return x
