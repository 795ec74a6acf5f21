"""Evaluation records of a run (evaluations.jsonl) as columns of the frame `runs`: figures, their intervals, stamps.

A figure m of a split is the metric 'split/m', such as test/fd. Its stamp says how it came about: extractor, number of
samples, sampler, ... Figures of unlike stamps are not compared (`gen_ai.compare.protocol`).
"""

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gen_ai import config as config_lib
from gen_ai.compare.statistics import Interval, Mode
from gen_ai.core import files
from gen_ai.run import directory

if TYPE_CHECKING:
  import pandas as pd

COLUMNS = {  # of `runs`, for each figure m of the evaluations on a split
  'split/m': 'its newest value: that of the latest step, and of the latest evaluation there',
  'split/m/low': 'lower end of its 95% interval',
  'split/m/high': 'upper end',
  'split/m/error': 'its standard error',
  'split/m/step': 'completed updates of the checkpoint',
  'split/m/time': 'of the evaluation, UTC, ISO 8601',
  'split/m/stamp': 'how it was measured, as JSON; split/m/stamp.FIELD names one field of it in --where and --by',
  'split/m/better': "'min' or 'max', the way that is better; '' where neither is",
  'split/m/notes': "what the evaluation said, several notes with ' | ' between them",
}
CIRCUMSTANCES = ('versions', 'devices', 'step', 'seconds')  # of a stamp: may differ between figures that are compared
_MEMORISATION = r'.*(cop(y|ies|ied)|duplicate|repeated|overlap|verbatim|memori[sz]).*'
# Which way a figure is better, by its name without the split, of evaluations that were recorded before metrics said so
# themselves; the first that fits. None: nothing to order by.
DIRECTIONS: dict[str, Mode | None] = {
  r'c_t(_.*)?': None,  # near 0: below it samples copy, above it they stay away from the data
  r'.*_p(_value)?': None,  # of a test
  r'.*heldout.*': None,  # what others are held against
  r'spread(_hidden)?': None,  # near that of the data
  r'(fd|fid|kid|sliced_wasserstein|ms_ssim)(_.*)?': 'min',
  r'(nll|bits|bpd|perplexity|loss|kl|modes_kl)(_.*)?': 'min',
  _MEMORISATION: 'min',
  r'(precision|recall|density|coverage|inception_score|modes_covered|elbo|accuracy)(_.*)?': 'max',
}
BETWEEN = ' | '  # notes
_FIELD = re.compile(r'(?P<column>.+/stamp)\.(?P<field>[^/]+)')
_STAMP = '/stamp'
_BETTER = '/better'
_ENDS = ('low', 'high', 'error')
_Z = 1.959963984540054  # of the two-sided 95% interval of a normal distribution


class Evaluation(NamedTuple):
  """What an evaluation left beside its figures."""

  step: int
  split: str
  pictures: Mapping[str, str]  # {name: path in the run directory}
  texts: Mapping[str, Sequence[str]]


def direction(frame: 'pd.DataFrame', name: str) -> Mode | None:
  """Which way the figure 'split/m' is better: as its metric said when it was measured, of older records by its name.

  None where it is unknown or neither way is.
  """
  recorded = frame[name + _BETTER].dropna().tolist() if name + _BETTER in frame.columns else []
  if recorded:
    return recorded[-1] or None
  return by_name(name)


def by_name(name: str) -> Mode | None:
  """Which way the figure 'split/m' or m is better, by `DIRECTIONS`; None where it is unknown or neither way is."""
  figure = name.rpartition('/')[2]
  return next((mode for pattern, mode in DIRECTIONS.items() if re.fullmatch(pattern, figure)), None)


def tells_of_copies(name: str) -> bool:
  """Whether the figure 'split/m' belongs to the audit of memorisation, and so beside its pictures."""
  return re.fullmatch(rf'c_t(_.*)?|{_MEMORISATION}', name.rpartition('/')[2]) is not None


def columns(run_dir: str | os.PathLike) -> dict[str, Any]:
  """`COLUMNS` of every figure of a run. A later evaluation adds its figures and replaces earlier ones.

  Of a curve over settings (`gen_ai.compare.settings`) the point at the settings of the run's own config counts.

  Raises:
    UserError: the record is damaged.
  """
  found: dict[str, Any] = {}
  for row in _in_order(run_dir):
    for figure, recorded in row['figures'].items():
      name = f'{row["split"]}/{figure}'
      stamp = {**(row.get('stamp') or {}), **(recorded.get('stamp') or {})}
      found |= {name: _number(recorded.get('value')), **{f'{name}/{end}': _number(recorded.get(end)) for end in _ENDS}}
      found |= {f'{name}/step': row['step'], f'{name}/time': row['time'], name + _STAMP: files.dumps(stamp)}
      found |= {name + _BETTER: recorded.get('better'), f'{name}/notes': BETWEEN.join(map(str, row.get('notes') or []))}
  return found


