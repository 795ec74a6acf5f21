"""A method as compiled programs: initialise, train a chunk, evaluate a split, sample. Layouts wrap the same functions.

Every compiled function has the form `fn(floats, state, key, resident, rows)`: the config's traced floats, the state,
the run's root key, the data that lives on the device, and what the feed brings, with leading axes [K, B].
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai import flops, keys
from gen_ai import mesh as mesh_lib
from gen_ai.errors import UserError
from gen_ai.types import Array, Key, Method, PyTree, Reduce, Spec, State, identity

Build = Callable[..., Method]
Compiled = Callable[..., Any]


class Feed(Protocol):
  """What brings batches: see gen_ai.data.feed."""

  resident: dict[str, np.ndarray]

  def gather(self, resident: Any, row: Any) -> Any:
    """The batch that `row` stands for."""


@dataclass(frozen=True)
class CompileStats:
  """What one compilation cost and what the program needs. Bytes per device; flops over all devices."""

  seconds: float
  flops: float  # of one call, matrix products and convolutions
  bytes_accessed: float  # XLA's estimate, a loop's body counted once
  peak_bytes: int  # arguments + outputs + temporaries - aliases


def _stats(compiled: Any, seconds: float, flop_count: float) -> CompileStats:
  costs = compiled.cost_analysis() or {}
  memory = compiled.memory_analysis()
  peak = 0
  if memory is not None:
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    peak -= memory.alias_size_in_bytes
  return CompileStats(seconds, flop_count, float(costs.get('bytes accessed', 0.0)), peak)


# The three functions that layouts compile.


def chunk(make: Callable[[Any], Method], feed: Feed, layout: 'Layout'):
  """One dispatch of training: `lax.scan` of train_step over the rows; returns (state, metrics [K])."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    method = make(floats)

    def body(state: State, row: PyTree):
      batch = layout.constrain(feed.gather(resident, row))
      return method.train_step(layout.whole(state), batch, keys.stream(key, 'train', state.step))

    return jax.lax.scan(body, state, rows)

  return run


def evaluation(make: Callable[[Any], Method], feed: Feed, layout: 'Layout'):
  """eval_step over rows {'row': ..., 'mask': [n, B]}; returns {name: (sums [n], counts [n])} over all devices."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    method = make(floats)

    def body(_: None, row: PyTree):
      batch = layout.constrain({**feed.gather(resident, row['row']), 'mask': row['mask']})
      return None, layout.total(method.eval_step(layout.whole(state), batch, key))

    return jax.lax.scan(body, None, rows)[1]

  return run


def sampling(make: Callable[[Any], Method], layout: 'Layout', n: int):
  """`n` samples."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    del resident, rows
    return make(floats).sample(layout.whole(state), key, n)

  return run


