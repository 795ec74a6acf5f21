"""Whether a state is finite, and which tensor of it is not."""

import jax
import jax.numpy as jnp

from gen_ai.core.method import Array, PyTree


def finite(tree: PyTree) -> Array:
  """Whether every float of `tree` is finite: bool []."""
  leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  return jnp.stack(leaves).all()


def first_bad(tree: PyTree) -> str:
  """Path of the first leaf that holds a NaN or an infinity; '' if none does."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
      return jax.tree_util.keystr(path, simple=True, separator='/')
  return ''
