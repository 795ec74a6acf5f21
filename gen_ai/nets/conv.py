"""Convolutions with a choice of lowering: the same parameters and the same numbers, at very different speeds.

'direct' leaves a convolution to XLA. 'patches' writes it as one matrix product and shifted slices or sums of arrays.
XLA's CPU convolutions are slow in the backward pass and worse in double backprop. On 2 cores, one forward, backward and
gradient penalty of two strided 4x4 layers (28x28, 64 and 128 features, 64 images) took 0.05 s as patches and 0.7 s
direct; of two transposed layers 0.05 s and 0.7 s. On an accelerator 'direct' reaches the vendor's kernels.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from gen_ai.core.errors import UserError
from gen_ai.core.lowering import has_run_axis, platform
from gen_ai.core.method import Array
from gen_ai.nets.bias import add_bias
from gen_ai.nets.spectral import normalise_spectrum

LOWERINGS = ('auto', 'direct', 'patches')
Pads = tuple[tuple[int, int], tuple[int, int]]
Initializer = Callable[..., Array]
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def resolve_lowering(lowering: str) -> str:
  """'direct' or 'patches' for 'auto' on the current backend; raises UserError on an unknown name.

  Lanes of a packed program have a kernel each. As 'direct' they become one grouped convolution, which is slow on every
  backend; as 'patches' a batch of matrix products.
  """
  if lowering not in LOWERINGS:
    raise UserError(f'unknown convolution lowering {lowering!r}; choose one of: {", ".join(LOWERINGS)}')
  if lowering == 'auto':
    return 'patches' if platform() == 'cpu' or has_run_axis() else 'direct'
  return lowering


def _sum(arrays: Sequence[Array]) -> Array:
  return functools.reduce(operator.add, arrays)


def _shift(x: Array, axis: int, offset: int, size: int) -> Array:
  """y of `size` along `axis` with y[i] = x[i + offset], and 0 where x has no such entry."""
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (-offset, size - x.shape[axis] + offset, 0)
  return lax.pad(x, jnp.zeros((), x.dtype), config)


def _windows(x: Array, axis: int, taps: int, stride: int, size: int) -> Array:
  """`taps` strided slices of `x` along `axis`, each of `size`, side by side in the channels."""
  last = stride * (size - 1) + 1
  return jnp.concatenate([lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(taps)], -1)


def _gather_conv(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads, out: tuple[int, int]) -> Array:
  """Patches, then one product. Gathering columns, then rows, copies 2 k slices instead of k^2."""
  kh, kw, _, features = kernel.shape
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  x = _windows(x, 2, kw, strides[1], out[1])
  x = _windows(x, 1, kh, strides[0], out[0])
  return x @ kernel.reshape(-1, features)


def _folded_conv(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads, out: tuple[int, int]) -> Array:
  """A strided convolution whose kernel is a multiple of its stride is a dense one over blocks of pixels."""
  (kh, kw, C, features), (sh, sw) = kernel.shape, strides
  nh, nw = kh // sh, kw // sw
  rows, columns = out[0] + nh - 1, out[1] + nw - 1
  x = _shift(_shift(x, 1, -pads[0][0], rows * sh), 2, -pads[1][0], columns * sw)
  B = x.shape[0]
  x = x.reshape(B, rows, sh, columns, sw * C).swapaxes(2, 3).reshape(B, rows, columns, sh * sw * C)
  kernel = kernel.reshape(nh, sh, nw, sw, C, features).transpose(0, 2, 1, 3, 4, 5)
  return _gather_conv(x, kernel.reshape(nh, nw, sh * sw * C, features), (1, 1), ((0, 0), (0, 0)), out)


def _per_tap(x: Array, kernel: Array) -> Array:
  """[B, H, W, C], [kh, kw, C, F] -> [B, H, W, kh, kw, F]: what each pixel gives to each tap."""
  kh, kw, C, features = kernel.shape
  return (x @ kernel.transpose(2, 0, 1, 3).reshape(C, -1)).reshape(*x.shape[:3], kh, kw, features)


def _scatter_conv(x: Array, kernel: Array, pads: Pads, out: tuple[int, int]) -> Array:
  """A product for every tap, then shifted sums: less to copy where features are fewer than channels. Stride 1."""
  kh, kw, _, _ = kernel.shape
  y = _per_tap(x, kernel)
  y = _sum([_shift(y[:, :, :, i], 1, i - pads[0][0], out[0]) for i in range(kh)])
  return _sum([_shift(y[:, :, :, j], 2, j - pads[1][0], out[1]) for j in range(kw)])


def conv(x: Array, kernel: Array, strides: tuple[int, int], padding: str = 'SAME', lowering: str = 'auto') -> Array:
  """Cross-correlation, as `flax.linen.Conv`.

  Args:
    x: [B, H, W, C]. kernel: [kh, kw, C, F].
    strides: rows, columns.
    padding: 'SAME' or 'VALID'.
    lowering: one of `LOWERINGS`.

  Returns:
    [B, H', W', F] in the type of the operands.

  Raises:
    UserError: unknown lowering.
  """
  if resolve_lowering(lowering) == 'direct':
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)
  sides, taps = x.shape[1:3], kernel.shape[:2]
  ph, pw = lax.padtype_to_pads(sides, taps, strides, padding)
  pads = (ph, pw)
  oh, ow = ((n + sum(p) - k) // s + 1 for n, p, k, s in zip(sides, pads, taps, strides, strict=True))
  if strides == (1, 1) and kernel.shape[3] < kernel.shape[2]:
    return _scatter_conv(x, kernel, pads, (oh, ow))
  if strides != (1, 1) and all(k % s == 0 for k, s in zip(taps, strides, strict=True)):
    return _folded_conv(x, kernel, strides, pads, (oh, ow))
  return _gather_conv(x, kernel, strides, pads, (oh, ow))


def _phases(taps: int, stride: int) -> list[list[tuple[int, int]]]:
  """For each output phase r: (tap j, offset o) with y[q * stride + r] = sum of x[q + o] kernel[j], padding 'SAME'."""
  total = taps + stride - 2
  before = taps - 1 if stride > taps - 1 else -(-total // 2)
  steps = [[(j, r + j - before) for j in range(taps)] for r in range(stride)]
  return [[(j, step // stride) for j, step in phase if step % stride == 0] for phase in steps]


def _phase_sums(y: Array, axis: int, taps_axis: int, stride: int) -> Array:
  """Sums the taps of `taps_axis` into the `stride` phases of `axis`, which become a new axis behind it.

  No zeros are inserted and none multiplied, unlike input dilation.
  """
  n, sums = y.shape[axis], []
  for phase in _phases(y.shape[taps_axis], stride):
    parts = [_shift(lax.index_in_dim(y, j, taps_axis, keepdims=False), axis, offset, n) for j, offset in phase]
    # A stride beyond the kernel leaves phases that no tap reaches.
    sums.append(_sum(parts) if parts else jnp.zeros_like(lax.index_in_dim(y, 0, taps_axis, keepdims=False)))
  return jnp.stack(sums, axis + 1)


def conv_transpose(x: Array, kernel: Array, strides: tuple[int, int], lowering: str = 'auto') -> Array:
  """Transposed convolution with padding 'SAME', as `flax.linen.ConvTranspose` (kernel not flipped).

  Args:
    x: [B, H, W, C]. kernel: [kh, kw, C, F].
    strides: rows, columns.
    lowering: one of `LOWERINGS`.

  Returns:
    [B, H * strides[0], W * strides[1], F] in the type of the operands.

  Raises:
    UserError: unknown lowering.
  """
  if resolve_lowering(lowering) == 'direct':
    return lax.conv_transpose(x, kernel, strides, 'SAME', dimension_numbers=_DIMENSIONS)
  B, H, W, _ = x.shape
  y = _phase_sums(_per_tap(x, kernel), 1, 3, strides[0])
  y = _phase_sums(y, 3, 4, strides[1])
  return y.reshape(B, H * strides[0], W * strides[1], -1)


class Conv(nn.Module):
  """A convolution over [B, H, W, C]; parameters `kernel` [kh, kw, C, features] and `bias` [features]."""

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  padding: str = 'SAME'  # or 'VALID'
  use_bias: bool = True
  kernel_init: Initializer = nn.initializers.lecun_normal()
  lowering: str = 'auto'
  dtype: Any = jnp.float32  # of the computation
  param_dtype: Any = jnp.float32
  spectral: bool = False  # see gen_ai.nets.spectral

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H', W', features]."""
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, self.param_dtype)
    kernel = normalise_spectrum(self, kernel) if self.spectral else kernel
    y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding, self.lowering)
    if self.use_bias:
      y = add_bias(y, self.param('bias', nn.initializers.zeros, (self.features,), self.param_dtype))
    return y


class ConvTranspose(nn.Module):
  """A transposed convolution over [B, H, W, C], padding 'SAME'; parameters as those of `Conv`."""

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  use_bias: bool = True
  kernel_init: Initializer = nn.initializers.lecun_normal()
  lowering: str = 'auto'
  dtype: Any = jnp.float32  # of the computation
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[B, H, W, C] -> [B, H * strides[0], W * strides[1], features]."""
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, self.param_dtype)
    y = conv_transpose(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.lowering)
    if self.use_bias:
      y = add_bias(y, self.param('bias', nn.initializers.zeros, (self.features,), self.param_dtype))
    return y
