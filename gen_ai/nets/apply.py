"""What experiments need to use a network: its precision, and the two networks of a GAN applied with their state."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_ai.core.method import Array, Batch, PyTree
from gen_ai.nets import spectral
from gen_ai.nets.gan import Scores

Module = nn.Module  # so that no other room need import Flax


def compute_dtype(precision: str) -> Any:
  """Type of activations and of the weights in matrix products: `config.precision` 'fp32' or 'bf16'."""
  return jnp.bfloat16 if precision == 'bf16' else jnp.float32


def _moving(stats: PyTree, train: bool) -> list[str]:
  """Collections that an application may change: spectral vectors move in `refresh` alone."""
  return [name for name in stats if name != spectral.COLLECTION] if train else []


def generate(net: Module, params: PyTree, stats: PyTree, draws: Batch, train: bool) -> tuple[Array, PyTree]:
  """(images, new stats) of draws {'z', 'noise'} and, under conditions, {'label'}; without `train` stats stay."""
  x, changed = net.apply(
    {'params': params, **stats},
    draws['z'],
    train=train,
    label=draws.get('label'),
    noise=draws['noise'],
    mutable=_moving(stats, train),
  )
  return x, {**stats, **changed}


def discriminate(
  net: Module, params: PyTree, stats: PyTree, x: Array, label: Array | None, train: bool
) -> tuple[Scores, PyTree]:
  """(scores, new stats) of images; without `train` stats stay."""
  scores, changed = net.apply({'params': params, **stats}, x, train=train, label=label, mutable=_moving(stats, train))
  return scores, {**stats, **changed}


def refresh(net: Module, params: PyTree, stats: PyTree, shape: tuple[int, ...]) -> PyTree:
  """The stats with every spectral vector one power iteration on; `shape` is that of one input of the network."""
  if spectral.COLLECTION not in stats:
    return stats
  # Power iteration looks at weights alone: what goes through the network does not matter.
  x, label = jnp.zeros((1, *shape)), jnp.zeros((1,), jnp.int32)
  variables: dict[str, Any] = {'params': params, **stats}
  _, changed = net.apply(variables, x, train=False, label=label, mutable=[spectral.COLLECTION])
  return {**stats, **changed}


def singular_values(stats: PyTree) -> list[Array]:
  """The largest singular value of every normalised weight, float32 [] each; none without spectral normalisation."""
  leaves = jax.tree_util.tree_leaves_with_path(stats.get(spectral.COLLECTION, {}))
  return [leaf for path, leaf in leaves if jax.tree_util.keystr(path[-1:], simple=True) == 'sigma']
