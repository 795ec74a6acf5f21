"""One exact pass over the examples of a split: what a method says of each, added up in float64."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gen_ai.core import random
from gen_ai.core.method import Batch, Key, Method, State, SumCount
from gen_ai.data.feed import make_feed
from gen_ai.data.plan import eval_plan
from gen_ai.data.source import Source
from gen_ai.evaluate.metrics import likelihood
from gen_ai.parallel.program import Program

# (method, state, batch, key) -> {name: (sums [B], counts [B])} of each example; traceable
PerExample = Callable[[Method, State, Batch, Key], SumCount]


def eval_step(method: Method, state: State, batch: Batch, key: Key) -> SumCount:
  """What the method's eval_step gives for each example alone."""
  return likelihood.per_example(method.eval_step, state, batch, key)


def of_parts(names: Iterable[str], parts: Iterable[str]) -> list[str]:
  """'NAME.PART' of every one of `names`, for every part that a split tells of."""
  names = list(names)
  return [f'{name}.{part}' for part in parts for name in names]


class ExamplePass:
  """Figures of states of one program on one split; compiles at its first call.

  Every example counts once: the filling of the ragged last batch is dropped.

  Args:
    program: alone or of lanes.
    config: its config.
    source: the split.
    name: of the compiled program, in the costs of the run.
    per_example: what is computed of each example.
    at_once: whether all batches of data on the device make one dispatch; False where one batch takes long.
  """

  def __init__(
    self,
    program: Program,
    config: ConfigDict,
    source: Source,
    name: str = 'eval',
    per_example: PerExample = eval_step,
    at_once: bool = True,
  ):
    self._program, self._source, self._name, self._fn = program, source, name, per_example
    self._feed = make_feed(source, config.data, 1)
    self._index, self._mask = eval_plan(source, program.eval_batch_size)
    self._local = program.layout.local_rows(program.eval_batch_size)
    self._at_once = at_once and bool(self._feed.resident)
    self._run: Callable[..., Any] | None = None

  def __call__(self, state: State) -> dict[str, float]:
    """{metric with unit: mean over the split} of the one run there is."""
    (metrics,) = self.lanes(state)
    return metrics

  def lanes(self, state: State) -> list[dict[str, float]]:
    """The metrics of every lane, and after them 'METRIC.PART' of each part that the split tells of."""
    found = []
    for totals in self.totals(state):
      own = {part: totals.of(examples).means() for part, examples in self._source.parts.items()}
      of_parts = {f'{name}.{part}': value for part, means in own.items() for name, value in means.items()}
      found.append({**self._program.ordered(totals.means()), **of_parts})
    return found

  def totals(self, state: State) -> list[likelihood.Totals]:
    """The totals of every lane: `finish()` tells the figures with their standard errors."""
    totals = [likelihood.Totals() for _ in range(self._program.lanes)]
    for lanes, mask in self.blocks(state):
      for total, found in zip(totals, lanes, strict=True):
        total.add(found, mask)
    return totals

  def blocks(self, state: State) -> Iterator[tuple[list[Any], np.ndarray]]:
    """(of every lane {name: (sums [n, B], counts [n, B])}, mask [n, B] of examples), dispatch by dispatch."""
    size = len(self._index) if self._at_once else 1
    for start in range(0, len(self._index), size):
      part = slice(start, start + size)
      index = self._index[part, self._local]
      rows: dict[str, Any] = {'row': index, 'mask': self._mask[part, self._local]}
      if not self._feed.resident:
        rows['row'] = {name: value[None] for name, value in self._source.read(index[0]).items()}
      if self._run is None:
        key, size_of = random.stream(self._program.eval_key, 'eval'), f'{self._program.eval_batch_size:,}'
        self._run = self._program.over_rows(
          self._name,
          self._row,
          state,
          key,
          self._feed.resident,
          rows,
          f'evaluating {size_of} examples at once',
          'set a smaller config.eval.batch_size',
        )
      yield self._program.layout.per_lane(self._run(state, rows)), self._mask[part]

  def bytes(self) -> int:
    """Bytes that one batch takes beside the data, estimated; nothing is compiled for it."""
    index = self._index[:1]
    batch = index if self._feed.resident else {k: v[None] for k, v in self._source.read(index[0]).items()}
    return self._program.rows_bytes(self._row, self._feed.resident, {'row': batch, 'mask': self._mask[:1]})

  def metric_names(self) -> list[str]:
    """What an evaluation by eval_step will hold; nothing is compiled for it."""
    names = self._program.metric_names(self._source.read(self._index[0]), self._mask[0])
    return [*names, *of_parts(names, self._source.parts)]

  def _row(self, method: Method, state: State, resident: Any, row: Any, key: Key) -> SumCount:
    return self._fn(method, state, {**self._feed.gather(resident, row['row']), 'mask': row['mask']}, key)
