"""A method as compiled programs: initialise, train a chunk, evaluate, sample; of one run, or of many as lanes.

Layouts (`gen_ai.layouts`) wrap the same functions. Every compiled function has the form
`fn(floats, state, key, resident, rows)`: the config's traced floats, the state, the run's root key, the data that lives
on the device, and what the feed brings, with leading axes [K, B].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_ai import config as config_lib
from gen_ai import keys, memory
from gen_ai.errors import UserError
from gen_ai.layouts import Compiled, CompileStats, Layout, check_batch
from gen_ai.types import Array, Key, Method, PyTree, Reduce, Spec, State, identity

Build = Callable[..., Method]
RowFn = Callable[[Method, State, Any, Any, Key], PyTree]  # (method, state, resident, row, key) -> arrays [B, ...]
SHARED_KEY = (0, 0, None, None, None)  # what evaluates and samples lanes: noise and batches are the same for all


class Feed(Protocol):
  """What brings batches: see gen_ai.data.feed."""

  resident: dict[str, np.ndarray]
  by_lane: bool  # whether rows have a leading axis of lanes

  def gather(self, resident: Any, row: Any) -> Any:
    """The batch that `row` stands for."""


# The three functions that layouts compile.


def chunk(make: Callable[[Any], Method], feed: Feed, layout: Layout):
  """One dispatch of training: `lax.scan` of train_step over the rows; returns (state, metrics [K])."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    method = make(floats)

    def body(state: State, row: PyTree):
      batch = layout.constrain(feed.gather(resident, row))
      return method.train_step(layout.whole(state), batch, keys.stream(key, 'train', state.step))

    return jax.lax.scan(body, state, rows)

  return run


def evaluation(make: Callable[[Any], Method], feed: Feed, layout: Layout):
  """eval_step over rows {'row': ..., 'mask': [n, B]}; returns {name: (sums [n], counts [n])} over all devices."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    method = make(floats)

    def body(_: None, row: PyTree):
      batch = layout.constrain({**feed.gather(resident, row['row']), 'mask': row['mask']})
      return None, layout.total(method.eval_step(layout.whole(state), batch, key))

    return jax.lax.scan(body, None, rows)[1]

  return run


def rowwise(make: Callable[[Any], Method], layout: Layout, fn: RowFn):
  """`fn` of rows [n, B]: what it returns for each, [n, B, ...], whole on every device."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    method, state = make(floats), layout.whole(state)

    def body(_: None, row: PyTree):
      return None, layout.gathered(fn(method, state, resident, row, key))

    return jax.lax.scan(body, None, rows)[1]

  return run


