"""Many runs as the lanes of one program, spread over the devices."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gen_ai.core.lowering import under_run_axis
from gen_ai.core.method import Key, PyTree, Reduce, State, identity
from gen_ai.parallel import flops
from gen_ai.parallel import mesh as mesh_lib
from gen_ai.parallel.compiled import LANE_AXES, Compiled, CompileStats, stats


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
  gather_params = staticmethod(identity)

  table: Mapping[str, Sequence[str]] = MappingProxyType({})  # of shardings: every device has all of a state

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
    return compiled, stats(compiled, time.perf_counter() - start, flops.of(traced))
