"""How arrays lie over devices, and how a function is compiled for that: a mesh under jit, pmap, or lanes of a run axis.

Layouts compile functions of the form `fn(floats, state, key, resident, rows)` (see `gen_ai.parallel.program`),
whatever these compute.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.core.lowering import under_mesh, under_run_axis
from gen_ai.core.method import Array, Key, PyTree, Reduce, State, identity
from gen_ai.parallel import flops
from gen_ai.parallel import mesh as mesh_lib

Compiled = Callable[..., Any]
LANE_AXES = (0, 0, 0, None, None)  # of (floats, state, key, resident, rows), as vmap's in_axes; None: the same for all


@dataclass(frozen=True)
class CompileStats:
  """What one compilation cost and what the program needs. Bytes per device; flops over all devices."""

  seconds: float
  flops: float  # of one call, matrix products and convolutions
  bytes_accessed: float  # XLA's estimate, a loop's body counted once
  peak_bytes: int  # arguments + outputs + temporaries - aliases
  new_bytes: int = 0  # outputs + temporaries - aliases: what a call takes beside what is there already


def _stats(compiled: Any, seconds: float, flop_count: float) -> CompileStats:
  costs = compiled.cost_analysis() or {}
  memory = compiled.memory_analysis()
  new = arguments = 0
  if memory is not None:
    new = memory.output_size_in_bytes + memory.temp_size_in_bytes - memory.alias_size_in_bytes
    arguments = memory.argument_size_in_bytes
  return CompileStats(seconds, flop_count, float(costs.get('bytes accessed', 0.0)), arguments + new, new)


class JitLayout:
  """One global program over a mesh; arrays are global and the compiler inserts the communication."""

  reduce: Reduce = staticmethod(identity)

  def __init__(self, config: ConfigDict, devices: list[jax.Device]):
    self.mesh = mesh_lib.make_mesh(config.mesh, devices)
    self.min_shard = config.mesh.min_shard
    self.batch_parts = mesh_lib.batch_devices(self.mesh)
    self.everywhere = mesh_lib.replicated(self.mesh)
    self.rows_sharding = NamedSharding(self.mesh, PartitionSpec(None, *mesh_lib.BATCH))

  def constrain(self, batch: PyTree) -> PyTree:
    """Keeps gathered batches split over the mesh, where the compiler might gather them whole."""
    return jax.lax.with_sharding_constraint(batch, NamedSharding(self.mesh, mesh_lib.BATCH))

  def whole(self, state: State) -> State:
    """The parameters and averages gathered over fsdp, as a step uses them; between steps they stay split.

    Left to itself the compiler may split activations by features over fsdp, which splits the batch already: slow, and
    in jax 0.10 and 0.12 wrong on a mesh with data, fsdp and tensor (the contract tests caught it).
    """
    if self.mesh.shape['fsdp'] == 1:
      return state

    def gather(leaf: Array) -> Array:
      spec = mesh_lib.partition(leaf.shape, self.mesh, self.min_shard)
      used = PartitionSpec(*(None if axis == 'fsdp' else axis for axis in spec))
      return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, used))

    return state._replace(params=jax.tree.map(gather, state.params), ema=jax.tree.map(gather, state.ema))

  gathered = staticmethod(identity)

  def local_rows(self, batch_size: int) -> slice:
    """The rows of a global batch that this process loads."""
    index = NamedSharding(self.mesh, mesh_lib.BATCH).addressable_devices_indices_map((batch_size,))
    bounds = [i[0].indices(batch_size) for i in index.values() if i is not None]
    return slice(min(b[0] for b in bounds), max(b[1] for b in bounds))

  def abstract(self, shapes: PyTree) -> PyTree:
    """Shapes of a state with the shardings it has under this layout: what a checkpoint is restored into."""
    shardings = mesh_lib.state_shardings(shapes, self.mesh, self.min_shard)
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
    where = jax.tree.map(lambda x: x.sharding, state)
    jitted = jax.jit(
      fn,
      in_shardings=(self.everywhere, where, self.everywhere, self.everywhere, self.rows_sharding),
      out_shardings=(where, self.everywhere) if returns_state else self.everywhere,
      donate_argnums=(1,) if returns_state else (),
    )
    start = time.perf_counter()
    with under_mesh(self.whole):
      traced = jitted.trace(floats, state, key, resident, rows)  # once, for the program and for the count of its work
    compiled = traced.lower().compile()
    return compiled, _stats(compiled, time.perf_counter() - start, flops.of(traced))


class PmapLayout:
  """Data parallel: every device runs the per-device program on its slice of the batch and means are taken by pmean.

  The state has a leading axis of local devices. Noise is folded with the device's number, so noisy methods agree with
  the other layouts in distribution, noise-free ones in value.
  """

  AXIS = 'data'

  def __init__(self, config: ConfigDict, devices: list[jax.Device]):
    if config.mesh.fsdp * config.mesh.tensor != 1:
      raise UserError(
        "config.parallel='pmap' is data parallel only: set config.mesh.fsdp=1 and config.mesh.tensor=1, "
        "or use config.parallel='jit'."
      )
    self.devices = devices
    self.local = [d for d in devices if d.process_index == jax.process_index()]
    self.batch_parts = len(devices)
    self.mesh = Mesh(np.asarray(devices), (self.AXIS,))

  def reduce(self, tree: PyTree) -> PyTree:
    """Mean over devices."""
    return jax.lax.pmean(tree, self.AXIS)

  def constrain(self, batch: PyTree) -> PyTree:
    """Nothing to keep: a batch is one device's own."""
    return batch

  def gathered(self, tree: PyTree) -> PyTree:
    """What every device computed of its share of a batch, [B, ...] on all of them."""
    return jax.tree.map(partial(jax.lax.all_gather, axis_name=self.AXIS, tiled=True), tree)

  def whole(self, state: State) -> State:
    """Every device has all of it."""
    return state

  def local_rows(self, batch_size: int) -> slice:
    """The rows of a global batch that this process loads."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)

  def abstract(self, shapes: PyTree) -> PyTree:
    """Shapes of a state as checkpoints hold it."""
    where = NamedSharding(self.mesh, PartitionSpec())
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes)

  def _replicate(self, tree: PyTree) -> PyTree:
    if not jax.tree.leaves(tree):  # pmap wants an argument
      return tree
    stacked = jax.tree.map(lambda x: np.broadcast_to(x, (len(self.local), *np.shape(x))), tree)
    return jax.pmap(identity, axis_name=self.AXIS, devices=self.devices)(stacked)

  def init(self, fn: Callable[..., State], floats: PyTree, key: Key) -> State:
    """The initial state, the same on every device."""
    return self._replicate(jax.tree.map(np.asarray, jax.jit(fn)(floats, key)))

  def join(self, states: Sequence[State]) -> State:
    """The one restored state with a copy a device."""
    (state,) = states
    return self._replicate(jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), state))

  def split(self, state: State, lanes: Sequence[int]) -> Iterator[State]:
    """The first device's copy, as a global array where there are several processes."""
    if not lanes:
      return iter(())
    first = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)).reshape(x.shape[1:]), state)
    if jax.process_count() == 1:
      return iter([jax.tree.map(jnp.asarray, first)])
    return iter([multihost_utils.host_local_array_to_global_array(first, self.mesh, PartitionSpec())])

  def per_lane(self, tree: PyTree) -> list[PyTree]:
    """What a program returned, on the host, for the one run there is; waits for it."""
    return [jax.tree.map(np.asarray, tree)]

  over_lanes = staticmethod(identity)

  def put_resident(self, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The data set, whole on every device."""
    return self._replicate(dict(arrays))

  def put_rows(self, rows: PyTree, by_lane: bool = False) -> PyTree:
    """Rows [K, B, ...] of this process as [devices, K, B / devices, ...]. There are no lanes."""
    del by_lane
    parts = len(self.local)
    return jax.tree.map(
      lambda x: np.moveaxis(x.reshape(x.shape[0], parts, x.shape[1] // parts, *x.shape[2:]), 1, 0), rows
    )

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

    def per_device(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
      if returns_state:  # fixed latents of samples and evaluation noise are the same on every device
        key = jax.random.fold_in(key, jax.lax.axis_index(self.AXIS))
      return fn(floats, state, key, resident, rows)

    mapped = jax.pmap(
      per_device,
      axis_name=self.AXIS,
      in_axes=(None, 0, None, 0, 0),
      devices=self.devices,
      donate_argnums=(1,) if returns_state else (),
    )
    start = time.perf_counter()
    compiled = mapped.lower(floats, state, key, resident, rows).compile()
    seconds = time.perf_counter() - start
    # Over several processes JAX compares the global shapes of a compiled pmap with this process's share, and refuses.
    execute = compiled if jax.process_count() == 1 else mapped

    def call(*args: Any):
      out = execute(*args)
      first = partial(jax.tree.map, lambda x: x.addressable_data(0).reshape(x.shape[1:]))
      return (out[0], first(out[1])) if returns_state else first(out)

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (state, resident, rows))
    count = jax.vmap(partial(per_device, floats), axis_name=self.AXIS, in_axes=(0, None, 0, 0), axis_size=1)
    wide = jax.tree.map(lambda s: jax.ShapeDtypeStruct((1, *s.shape), s.dtype), one)
    total = flops.count(count, wide[0], key, *wide[1:]) * self.batch_parts
    return call, _stats(compiled, seconds, total)


class LaneLayout:
  """Runs as lanes of one program: a run axis, which is sharded over devices.

  A lane lives whole on one device and no device talks to another. The number of lanes is a multiple of that of devices.
  The lanes of one device are computed side by side (`vmap`) on an accelerator, which one small run leaves idle. A CPU
  is kept busy by one run, and its caches hold the state of one but not of many: there they take turns (`lax.map`), a
  whole chunk each, and compute what the run alone does. `benchmarks.lanes` measures both.

  Args:
    devices: over which lanes are spread.
    mapping: 'vmap' or 'map'; '' chooses by the platform.
  """

  batch_parts = 1
  reduce: Reduce = staticmethod(identity)
  constrain = staticmethod(identity)
  gathered = staticmethod(identity)
  whole = staticmethod(identity)

  def __init__(self, devices: list[jax.Device], mapping: str = ''):
    self.devices = devices
    self.mapping = mapping or ('map' if devices[0].platform == 'cpu' else 'vmap')
    self.mesh = Mesh(np.asarray(devices), ('run',), axis_types=(AxisType.Auto,))
    self.everywhere = mesh_lib.replicated(self.mesh)
    self.by_lane = NamedSharding(self.mesh, PartitionSpec('run'))

  def local_rows(self, batch_size: int) -> slice:
    """All rows: packed programs have one process."""
    return slice(0, batch_size)

  def abstract(self, shapes: PyTree) -> PyTree:
    """Shapes of one lane's state, as its checkpoint is restored: on the first device."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), shapes)

  def init(self, fn: Callable[..., State], floats: PyTree, key: Key) -> State:
    """The initial states [R, ...]."""
    return jax.jit(self.over_lanes(fn, (0, 0)), out_shardings=self.by_lane)(floats, key)

  def join(self, states: Sequence[State]) -> State:
    """States of single lanes, on the host or anywhere, as one state [R, ...]."""
    host = [jax.device_get(state) for state in states]
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *host), self.by_lane)

  def split(self, state: State, lanes: Sequence[int]) -> Iterator[State]:
    """The states of `lanes` as checkpoints hold them, one after the other on the first device."""
    host = jax.device_get(state) if lanes else state
    for lane in lanes:
      yield jax.tree.map(lambda leaf, at=lane: jax.device_put(leaf[at], self.devices[0]), host)

  def per_lane(self, tree: PyTree) -> list[PyTree]:
    """What a program returned, on the host, lane by lane; waits for it."""
    host = jax.device_get(tree)
    return [jax.tree.map(lambda leaf, at=lane: leaf[at], host) for lane in range(len(jax.tree.leaves(host)[0]))]

  def over_lanes(self, fn: Callable[..., Any], axes: Sequence[Any] = (0,)) -> Callable[..., Any]:
    """`fn` of one lane's arrays as one of all lanes'; `axes` as vmap's in_axes, 0 or None."""
    if self.mapping == 'vmap':
      return jax.vmap(fn, in_axes=tuple(axes))

    def in_turn(*arguments: Any) -> Any:
      def one(own: list[Any]) -> Any:
        left = iter(own)
        return fn(*(whole if axis is None else next(left) for whole, axis in zip(arguments, axes, strict=True)))

      return jax.lax.map(one, [part for part, axis in zip(arguments, axes, strict=True) if axis is not None])

    return in_turn

  def put_resident(self, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The data set, whole on every device, once for all its lanes."""
    return jax.device_put(dict(arrays), self.everywhere)

  def put_rows(self, rows: PyTree, by_lane: bool = False) -> PyTree:
    """Rows [K, B, ...] that all lanes share, on every device; rows [R, K, B, ...] `by_lane`, each where its lane is."""
    return jax.device_put(rows, self.by_lane if by_lane else self.everywhere)

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
    """Compiles `fn` over lanes; `axes` are vmap's in_axes. With `returns_state` the state is donated."""
    spread = self.over_lanes(fn, axes)
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec('run') for axis in axes)
    where = tuple(NamedSharding(self.mesh, spec) for spec in specs)
    jitted = jax.jit(
      jax.shard_map(spread, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec('run'), check_vma=False),
      in_shardings=where,
      out_shardings=self.by_lane,
      donate_argnums=(1,) if returns_state else (),
    )
    arguments = (floats, state, key, resident, rows)
    start = time.perf_counter()
    with under_run_axis(self.mapping == 'vmap'):
      traced = jitted.trace(*arguments)
      compiled = traced.lower().compile()
    return compiled, _stats(compiled, time.perf_counter() - start, flops.of(traced))


Layout = JitLayout | PmapLayout | LaneLayout


def make_layout(config: ConfigDict, devices: list[jax.Device] | None = None) -> Layout:
  """The layout that `config.parallel` and `config.mesh` describe, over all devices unless told."""
  devices = list(jax.devices() if devices is None else devices)
  return (PmapLayout if config.parallel == 'pmap' else JitLayout)(config, devices)


def check_batch(config: ConfigDict, parts: int) -> None:
  """Raises UserError where a batch does not divide over `parts` devices and the micro-batches."""
  accumulate = config.optim.accumulate
  for field, size, over in (
    ('data.batch_size', config.data.batch_size, parts * accumulate),
    ('eval.batch_size', config.eval.batch_size, parts),
  ):
    if size % over:
      micro = f' x {accumulate} micro-batches' if over != parts else ''
      raise UserError(
        f'config.{field}={size} does not divide over {parts} device(s){micro}: '
        f'make it a multiple of {over}, such as {max(1, round(size / over)) * over}.'
      )
