"""Exact evaluation of a state over a whole split."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from gen_ai.data.feed import make_feed
from gen_ai.data.plan import eval_plan
from gen_ai.data.source import Source
from gen_ai.program import Program
from gen_ai.types import State


class Evaluator:
  """Evaluates states of one program on one split; compiles at its first call.

  Every example counts once: the ragged last batch is masked. Sums of batches are added in float64 on the host.
  """

  def __init__(self, program: Program, config: ConfigDict, source: Source):
    self._program, self._source = program, source
    self._feed = make_feed(source, config.data, 1)
    self._index, self._mask = eval_plan(source, program.eval_batch_size)
    self._local = program.layout.local_rows(program.eval_batch_size)
    self._run: Callable[..., Any] | None = None

  def __call__(self, state: State) -> dict[str, float]:
    """{metric with unit: mean over the split} of the one run there is."""
    (metrics,) = self.lanes(state)
    return metrics

  def lanes(self, state: State) -> list[dict[str, float]]:
    """The metrics of every lane."""
    sums = []
    for rows in self._rows():
      if self._run is None:
        self._run = self._program.evaluator(self._feed, state, rows)
      sums.append(self._run(state, rows))
    dispatches = [self._program.layout.per_lane(part) for part in sums]
    each = [self._means([dispatch[lane] for dispatch in dispatches]) for lane in range(self._program.lanes)]
    return [self._program.ordered(metrics) for metrics in each]

  @staticmethod
  def _means(sums: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of one lane from its (sums [n], counts [n]), added in float64."""
    totals = {
      name: [np.sum([np.asarray(s[name][i], np.float64).sum() for s in sums]) for i in (0, 1)] for name in sums[0]
    }
    return {name: float(total / count) for name, (total, count) in totals.items()}

  def metric_names(self) -> list[str]:
    """What an evaluation will hold; nothing is compiled for it."""
    return self._program.metric_names(self._source.read(self._index[0]), self._mask[0])

  def _rows(self):
    """All batches in one dispatch where the data is on the device, one after the other where the host reads it."""
    index, mask = self._index[:, self._local], self._mask[:, self._local]
    if self._feed.resident:
      yield {'row': index, 'mask': mask}
      return
    for i in range(len(index)):
      batch = self._source.read(index[i])
      yield {'row': {name: value[None] for name, value in batch.items()}, 'mask': mask[i : i + 1]}
