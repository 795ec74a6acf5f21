"""What a whole program computes example by example, or sample by sample: samples by their numbers, likelihoods.

Every sample has a number, which is the address of its noise: the first 10,000 samples of a state are the same for any
batch size, any number of devices and any layout, and any of them can be drawn again alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_ai import keys
from gen_ai.data.feed import make_feed
from gen_ai.data.plan import eval_plan
from gen_ai.data.source import Source
from gen_ai.maths.pixels import to_uint8
from gen_ai.metrics import features, likelihood
from gen_ai.metrics.extractors import Extractor
from gen_ai.program import Program
from gen_ai.types import Batch, Key, Method, State

TEXTS = 64  # texts that are drawn at once


class Given:
  """The examples that samples of a conditional method are drawn for: sample i for example i, and round again.

  Args:
    config: of the run.
    source: the split that the samples are compared with.
  """

  def __init__(self, config: ConfigDict, source: Source):
    self._source, self.feed = source, make_feed(source, config.data, 1)

  def rows(self, numbers: np.ndarray) -> Any:
    """What the feed gathers the examples of samples `numbers` [..., B] from."""
    index = self._source.eval_index(numbers % len(self._source))
    if self.feed.resident:
      return index
    read = self._source.read(index.reshape(-1))
    return {name: value.reshape(*index.shape, *value.shape[1:]) for name, value in read.items()}


def _drawn(method: Method, state: State, row: Any, key: Key, batch: Batch | None) -> tuple[Any, Any]:
  """(samples [B, ...] of numbers row['number'], images as uint8 levels, which of them are finite [B])."""
  own = keys.per_example(key, row['number'])
  if batch is not None:
    assert method.conditional is not None
    conditional = method.conditional
    one = lambda key, example: conditional(state, jax.tree.map(lambda leaf: leaf[None], example), key)[0]  # noqa: E731
    x = jax.vmap(one)(own, batch)
  else:
    assert method.sample is not None
    sample = method.sample
    x = jax.vmap(lambda key: sample(state, key, 1)[0])(own)
  finite = jnp.isfinite(x).reshape(x.shape[0], -1).all(1)
  return (to_uint8(x) if jnp.issubdtype(x.dtype, jnp.floating) else x), finite


class Samples:
  """The samples of states of one program.

  Args:
    program: alone or of lanes.
    seed: of their noise.
    given: the examples that they are drawn for, by a method that needs any.
  """

  def __init__(self, program: Program, seed: int, given: Given | None = None):
    self._program, self._given = program, given
    self._key = keys.stream(keys.root(seed), 'samples')
    self._compiled: dict[Any, Callable[..., Any]] = {}

  def features(self, state: State, extractor: Extractor, n: int) -> Callable[[int], features.Features]:
    """Lane -> features of its first `n` samples, drawn for all lanes at once. Images stay where they are drawn."""
    leaves, tree = jax.tree.flatten(extractor.params)

    def row(method: Method, state: State, resident: Mapping[str, Any], row: Any, key: Key):
      params = jax.tree.unflatten(tree, [resident[str(i)] for i in range(len(leaves))])
      images, finite = _drawn(method, state, row, key, self._batch(resident, row))
      values, logits = extractor.apply(params, images)
      values = jnp.where(finite[:, None], values, jnp.nan)  # as levels a NaN would pass for black
      return {'values': values} | ({} if logits is None else {'logits': logits})

    resident = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    size = self._size(features.block_size(extractor))
    blocks = self._blocks(('features', extractor.weights), row, state, np.arange(n), size, resident)
    found = list(blocks)

    def of_lane(lane: int) -> features.Features:
      parts = ((block[lane]['values'][0], block[lane].get('logits', [None])[0]) for block in found)
      return features.collect(parts, n, features.Spread())

    return of_lane

  def read(self, state: State, index: np.ndarray) -> list[np.ndarray]:
    """The samples of the given numbers int [N], of every lane: uint8 [N, H, W, C], or int32 tokens [N, T]."""

    def row(method: Method, state: State, resident: Mapping[str, Any], row: Any, key: Key):
      return _drawn(method, state, row, key, self._batch(resident, row))[0]

    size = self._size(min(TEXTS, max(len(index), 1)))
    blocks = list(self._blocks(('read', size), row, state, np.asarray(index), size, {}))
    return [np.concatenate([block[lane][0] for block in blocks])[: len(index)] for lane in range(self._program.lanes)]

  def _batch(self, resident: Mapping[str, Any], row: Any) -> Batch | None:
    """The examples that the samples of `row` are drawn for."""
    return None if self._given is None else self._given.feed.gather(resident, row['given'])

  def _size(self, wanted: int) -> int:
    """The smallest batch from `wanted` on that divides over the devices."""
    parts = self._program.layout.batch_parts
    return -(-wanted // parts) * parts

  def _blocks(self, name: Any, row: Any, state: State, index: np.ndarray, size: int, resident: Any) -> Iterator[Any]:
    """What `row` gives for the numbers `index`, block by block, a list over lanes each."""
    local = self._program.layout.local_rows(size)
    if self._given is not None:
      resident = {**resident, **self._given.feed.resident}
    for start in range(0, len(index), size):
      block = index[start : start + size].astype(np.int32)
      numbers = np.pad(block, (0, size - len(block)), mode='edge')[None, local]
      rows = {'number': numbers} | ({} if self._given is None else {'given': self._given.rows(numbers)})
      if name not in self._compiled:
        self._compiled[name] = self._program.over_rows(name[0], row, state, self._key, resident, rows)
      yield self._program.layout.per_lane(self._compiled[name](state, rows))


class Likelihoods:
  """What states of one program give each example of a split; compiles at its first call.

  Args:
    program: alone or of lanes.
    config: its config.
    source: the split.
    draws: 0: what the method's eval_step gives; k: the importance-weighted bound of k latent draws.
  """

  def __init__(self, program: Program, config: ConfigDict, source: Source, draws: int):
    self._program, self._source, self._draws = program, source, draws
    self._feed = make_feed(source, config.data, 1)
    self._index, self._mask = eval_plan(source, program.eval_batch_size)
    self._dims = int(np.prod(program.spec.shape))
    self._run: Callable[..., Any] | None = None

  def _row(self, method: Method, state: State, resident: Mapping[str, Any], row: Any, key: Key):
    batch: Batch = {**self._feed.gather(resident, row['row']), 'mask': row['mask']}
    if not self._draws:
      return likelihood.per_example(method.eval_step, state, batch, key)
    assert method.log_weights is not None
    bound = likelihood.importance_weighted(method.log_weights, state, batch, key, self._draws)
    return likelihood.bound_figures(bound, self._dims)

  def __call__(self, state: State) -> list[likelihood.Totals]:
    """The totals of every lane: `finish()` tells the figures."""
    totals = [likelihood.Totals() for _ in range(self._program.lanes)]
    for lanes, mask in self.blocks(state):
      for total, found in zip(totals, lanes, strict=True):
        total.add(found, mask)
    return totals

  def blocks(self, state: State) -> Iterator[tuple[list[Any], np.ndarray]]:
    """(of every lane {name: (sums [1, B], counts [1, B])}, mask [1, B] of examples), block by block of the split."""
    program, mask = self._program, self._mask
    local = program.layout.local_rows(program.eval_batch_size)
    for i, index in enumerate(self._index[:, local]):
      rows: dict[str, Any] = {'row': index[None], 'mask': mask[i : i + 1, local]}
      if not self._feed.resident:
        rows['row'] = {name: value[None] for name, value in self._source.read(index).items()}
      if self._run is None:
        key = keys.stream(program.eval_key, 'eval')
        self._run = program.over_rows(f'likelihood_{self._draws}', self._row, state, key, self._feed.resident, rows)
      yield program.layout.per_lane(self._run(state, rows)), mask[i : i + 1]
