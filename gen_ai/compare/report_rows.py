"""Rows of the HTML report: what runs and groups are called, where they differ, their figures, where they come from."""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gen_ai.compare import evaluations, groups
from gen_ai.compare.curves import figure, figures
from gen_ai.compare.report_stamps import Stamps
from gen_ai.compare.select import Metric, cells, label, missing, shown
from gen_ai.compare.statistics import Interval
from gen_ai.core import command_line
from gen_ai.run import info

if TYPE_CHECKING:
  import pandas as pd

_TOLD = ('config.run.name', 'config.experiment', 'config.data.name')  # columns of their own
_ABOUT = (
  'name',
  'experiment',
  'data',
  'data_version',
  'data_hash',
  'data_spec',
  'split_rule',
  'eval_split',
  'eval_examples',
  'eval_seed',
  'ema',
  'observation',
  'extractor',
  'eval_samples',
  'arithmetic',
  'compiler',
  'devices',
  'host',
  'code',
  'versions',
)
_PROTOCOL = {
  'data': 'data',
  'data_version': 'version',
  'data_hash': 'sha256',
  'split_rule': 'splits',
  'eval_split': 'evaluated on',
  'eval_examples': 'examples',
  'ema': 'weights',
  'eval_seed': 'noise seed',
  'data_spread': 'spread of the data',
  'observation': 'observation',
  'extractor': 'extractor',
  'eval_samples': 'samples',
  'steps': 'step budget',
}
_IN_WORDS = {
  'data_hash': lambda value: value[:12],
  'ema': lambda value: 'averaged (EMA)' if value == 'true' else 'last',
}
_COSTS = (
  'wall_seconds',
  'compile_seconds',
  'examples_per_second',
  'examples',
  'flops',
  'peak_memory_bytes',
  'parameters',
)
_IN_LABEL = 4  # fields


class Field(NamedTuple):
  """A column in which runs differ."""

  column: str
  label: str
  short: str  # the last part of `label` where that is enough to tell
  swept: bool  # it differs between runs of one method
  seed: bool  # repetitions differ in it


def describe(
  runs: 'pd.DataFrame', metrics: Sequence[Metric], given: Sequence[Metric], baseline: Collection[str]
) -> dict[str, Any]:
  """Everything of the page but curves, samples and search budget, as JSON types.

  Args:
    runs: one row a run, as `gen_ai.compare.load` gives.
    metrics: what is shown.
    given: those by which groups are compared, the main one first.
    baseline: the runs of the group that the others are compared with; the best one's where they are no group.

  Returns:
    fields that differ, `same` for those that do not, groups, their differences, runs, the stamps that figures and costs
    of both name by their place, protocol, noise (values of config.eval.seed), and t: half-widths of the 95% bands
    around means of n curves, in standard deviations, by n.
  """
  frame = runs.assign(method=runs['name'], code=_code(runs), examples=runs['step'] * runs['examples_per_step'])
  stamps = Stamps(frame, metrics)
  fields, same = _fields(frame)
  found = sorted(groups.make(frame, None), key=lambda group: _order(group, frame, fields))
  names = _group_labels(found, fields)
  places = {run: number for number, group in enumerate(found) for run in group.frame.index}
  counted = {run for group in found for run in group.counted.index}
  return {
    'fields': [field._asdict() for field in fields],
    'same': same,
    'groups': [
      _group(group, name, fields, metrics) | stamps.of(group.counted.index)
      for group, name in zip(found, names, strict=True)
    ],
    'differences': _differences(frame, found, names, given, set(baseline)),
    'runs': [
      _run(row, _run_label(frame, row, names[places[row.name]], fields), fields, metrics)
      | {'group': places[row.name], 'counted': row.name in counted, **stamps.of([str(row.name)])}
      for _, row in frame.iterrows()
    ],
    'stamps': stamps.listed,
    'protocol': _protocol(frame),
    'noise': _distinct(frame, 'config.eval.seed'),
    't': _half_widths(max(len(group.frame) for group in found)),
  }


def _half_widths(most: int) -> list[float | int | None]:
  from scipy.special import stdtrit

  n = np.arange(2, most + 1)
  return [None, None, *figures(stdtrit(n - 1, 0.975) / np.sqrt(n))]


def _plain(value: Any) -> float | int | str | None:
  """A value as the table sorts it: numbers stay numbers."""
  if isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_):
    return figure(value)
  return None if missing(value) or value == '' else shown(value)