def left(run_dir: str | os.PathLike) -> list[Evaluation]:
  """Pictures and texts of a run's evaluations, the newest last. Raises UserError where the record is damaged."""
  rows = [
    Evaluation(row['step'], row['split'], row.get('pictures') or {}, row.get('texts') or {})
    for row in _in_order(run_dir)
  ]
  return [row for row in rows if row.pictures or row.texts]


def _in_order(run_dir: str | os.PathLike) -> list[dict[str, Any]]:
  rows = directory.read_evaluations(run_dir)
  if any(row.get('axis') for row in rows):
    own = config_lib.flatten(directory.read_config(run_dir))
    own[directory.AXIS_EMA] = next(iter(own.get('optim.ema_lengths', [])), None)
    rows = [row for row in rows if all(own.get(path) == value for path, value in (row.get('axis') or {}).items())]
  return sorted(rows, key=lambda row: (row['step'], row['time']))


def _number(value: Any) -> float:
  return float(value) if isinstance(value, int | float) else np.nan


def names(frame: 'pd.DataFrame') -> list[str]:
  """The figures 'split/m' that any run of `frame` has."""
  there = [column.removesuffix(_STAMP) for column in frame.columns if column.endswith(_STAMP)]
  return [name for name in there if name in frame.columns and frame[name + _STAMP].notna().any()]


def stamps(frame: 'pd.DataFrame', name: str) -> dict[str, dict[str, Any]]:
  """{run: stamp} of the runs of `frame` that have the figure `name`."""
  recorded = zip(frame.index, frame[name + _STAMP], strict=True)
  return {str(run): _loaded(text) for run, text in recorded if isinstance(text, str)}


def is_field(frame: 'pd.DataFrame', name: str) -> bool:
  """Whether `name` is a field of the stamp of a figure that `frame` has: 'test/fd/stamp.extractor'."""
  match = _FIELD.fullmatch(name)
  return match is not None and any(match['field'] in stamp for stamp in _told(frame, match['column']))


def cells(frame: 'pd.DataFrame', name: str) -> list[Any]:
  """The values of 'test/fd/stamp.extractor' and the like; None for a run without the figure or the field."""
  match = _FIELD.fullmatch(name)
  assert match is not None, name
  return [stamp.get(match['field']) for stamp in _told(frame, match['column'])]


def fields(frame: 'pd.DataFrame', name: str) -> list[str]:
  """The names that 'test/fd/stamp.x' can be mistaken for: all fields of that stamp; none for a name of another kind."""
  match = _FIELD.fullmatch(name)
  if match is None:
    return []
  found = dict.fromkeys(field for stamp in _told(frame, match['column']) for field in stamp)
  return [f'{match["column"]}.{field}' for field in found]


def _told(frame: 'pd.DataFrame', column: str) -> list[dict[str, Any]]:
  texts = frame[column].tolist() if column in frame.columns else []
  return [_loaded(text) if isinstance(text, str) else {} for text in texts]


@functools.lru_cache(1024)
def _loaded(text: str) -> dict[str, Any]:
  return json.loads(text)


def interval(value: float, low: float, high: float, error: float) -> Interval:
  """A figure with its own 95% interval, over the samples of one run; of a standard error alone the normal one.

  Returns:
    method 'own', or 'single' (bounds NaN) where the record tells neither, or 'none' where there is no value.
  """
  if not np.isfinite(value):
    return Interval(np.nan, np.nan, np.nan, 0, 'none')
  if np.isfinite([low, high]).all():
    return Interval(value, low, high, 1, 'own')
  if np.isfinite(error):
    return Interval(value, value - _Z * error, value + _Z * error, 1, 'own')
  return Interval(value, np.nan, np.nan, 1, 'single')


def own(row: 'pd.Series', name: str) -> Interval:
  """`interval` of the figure `name` in a row of `runs`."""
  return interval(*(float(row[column]) for column in (name, *(f'{name}/{end}' for end in _ENDS))))
