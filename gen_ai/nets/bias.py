"""Adding a bias in low precision."""

import jax.numpy as jnp

from gen_ai.core.method import Array


def add_bias(y: Array, bias: Array) -> Array:
  """y [..., F] + bias [F] in y's type, added in float32.

  The gradient of a bias is a sum over all pixels of a batch, which stops growing at some 256 terms in bfloat16.
  """
  return (y.astype(jnp.float32) + bias).astype(y.dtype)
