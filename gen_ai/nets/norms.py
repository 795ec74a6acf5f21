"""Normalisation layers: batch moments of the global batch, and a choice of layer by name.

Layer and group normalisation are Flax's, which compute their moments in float32 whatever `dtype` is.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Reduce, identity

NORMS = ('none', 'batch', 'group')
GROUP_SIZE = 16  # channels a group, arXiv 1803.08494, table 3: as good as 32 groups


class BatchNorm(nn.Module):
  """Batch normalisation, arXiv 1502.03167, algorithms 1 and 2, with moments of the global batch.

  Under jit arrays are global and `reduce` is the identity; under pmap it is `lax.pmean`. The variance is taken in two
  passes, because E[x^2] - E[x]^2 cancels. Running averages live in the collection 'batch_stats' as `mean` and `var`
  [C], biased variance, like Flax's own.
  """

  reduce: Reduce = identity
  momentum: float = 0.9  # the share of the running average that survives an update
  epsilon: float = 1e-5
  dtype: Any = jnp.float32  # of the result; moments and normalisation are float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """[..., C] -> [..., C]: by the batch's moments if `train`, by the running averages if not."""
    C = x.shape[-1]
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (C,), jnp.float32)
    running_var = self.variable('batch_stats', 'var', jnp.ones, (C,), jnp.float32)
    scale = self.param('scale', nn.initializers.ones, (C,), self.param_dtype)
    bias = self.param('bias', nn.initializers.zeros, (C,), self.param_dtype)
    x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    if train:
      # Init runs outside pmap, where there is no axis to reduce over; its outputs are thrown away.
      reduce = identity if self.is_initializing() else self.reduce
      axes = tuple(range(x.ndim - 1))
      mean = reduce(x.mean(axes))
      var = reduce(((x - mean) ** 2).mean(axes))
      if not self.is_initializing():
        running_mean.value = self.momentum * running_mean.value + (1.0 - self.momentum) * mean
        running_var.value = self.momentum * running_var.value + (1.0 - self.momentum) * var
    else:
      mean, var = running_mean.value, running_var.value
    return ((x - mean) / jnp.sqrt(var + self.epsilon) * scale + bias).astype(self.dtype)


def normalise(kind: str, x: Array, train: bool, reduce: Reduce = identity, dtype: Any = jnp.float32) -> Array:
  """Applies a layer of `kind` inside a compact module, as a submodule of the caller.

  Args:
    kind: 'none', 'batch' or 'group' (groups of 16 channels, or of the greatest divisor of 16 that fits).
    x: [B, ..., C].
    train: whether batch normalisation uses and records the batch's moments.
    reduce: see `BatchNorm`.
    dtype: of the result.

  Returns:
    [B, ..., C].

  Raises:
    UserError: unknown kind.
  """
  if kind not in NORMS:
    raise UserError(f'unknown norm {kind!r}; choose one of: {", ".join(NORMS)}')
  if kind == 'batch':
    return BatchNorm(reduce=reduce, dtype=dtype)(x, train)
  if kind == 'group':
    return nn.GroupNorm(num_groups=None, group_size=math.gcd(GROUP_SIZE, x.shape[-1]), dtype=dtype)(x)
  return x