def _code(runs: 'pd.DataFrame') -> list[str]:
  """Commit of each run, and the hash of its uncommitted changes."""
  rows = zip(*(cells(runs, name) for name in ('commit', 'dirty', 'patch')), strict=True)
  return [f'{commit[:10]}{f" + changes {patch[:8]}" if dirty else ""}'.strip() for commit, dirty, patch in rows]


def _distinct(frame: 'pd.DataFrame', column: str) -> list[str]:
  """The different values of a column, as text; a missing one counts for a config field only."""
  if column not in frame:
    return []
  values = cells(frame, column)
  return list(dict.fromkeys(shown(v) for v in values if column.startswith('config.') or _plain(v) is not None))


# What differs, and what groups and runs are called.


def _fields(frame: 'pd.DataFrame') -> tuple[list[Field], list[list[str]]]:
  """(columns that differ, the swept ones first and seeds last; [name, value] of those that do not)."""
  columns = [*_ABOUT, *(c for c in frame.columns if c.startswith('config.') and c not in _TOLD)]
  if frame.groupby('method')['experiment'].nunique().max() == 1:
    columns.remove('experiment')  # the name tells it
  differing, same = [], []
  for column in columns:
    values = _distinct(frame, column)
    if len(values) < 2:
      same += [[label(column), value] for value in values]
    else:
      differing.append(column)
  lasts = [label(column).rpartition('.')[2] for column in differing]
  fields = [
    Field(
      column,
      label(column),
      last if lasts.count(last) == 1 else label(column),
      _swept(frame, column),
      column in groups.SEEDS,
    )
    for column, last in zip(differing, lasts, strict=True)
  ]
  return sorted(fields, key=lambda field: (field.seed, not field.swept)), same


def _swept(frame: 'pd.DataFrame', column: str) -> bool:
  return column.startswith('config.') and any(len(_distinct(rows, column)) > 1 for _, rows in frame.groupby('method'))


def _order(group: groups.Group, frame: 'pd.DataFrame', fields: Sequence[Field]) -> list[Hashable]:
  """By method in the order found, then by the values of the swept fields, numbers as numbers."""
  row = group.frame.iloc[0]
  values = [_plain(row[field.column]) for field in fields if field.swept and not field.seed]
  kinds = [(value is None, isinstance(value, str), 0 if value is None else value) for value in values]
  return [list(dict.fromkeys(frame['method'])).index(row['method']), *kinds]


def _group_labels(found: Sequence[groups.Group], fields: Sequence[Field]) -> list[str]:
  """The method where there are several, and the swept fields."""
  several = len({group.frame['method'].iloc[0] for group in found}) > 1
  labels: list[str] = []
  for group in found:
    row = group.frame.iloc[0]
    swept = [f for f in fields if f.swept and not f.seed and not missing(row[f.column])]
    pairs = [f'{f.short}={shown(row[f.column])}' for f in swept]
    words = [row['method']] * (several or not pairs) + pairs[:_IN_LABEL] + ['...'] * (len(pairs) > _IN_LABEL)
    name = ' '.join(words)
    twins = sum(other.partition(' #')[0] == name for other in labels)
    labels.append(f'{name} #{twins + 1}' if twins else name)
  return labels


def _run_label(frame: 'pd.DataFrame', row: 'pd.Series', group: str, fields: Sequence[Field]) -> str:
  seeds = [f'{f.short}={shown(row[f.column])}' for f in fields if f.seed and not missing(row[f.column])]
  name = ' '.join([group, *seeds])
  twice = (frame['config_hash'] == row['config_hash']).sum() > 1
  return f'{name} ({Path(str(row.name)).name})' if twice else name


# Rows.


def _group(group: groups.Group, name: str, fields: Sequence[Field], metrics: Sequence[Metric]) -> dict[str, Any]:
  """A group's row; its means are those of the terminal: over runs that reached their step budget."""
  first = group.frame.iloc[0]
  return {
    'label': name,
    'runs': len(group.frame),
    'states': group.frame['state'].value_counts().to_dict(),
    'lanes': int(group.frame['lanes'].max()),
    'values': {field.column: _plain(first[field.column]) for field in fields if not field.seed},
    'metrics': {
      metric.name: {kind: _interval(found) for kind, found in groups.summarise(group, metric)._asdict().items()}
      for metric in metrics
    },
    'cost': {cost: figure(groups.cost(group, cost)) for cost in _COSTS},
  }


