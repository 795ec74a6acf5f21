"""Layers of StyleGAN2 (arXiv 1912.04958): equalised learning rate, FIR resampling, modulated convolution.

Everything is products, shifts and sums that XLA compiles anywhere; no custom kernels, no grouped convolutions.
"""

import functools
import math
import operator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from gen_ai.nets.conv import conv, conv_transpose
from gen_ai.types import Array

GAIN = math.sqrt(2.0)  # of an activation, so that the variance is kept through a leaky ReLU of slope 0.2
TAPS = (1.0, 3.0, 3.0, 1.0)  # the low-pass filter
_EPSILON = 1e-8  # added to the squared norm of demodulated weights


def leaky(x: Array) -> Array:
  """Leaky ReLU of slope 0.2 times sqrt(2)."""
  return jnp.where(x >= 0, x, 0.2 * x) * jnp.asarray(GAIN, x.dtype)


def _fir(x: Array, axis: int, gain: float, before: int, after: int) -> Array:
  """One axis filtered by TAPS, whose sum is made `gain`; zeros beyond the ends. The length changes by the pads - 3."""
  pads = [(0, 0)] * x.ndim
  pads[axis] = (before, after)
  padded = jnp.pad(x, pads)
  size = padded.shape[axis] - len(TAPS) + 1
  terms = [lax.slice_in_dim(padded, i, i + size, 1, axis) * jnp.asarray(gain * tap / sum(TAPS), x.dtype)
           for i, tap in enumerate(TAPS)]  # fmt: skip
  return functools.reduce(operator.add, terms)


def blur(x: Array, before: int, after: int, gain: float = 1.0) -> Array:
  """[B, H, W, C] filtered along both sides, which grow by before + after - 3 pixels; constants become gain^2 times."""
  return _fir(_fir(x, 1, gain, before, after), 2, gain, before, after)


def upsample(x: Array) -> Array:
  """[B, H, W, C] -> [B, 2 H, 2 W, C]: zeros between the pixels, then the filter, which keeps constants."""
  B, H, W, C = x.shape
  zeros = jnp.zeros_like(x)
  x = jnp.stack([x, zeros], 2).reshape(B, 2 * H, W, C)
  x = jnp.stack([x, jnp.zeros_like(x)], 3).reshape(B, 2 * H, 2 * W, C)
  return blur(x, 2, 1, 2.0)


def downsample(x: Array) -> Array:
  """[B, H, W, C] -> [B, H / 2, W / 2, C]: the filter, then every second pixel."""
  return blur(x, 1, 1)[:, ::2, ::2]


class EqualisedDense(nn.Module):
  """A dense layer whose weights start as N(0, 1) / m and are scaled by m / sqrt(fan in) when they are used.

  So every weight learns at the same relative rate under Adam, times m (arXiv 1710.10196, section 4.1).
  """

  features: int
  lr_multiplier: float | Array = 1.0  # m
  bias_init: float = 0.0
  use_bias: bool = True
  dtype: Any = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., D] -> [..., features]."""
    init = nn.initializers.normal(1.0)
    m = self.lr_multiplier
    kernel = self.param('kernel', lambda key, shape: init(key, shape, jnp.float32) / m, (x.shape[-1], self.features))
    y = x.astype(self.dtype) @ (kernel * (m / math.sqrt(x.shape[-1]))).astype(self.dtype)
    if self.use_bias:
      bias = self.param('bias', lambda key, shape: jnp.full(shape, self.bias_init, jnp.float32) / m, (self.features,))
      y = y + (bias * m).astype(self.dtype)
    return y


class EqualisedConv(nn.Module):
  """A convolution with an equalised learning rate; its result is halved, after blurring, if `down`."""

  features: int
  size: int = 3  # of the kernel
  down: bool = False
  use_bias: bool = True
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H, W, features], or half the sides."""
    shape = (self.size, self.size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.normal(1.0), shape, jnp.float32)
    kernel = (kernel / math.sqrt(math.prod(shape[:3]))).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.down and self.size == 1:
      y = conv(downsample(x), kernel, (1, 1), 'SAME', self.lowering)
    elif self.down:
      y = conv(blur(x, 2, 2), kernel, (2, 2), 'VALID', self.lowering)
    else:
      y = conv(x, kernel, (1, 1), 'SAME', self.lowering)
    if self.use_bias:
      y = y + self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
    return y


class ModulatedConv(nn.Module):
  """A convolution whose weights a style scales by input channel and, demodulated, normalises by output channel.

  arXiv 1912.04958, eqs. 1 to 3. Scaling the input by the style and the output by the norms is the same as a kernel for
  every example, and needs no grouped convolution. `up` doubles the sides by a transposed convolution and the filter.
  """

  features: int
  size: int = 3
  demodulate: bool = True
  up: bool = False
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, w: Array) -> Array:
    """x [B, H, W, C], w [B, D] -> [B, H, W, features], or twice the sides."""
    C = x.shape[-1]
    style = EqualisedDense(C, bias_init=1.0, name='style')(w)
    shape = (self.size, self.size, C, self.features)
    kernel = self.param('kernel', nn.initializers.normal(1.0), shape, jnp.float32)
    kernel = kernel / math.sqrt(math.prod(shape[:3]))
    x, weights = x.astype(self.dtype) * style[:, None, None].astype(self.dtype), kernel.astype(self.dtype)
    if self.up:
      # The whole transposed convolution has 2 H + 1 rows; 'SAME' drops the last, and a row of zeros brings it back.
      x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
      y = blur(conv_transpose(x, weights, (2, 2), self.lowering), 1, 0, 2.0)
    else:
      y = conv(x, weights, (1, 1), 'SAME', self.lowering)
    if self.demodulate:
      norm = lax.rsqrt(style**2 @ (kernel**2).sum((0, 1)) + _EPSILON)  # [B, features]
      y = y * norm[:, None, None].astype(self.dtype)
    return y
