"""A method as compiled programs: initialise, train a chunk, run any function of its tasks; of one run, or of lanes.

Layouts (`gen_ai.parallel.layouts`) wrap the same functions. Every compiled function has the form
`fn(floats, state, key, resident, rows)`: the config's traced floats, the state, the run's root key, the data that lives
on the device, and what the feed brings, with leading axes [K, B].
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Key, Method, PyTree, Reduce, Spec, State, Task, drawing_task, identity
from gen_ai.core.text import did_you_mean
from gen_ai.parallel import memory
from gen_ai.parallel.compiled import Compiled, CompileStats, Staged
from gen_ai.parallel.lanes import LaneLayout
from gen_ai.parallel.layouts import Layout, check_batch

Build = Callable[..., Method]
RowFn = Callable[[Method, State, Any, Any, Key], PyTree]  # (method, state, resident, row, key) -> arrays [B, ...]
SHARED_KEY = (0, 0, None, None, None)  # what evaluates and samples lanes: noise and batches are the same for all


class Feed(Protocol):
  """What brings batches: see gen_ai.data.feed."""

  resident: dict[str, np.ndarray]
  by_lane: bool  # whether rows have a leading axis of lanes

  def gather(self, resident: Any, row: Any) -> Any:
    """The batch that `row` stands for."""


# The functions that layouts compile.


def chunk(make: Callable[[Any], Method], feed: Feed, layout: Layout):
  """One dispatch of training: `lax.scan` of train_step over the rows; returns (state, metrics [K])."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    method = make(floats)

    def body(state: State, row: PyTree):
      batch = layout.constrain(feed.gather(resident, row))
      return method.train_step(layout.gather_params(state), batch, random.stream(key, 'train', state.step))

    return jax.lax.scan(body, state, rows)

  return run


def rowwise(make: Callable[[Any], Method], layout: Layout, fn: RowFn):
  """`fn` of rows [n, B]: what it returns for each, [n, B, ...], whole on every device."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    method, state = make(floats), layout.gather_params(state)

    def body(_: None, row: PyTree):
      return None, layout.gathered(fn(method, state, resident, row, key))

    return jax.lax.scan(body, None, rows)[1]

  return run


def viewing(make: Callable[[Any], Method], layout: Layout, name: str):
  """One of the method's visualizations of the batch that `resident` holds."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    del rows
    return make(floats).visualizations[name](layout.gather_params(state), resident, key)

  return run


