"""Spectral normalisation: weights divided by their largest singular value (arXiv 1802.05957, algorithm 1).

The singular vector that power iteration improves is a variable `u` of the collection 'spectral', the value found with
it `sigma`. An iteration runs where a caller makes that collection mutable, and nowhere else: once an update, however
often the network is applied in it, so that penalties, evaluation and accumulated micro-batches see one and the same
function.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from gen_ai.core.method import Array
from gen_ai.nets.bias import add_bias

COLLECTION = 'spectral'
_EPSILON = 1e-12  # of a norm that is divided by


def _unit(vector: Array) -> Array:
  return vector / jnp.maximum(jnp.linalg.norm(vector), _EPSILON)


def power_iteration(matrix: Array, u: Array, improve: bool) -> tuple[Array, Array]:
  """One step towards the largest singular value.

  Args:
    matrix: float32 [M, N].
    u: [N], an estimate of its right singular vector, of any length but 0.
    improve: whether u moves on; if not, the value that belongs to it as it is.

  Returns:
    (u [N] of length 1, sigma []): sigma is differentiable in `matrix`, with the singular vectors held constant (the
    paper's eq. 10).
  """
  constant, u = lax.stop_gradient(matrix), _unit(u)
  v = _unit(constant @ u)
  u = _unit(constant.T @ v) if improve else u
  return u, v @ matrix @ u


def normalise_spectrum(module: nn.Module, kernel: Array) -> Array:
  """`kernel` [..., F] over its largest singular value as a matrix [-1, F]; called inside the module that owns it."""
  matrix = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)
  # The key is asked for at initialisation only.
  u = module.variable(COLLECTION, 'u', lambda: jax.random.normal(module.make_rng('params'), matrix.shape[-1:]))
  sigma = module.variable(COLLECTION, 'sigma', jnp.ones, (), jnp.float32)
  improve = module.is_mutable_collection(COLLECTION)
  better, value = power_iteration(matrix, u.value, improve)
  if improve:
    u.value, sigma.value = lax.stop_gradient(better), lax.stop_gradient(value)
  return kernel / value.astype(kernel.dtype)


class Dense(nn.Module):
  """A dense layer [..., D] -> [..., features], spectrally normalised where `spectral`; parameters as `nn.Dense`."""

  features: int
  spectral: bool = False
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32  # of the computation

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., D] -> [..., features]."""
    kernel = self.param('kernel', self.kernel_init, (x.shape[-1], self.features), jnp.float32)
    kernel = normalise_spectrum(self, kernel) if self.spectral else kernel
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
      y = add_bias(y, bias)
    return y


class Embed(nn.Module):
  """A table of vectors [num, features] by number, spectrally normalised as a matrix where `spectral`."""

  num: int
  features: int
  spectral: bool = False

  @nn.compact
  def __call__(self, index: Array) -> Array:
    """int [B] -> float32 [B, features]."""
    table = self.param('embedding', nn.initializers.normal(1.0 / self.features**0.5), (self.num, self.features))
    return (normalise_spectrum(self, table) if self.spectral else table)[index]
