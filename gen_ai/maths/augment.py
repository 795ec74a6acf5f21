"""Augmentation of what a discriminator sees: DiffAugment (arXiv 2006.10738) and ADA (arXiv 2006.06676).

Pure and differentiable functions of images [B, H, W, C] in [-1, 1] and one key an example, so that what happens to an
image does not depend on its batch. Penalties on gradients pass through them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Key

POLICIES = ('color', 'translation', 'cutout')
GROUPS = ('blit', 'geometric', 'color')
_SHIFT = 1 / 8  # of a side: the furthest whole translation, the standard deviation of a fractional one


# DiffAugment.


def _colour(x: Array, key: Key) -> Array:
  """Brightness by U(-0.5, 0.5), saturation by U(0, 2), contrast by U(0.5, 1.5) of x [H, W, C]."""
  brightness, saturation, contrast = jax.random.uniform(key, (3,), x.dtype)
  x = x + (brightness - 0.5)
  grey = x.mean(-1, keepdims=True)
  x = (x - grey) * (2.0 * saturation) + grey
  mean = x.mean()
  return (x - mean) * (contrast + 0.5) + mean


def _translation(x: Array, key: Key) -> Array:
  """x [H, W, C] moved by up to an eighth of its sides; what comes in is 0, mid-grey, as in the authors' code."""
  most = [int(side * _SHIFT + 0.5) for side in x.shape[:2]]
  padded = jnp.pad(x, ((most[0], most[0]), (most[1], most[1]), (0, 0)))
  at = [jax.random.randint(k, (), 0, 2 * m + 1) for k, m in zip(jax.random.split(key), most, strict=True)]
  return jax.lax.dynamic_slice(padded, (at[0], at[1], 0), x.shape)


def _cutout(x: Array, key: Key) -> Array:
  """x [H, W, C] with a box of half its sides set to 0; the centre is anywhere, so part of the box may lie outside."""
  inside = jnp.ones((), bool)
  for axis, k in enumerate(jax.random.split(key)):
    side = x.shape[axis]
    size = int(side * 0.5 + 0.5)
    first = jax.random.randint(k, (), 0, side + (1 - size % 2)) - size // 2
    place = jnp.expand_dims(jnp.arange(side), tuple(a for a in range(3) if a != axis))
    inside = inside & (place >= first) & (place < first + size)
  return jnp.where(inside, 0.0, x)


_POLICIES: dict[str, Callable[[Array, Key], Array]] = {
  'color': _colour,
  'translation': _translation,
  'cutout': _cutout,
}


def diff_augment(x: Array, keys: Key, policy: tuple[str, ...] = POLICIES) -> Array:
  """DiffAugment: every image through each transform of `policy` in turn.

  Args:
    x: [B, H, W, C] in [-1, 1]. keys: [B]. policy: of POLICIES.

  Returns:
    [B, H, W, C]; colours may leave [-1, 1].

  Raises:
    UserError: an unknown transform.
  """
  for name in policy:
    if name not in _POLICIES:
      raise UserError(f"config.augment.policy: '{name}' is none of {', '.join(POLICIES)}.")
    number = POLICIES.index(name)
    x = jax.vmap(lambda x, key, fn=_POLICIES[name], i=number: fn(x, jax.random.fold_in(key, i)))(x, keys)
  return x


# ADA: one affine map of coordinates and one of colours an image, each the product of transforms that apply by chance.