def _count(tree: PyTree) -> int:
  """Numbers in the arrays of a tree."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


class Program:
  """The compiled programs of one run.

  Args:
    config: the run's config.
    build: build() of its experiment.
    spec: what the data is like.
    layout: how arrays lie over devices.
    lanes: with a LaneLayout, the configs of its lanes, which differ from `config` in traced floats and seeds only.
  """

  def __init__(self, config: ConfigDict, build: Build, spec: Spec, layout: Layout, lanes: Sequence[ConfigDict] = ()):
    check_batch(config, layout.batch_parts)
    self.layout = layout
    self.spec = spec
    self._experiment = config.experiment
    self.lanes = max(1, len(lanes))
    one = {path: np.float32(value) for path, value in config_lib.traced(config).items()}
    self.floats: dict[str, Any] = one
    self.key = random.root(config.run.seed)
    init_key = random.stream(self.key, 'init')
    if lanes:
      each = [config_lib.traced(lane) for lane in lanes]
      self.floats = {path: np.asarray([floats[path] for floats in each], np.float32) for path in one}
      self.key = jnp.stack([random.root(lane.run.seed) for lane in lanes])
      self._init_keys = jax.vmap(lambda key: random.stream(key, 'init'))(self.key)
    else:
      self._init_keys = init_key
    self.eval_key = random.root(config.eval.seed)
    self.compile_stats: dict[str, CompileStats] = {}
    # What becomes of the new state of one run, see gen_ai.train.warm_start; None: it stays.
    self.begin: Callable[[State], State] | None = None

    def make(floats: Mapping[str, Any], reduce: Reduce = layout.reduce) -> Method:
      return build(config_lib.substitute(config, floats), spec, reduce)

    self._make = make
    method = make(one)  # refuses a bad config before anything is traced
    layout.table = method.sharding
    self.batches_per_step = method.batches_per_step
    self.batch_size = config.data.batch_size * method.batches_per_step  # examples in one step
    self.tasks = dict(method.tasks)  # what a trained state can do; to be run through `over_rows`
    self.visualizations = tuple(method.visualizations)
    self.observation = method.observation
    self.bounds = method.bounds
    self.notes = method.notes
    self.leading = dict(method.leading)
    self.trains = method.trains
    self.eval_batch_size = config.eval.batch_size
    self._one, self.shapes = one, jax.eval_shape(self._init, one, init_key)  # of one lane
    layout.abstract(self.shapes)  # refuses heads that the mesh cannot split, before anything is written

  def method(self, floats: Mapping[str, Any] | None = None) -> Method:
    """The method by traced `floats`, {field: value}; by those of the first config if not given."""
    return self._make(self._one if floats is None else floats, identity)

  def task(self, name: str) -> Task:
    """The task of that name. Raises UserError where the method has none, and says which it has."""
    if name not in self.tasks:
      has = f'it can {", ".join(self.tasks)}' if self.tasks else 'it has no tasks'
      near = did_you_mean(name, self.tasks, cutoff=0.6)
      raise UserError(f"config.experiment='{self._experiment}' has no task '{name}'.{near} {has[0].upper()}{has[1:]}.")
    return self.tasks[name]

  def drawing_task(self) -> str:
    """See `gen_ai.core.method.drawing_task`."""
    return drawing_task(self.tasks)

  def use_floats(self, config: ConfigDict) -> None:
    """Goes on with the traced floats of `config`, which has the structure of the program's own."""
    self.floats = {path: np.float32(value) for path, value in config_lib.traced(config).items()}

  def _init(self, floats: PyTree, key: Key) -> State:
    return self._make(floats, identity).init(key)

  def init(self) -> State:
    """The state before the first update; of lanes [R, ...]."""
    state = self.layout.init(self._init, self.floats, self._init_keys)
    if self.begin is None:
      return state
    return self.layout.join([self.begin(one) for one in self.layout.split(state, range(self.lanes))])

  def abstract_state(self) -> PyTree:
    """What a checkpoint is restored into."""
    return self.layout.abstract(self.shapes)

  def parameter_count(self) -> int:
    """Parameters over all networks."""
    return _count(self.shapes.params)

  def trained_count(self) -> int:
    """Those of them that training changes."""
    return _count(self.trains.of(self.shapes.params) if self.trains else self.shapes.params)

  def trainer(self, feed: Feed, state: State, rows: PyTree, name: str = 'train') -> Compiled:
    """Compiles a chunk for rows like `rows`; returns (state, rows) -> (state, {name: float32 [K]}), of lanes [R, K]."""
    resident, placed = self.layout.put_resident(feed.resident), self.layout.put_rows(rows, feed.by_lane)
    fn, axes = chunk(self._make, feed, self.layout), (0, 0, 0, None, 0 if feed.by_lane else None)
    compiled, stats = self.layout.compile(fn, self.floats, state, self.key, resident, placed, True, axes)
    self.compile_stats[name] = stats
    memory.require(
      stats.new_bytes,
      f'training on {self.batch_size:,} examples at once',
      'set a smaller config.data.batch_size, or config.optim.accumulate',
    )

    def run(state: State, rows: PyTree):
      return compiled(self.floats, state, self.key, resident, self.layout.put_rows(rows, feed.by_lane))

    return run

  def stage(self, feed: Feed, rows: PyTree) -> tuple[Staged, State, PyTree]:
    """A chunk of training before it is compiled, for shapes alone: nothing is put on a device.

    Args:
      feed: what brings batches; of its resident arrays the shapes count.
      rows: arrays [K, B, ...] of all devices, or their shapes.

    Returns:
      (the program, the shapes of its state, those of its resident arrays), each with its sharding where it has one.
    """
    assert not isinstance(self.layout, LaneLayout)
    state, resident, placed = self.layout.shapes(self.shapes, feed.resident, rows)
    fn = chunk(self._make, feed, self.layout)
    return self.layout.stage(fn, self.floats, state, self.key, resident, placed, True), state, resident

  def _compile(self, fn: Callable[..., Any], state: State, key: Key, resident: PyTree, rows: PyTree):
    """Compiles what leaves the state as it is."""
    return self.layout.compile(fn, self.floats, state, key, resident, rows, False, SHARED_KEY)

  def over_rows(
    self,
    name: str,
    fn: RowFn,
    state: State,
    key: Key,
    resident: Mapping[str, np.ndarray],
    rows: PyTree,
    doing: str = '',
    way_out: str = '',
  ) -> Callable[[State, PyTree], PyTree]:
    """Compiles `fn` for rows like `rows` [n, B, ...]; gives (state, rows) -> arrays [n, B, ...], of lanes [R, n, ...].

    Any figure that is computed example by example, or sample by sample, is one such function: nothing here knows it.

    Args:
      name: of the program, in the costs of the run.
      fn: traceable; see `RowFn`. It gets this device's share of a batch under pmap, lanes and a mesh alike.
      state: to compile for.
      key: handed to `fn`.
      resident: arrays on every device, handed to `fn`.
      rows: arrays [n, B, ...] on the host.
      doing: what it does and `way_out` what to change where memory does not hold it, for the message.

    Raises:
      UserError: it needs more memory than there is.
    """
    placed = self.layout.put_resident(resident)
    over = rowwise(self._make, self.layout, fn)
    compiled, stats = self._compile(over, state, key, placed, self.layout.put_rows(rows))
    self.compile_stats[name] = stats
    memory.require(stats.new_bytes, doing or name, way_out or 'set smaller batches')
    return lambda state, rows: compiled(self.floats, state, key, placed, self.layout.put_rows(rows))

  def over_whole(
    self,
    name: str,
    fn: Callable[[Method, State, Any, Key], tuple[PyTree, PyTree]],
    state: State,
    key: Key,
    given: PyTree,
    doing: str = '',
    way_out: str = '',
  ) -> Callable[[State, Key, PyTree], tuple[PyTree, PyTree]]:
    """Compiles `fn` for arrays like `given`, which every device holds whole; gives (state, key, given) -> two trees.

    The first tree is whole on every device, too, to be given to the next call; the second is to be read. For what has
    no rows to split, such as a text that is drawn piece by piece. See `over_rows` for the arguments.

    Raises:
      UserError: it needs more memory than there is.
    """
    layout = self.layout
    assert not isinstance(layout, LaneLayout)

    def whole(floats: PyTree, state: State, key: Key, given: PyTree, rows: PyTree):
      del rows
      return fn(self._make(floats), layout.gather_params(state), given, key)

    compiled, stats = self._compile(whole, state, key, given, {})
    self.compile_stats[name] = stats
    memory.require(stats.new_bytes, doing or name, way_out or 'ask for less')

    def run(state: State, key: Key, given: PyTree) -> tuple[PyTree, PyTree]:
      carry, read = compiled(self.floats, state, key, given, {})
      return layout.handed_on(carry), read

    return run

  def training_bytes(self, feed: Feed, rows: PyTree) -> int:
    """Bytes that training on rows like `rows` takes beside the data, by `memory.estimate`: at most, as XLA fuses."""
    return self._estimate(chunk(self._make, feed, self.layout), feed.resident, rows)

  def rows_bytes(self, fn: RowFn, resident: Mapping[str, np.ndarray], rows: PyTree) -> int:
    """The same of `over_rows`."""
    return self._estimate(rowwise(self._make, self.layout, fn), resident, rows)

  def _estimate(self, fn: Callable[..., Any], resident: Mapping[str, np.ndarray], rows: PyTree) -> int:
    key = jax.eval_shape(lambda: jax.random.key(0))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(resident))
    whole = memory.estimate(fn, self.floats, self.shapes, key, like, rows)
    return whole - sum(array.nbytes for array in resident.values())

  def metric_names(self, batch: Mapping[str, np.ndarray], mask: np.ndarray) -> list[str]:
    """Names of the metrics that eval_step gives for a batch like this."""
    eval_step = self._make(self._one, identity).eval_step
    return sorted(jax.eval_shape(eval_step, self.shapes, {**batch, 'mask': mask}, self.eval_key))

  def ordered(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics` with the leading ones of the method first: JAX returns them by the alphabet."""
    first = [name for name in self.leading if name in metrics]
    return {name: metrics[name] for name in dict.fromkeys([*first, *metrics])}

  def viewers(self, state: State, batch: Mapping[str, np.ndarray]) -> dict[str, Callable[[State], Array]]:
    """Compiles the method's visualizations of one fixed `batch`; returns {name: state -> images [N, H, W, C]}."""
    key = random.stream(self.eval_key, 'view')
    resident = self.layout.put_resident(batch)

    def viewer(name: str) -> Callable[[State], Array]:
      fn = viewing(self._make, self.layout, name)
      compiled, _ = self._compile(fn, state, key, resident, {})
      return lambda state: compiled(self.floats, state, key, resident, {})

    return {name: viewer(name) for name in self.visualizations}