def viewing(make: Callable[[Any], Method], layout: 'Layout', name: str):
  """One of the method's views of the batch that `resident` holds."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    del rows
    return make(floats).views[name](layout.whole(state), resident, key)

  return run


class JitLayout:
  """One global program over a mesh; arrays are global and the compiler inserts the communication."""

  reduce: Reduce = staticmethod(identity)
  total: Reduce = staticmethod(identity)

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

  def adopt(self, state: State) -> State:
    """A restored state, as the programs take it."""
    return state

  def canonical(self, state: State) -> State:
    """A state as checkpoints hold it."""
    return state

  def put_resident(self, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The data set, whole on every device."""
    return {k: jax.make_array_from_callback(v.shape, self.everywhere, partial(np.asarray(v).__getitem__))
            for k, v in arrays.items()}  # fmt: skip

  def put_rows(self, rows: PyTree) -> PyTree:
    """This process's share of rows [K, B, ...] as global arrays."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.rows_sharding, x), rows)

  def compile(self, fn: Callable[..., Any], floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree,
              returns_state: bool) -> tuple[Compiled, CompileStats]:  # fmt: skip
    """Compiles `fn` ahead of time for these arguments; with `returns_state` the state is donated."""
    where = jax.tree.map(lambda x: x.sharding, state)
    jitted = jax.jit(
      fn,
      in_shardings=(self.everywhere, where, self.everywhere, self.everywhere, self.rows_sharding),
      out_shardings=(where, self.everywhere) if returns_state else self.everywhere,
      donate_argnums=(1,) if returns_state else (),
    )
    start = time.perf_counter()
    compiled = jitted.lower(floats, state, key, resident, rows).compile()
    seconds = time.perf_counter() - start
    return compiled, _stats(compiled, seconds, flops.count(fn, floats, state, key, resident, rows))


class PmapLayout:
  """Data parallel: every device runs the per-device program on its slice of the batch and means are taken by pmean.

  The state has a leading axis of local devices. Noise is folded with the device's number, so noisy methods agree with
  the other layouts in distribution, noise-free ones in value.
  """

  AXIS = 'data'

  def __init__(self, config: ConfigDict, devices: list[jax.Device]):
    if config.mesh.fsdp * config.mesh.tensor != 1:
      raise UserError("config.parallel='pmap' is data parallel only: set config.mesh.fsdp=1 and config.mesh.tensor=1, "
                      "or use config.parallel='jit'.")  # fmt: skip
    self.devices = devices
    self.local = [d for d in devices if d.process_index == jax.process_index()]
    self.batch_parts = len(devices)
    self.mesh = Mesh(np.asarray(devices), (self.AXIS,))

  def reduce(self, tree: PyTree) -> PyTree:
    """Mean over devices."""
    return jax.lax.pmean(tree, self.AXIS)

  def total(self, tree: PyTree) -> PyTree:
    """Sum over devices."""
    return jax.lax.psum(tree, self.AXIS)

  def constrain(self, batch: PyTree) -> PyTree:
    """Nothing to keep: a batch is one device's own."""
    return batch

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
    stacked = jax.tree.map(lambda x: np.broadcast_to(x, (len(self.local), *np.shape(x))), tree)
    return jax.pmap(identity, axis_name=self.AXIS, devices=self.devices)(stacked)

  def init(self, fn: Callable[..., State], floats: PyTree, key: Key) -> State:
    """The initial state, the same on every device."""
    return self._replicate(jax.tree.map(np.asarray, jax.jit(fn)(floats, key)))

  def adopt(self, state: State) -> State:
    """A restored state with one copy a device."""
    return self._replicate(jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), state))

  def canonical(self, state: State) -> State:
    """The first device's copy, as a global array where there are several processes."""
    first = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)).reshape(x.shape[1:]), state)
    if jax.process_count() == 1:
      return jax.tree.map(jnp.asarray, first)
    return multihost_utils.host_local_array_to_global_array(first, self.mesh, PartitionSpec())

  def put_resident(self, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """The data set, whole on every device."""
    return self._replicate(dict(arrays))

  def put_rows(self, rows: PyTree) -> PyTree:
    """Rows [K, B, ...] of this process as [devices, K, B / devices, ...]."""
    parts = len(self.local)
    return jax.tree.map(
      lambda x: np.moveaxis(x.reshape(x.shape[0], parts, x.shape[1] // parts, *x.shape[2:]), 1, 0), rows
    )

  def compile(self, fn: Callable[..., Any], floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree,
              returns_state: bool) -> tuple[Compiled, CompileStats]:  # fmt: skip
    """Compiles `fn` ahead of time for these arguments; with `returns_state` the state is donated."""

    def per_device(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
      if returns_state:  # fixed latents of samples and evaluation noise are the same on every device
        key = jax.random.fold_in(key, jax.lax.axis_index(self.AXIS))
      return fn(floats, state, key, resident, rows)

    mapped = jax.pmap(per_device, axis_name=self.AXIS, in_axes=(None, 0, None, 0, 0), devices=self.devices,
                      donate_argnums=(1,) if returns_state else ())  # fmt: skip
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


Layout = JitLayout | PmapLayout


def make_layout(config: ConfigDict, devices: list[jax.Device] | None = None) -> Layout:
  """The layout that `config.parallel` and `config.mesh` describe, over all devices unless told."""
  devices = list(jax.devices() if devices is None else devices)
  return (PmapLayout if config.parallel == 'pmap' else JitLayout)(config, devices)


def check_batch(config: ConfigDict, parts: int) -> None:
  """Raises UserError where a batch does not divide over `parts` devices and the micro-batches."""
  accumulate = config.optim.accumulate
  for field, size, over in (('data.batch_size', config.data.batch_size, parts * accumulate),
                            ('eval.batch_size', config.eval.batch_size, parts)):  # fmt: skip
    if size % over:
      micro = f' x {accumulate} micro-batches' if over != parts else ''
      raise UserError(f'config.{field}={size} does not divide over {parts} device(s){micro}: '
                      f'make it a multiple of {over}, such as {max(1, round(size / over)) * over}.')  # fmt: skip


class Program:
  """The compiled programs of one run.

  Args:
    config: the run's config.
    build: build() of its experiment.
    spec: what the data is like.
    layout: how arrays lie over devices.
  """

  def __init__(self, config: ConfigDict, build: Build, spec: Spec, layout: Layout):
    check_batch(config, layout.batch_parts)
    self.layout = layout
    self.spec = spec
    self.floats = {path: np.float32(value) for path, value in config_lib.traced(config).items()}
    self.key = keys.root(config.run.seed)
    self.eval_key = keys.root(config.eval.seed)
    self.compile_stats: dict[str, CompileStats] = {}

    def make(floats: Mapping[str, Any], reduce: Reduce = layout.reduce) -> Method:
      return build(config_lib.substitute(config, floats), spec, reduce)

    self._make = make
    method = make(self.floats)  # refuses a bad config before anything is traced
    self.batches_per_step = method.batches_per_step
    self.batch_size = config.data.batch_size * method.batches_per_step  # examples in one step
    self.view_names = tuple(method.views)
    self.eval_batch_size = config.eval.batch_size
    self.shapes = jax.eval_shape(self._init, self.floats, keys.stream(self.key, 'init'))

  def _init(self, floats: PyTree, key: Key) -> State:
    return self._make(floats, identity).init(key)

  def init(self) -> State:
    """The state before the first update."""
    return self.layout.init(self._init, self.floats, keys.stream(self.key, 'init'))

  def abstract_state(self) -> PyTree:
    """What a checkpoint is restored into."""
    return self.layout.abstract(self.shapes)

  def parameter_count(self) -> int:
    """Trainable parameters over all networks."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.shapes.params))

  def trainer(self, feed: Feed, state: State, rows: PyTree, name: str = 'train') -> Compiled:
    """Compiles a chunk for rows like `rows`; returns (state, rows) -> (state, {name: float32 [K]})."""
    resident = self.layout.put_resident(feed.resident)
    fn = chunk(self._make, feed, self.layout)
    compiled, stats = self.layout.compile(fn, self.floats, state, self.key, resident, self.layout.put_rows(rows), True)
    self.compile_stats[name] = stats

    def run(state: State, rows: PyTree):
      return compiled(self.floats, state, self.key, resident, self.layout.put_rows(rows))

    return run

  def evaluator(self, feed: Feed, state: State, rows: PyTree) -> Compiled:
    """Compiles evaluation for rows {'row', 'mask'}; returns (state, rows) -> {name: (sums [n], counts [n])}."""
    resident = self.layout.put_resident(feed.resident)
    key = keys.stream(self.eval_key, 'eval')
    fn = evaluation(self._make, feed, self.layout)
    compiled, stats = self.layout.compile(fn, self.floats, state, key, resident, self.layout.put_rows(rows), False)
    self.compile_stats['eval'] = stats
    return lambda state, rows: compiled(self.floats, state, key, resident, self.layout.put_rows(rows))

  def metric_names(self, batch: Mapping[str, np.ndarray], mask: np.ndarray) -> list[str]:
    """Names of the metrics that eval_step gives for a batch like this."""
    eval_step = self._make(self.floats, identity).eval_step
    return sorted(jax.eval_shape(eval_step, self.shapes, {**batch, 'mask': mask}, self.eval_key))

  def sampler(self, state: State, n: int, seed: int | None = None) -> Callable[[State], Array]:
    """Compiles sampling; returns state -> samples [n, ...] of fixed latents, the same for every run of one shape."""
    key = keys.stream(self.eval_key if seed is None else keys.root(seed), 'sample')
    compiled, stats = self.layout.compile(sampling(self._make, self.layout, n), self.floats, state, key, {}, {}, False)
    self.compile_stats['sample'] = stats
    return lambda state: compiled(self.floats, state, key, {}, {})

  def viewers(self, state: State, batch: Mapping[str, np.ndarray]) -> dict[str, Callable[[State], Array]]:
    """Compiles the method's views of one fixed `batch`; returns {name: state -> images [N, H, W, C]}."""
    key = keys.stream(self.eval_key, 'view')
    resident = self.layout.put_resident(batch)

    def viewer(name: str) -> Callable[[State], Array]:
      fn = viewing(self._make, self.layout, name)
      compiled, _ = self.layout.compile(fn, self.floats, state, key, resident, {}, False)
      return lambda state: compiled(self.floats, state, key, resident, {})

    return {name: viewer(name) for name in self.view_names}


def finite(tree: PyTree) -> Array:
  """Whether every float of `tree` is finite: bool []."""
  leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  return jnp.stack(leaves).all()


def first_bad(tree: PyTree) -> str:
  """Path of the first leaf that holds a NaN or an infinity; '' if none does."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
      return jax.tree_util.keystr(path, simple=True, separator='/')
  return ''
