"""Low-rank adapters, arXiv 2106.09685: beside a fixed kernel W two thin ones are trained, W + scale * A B.

A module with a kernel [*batch, *into, *out] gets lora_a [*batch, *into, R] and lora_b [*batch, R, *out], of rank R. B
is zero at first, so that the model begins as it was (section 4.1). Scale is the paper's alpha / R.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_ai.core.method import Array, PyTree

NAMES = ('lora_a', 'lora_b')
# Modules that get adapters, {config.model.lora_on: regular expression}.
ON = {'attention': 'qkv|attention_out', 'all': 'qkv|attention_out|mlp_in|mlp_out|experts_in|experts_out'}


def pair(
  module: nn.Module, rank: int, into: tuple[int, ...], out: tuple[int, ...], batch: tuple[int, ...] = ()
) -> tuple[Array, Array]:
  """The parameters A and B of a module, from within its compact method; A x has the variance of x at first."""
  first = nn.initializers.normal(math.prod(into) ** -0.5)
  a: Array = module.param('lora_a', first, (*batch, *into, rank), jnp.float32)
  b: Array = module.param('lora_b', nn.initializers.zeros, (*batch, rank, *out), jnp.float32)
  return a, b


def product(a: Array, b: Array, shape: tuple[int, ...]) -> Array:
  """A B as a kernel of `shape`, which tells the axes of a batch from those that lead in and out."""
  batch = shape[: a.ndim + b.ndim - 2 - len(shape)]
  rank = a.shape[-1]
  flat = a.reshape(*batch, -1, rank) @ b.reshape(*batch, rank, -1)
  return flat.reshape(shape)


def merged(params: PyTree, scale: float | Array) -> PyTree:
  """The nested dict of parameters with each pair of adapters added to its kernel, and no adapters."""
  if not isinstance(params, Mapping):
    return params
  own: dict[str, Any] = {name: merged(value, scale) for name, value in params.items() if name not in NAMES}
  if 'lora_a' in params:
    a, b = (jnp.asarray(params[name]) for name in NAMES)
    own['kernel'] = own['kernel'] + scale * product(a, b, own['kernel'].shape)
  return own