def _differences(
  frame: 'pd.DataFrame',
  found: Sequence[groups.Group],
  names: Sequence[str],
  metrics: Sequence[Metric],
  wanted: set[str],
) -> dict[str, Any]:
  """Every group against the one whose runs are `wanted`, or else against the best, as the terminal compares them.

  Metrics of which nobody said what is better are left out.
  """
  metrics = [metric for metric in metrics if metric.mode]
  if not metrics:
    return {'baseline': 0, 'notes': [], 'metrics': []}
  best = set(groups.make(frame, metrics[0])[0].frame.index)
  runs = [set(group.frame.index) for group in found]
  place = runs.index(wanted if wanted in runs else best)
  return {
    'baseline': place,
    'notes': [f'{note}.' for note in groups.DIFFERENCE_NOTES],
    'metrics': [
      {
        'name': metric.name,
        'mode': metric.mode,
        'rows': [
          _difference(i, groups.difference(group, found[place], metric), names[i], names[place], metric)
          for i, group in enumerate(found)
          if i != place
        ],
      }
      for metric in metrics
    ],
  }


def _difference(place: int, one: groups.Difference, name: str, baseline: str, metric: Metric) -> dict[str, Any]:
  return {
    'group': place,
    'matched': one.matched,
    'interval': _interval(one.interval),
    'better': figures(one.better),
    'says': groups.verdict(one, name, baseline, metric),
  }


def _interval(found: Interval) -> dict[str, Any]:
  return {**found._asdict(), 'mean': figure(found.mean), 'low': figure(found.low), 'high': figure(found.high)}


def _run(row: 'pd.Series', name: str, fields: Sequence[Field], metrics: Sequence[Metric]) -> dict[str, Any]:
  return {
    'run': str(row.name),
    'label': name,
    'method': row['method'],
    'state': row['state'],
    'step': int(row['step']),
    'steps': figure(row['steps']),
    'message': row['message'],
    'lanes': int(row['lanes']),
    'values': {field.column: _plain(row[field.column]) for field in fields},
    'metrics': {metric.name: _figures(row, metric) for metric in metrics},
    'cost': {cost: figure(row[cost]) for cost in _COSTS},
    'examples_per_step': figure(row['examples_per_step']),
    'flops_per_step': figure(row['flops_per_step']),
    'about': _provenance(row),
  }


def _figures(row: 'pd.Series', metric: Metric) -> dict[str, Any]:
  if f'final/{metric.name}' not in row.index:
    own = evaluations.own(row, metric.name)
    return {'final': figure(own.mean), 'low': figure(own.low), 'high': figure(own.high)}
  best = f'best_{metric.mode}'
  columns = {'final': 'final', 'last_k': 'last_k', 'best': best, 'best_step': f'{best}_step'}
  return {kind: figure(row.get(f'{column}/{metric.name}')) for kind, column in columns.items()}  # no best without mode


def _provenance(row: 'pd.Series') -> list[list[str]]:
  """[what, text] of where a run comes from; what its record does not tell is left out."""
  path = str(row.name)
  about = info.read_if_any(path) or info.RunInfo()
  argv = command_line.started(about.argv) if about.argv else ''
  evaluation = asdict(about.evaluation) if about.evaluation is not None else {}
  evaluation |= {f'data_{name}': value for name, value in evaluation.pop('data_figures', {}).items()}
  protocol = ', '.join(
    f'{name} {shown(value)}'
    for name, value in evaluation.items()
    if value not in ('', None) and name not in ('split_rule', 'data')
  )
  attempts = f'{row["attempts"]} (resumed)' if row['attempts'] > 1 else str(row['attempts'])
  pairs = [
    ('reproduce', command_line.printed('gen_ai.reproduce', path)),
    ('started as', argv),
    ('directory', path),
    ('sweep', f'{row["sweep"]}, trial {row["trial"]}' if row['sweep'] else ''),
    ('created', row['created']),
    ('message', row['message']),
    ('attempts', attempts),
    ('code', row['code']),
    ('versions', row['versions']),
    ('devices', row['devices']),
    ('host', row['host']),
    ('data', f'{row["data"]} {row["data_version"]}'.strip()),
    ('data sha256', row['data_hash']),
    ('split rule', row['split_rule']),
    ('evaluation', protocol),
    ('config hash', row['config_hash']),
    ('group hash', row['group']),
  ]
  return [[name, value] for name, value in pairs if value]


def _protocol(frame: 'pd.DataFrame') -> list[list[str]]:
  """[what, text] of the protocol that the runs share; `differs: ...` where they do not."""
  lines = []
  for column, name in _PROTOCOL.items():
    values = _distinct(frame, column)
    values = [_IN_WORDS[column](value) for value in values] if column in _IN_WORDS else values
    if values and (column, values) != ('eval_samples', ['0']):
      lines.append([name, values[0] if len(values) == 1 else f'differs: {" | ".join(values[:4])}'])
  return lines
