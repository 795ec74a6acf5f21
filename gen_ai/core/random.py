"""Named random streams: a key is addressed by (root, stream name, step), never threaded.

Adding a stream disturbs no other, and a resumed run draws what an undisturbed one would have drawn.
"""

import zlib

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array, Key


def root(seed: int | Array) -> Key:
  """The key all streams of one run start from. `seed` may be traced."""
  return jax.random.key(seed)


def stream(key: Key, name: str, step: int | Array = 0) -> Key:
  """The key of stream `name` at `step`; of keys [B] those of each example, at one step or at steps [B]."""
  if key.ndim:
    return jax.vmap(lambda one, at: stream(one, name, at))(key, jnp.broadcast_to(step, key.shape))
  return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


def per_example(key: Key, index: Array) -> Key:
  """Keys [B], one an example: noise that does not depend on how examples are batched or sharded.

  Args:
    key: one key, or keys [B].
    index: int32 [B] example numbers.
  """
  return jax.vmap(jax.random.fold_in, (0 if key.ndim else None, 0))(key, index)


def normal(keys: Key, shape: tuple[int, ...]) -> Array:
  """Standard normal noise float32 [B, *shape], each row by its own of the keys [B]."""
  return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def normal_per_example(key: Key, index: Array, shape: tuple[int, ...]) -> Array:
  """Standard normal noise float32 [B, *shape], each row addressed by its example's number."""
  return normal(per_example(key, index), shape)


def labels(keys: Key, classes: int) -> Array:
  """Labels int32 [B] drawn evenly over `classes`, each by its own of the keys [B]."""
  return jax.vmap(lambda key: jax.random.randint(stream(key, 'label'), (), 0, classes))(keys)
