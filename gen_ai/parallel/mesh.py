"""The device mesh and how arrays are laid over it."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.core.method import PyTree

AXES = ('data', 'fsdp', 'tensor')
BATCH = PartitionSpec(('data', 'fsdp'))  # a batch is split over both axes


def make_mesh(mesh: ConfigDict, devices: Sequence[jax.Device]) -> Mesh:
  """Mesh with axes data, fsdp and tensor over all `devices`.

  Raises:
    UserError: the axes do not multiply to the number of devices.
  """
  rest = mesh.fsdp * mesh.tensor
  data = len(devices) // rest if mesh.data == -1 else mesh.data
  if data * rest != len(devices) or data < 1:
    raise UserError(
      f'config.mesh is data={mesh.data}, fsdp={mesh.fsdp}, tensor={mesh.tensor}, which does not fit {len(devices)} '
      f'device(s): their product must be that number (data=-1 takes what is left).'
    )
  grid = np.asarray(devices).reshape(data, mesh.fsdp, mesh.tensor)
  # Auto: the compiler chooses the layout of intermediates, so that networks need no annotations.
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def batch_devices(mesh: Mesh) -> int:
  """Into how many parts a batch is split."""
  return mesh.shape['data'] * mesh.shape['fsdp']


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


def state_shardings(shapes: PyTree, mesh: Mesh, min_shard: int) -> PyTree:
  """Shardings for a state whose shapes are `shapes` (from eval_shape): parameters and their moments alike."""
  return jax.tree.map(lambda leaf: NamedSharding(mesh, partition(leaf.shape, mesh, min_shard)), shapes)


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device."""
  return NamedSharding(mesh, PartitionSpec())
