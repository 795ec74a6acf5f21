"""Activations by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_ai.core.errors import UserError
from gen_ai.core.method import Array

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'relu': jax.nn.relu,
  'leaky_relu': lambda x: jax.nn.leaky_relu(x, 0.2),  # DCGAN's slope, arXiv 1511.06434
  'elu': jax.nn.elu,
  # The exact GELU, arXiv 1606.08415, through erf: as cheap as the tanh form on CPU; jax.nn.gelu's erfc costs more.
  'gelu': lambda x: 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5)),
  'silu': jax.nn.silu,
  'relu2': lambda x: jnp.square(jax.nn.relu(x)),  # arXiv 2109.08668
  'tanh': jnp.tanh,
}


def activation_fn(name: str) -> Callable[[Array], Array]:
  """The function called `name`; raises UserError that lists the names."""
  if name not in _ACTIVATIONS:
    raise UserError(f'unknown activation {name!r}; choose one of: {", ".join(_ACTIVATIONS)}')
  return _ACTIVATIONS[name]
