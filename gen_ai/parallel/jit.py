"""One global program over a device mesh (`config.parallel=jit`)."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gen_ai.core.lowering import MeshHooks, under_mesh
from gen_ai.core.method import Array, Key, PyTree, Reduce, State, identity
from gen_ai.parallel import mesh as mesh_lib
from gen_ai.parallel.compiled import LANE_AXES, Compiled, CompileStats, Staged, stats


class JitLayout:
  """One global program over a mesh; arrays are global and the compiler inserts the communication."""

  reduce: Reduce = staticmethod(identity)

  def __init__(self, config: ConfigDict, devices: list[jax.Device]):
    self.mesh = mesh_lib.make_mesh(config.mesh, devices)
    self.min_shard = config.mesh.min_shard
    self.table: Mapping[str, Sequence[str]] = {}  # of shardings by name, which the program takes from its method
    self.batch_parts = mesh_lib.batch_devices(self.mesh)
    self.batch = mesh_lib.BATCH  # how a batch is split
    self.everywhere = mesh_lib.replicated(self.mesh)
    self.rows_sharding = NamedSharding(self.mesh, PartitionSpec(None, *mesh_lib.BATCH))

  def constrain(self, batch: PyTree) -> PyTree:
    """Keeps gathered batches split over the mesh, where the compiler might gather them whole."""
    return jax.lax.with_sharding_constraint(batch, NamedSharding(self.mesh, self.batch))

  def gather_params(self, state: State) -> State:
    """The parameters and averages gathered over fsdp, as a step uses them; between steps they stay split.

    Left to itself the compiler may split activations by features over fsdp, which splits the batch already: slow, and
    in jax 0.10 and 0.12 wrong on a mesh with data, fsdp and tensor (the contract tests caught it). A network with a
    table gathers its own where it uses them, by `gather_layer`.
    """
    if self.mesh.shape['fsdp'] == 1 or self.table:
      return state

    def gather(path: Any, leaf: Array) -> Array:
      return jax.lax.with_sharding_constraint(leaf, self._without_fsdp(self._spec(path, leaf)))

    gathered = jax.tree_util.tree_map_with_path(gather, (state.params, state.ema))
    return state._replace(params=gathered[0], ema=gathered[1])

  def gather_layer(self, params: PyTree) -> PyTree:
    """Named parameters, of one layer of a scan or of none, gathered over fsdp; their gradients are split again."""
    if self.mesh.shape['fsdp'] == 1 or not self.table:
      return params
    return jax.tree_util.tree_map_with_path(lambda path, leaf: self._gathered(self._spec(path, leaf), leaf), params)

  def _gathered(self, spec: PartitionSpec, leaf: Array) -> Array:
    split = NamedSharding(self.mesh, spec)

    @jax.custom_vjp
    def gather(leaf: Array) -> Array:
      return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(leaf, split), self._without_fsdp(spec))

    # JAX would gather the gradient as well before it splits it: every device would be sent all of it.
    gather.defvjp(lambda leaf: (gather(leaf), None), lambda _, grad: (jax.lax.with_sharding_constraint(grad, split),))
    return gather(leaf)

  def constrain_batch(self, x: PyTree) -> PyTree:
    """Activations [B, ...] split by examples alone."""
    parts = self.batch_parts
    if self.mesh.size == 1:
      return x
    return jax.tree.map(lambda a: a if a.shape[0] % parts else self.constrain(a), x)

  def constrain_features(self, x: Array) -> Array:
    """Activations [B, ..., D] split by features over fsdp, and by examples over the other axes of a batch."""
    fsdp = self.mesh.shape['fsdp']
    if fsdp == 1 or not self.table or x.shape[0] % self.batch_parts or x.shape[-1] % fsdp:
      return x
    others = tuple(axis for axis in self.batch[0] if axis != 'fsdp')
    spec = PartitionSpec(others, *(None,) * (x.ndim - 2), 'fsdp')
    return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

  def apart(self, fn: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """`fn` of each part of the axis data by itself, see `gen_ai.core.lowering.apart`: leaves [data, ...]."""
    parts = self.mesh.shape['data']
    if parts == 1:
      return fn
    within = copy.copy(self)
    within.batch = PartitionSpec(tuple(axis for axis in self.batch[0] if axis != 'data'))
    within.batch_parts = self.batch_parts // parts

    def of_part(rows: PyTree) -> PyTree:
      with under_mesh(within.hooks()):
        return fn(rows)

    def run(rows: PyTree) -> PyTree:
      # Devices lie along data first, so that these are the rows that they have.
      split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), rows)
      split = jax.lax.with_sharding_constraint(split, NamedSharding(self.mesh, PartitionSpec('data', *within.batch)))
      return jax.tree.map(self._of_parts, jax.vmap(of_part, spmd_axis_name='data')(split))

    return run

  def _of_parts(self, leaf: Array) -> Array:
    rest = (PartitionSpec.UNCONSTRAINED,) * (leaf.ndim - 1)
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, PartitionSpec('data', *rest)))

  def together(self, tree: PyTree) -> PyTree:
    """Means over the parts of `apart`."""
    return tree if self.mesh.shape['data'] == 1 else jax.tree.map(lambda x: x.mean(0), tree)

  def hooks(self) -> MeshHooks:
    """What this layout does inside a step."""
    return MeshHooks(
      self.gather_params,
      self.gather_layer,
      self.constrain_batch,
      self.constrain_features,
      self.apart,
      self.together,
    )

  def _spec(self, path: Any, leaf: Any) -> PartitionSpec:
    if self.table:
      return mesh_lib.named_partition(path, leaf.shape, self.mesh, self.min_shard, self.table)
    return mesh_lib.partition(leaf.shape, self.mesh, self.min_shard)

  def _without_fsdp(self, spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec(*(None if axis == 'fsdp' else axis for axis in spec)))

  gathered = staticmethod(identity)

  def local_rows(self, batch_size: int) -> slice:
    """The rows of a global batch that this process loads."""
    index = NamedSharding(self.mesh, mesh_lib.BATCH).addressable_devices_indices_map((batch_size,))
    bounds = [i[0].indices(batch_size) for i in index.values() if i is not None]
    return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))

  def abstract(self, shapes: PyTree) -> PyTree:
    """Shapes of a state with the shardings it has under this layout: what a checkpoint is restored into."""
    shardings = mesh_lib.state_shardings(shapes, self.mesh, self.min_shard, self.table)
    return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings)

  def init(self, fn: Callable[..., State], floats: PyTree, key: Key) -> State:
    """The initial state, made where it will live."""
    abstract = self.abstract(jax.eval_shape(fn, floats, key))
    return jax.jit(fn, out_shardings=jax.tree.map(lambda s: s.sharding, abstract))(floats, key)

  def join(self, states: Sequence[State]) -> State:
    """The one restored state, as the programs take it."""
    (state,) = states
    return state

  def split(self, state: State, lanes: Sequence[int]) -> Iterator[State]:
    """A state as checkpoints hold it, of the one run there is."""
    return iter([state for _ in lanes])

  def per_lane(self, tree: PyTree) -> list[PyTree]:
    """What a program returned, on the host, for the one run there is; waits for it."""
    return [jax.tree.map(np.asarray, tree)]

  over_lanes = staticmethod(identity)
  handed_on = staticmethod(identity)

  def put_resident(self, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The data set, whole on every device."""
    return {
      k: jax.make_array_from_callback(v.shape, self.everywhere, partial(np.asarray(v).__getitem__))
      for k, v in arrays.items()
    }

  def put_rows(self, rows: PyTree, by_lane: bool = False) -> PyTree:
    """This process's share of rows [K, B, ...] as global arrays. There are no lanes."""
    del by_lane
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.rows_sharding, x), rows)

  def shapes(self, state: PyTree, resident: PyTree, rows: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """(state, resident, rows) as `stage` takes them where there are no arrays, from their shapes."""

    def placed(tree: PyTree, where: NamedSharding) -> PyTree:
      return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)

    return self.abstract(state), placed(dict(resident), self.everywhere), placed(rows, self.rows_sharding)

  def stage(
    self,
    fn: Callable[..., Any],
    floats: PyTree,
    state: State,
    key: Key,
    resident: PyTree,
    rows: PyTree,
    returns_state: bool,
  ) -> Staged:
    """Traces and lowers `fn` for these arguments or their shapes; with `returns_state` the state is donated."""
    where = jax.tree.map(lambda x: x.sharding, state)
    jitted = jax.jit(
      fn,
      in_shardings=(self.everywhere, where, self.everywhere, self.everywhere, self.rows_sharding),
      out_shardings=(where, self.everywhere) if returns_state else self.everywhere,
      donate_argnums=(1,) if returns_state else (),
    )
    with under_mesh(self.hooks()):
      traced = jitted.trace(floats, state, key, resident, rows)  # once, for the program and for the count of its work
    return Staged(traced.lower(), lambda: traced.jaxpr)

  def compile(
    self,
    fn: Callable[..., Any],
    floats: PyTree,
    state: State,
    key: Key,
    resident: PyTree,
    rows: PyTree,
    returns_state: bool,
    axes: Sequence[Any] = LANE_AXES,
  ) -> tuple[Compiled, CompileStats]:
    """Compiles `fn` ahead of time for these arguments; with `returns_state` the state is donated. No lanes, no axes."""
    del axes
    start = time.perf_counter()
    staged = self.stage(fn, floats, state, key, resident, rows, returns_state)
    compiled = staged.lowered.compile()
    return compiled, stats(compiled, time.perf_counter() - start, staged.flops)
