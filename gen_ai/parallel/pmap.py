"""A program on every device, each with its part of the batch (`config.parallel=pmap`)."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gen_ai.core.errors import UserError
from gen_ai.core.method import Key, PyTree, State, identity
from gen_ai.parallel.compiled import LANE_AXES, Compiled, CompileStats, Staged, stats


class PmapLayout:
  """Data parallel: every device runs the per-device program on its slice of the batch and means are taken by pmean.

  The state has a leading axis of local devices. Noise is folded with the device's number, so noisy methods agree with
  the other layouts in distribution, noise-free ones in value.
  """

  AXIS = 'data'

  table: Mapping[str, Sequence[str]] = MappingProxyType({})  # of shardings: every device has all of a state

  def __init__(self, config: ConfigDict, devices: list[jax.Device]):
    if config.mesh.fsdp * config.mesh.expert * config.mesh.tensor != 1:
      raise UserError(
        "config.parallel='pmap' is data parallel only: set config.mesh.fsdp=1, config.mesh.expert=1 "
        "and config.mesh.tensor=1, or use config.parallel='jit'."
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

  def gather_params(self, state: State) -> State:
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

  def handed_on(self, tree: PyTree) -> PyTree:
    """What a program returned, whole, as the next one takes it: a copy a device."""
    return self._replicate(tree)

  def put_rows(self, rows: PyTree, by_lane: bool = False) -> PyTree:
    """Rows [K, B, ...] of this process as [devices, K, B / devices, ...]. There are no lanes."""
    del by_lane
    parts = len(self.local)
    return jax.tree.map(
      lambda x: np.moveaxis(x.reshape(x.shape[0], parts, x.shape[1] // parts, *x.shape[2:]), 1, 0), rows
    )

  def shapes(self, state: PyTree, resident: PyTree, rows: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """(state, resident, rows) as `stage` takes them where there are no arrays, from their shapes."""
    parts = len(self.local)

    def copies(tree: PyTree) -> PyTree:
      return jax.tree.map(lambda x: jax.ShapeDtypeStruct((parts, *x.shape), x.dtype), tree)

    def shares(x: Any) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct((parts, x.shape[0], x.shape[1] // parts, *x.shape[2:]), x.dtype)

    return copies(state), copies(dict(resident)), jax.tree.map(shares, rows)

  def _mapped(self, fn: Callable[..., Any], returns_state: bool) -> tuple[Any, Any]:
    """(`fn` on every device, what one of them does)."""

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
    return mapped, per_device

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
    mapped, per_device = self._mapped(fn, returns_state)

    def jaxpr() -> Any:
      one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), (state, resident, rows))
      count = jax.vmap(partial(per_device, floats), axis_name=self.AXIS, in_axes=(0, None, 0, 0), axis_size=1)
      return jax.make_jaxpr(count)(one[0], key, *one[1:])

    return Staged(mapped.lower(floats, state, key, resident, rows), jaxpr, self.batch_parts)

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
    seconds = time.perf_counter() - start
    # Over several processes JAX compares the global shapes of a compiled pmap with this process's share, and refuses.
    execute = compiled if jax.process_count() == 1 else self._mapped(fn, returns_state)[0]

    def call(*args: Any):
      out = execute(*args)
      first = partial(jax.tree.map, lambda x: x.addressable_data(0).reshape(x.shape[1:]))
      return (out[0], first(out[1])) if returns_state else first(out)

    return call, stats(compiled, seconds, staged.flops)