def _times(a: Array, b: Array) -> Array:
  """a @ b in full precision: accelerators would round the identity's images."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _matrix(rows: list[list[Array | float]]) -> Array:
  return jnp.stack([jnp.stack([jnp.asarray(v, jnp.float32) for v in row]) for row in rows])


def _shift(dy: Array, dx: Array) -> Array:
  return _matrix([[1, 0, dy], [0, 1, dx], [0, 0, 1]])


def _scale(sy: Array, sx: Array) -> Array:
  return _matrix([[sy, 0, 0], [0, sx, 0], [0, 0, 1]])


def _turn(angle: Array) -> Array:
  c, s = jnp.cos(angle), jnp.sin(angle)
  return _matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _quarter_turns(count: Array) -> Array:
  """Exact: cosines of multiples of pi / 2 are not zero in floating point."""
  c, s = jnp.array([1.0, 0.0, -1.0, 0.0])[count], jnp.array([0.0, 1.0, 0.0, -1.0])[count]
  return _matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]])


class _Chance:
  """Transforms of one image, each drawn from a key of its own and applied with probability p."""

  def __init__(self, key: Key, p: Array):
    self._key, self._p, self._count = key, p, 0

  def _next(self) -> Key:
    self._count += 1
    return jax.random.fold_in(self._key, self._count)

  def applies(self, matrix: Array, p: Array | None = None) -> Array:
    """`matrix` with probability p, else the identity."""
    applied = jax.random.uniform(self._next()) < (self._p if p is None else p)
    return jnp.where(applied, matrix, jnp.eye(len(matrix)))

  def normal(self, std: float) -> Array:
    return std * jax.random.normal(self._next())

  def uniform(self, low: float, high: float) -> Array:
    return jax.random.uniform(self._next(), (), jnp.float32, low, high)

  def integer(self, low: int, high: int) -> Array:
    """From `low` to `high`, both included."""
    return jax.random.randint(self._next(), (), low, high + 1)


def geometric_matrix(key: Key, p: Array, sides: tuple[int, int], groups: tuple[str, ...]) -> Array:
  """The map [3, 3] from a pixel of the result to the place it is taken from, about the centre, in pixels.

  arXiv 2006.06676, appendix B: x-flip, quarter turns, whole translations ('blit'); isotropic scaling, rotation before
  and after anisotropic scaling, fractional translation ('geometric').
  """
  chance, (H, W) = _Chance(key, p), sides
  G = jnp.eye(3)
  if 'blit' in groups:
    G = _times(G, chance.applies(_scale(jnp.float32(1.0), 1.0 - 2.0 * chance.integer(0, 1))))
    turns = chance.integer(0, 3)
    # A quarter turn of an oblong image would leave its frame: half turns only.
    G = _times(G, chance.applies(_quarter_turns(turns if H == W else turns // 2 * 2)))
    dy, dx = (jnp.round(chance.uniform(-_SHIFT, _SHIFT) * side) for side in sides)
    G = _times(G, chance.applies(_shift(dy, dx)))
  if 'geometric' in groups:
    size = jnp.exp2(chance.normal(0.2))
    G = _times(G, chance.applies(_scale(size, size)))
    before = 1.0 - jnp.sqrt(1.0 - p)  # so that either of the two turns happens with probability p
    G = _times(G, chance.applies(_turn(chance.uniform(-math.pi, math.pi)), before))
    stretch = jnp.exp2(chance.normal(0.2))
    G = _times(G, chance.applies(_scale(stretch, 1.0 / stretch)))
    G = _times(G, chance.applies(_turn(chance.uniform(-math.pi, math.pi)), before))
    dy, dx = (chance.normal(_SHIFT) * side for side in sides)
    G = _times(G, chance.applies(_shift(dy, dx)))
  return G


def _reflected(place: Array, side: int) -> Array:
  """Places beyond the edges mirrored at the outermost pixels."""
  period = 2.0 * (side - 1)
  place = jnp.mod(place, period)
  return jnp.minimum(place, period - place)


def resample(x: Array, matrix: Array) -> Array:
  """x [H, W, C] taken at `matrix` [3, 3] times the places of the result, bilinearly, mirrored at the edges.

  Deviation from the paper, which resamples through wavelet filters at twice the resolution.
  """
  H, W, C = x.shape
  rows, columns = jnp.meshgrid(jnp.arange(H) - (H - 1) / 2, jnp.arange(W) - (W - 1) / 2, indexing='ij')
  y = _reflected(matrix[0, 0] * rows + matrix[0, 1] * columns + matrix[0, 2] + (H - 1) / 2, H)
  z = _reflected(matrix[1, 0] * rows + matrix[1, 1] * columns + matrix[1, 2] + (W - 1) / 2, W)
  top, left = (jnp.clip(jnp.floor(place), 0, side - 2).astype(jnp.int32) for place, side in ((y, H), (z, W)))
  fy, fx = (y - top)[..., None], (z - left)[..., None]
  flat = x.reshape(H * W, C)
  at = lambda dy, dx: flat[(top + dy) * W + left + dx]  # noqa: E731
  upper = at(0, 0) * (1.0 - fx) + at(0, 1) * fx
  lower = at(1, 0) * (1.0 - fx) + at(1, 1) * fx
  return upper * (1.0 - fy) + lower * fy


def colour_matrix(key: Key, p: Array) -> Array:
  """The map [4, 4] of (red, green, blue, 1): brightness, contrast, luma flip, hue, saturation (appendix B)."""
  chance = _Chance(key, p)
  axis = jnp.array([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3.0)
  luma, eye = jnp.outer(axis, axis), jnp.eye(4)
  C = chance.applies(eye.at[:3, 3].set(chance.normal(0.2)))
  C = _times(chance.applies(jnp.diag(jnp.ones(4).at[:3].set(jnp.exp2(chance.normal(0.5))))), C)
  C = _times(chance.applies(eye - 2.0 * chance.integer(0, 1) * luma), C)
  angle = chance.uniform(-math.pi, math.pi)
  a = 1.0 / math.sqrt(3.0)
  cross = jnp.zeros((4, 4)).at[:3, :3].set(jnp.array([[0.0, -a, a], [a, 0.0, -a], [-a, a, 0.0]]))
  plane = jnp.diag(jnp.array([1.0, 1.0, 1.0, 0.0])) - luma
  C = _times(
    chance.applies(luma + jnp.cos(angle) * plane + jnp.sin(angle) * cross + jnp.diag(jnp.array([0, 0, 0, 1.0]))), C
  )
  saturation = jnp.exp2(chance.normal(1.0))
  return _times(chance.applies(luma + saturation * plane + jnp.diag(jnp.array([0, 0, 0, 1.0]))), C)


def recolour(x: Array, matrix: Array) -> Array:
  """x [H, W, C] through a map of colours; grey images keep to the grey axis, on which hue and saturation do nothing."""
  if x.shape[-1] == 3:
    return _times(x, matrix[:3, :3].T) + matrix[:3, 3]
  return x * matrix[:3, :3].sum(1).mean() + matrix[:3, 3].mean()


def ada_augment(x: Array, keys: Key, p: Array, groups: tuple[str, ...] = GROUPS) -> Array:
  """ADA's pipeline 'bgc': every transform is applied to every image with probability p.

  Args:
    x: [B, H, W, C] in [-1, 1], C of 1 or 3. keys: [B]. p: [] in [0, 1], may be traced. groups: of GROUPS.

  Returns:
    [B, H, W, C]; exactly x where p is 0.

  Raises:
    UserError: an unknown group, or images that are neither grey nor RGB.
  """
  for name in groups:
    if name not in GROUPS:
      raise UserError(f"config.augment.groups: '{name}' is none of {', '.join(GROUPS)}.")
  if x.shape[-1] not in (1, 3):
    raise UserError(f'config.augment.kind=ada is for grey or RGB images, not for {x.shape[-1]} channels.')
  p = jnp.asarray(p, jnp.float32)

  def one(x: Array, key: Key) -> Array:
    if 'blit' in groups or 'geometric' in groups:
      x = resample(x, geometric_matrix(jax.random.fold_in(key, 0), p, (x.shape[0], x.shape[1]), groups))
    return recolour(x, colour_matrix(jax.random.fold_in(key, 1), p)) if 'color' in groups else x

  return jax.vmap(one)(x, keys)


class AdaState(NamedTuple):
  """The controller of ADA's probability: arrays [], float32."""

  p: Array
  sign_sum: Array  # of the mean signs since the last move
  updates: Array  # since the last move


def ada_start() -> AdaState:
  """No augmentation, nothing seen."""
  # Three buffers: a state is donated, and one buffer cannot be given away twice.
  return AdaState(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


def ada_step(state: AdaState, sign: Array, batch: int, interval: int, target: float, speed: int) -> AdaState:
  """One update of the discriminator seen by the controller (arXiv 2006.06676, section 3.2, the heuristic r_t).

  Every `interval` updates p moves by interval * batch / speed, up if r_t = E[sign(D(real))] was above `target` since
  the last move, down if below; it stays in [0, 1].

  Args:
    state: before.
    sign: [] mean sign of the discriminator's logits of this update's real images.
    batch: real images of an update. interval: updates between two moves.
    target: of r_t. speed: images in which p can go from 0 to 1.
  """
  total, count = state.sign_sum + sign, state.updates + 1.0
  moves = count >= interval
  moved = jnp.clip(state.p + jnp.sign(total / count - target) * (interval * batch / speed), 0.0, 1.0)
  return AdaState(
    jnp.where(moves, moved, state.p),
    jnp.where(moves, 0.0, total),
    jnp.where(moves, 0.0, count),
  )
