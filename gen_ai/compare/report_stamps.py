"""Stamps of the HTML report: how each number of a row came about, shown where it is pointed at."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gen_ai.compare import evaluations
from gen_ai.compare.select import Metric, cells, missing, shown

if TYPE_CHECKING:
  import pandas as pd

_TRAINED = {
  'data': 'data',
  'data_version': 'data version',
  'data_hash': 'data hash',
  'data_spec': 'form of the data',
  'split_rule': 'split rule',
  'eval_split': 'split',
  'eval_examples': 'examples',
  'eval_seed': 'noise seed',
  'ema': 'ema',
  'observation': 'observation',
  'extractor': 'extractor',
  'eval_samples': 'samples',
  'arithmetic': 'arithmetic',
  'versions': 'versions',
  'devices': 'devices',
  'code': 'code',
}
_CLOCK = {name: name for name in ('step', 'devices', 'lanes', 'host', 'versions', 'code')}
_MOST = 3  # values of a field that are named where rows differ

_Stamps = dict[str, dict[str, Any]]  # {run: stamp}


class Stamps:
  """The stamps of a page, each once in `listed`: thousands of numbers share a few."""

  def __init__(self, frame: 'pd.DataFrame', metrics: Sequence[Metric]):
    self.listed: list[list[list[str]]] = []  # [field, text] pairs
    self._places: dict[str, int] = {}
    self._figures = {metric.name: _figure(frame, metric) for metric in metrics}
    self._clock = _columns(frame, _CLOCK)

  def of(self, runs: Iterable[str]) -> dict[str, Any]:
    """{'stamps': {metric: place in `listed`}, 'clock': that of the costs}; None where no run of `runs` has it."""
    runs = list(runs)
    places = {name: self._place(stamps_by_run, runs) for name, stamps_by_run in self._figures.items()}
    return {'stamps': places, 'clock': self._place(self._clock, runs)}

  def _place(self, stamps_by_run: _Stamps, runs: Sequence[str]) -> int | None:
    """Place of the stamp that `runs` share; a field in which they differ names its values."""
    stamps = [stamps_by_run[run] for run in runs if run in stamps_by_run]
    pairs = []
    for name in dict.fromkeys(name for stamp in stamps for name in stamp):
      texts = list(dict.fromkeys(_text(stamp.get(name)) for stamp in stamps))
      if texts != ['']:
        many = f' and {len(texts) - _MOST} more' if len(texts) > _MOST else ''
        named = ' | '.join(text or 'not recorded' for text in texts[:_MOST])
        pairs.append([name, texts[0] if len(texts) == 1 else f'differs: {named}{many}'])
    if not pairs:
      return None
    place = self._places.setdefault(repr(pairs), len(self.listed))
    if place == len(self.listed):
      self.listed.append(pairs)
    return place


def _figure(frame: 'pd.DataFrame', metric: Metric) -> _Stamps:
  """Stamps of the runs that have the figure; of a metric of the training, the protocol in the run's own record."""
  if not metric.evaluated(frame):
    rows = frame[frame[[f'final/{metric.name}', f'best_min/{metric.name}']].notna().any(axis=1)]
    return _columns(rows, _TRAINED)
  about = _columns(
    frame,
    {f'{metric.name}/{part}': name for part, name in (('step', 'step'), ('time', 'evaluated'), ('notes', 'notes'))},
  )
  return {run: {**stamp, **about[run]} for run, stamp in evaluations.stamps(frame, metric.name).items()}


def _columns(frame: 'pd.DataFrame', columns: Mapping[str, str]) -> _Stamps:
  values = zip(*(cells(frame, column) for column in columns), strict=True)
  return {str(run): dict(zip(columns.values(), row, strict=True)) for run, row in zip(frame.index, values, strict=True)}


def _text(value: Any) -> str:
  return '' if missing(value) or value == '' else shown(value)
