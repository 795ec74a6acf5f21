"""Layers of StyleGAN2 (arXiv 1912.04958): equalised learning rate, FIR resampling, modulated convolution.

Everything is matrix products and convolutions that XLA compiles anywhere; no custom kernels, no grouped convolutions.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from gen_ai.core.method import Array
from gen_ai.nets.bias import add_bias
from gen_ai.nets.conv import conv, conv_transpose

GAIN = math.sqrt(2.0)  # of an activation, so that the variance is kept through a leaky ReLU of slope 0.2
TAPS = (1.0, 3.0, 3.0, 1.0)  # the low-pass filter
_EPSILON = 1e-8  # added to the squared norm of demodulated weights


def leaky(x: Array) -> Array:
  """Leaky ReLU of slope 0.2 times sqrt(2)."""
  return jnp.where(x >= 0, x, 0.2 * x) * jnp.asarray(GAIN, x.dtype)


@functools.lru_cache
def _filter(side: int, before: int, after: int, gain: float, up: int, down: int) -> np.ndarray:
  """The map [side', side] of one axis: zeros between the pixels, zeros around, TAPS of sum `gain`, every `down`-th."""
  size = side * up + before + after - len(TAPS) + 1
  matrix = np.zeros((size, side), np.float32)
  for row in range(size):
    for tap, weight in enumerate(TAPS):
      place = row + tap - before
      if 0 <= place < side * up and place % up == 0:
        matrix[row, place // up] = gain * weight / sum(TAPS)
  return matrix[::down]


def blur(x: Array, before: int, after: int, gain: float = 1.0, up: int = 1, down: int = 1) -> Array:
  """[B, H, W, C] filtered along both sides as matrix products, which compile to little and are quick anywhere.

  Args:
    x: the images.
    before, after: zeros put at both ends of a side, which grows by their sum - 3 (after `up`).
    gain: of one side: constants become gain^2 times.
    up, down: pixels of the result for one of x, and of x for one of the result.
  """
  rows, columns = (jnp.asarray(_filter(side, before, after, gain, up, down), x.dtype) for side in x.shape[1:3])
  x = jnp.einsum('ph,bhwc->bpwc', rows, x, precision=lax.Precision.HIGHEST)
  return jnp.einsum('qw,bpwc->bpqc', columns, x, precision=lax.Precision.HIGHEST)


def upsample(x: Array) -> Array:
  """[B, H, W, C] -> [B, 2 H, 2 W, C]: zeros between the pixels, then the filter, which keeps constants."""
  return blur(x, 2, 1, 2.0, up=2)


def downsample(x: Array) -> Array:
  """[B, H, W, C] -> [B, H / 2, W / 2, C]: the filter, then every second pixel."""
  return blur(x, 1, 1, down=2)


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
      y = add_bias(y, bias * m)
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
      y = add_bias(y, self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32))
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
