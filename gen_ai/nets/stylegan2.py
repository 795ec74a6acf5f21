"""StyleGAN2's generator and discriminator trunk (arXiv 1912.04958) for images of 28 to 128 pixels.

Skip generator and residual discriminator (section 4.1, figure 7). Deviations: sides need not be powers of two (28
starts from 7x7, see `pyramid.num_stages`); an image may end in tanh (`output`), for data with a flat background at the
end of its range; in evaluation the minibatch deviation is its running mean, so that what the discriminator says of an
image depends on that image alone.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gen_ai.core.method import Array, Key, Reduce, identity
from gen_ai.core.switch import is_off
from gen_ai.nets.bias import add_bias
from gen_ai.nets.equalised import GAIN, EqualisedConv, EqualisedDense, ModulatedConv, leaky, upsample
from gen_ai.nets.pyramid import num_stages

OUTPUTS: dict[str, Callable[[Array], Array]] = {'linear': identity, 'tanh': jnp.tanh}
COLLECTION = 'style'  # running means: w_avg [D] of the generator, deviation [] of the discriminator
W_MOMENTUM = 0.995  # the share of the mean style that survives an update
DEVIATION_MOMENTUM = 0.99
_MIXING, _SECOND, _CUT, _NOISE = range(4)  # streams of an example's key


def _streams(keys: Key, stream: int) -> Key:
  return jax.vmap(lambda key: jax.random.fold_in(key, stream))(keys)


def _normalised(z: Array) -> Array:
  """Rows [B, Z] of mean square 1."""
  return z * lax.rsqrt((z**2).mean(-1, keepdims=True) + 1e-8)


class Mapping(nn.Module):
  """Latents and labels to styles w: dense layers with a learning rate of their own."""

  latent: int
  width: int  # D
  layers: int
  lr_multiplier: float | Array
  num_classes: int = 0

  @nn.compact
  def __call__(self, z: Array, label: Array | None) -> Array:
    """z [B, Z], label int [B] -> w float32 [B, D]."""
    x = _normalised(z.astype(jnp.float32))
    if self.num_classes:
      condition = EqualisedDense(self.latent, name='label')(jax.nn.one_hot(label, self.num_classes))
      x = jnp.concatenate([x, _normalised(condition)], -1)
    for _ in range(self.layers):
      x = leaky(EqualisedDense(self.width, self.lr_multiplier)(x))
    return x


class StyledConv(nn.Module):
  """Modulated convolution, noise, bias, activation."""

  features: int
  up: bool = False
  lowering: str = 'auto'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, w: Array, noise: Array | None) -> Array:
    """x [B, H, W, C], w [B, D], noise N(0, 1) [B, H', W', 1] -> [B, H', W', features]."""
    x = ModulatedConv(self.features, up=self.up, lowering=self.lowering, dtype=self.dtype)(x, w)
    strength = self.param('noise_strength', nn.initializers.zeros, (), jnp.float32)
    if noise is not None:
      x = x + (strength * noise).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
    return leaky(add_bias(x, bias))


class StyleGenerator(nn.Module):
  """Latents to images by styles.

  Everything random beyond z comes from keys of the examples: a row's image depends on its own z, label and key alone.
  """

  shape: tuple[int, int, int]  # H, W, C
  latent: int = 64  # Z
  width: int = 64  # D, of w
  channels: int = 16  # at full resolution, doubled at each halving
  max_channels: int = 512
  mapping_layers: int = 4
  mapping_lr: float | Array = 0.01
  mixing: float | Array = 0.9  # probability of style mixing in training; a Python 0 switches it off
  num_classes: int = 0  # 0: labels are not looked at
  truncation: float | Array = 1.0  # psi, outside of training
  output: str = 'linear'  # of OUTPUTS: what an image ends in; 'linear' is the published one, unbounded
  lowering: str = 'auto'
  reduce: Reduce = identity  # see norms.BatchNorm
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """Parameters and layers; raises UserError on sides that do not halve."""
    H, W, C = self.shape
    self.stages = num_stages(H, W)
    options = {'lowering': self.lowering, 'dtype': self.dtype}
    widths = [self._channels(stage) for stage in range(self.stages, -1, -1)]  # from the coarse grid on
    grid = (H // 2**self.stages, W // 2**self.stages, widths[0])
    self.start = self.param('start', nn.initializers.normal(1.0), grid, jnp.float32)
    self.map = Mapping(self.latent, self.width, self.mapping_layers, self.mapping_lr, self.num_classes)
    self.first = StyledConv(widths[0], **options)
    self.up = [StyledConv(width, up=True, **options) for width in widths[1:]]
    self.same = [StyledConv(width, **options) for width in widths[1:]]
    self.to_rgb = [ModulatedConv(C, 1, demodulate=False, **options) for _ in widths]
    # Vectors, one each: what has two axes is a matrix to weight decay.
    self.rgb_bias = [self.param(f'rgb_bias_{i}', nn.initializers.zeros, (C,), jnp.float32) for i in range(len(widths))]
    self.w_avg = self.variable(COLLECTION, 'w_avg', jnp.zeros, (self.width,), jnp.float32)

  def _channels(self, stage: int) -> int:
    return min(self.channels * 2**stage, self.max_channels)

  @property
  def num_layers(self) -> int:
    """Styles that an image takes: one a convolution, and one more for the last image."""
    return 2 * num_stages(*self.shape[:2]) + 2

  def mapping(self, z: Array, label: Array | None = None) -> Array:
    """z [B, Z], label int [B] -> w float32 [B, D]."""
    return self.map(z, label)

  def synthesis(self, ws: Array, noise: Key | None = None) -> Array:
    """ws [B, num_layers, D], noise keys [B] (None: no noise inputs) -> float32 [B, H, W, C], through `output`."""
    planes = self._planes(noise)
    x = jnp.broadcast_to(self.start.astype(self.dtype), (ws.shape[0], *self.start.shape))
    x = self.first(x, ws[:, 0], planes[0])
    image = self.to_rgb[0](x, ws[:, 1]).astype(jnp.float32) + self.rgb_bias[0]
    for stage in range(self.stages):
      x = self.up[stage](x, ws[:, 2 * stage + 1], planes[2 * stage + 1])
      x = self.same[stage](x, ws[:, 2 * stage + 2], planes[2 * stage + 2])
      rgb = self.to_rgb[stage + 1](x, ws[:, 2 * stage + 3]).astype(jnp.float32) + self.rgb_bias[stage + 1]
      image = upsample(image) + rgb
    return OUTPUTS[self.output](image)

  def _planes(self, noise: Key | None) -> list[Array | None]:
    """The noise of every convolution, N(0, 1) [B, H, W, 1] each, out of one draw an example."""
    if noise is None:
      return [None] * (2 * self.stages + 1)
    H, W, _ = self.shape
    sides = [(H // 2**stage, W // 2**stage) for stage in range(self.stages, -1, -1)]
    sides = sides[:1] + [side for side in sides[1:] for _ in range(2)]
    ends = np.cumsum([h * w for h, w in sides])
    drawn = jax.vmap(lambda key: jax.random.normal(key, (int(ends[-1]),)))(_streams(noise, _NOISE))
    parts = jnp.split(drawn, ends[:-1], axis=1)
    return [part.reshape(-1, h, w, 1) for part, (h, w) in zip(parts, sides, strict=True)]

  def _mixed(self, w: Array, label: Array | None, noise: Key) -> Array:
    """Styles [B, L, D]: w, from a random layer on that of a second latent, with probability `mixing`."""
    B, L = w.shape[0], self.num_layers
    second = jax.vmap(lambda key: jax.random.normal(key, (self.latent,)))(_streams(noise, _SECOND))
    mixes = jax.vmap(jax.random.uniform)(_streams(noise, _MIXING)) < self.mixing
    cut = jax.vmap(lambda key: jax.random.randint(key, (), 1, L))(_streams(noise, _CUT))
    after = jnp.arange(L) >= jnp.where(mixes, cut, L)[:, None]  # [B, L]
    return jnp.where(
      after[..., None], self.mapping(second, label)[:, None], jnp.broadcast_to(w[:, None], (B, L, w.shape[-1]))
    )

  def __call__(self, z: Array, train: bool, label: Array | None = None, noise: Key | None = None) -> Array:
    """z [B, Z], label int [B], noise keys [B] -> float32 [B, H, W, C], through `output`; truncated unless `train`."""
    w = self.mapping(z, label)
    if train and self.is_mutable_collection(COLLECTION) and not self.is_initializing():
      mean = self.reduce(lax.stop_gradient(w).mean(0))
      self.w_avg.value = W_MOMENTUM * self.w_avg.value + (1.0 - W_MOMENTUM) * mean
    if not train:
      w = self.w_avg.value + self.truncation * (w - self.w_avg.value)
    if train and noise is not None and not is_off(self.mixing):
      return self.synthesis(self._mixed(w, label, noise), noise)
    return self.synthesis(jnp.broadcast_to(w[:, None], (w.shape[0], self.num_layers, w.shape[1])), noise)


def minibatch_deviation(x: Array, group: int) -> Array:
  """Standard deviation over groups of images, averaged over pixels and channels (arXiv 1710.10196, section 3).

  Args:
    x: [B, H, W, C]. group: images in a group, or the largest divisor of B below that; image i is with i + k B / group.

  Returns:
    float32 [B], of each image's group.
  """
  B = x.shape[0]
  group = next(n for n in range(min(group, B), 0, -1) if B % n == 0)
  parts = x.astype(jnp.float32).reshape(group, B // group, *x.shape[1:])
  deviation = jnp.sqrt(parts.var(0) + 1e-8).mean((1, 2, 3))
  return jnp.tile(deviation, group)


class StyleDiscriminator(nn.Module):
  """Image to features: residual halvings, the minibatch deviation as one more channel, a convolution, a dense layer."""

  channels: int = 16  # at full resolution, doubled at each halving
  max_channels: int = 512
  group: int = 4  # of the minibatch deviation; 1: none
  lowering: str = 'auto'
  reduce: Reduce = identity
  dtype: Any = jnp.float32

  def _deviation(self, x: Array, train: bool) -> Array:
    """float32 [B]: of the groups in training, their running mean otherwise."""
    running = self.variable(COLLECTION, 'deviation', jnp.zeros, (), jnp.float32)
    if not train:
      return jnp.broadcast_to(running.value, (x.shape[0],))
    found = minibatch_deviation(x, self.group)
    if self.is_mutable_collection(COLLECTION) and not self.is_initializing():
      mean = self.reduce(lax.stop_gradient(found).mean())
      running.value = DEVIATION_MOMENTUM * running.value + (1.0 - DEVIATION_MOMENTUM) * mean
    return found

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[B, H, W, C] -> float32 [B, F]; raises UserError on sides that do not halve."""
    options = {'lowering': self.lowering, 'dtype': self.dtype}
    stages = num_stages(x.shape[1], x.shape[2])
    width = lambda stage: min(self.channels * 2**stage, self.max_channels)  # noqa: E731
    x = leaky(EqualisedConv(width(0), 1, name='from_rgb', **options)(x))
    for stage in range(stages):
      skip = EqualisedConv(width(stage + 1), 1, down=True, use_bias=False, name=f'skip_{stage}', **options)(x)
      h = leaky(EqualisedConv(width(stage), name=f'first_{stage}', **options)(x))
      h = leaky(EqualisedConv(width(stage + 1), down=True, name=f'second_{stage}', **options)(h))
      x = (h + skip) / jnp.asarray(GAIN, h.dtype)
    if self.group > 1:
      plane = jnp.broadcast_to(self._deviation(x, train)[:, None, None, None], (*x.shape[:3], 1))
      x = jnp.concatenate([x, plane.astype(x.dtype)], -1)
    x = leaky(EqualisedConv(width(stages), name='last', **options)(x))
    x = EqualisedDense(width(stages), dtype=self.dtype, name='features')(x.reshape(x.shape[0], -1))
    return leaky(x).astype(jnp.float32)
