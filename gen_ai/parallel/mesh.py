"""The device mesh and how arrays are laid over it: by the names of parameters, or by their shapes."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.core.method import PyTree
from gen_ai.core.names import ends_in, name_of

AXES = ('data', 'fsdp', 'expert', 'tensor')
BATCH = PartitionSpec(('data', 'fsdp', 'expert'))  # a batch is split over these axes
# What an axis of a parameter is, by a method's table (`gen_ai.core.method.Method.sharding`), and what splits it.
SPLIT_BY = {
  'embed': 'fsdp',
  'heads': 'tensor',
  'mlp': 'tensor',
  'vocab': 'tensor',
  'expert': 'expert',
  'context': None,
  '': None,
}
LAYER = 'layer'  # the axis of a scan over layers, which is never split: its slices are gathered one by one


def make_mesh(mesh: ConfigDict, devices: Sequence[jax.Device]) -> Mesh:
  """Mesh with axes data, fsdp, expert and tensor over all `devices`.

  Raises:
    UserError: the axes do not multiply to the number of devices.
  """
  rest = mesh.fsdp * mesh.expert * mesh.tensor
  data = len(devices) // rest if mesh.data == -1 else mesh.data
  if data * rest != len(devices) or data < 1:
    raise UserError(
      f'config.mesh is data={mesh.data}, fsdp={mesh.fsdp}, expert={mesh.expert}, tensor={mesh.tensor}, which does not '
      f'fit {len(devices)} device(s): their product must be that number (data=-1 takes what is left).'
    )
  grid = np.asarray(devices).reshape(data, mesh.fsdp, mesh.expert, mesh.tensor)
  # Auto: the compiler chooses the layout of intermediates, so that networks need no annotations.
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 4)


def batch_devices(mesh: Mesh) -> int:
  """Into how many parts a batch is split."""
  return mesh.shape['data'] * mesh.shape['fsdp'] * mesh.shape['expert']


def partition(shape: Sequence[int], mesh: Mesh, min_shard: int) -> PartitionSpec:
  """How one parameter-like array is split.

  The tensor axis takes the largest dimension it divides (for a Transformer: the columns of the widening matrices, the
  rows of the narrowing ones); fsdp takes the largest one left. Arrays below `min_shard` elements stay whole: gathering
  them would cost more than they weigh.
  """
  spec: list[str | None] = [None] * len(shape)
  if math.prod(shape) < min_shard:
    return PartitionSpec()
  for axis in ('tensor', 'fsdp'):
    size = mesh.shape[axis]
    free = [d for d, length in enumerate(shape) if spec[d] is None and length % size == 0]
    if size > 1 and free:
      spec[max(free, key=lambda d: shape[d])] = axis
  return PartitionSpec(*spec)


def row_of(path: Any, table: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
  """What the axes of the parameter at `path` of a tree are: the only row of the table that its name ends in.

  Raises:
    UserError: none or several do.
  """
  name = name_of(path)
  rows = [tuple(axes) for pattern, axes in table.items() if ends_in(name, pattern)]
  if len(rows) != 1:
    raise UserError(f'the parameter {name} matches {len(rows)} rows of the table of shardings; it must match one.')
  return rows[0]


def named_partition(
  path: Any, shape: Sequence[int], mesh: Mesh, min_shard: int, table: Mapping[str, Sequence[str]]
) -> PartitionSpec:
  """How one parameter-like array is split, by its name.

  Args:
    path: of a tree that holds it, a state or one layer of a scan.
    shape: with or without the axis of layers.
    mesh: over which it lies.
    min_shard: arrays of fewer elements stay whole.
    table: {end of a name: what its axes are}; () for parameters of any shape, whole on every device.

  Raises:
    UserError: a name that does not match one row, or heads that do not divide over the tensor axis.
  """
  if not shape:
    return PartitionSpec()
  axes = row_of(path, table)
  if not axes:
    return PartitionSpec()
  axes = axes if len(axes) == len(shape) else tuple(axis for axis in axes if axis != LAYER)
  name = name_of(path)
  if len(axes) != len(shape):
    raise UserError(f'the parameter {name} has the shape {list(shape)}, the table of shardings names {axes}.')
  tensor = mesh.shape['tensor']
  if 'heads' in axes and (heads := shape[axes.index('heads')]) % tensor:
    raise UserError(f'config.mesh.tensor={tensor} does not divide the {heads} heads of keys and values of {name}.')
  if math.prod(shape) < min_shard:
    return PartitionSpec()
  by = [SPLIT_BY.get(axis) for axis in axes]
  return PartitionSpec(
    *(a if a and mesh.shape[a] > 1 and n % mesh.shape[a] == 0 else None for a, n in zip(by, shape, strict=True))
  )


def state_shardings(
  shapes: PyTree, mesh: Mesh, min_shard: int, table: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> PyTree:
  """Shardings for a state whose shapes are `shapes` (from eval_shape): parameters and their moments alike.

  Args:
    shapes: of the state.
    mesh: over which it lies.
    min_shard: arrays of fewer elements stay whole.
    table: of names, see `named_partition`; without one the shapes decide, see `partition`.
  """

  params = jax.tree_util.tree_leaves_with_path(getattr(shapes, 'params', ()))
  known = tuple(f'/{name_of(path)}' for path, _ in params)

  def sharding(path: Any, leaf: Any) -> NamedSharding:
    # An optimiser may keep numbers that are of no parameter, as Muon keeps coefficients.
    if table and name_of(path).startswith('opt_state/') and not name_of(path).endswith(known):
      return replicated(mesh)
    if table:
      return NamedSharding(mesh, named_partition(path, leaf.shape, mesh, min_shard, table))
    return NamedSharding(mesh, partition(leaf.shape, mesh, min_shard))

  return jax.tree_util.tree_map_with_path(sharding, shapes)


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device."""
  return NamedSharding(mesh, PartitionSpec())
