"""Runs that repeat one experiment under several seeds, and their figures with intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gen_ai.compare import evaluations, statistics
from gen_ai.compare.select import Metric, cells, column
from gen_ai.compare.statistics import Interval

if TYPE_CHECKING:
  import pandas as pd

SEEDS = ('config.run.seed', 'config.data.seed')
_TRIED = ('diverged', 'pruned')  # ended without a final figure, by the method's own doing
_ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'


@dataclass(frozen=True)
class Group:
  """Runs that share a config but for the seeds, or the fields of --by."""

  label: str  # 'A', 'B', ...: the best first
  fields: dict[str, Any]  # {column: value} of what sets it apart from other groups
  pooled: tuple[str, ...]  # columns in which its runs differ, besides seeds: empty unless grouped by fields
  frame: 'pd.DataFrame'  # rows of all its runs
  counted: 'pd.DataFrame'  # rows that enter means: complete, and no seed twice

  @property
  def repeated(self) -> int:
    """Complete runs that an equal and later one stands for."""
    return int(_complete(self.frame).sum()) - len(self.counted)


class Summary(NamedTuple):
  """A metric of one group over its counted runs that have it: three figures that must not be mixed."""

  final: Interval
  last_k: Interval
  best: Interval  # optimistic: the best of many evaluations, chosen by the figure itself


class Difference(NamedTuple):
  """A group against the baseline."""

  matched: int  # runs with a partner of the same seed, and of the same pooled fields
  interval: Interval  # of group - baseline over matched runs
  better: tuple[float, float, float]  # probability that a run of the group beats one of the baseline; low, high


def differing(frame: 'pd.DataFrame', among: Sequence[str] = ()) -> list[str]:
  """Config columns in which rows of `frame` differ, seeds left out; a field that a run lacks is a value too."""
  columns = among or [c for c in frame.columns if c.startswith('config.') and c not in (*SEEDS, 'config.sweep.lanes')]
  return [c for c in columns if len(set(cells(frame, c))) > 1]


def make(frame: 'pd.DataFrame', metric: Metric | None, by: Sequence[str] = ()) -> list[Group]:
  """The groups of `frame`, the best mean final value of `metric` first, those without one last.

  Args:
    frame: rows of `Runs.runs`.
    metric: that orders them; None, or one without a direction: as they come.
    by: columns to group by, pooling what differs in others; none: by the config without its seeds.

  Raises:
    UserError: no such column.
  """
  columns = [column(frame, name) for name in by] or differing(frame)
  members: dict[Any, list[int]] = {}
  keys = zip(*(cells(frame, name) for name in columns), strict=True) if columns and by else _configs(frame)
  for row, key in enumerate(keys):
    members.setdefault(key, []).append(row)
  groups = [_group(frame.iloc[rows], columns, bool(by)) for rows in members.values()]
  if metric is not None and metric.mode:
    groups.sort(key=lambda group: _rank(group, metric))
  return [Group(label, g.fields, g.pooled, g.frame, g.counted) for label, g in zip(_labels(), groups, strict=False)]


def counted(frame: 'pd.DataFrame') -> 'pd.DataFrame':
  """The rows that enter means: runs that reached their step budget; of equal ones under equal code the newest.

  Diverged, failed, pruned and unfinished runs have no final figure; an equal run would count one seed twice.
  """
  done = frame[_complete(frame)]
  latest: dict[Any, str] = {}
  columns = ('run', 'created', 'config_hash', 'commit', 'patch')
  for run, created, *key in zip(*(cells(done, name) for name in columns), strict=True):
    same = tuple(key) if key[0] else run
    if same not in latest or created >= done.at[latest[same], 'created']:
      latest[same] = run
  return done.loc[list(latest.values())]


def _group(frame: 'pd.DataFrame', columns: Sequence[str], pools: bool) -> Group:
  fields = {name: cells(frame, name)[0] for name in columns}
  pooled = tuple(name for name in differing(frame) if name not in columns) if pools else ()
  return Group('', fields, pooled, frame, counted(frame))


def _configs(frame: 'pd.DataFrame') -> list[str]:
  """What groups runs by config without seeds; a run whose record does not tell stands alone."""
  return [group or run for run, group in zip(cells(frame, 'run'), cells(frame, 'group'), strict=True)]


def _complete(frame: 'pd.DataFrame') -> 'pd.Series':
  return (frame['state'] == 'done') & (frame['step'] == frame['steps'])


def _rank(group: Group, metric: Metric) -> tuple[bool, float]:
  mean = summarise(group, metric).final.mean
  return bool(np.isnan(mean)), 0.0 if np.isnan(mean) else mean if metric.mode == 'min' else -mean


def _labels() -> Iterator[str]:
  """A ... Z, AA ... ZZ, AAA ..."""
  ends = ['']
  while True:
    ends = [start + letter for start in ends for letter in _ALPHABET]
    yield from ends


def values(frame: 'pd.DataFrame', name: str) -> np.ndarray:
  """Column `name` as float64 [n]; all NaN where no run has it."""
  return frame[name].to_numpy(np.float64) if name in frame.columns else np.full(len(frame), np.nan)


def with_figure(group: Group, metric: Metric) -> 'pd.DataFrame':
  """The counted runs whose final value of `metric` is a finite number."""
  return group.counted[np.isfinite(values(group.counted, metric.of(group.counted)))]


def _finals(frame: 'pd.DataFrame', metric: Metric) -> np.ndarray:
  return values(frame, metric.of(frame))


def summarise(group: Group, metric: Metric) -> Summary:
  """The three figures of `metric`, each a mean over `with_figure` with its 95% interval.

  An evaluation has a final figure alone; that of one run has the interval of its own record, over its samples.
  """
  frame = with_figure(group, metric)
  if metric.evaluated(frame):
    found = statistics.mean_interval(values(frame, metric.name))
    nothing = statistics.mean_interval([])
    return Summary(evaluations.own(frame.iloc[0], metric.name) if len(frame) == 1 else found, nothing, nothing)
  columns = (f'final/{metric.name}', f'last_k/{metric.name}', f'best_{metric.mode}/{metric.name}')  # NaN without mode
  return Summary(*(statistics.mean_interval(values(frame, name)) for name in columns))


def cost(group: Group, name: str) -> float:
  """Mean of a cost column over the counted runs that recorded it; NaN where none did."""
  recorded = values(group.counted, name)
  return statistics.mean_interval(recorded[np.isfinite(recorded)]).mean


def difference(group: Group, baseline: Group, metric: Metric) -> Difference:
  """`group` against `baseline` in the final value; runs match that share seeds and all pooled fields.

  In the probability of improvement a run that diverged or was pruned loses against every run that ended.
  """
  pooled = dict.fromkeys((*SEEDS, *group.pooled, *baseline.pooled))
  assert metric.mode, 'a direction is asked for before'
  shared = [name for name in pooled if name not in group.fields and name in group.frame.columns]
  ours, theirs = (_keyed(g, metric, shared) for g in (group, baseline))
  both = [key for key in ours if key in theirs]
  interval = statistics.paired_difference([ours[k] for k in both], [theirs[k] for k in both])
  a, b = (
    np.concatenate([_finals(with_figure(g, metric), metric), np.full(tried(g), np.nan)]) for g in (group, baseline)
  )
  return Difference(len(both), interval, statistics.probability_of_improvement(a, b, metric.mode))


DIFFERENCE_NOTES = (
  'difference: of runs matched by seed and by what is pooled, with the interval of its mean',
  'P(better): that a run beats one of the baseline, Mann-Whitney, ties one half; bootstrap interval; a run that '
  'diverged or was pruned loses',
  'not told apart: the 95% interval of the difference holds 0, or there is none; where no seed matches, that of '
  'P(better) holds one half. Every pair stands alone: of many, some are told apart by chance',
)


def verdict(one: Difference, group: str, baseline: str, metric: Metric) -> str:
  """'A and B are not told apart (n = 3)', or which one is better: `one` in words, its groups by these names."""
  n = f'n = {one.matched}' if one.matched else 'no seed matches'
  if one.matched:
    low, high = (
      (one.interval.low, one.interval.high) if metric.mode == 'max' else (-one.interval.high, -one.interval.low)
    )
  else:
    low, high = (bound - 0.5 for bound in one.better[1:])
  if low > 0:
    return f'{group} is better than {baseline} ({n})'
  return f'{group} is worse than {baseline} ({n})' if high < 0 else f'{baseline} and {group} are not told apart ({n})'


def _keyed(group: Group, metric: Metric, columns: Sequence[str]) -> dict[Any, float]:
  """{values of `columns`: final value} of the runs whose values are theirs alone."""
  frame = with_figure(group, metric)
  keys = list(zip(*(cells(frame, name) for name in columns), strict=True))
  finals = _finals(frame, metric)
  return {key: float(v) for key, v in zip(keys, finals, strict=True) if keys.count(key) == 1}


def tried(group: Group) -> int:
  """Runs of `group` that ended without a final figure by the method's own doing: diverged or pruned."""
  return int(group.frame['state'].isin(_TRIED).sum())


def configurations(group: Group, metric: Metric) -> np.ndarray:
  """Mean final value over seeds of each configuration tried in `group` [N]; NaN for one that only diverged.

  Configurations of which no run has ended yet, or that failed for the machine's sake, are left out.
  """
  results = []
  for _, frame in group.frame.groupby(_configs(group.frame), sort=False):
    one = _group(frame, (), False)
    figures = with_figure(one, metric)
    if len(figures) or tried(one):
      results.append(statistics.mean_interval(_finals(figures, metric)).mean)
  return np.array(results, np.float64)
