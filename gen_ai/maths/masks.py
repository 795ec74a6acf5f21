"""Masks of images to be completed: float32 [B, H, W, 1], 1 where pixels are hidden; drawn by example."""

import jax
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Key

KINDS = ('box', 'half', 'centre')


def _between(side: int, first: Array, size: Array | int) -> Array:
  place = jnp.arange(side)
  return (place >= first) & (place < first + size)


def _box(key: Key, sides: tuple[int, int]) -> Array:
  """A box of a quarter to three quarters of each side, anywhere inside."""
  rows = []
  for side, k in zip(sides, jax.random.split(key), strict=True):
    size_key, place_key = jax.random.split(k)
    size = jax.random.randint(size_key, (), -(-side // 4), 3 * side // 4 + 1)
    rows.append(_between(side, jax.random.randint(place_key, (), 0, side - size + 1), size))
  return rows[0][:, None] & rows[1][None, :]


def _half(key: Key, sides: tuple[int, int]) -> Array:
  """The upper, lower, left or right half."""
  H, W = sides
  masks = jnp.stack(
    [jnp.broadcast_to(_between(H, first, H - H // 2)[:, None], sides) for first in (jnp.int32(0), jnp.int32(H // 2))]
    + [jnp.broadcast_to(_between(W, first, W - W // 2)[None, :], sides) for first in (jnp.int32(0), jnp.int32(W // 2))]
  )
  return masks[jax.random.randint(key, (), 0, 4)]


def _centre(key: Key, sides: tuple[int, int]) -> Array:
  """The middle box of half the sides, always."""
  del key
  bands = [_between(side, jnp.int32(side // 4), side // 2) for side in sides]
  return bands[0][:, None] & bands[1][None, :]


_MAKERS = {'box': _box, 'half': _half, 'centre': _centre}


def draw(kind: str, keys: Key, sides: tuple[int, int]) -> Array:
  """Masks of `kind` by keys [B]: float32 [B, H, W, 1]. Raises UserError for an unknown kind."""
  if kind not in _MAKERS:
    raise UserError(f"config.model.mask='{kind}' is none of {', '.join(KINDS)}.")
  return jax.vmap(lambda key: _MAKERS[kind](key, sides))(keys)[..., None].astype(jnp.float32)


def check(mask: Array, image_shape: tuple[int, ...]) -> None:
  """Raises UserError for a mask that does not fit images [B, H, W, C]: it is [B, H, W, 1]."""
  wanted = (*image_shape[:3], 1)
  if tuple(mask.shape) != wanted:
    raise UserError(
      f'a mask of shape {list(mask.shape)} does not fit images of shape {list(image_shape)}: it must be '
      f'{list(wanted)}, 1 where a pixel is hidden and 0 where it is known.'
    )


def hide(x: Array, mask: Array) -> Array:
  """x [B, H, W, C] in [-1, 1] with hidden pixels at 0, mid-grey."""
  return x * (1.0 - mask)


def paste(x: Array, drawn: Array, mask: Array) -> Array:
  """`drawn` where pixels are hidden, x itself where they are known."""
  return jnp.where(mask > 0.5, drawn, x)


def over_hidden(values: Array, mask: Array) -> Array:
  """Mean over the hidden pixels of every image: [B, H, W, C], [B, H, W, 1] -> float32 [B]."""
  return (values * mask).sum((1, 2, 3)) / jnp.maximum(mask.sum((1, 2, 3)) * values.shape[-1], 1.0)