def sampling(make: Callable[[Any], Method], layout: Layout, n: int):
  """`n` samples."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    del resident, rows
    method = make(floats)
    assert method.sample is not None  # Program.sampler asks before
    return method.sample(layout.whole(state), key, n)

  return run


def viewing(make: Callable[[Any], Method], layout: Layout, name: str):
  """One of the method's views of the batch that `resident` holds."""

  def run(floats: PyTree, state: State, key: Key, resident: PyTree, rows: PyTree):
    del rows
    return make(floats).views[name](layout.whole(state), resident, key)

  return run


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
    self.key = keys.root(config.run.seed)
    init_key = keys.stream(self.key, 'init')
    if lanes:
      each = [config_lib.traced(lane) for lane in lanes]
      self.floats = {path: np.asarray([floats[path] for floats in each], np.float32) for path in one}
      self.key = jnp.stack([keys.root(lane.run.seed) for lane in lanes])
      self._init_keys = jax.vmap(lambda key: keys.stream(key, 'init'))(self.key)
    else:
      self._init_keys = init_key
    self.eval_key = keys.root(config.eval.seed)
    self.compile_stats: dict[str, CompileStats] = {}

    def make(floats: Mapping[str, Any], reduce: Reduce = layout.reduce) -> Method:
      return build(config_lib.substitute(config, floats), spec, reduce)

    self._make = make
    method = make(one)  # refuses a bad config before anything is traced
    self.batches_per_step = method.batches_per_step
    self.batch_size = config.data.batch_size * method.batches_per_step  # examples in one step
    self.draws = method.sample is not None  # whether there is anything to sample
    self.conditional = method.conditional is not None  # whether it draws an image for an example
    self.weighs = method.log_weights is not None  # whether latent draws have importance weights
    self.view_names = tuple(method.views)
    self.measure = method.measure
    self.leading = dict(method.leading)
    self.eval_batch_size = config.eval.batch_size
    self._one, self.shapes = one, jax.eval_shape(self._init, one, init_key)  # of one lane

  def _init(self, floats: PyTree, key: Key) -> State:
    return self._make(floats, identity).init(key)

  def init(self) -> State:
    """The state before the first update; of lanes [R, ...]."""
    return self.layout.init(self._init, self.floats, self._init_keys)

  def abstract_state(self) -> PyTree:
    """What a checkpoint is restored into."""
    return self.layout.abstract(self.shapes)

  def parameter_count(self) -> int:
    """Trainable parameters over all networks."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.shapes.params))

  def trainer(self, feed: Feed, state: State, rows: PyTree, name: str = 'train') -> Compiled:
    """Compiles a chunk for rows like `rows`; returns (state, rows) -> (state, {name: float32 [K]}), of lanes [R, K]."""
    resident, placed = self.layout.put_resident(feed.resident), self.layout.put_rows(rows, feed.by_lane)
    fn, axes = chunk(self._make, feed, self.layout), (0, 0, 0, None, 0 if feed.by_lane else None)
    compiled, stats = self.layout.compile(fn, self.floats, state, self.key, resident, placed, True, axes)
    self.compile_stats[name] = stats
    memory.require(stats.new_bytes, f'training on {self.batch_size:,} examples at once', 'set a smaller '
                   'config.data.batch_size, or config.optim.accumulate')  # fmt: skip

    def run(state: State, rows: PyTree):
      return compiled(self.floats, state, self.key, resident, self.layout.put_rows(rows, feed.by_lane))

    return run

  def _compile(self, fn: Callable[..., Any], state: State, key: Key, resident: PyTree, rows: PyTree):
    """Compiles what leaves the state as it is."""
    return self.layout.compile(fn, self.floats, state, key, resident, rows, False, SHARED_KEY)

  def evaluator(self, feed: Feed, state: State, rows: PyTree) -> Compiled:
    """Compiles evaluation for rows {'row', 'mask'}; returns (state, rows) -> {name: (sums [n], counts [n])}."""
    resident = self.layout.put_resident(feed.resident)
    key = keys.stream(self.eval_key, 'eval')
    fn = evaluation(self._make, feed, self.layout)
    compiled, stats = self._compile(fn, state, key, resident, self.layout.put_rows(rows))
    self.compile_stats['eval'] = stats
    memory.require(stats.new_bytes, f'evaluating {self.eval_batch_size:,} examples at once', 'set a smaller '
                   'config.eval.batch_size')  # fmt: skip
    return lambda state, rows: compiled(self.floats, state, key, resident, self.layout.put_rows(rows))

  def over_rows(self, name: str, fn: RowFn, state: State, key: Key, resident: Mapping[str, np.ndarray],
                rows: PyTree) -> Callable[[State, PyTree], PyTree]:  # fmt: skip
    """Compiles `fn` for rows like `rows` [n, B, ...]; gives (state, rows) -> arrays [n, B, ...], of lanes [R, n, ...].

    Any figure that is computed example by example, or sample by sample, is one such function: nothing here knows it.

    Args:
      name: of the program, in the costs of the run.
      fn: traceable; see `RowFn`. It gets this device's share of a batch under pmap, lanes and a mesh alike.
      state: to compile for.
      key: handed to `fn`.
      resident: arrays on every device, handed to `fn`.
      rows: arrays [n, B, ...] on the host.
    """
    placed = self.layout.put_resident(resident)
    over = rowwise(self._make, self.layout, fn)
    compiled, stats = self._compile(over, state, key, placed, self.layout.put_rows(rows))
    self.compile_stats[name] = stats
    return lambda state, rows: compiled(self.floats, state, key, placed, self.layout.put_rows(rows))

  def metric_names(self, batch: Mapping[str, np.ndarray], mask: np.ndarray) -> list[str]:
    """Names of the metrics that eval_step gives for a batch like this."""
    eval_step = self._make(self._one, identity).eval_step
    return sorted(jax.eval_shape(eval_step, self.shapes, {**batch, 'mask': mask}, self.eval_key))

  def ordered(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics` with the leading ones of the method first: JAX returns them by the alphabet."""
    first = [name for name in self.leading if name in metrics]
    return {name: metrics[name] for name in dict.fromkeys([*first, *metrics])}

  def sampler(self, state: State, n: int, seed: int | None = None) -> Callable[[State], Array]:
    """Compiles sampling; returns state -> samples [n, ...] of fixed latents, the same for every run of one shape.

    Raises:
      UserError: a method that draws nothing, or more samples than memory holds.
    """
    if not self.draws:
      raise UserError(f"config.experiment='{self._experiment}' draws no samples: there is nothing to sample.")
    key = keys.stream(self.eval_key if seed is None else keys.root(seed), 'sample')
    compiled, stats = self._compile(sampling(self._make, self.layout, n), state, key, {}, {})
    self.compile_stats['sample'] = stats
    memory.require(stats.new_bytes, f'drawing {n:,} samples at once', 'ask for fewer')
    return lambda state: compiled(self.floats, state, key, {}, {})

  def viewers(self, state: State, batch: Mapping[str, np.ndarray]) -> dict[str, Callable[[State], Array]]:
    """Compiles the method's views of one fixed `batch`; returns {name: state -> images [N, H, W, C]}."""
    key = keys.stream(self.eval_key, 'view')
    resident = self.layout.put_resident(batch)

    def viewer(name: str) -> Callable[[State], Array]:
      fn = viewing(self._make, self.layout, name)
      compiled, _ = self._compile(fn, state, key, resident, {})
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
