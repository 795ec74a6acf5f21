"""Groups over seeds on a terminal: their figures, costs, differences, and the runs that are in no figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from gen_ai.compare import blocks, groups, layout, protocol
from gen_ai.compare import format as fmt
from gen_ai.compare.blocks import BETTER, View
from gen_ai.compare.groups import Group, Summary
from gen_ai.compare.layout import Column
from gen_ai.compare.protocol import count
from gen_ai.compare.select import Metric, cells, label, missing, shown

if TYPE_CHECKING:
  import pandas as pd

_LEGIBLE = 160  # characters of a group's fields in a heading; beyond that its letter must do


def show(console: Console, view: View, found: Sequence[Group], baseline: Group | None) -> None:
  """Prints the groups `found`, compared with `baseline` if there is one."""
  pooled = list(dict.fromkeys(label(name) for group in found for name in group.pooled))
  by = [label(name) for name in found[0].fields]
  how = f'by {", ".join(by)}' if pooled else 'equal config but for the seeds'
  blocks.head(console, view, f'{count(len(view.frame))} in {count(len(found), "group")} ({how})')
  if pooled:
    layout.paragraph(console, f'pooled over: {", ".join(pooled)}', style='yellow')
  if view.overview:
    _overview(console, view, found)
  for metric in () if view.overview else view.metrics:
    _figures(console, view, found, metric)
  if any(len(group.counted) for group in found):
    lanes = [int(max(groups.values(group.counted, 'lanes'), default=1)) for group in found]
    rows = [{name: groups.cost(group, name) for name in blocks.COSTS} for group in found]
    blocks.costs(console, [group.label for group in found], rows, lanes, 'means over the counted runs')
  if baseline is not None:
    for metric in view.metrics:
      _differences(console, found, baseline, metric)
  _not_counted(console, found)
  blocks.notes(console, view, _method_notes(view, found, baseline))


def named(group: Group) -> str:
  """'A (optim.lr 0.001)'."""
  fields = ', '.join(f'{label(name)} {shown(value)}' for name, value in group.fields.items() if not missing(value))
  return f'{group.label} ({fields})' if 0 < len(fields) <= _LEGIBLE else group.label


def _overview(console: Console, view: View, found: Sequence[Group]) -> None:
  finals = [
    Column(m.name, _finals(found, m, [groups.summarise(group, m) for group in found]), style='bold')
    for m in view.metrics
  ]
  counted = Column('n', [str(len(group.counted)) for group in found])
  blocks.overview(console, view, [group.label for group in found], [group.fields for group in found], [counted], finals)


def _figures(console: Console, view: View, found: Sequence[Group], metric: Metric) -> None:
  layout.title(console, metric.name, BETTER[metric.mode or 'min'])
  summaries = [groups.summarise(group, metric) for group in found]
  others = [_others(group, metric) for group in found]
  of_many = [
    Column(f'last {view.last_k}', [fmt.interval(summary.last_k) for summary in summaries]),
    Column('best*', [fmt.interval(summary.best) for summary in summaries], style='dim'),
  ]
  figures = [
    Column('n', [str(summary.final.n) for summary in summaries]),
    Column('final', _finals(found, metric, summaries), style='bold'),
    *([] if metric.evaluated(view.frame) else of_many),
    *([Column('not counted', others, right=False)] if any(others) else []),
  ]
  fields, again = [group.fields for group in found], metric is not view.metrics[0]
  blocks.with_fields(console, [group.label for group in found], fields, figures, again)


def _finals(found: Sequence[Group], metric: Metric, summaries: Sequence[Summary]) -> list[str]:
  """The final figures; those that are bounds behind their sign."""
  bounds = [any(protocol.bounded(group.frame, metric.name)) for group in found]
  pairs = zip(summaries, bounds, strict=True)
  return [fmt.bound(fmt.interval(summary.final), metric.mode if one else None) for summary, one in pairs]


def _others(group: Group, metric: Metric) -> str:
  """'1 diverged' and the like, a line each: the runs that are not in the figures."""
  left_out = group.frame.drop(index=group.counted.index)
  words = [_state(row) for _, row in left_out.iterrows()]
  without = len(group.counted) - len(groups.with_figure(group, metric))
  lines = [f'{words.count(word)} {word}' for word in dict.fromkeys(words)]
  return '\n'.join([*lines, *([f'{without} without value'] if without else [])])


def _state(row: 'pd.Series') -> str:
  """The state of a run that is not counted: one that is complete all the same is an earlier equal of another."""
  return 'repeated' if row['state'] == 'done' and row['step'] == row['steps'] else row['state']


def _differences(console: Console, found: Sequence[Group], baseline: Group, metric: Metric) -> None:
  better = BETTER[metric.mode or 'min']  # a comparison has a direction
  others = [group for group in found if group.label != baseline.label]
  against = [groups.difference(group, baseline, metric) for group in others]
  what = f'final {metric.name} minus that of {named(baseline)}'
  if len(what) + len(better) + layout.GAP > console.width:
    what = f'final {metric.name} minus that of {baseline.label}'
  layout.title(console, what, better)
  differences = [fmt.interval(one.interval, signed=True) if one.matched else 'no seed matches' for one in against]
  layout.grid(
    console,
    [
      Column('', [group.label for group in others], right=False),
      Column('matched', [str(one.matched) for one in against]),
      Column('difference', differences, style='bold'),
      Column(f'P(better than {baseline.label})', [fmt.share(*one.better) for one in against]),
    ],
  )
  for group, one in zip(others, against, strict=True):
    layout.paragraph(console, groups.verdict(one, group.label, baseline.label, metric))


def _not_counted(console: Console, found: Sequence[Group]) -> None:
  """Every run that is not in the figures, with where it stands and what it said."""
  rows = [(group, group.frame.drop(index=group.counted.index)) for group in found]
  if not any(len(frame) for _, frame in rows):
    return
  layout.title(console, 'not counted', 'no final figure: shown, not averaged')
  for group, frame in rows:
    waiting = frame[frame['state'] == 'waiting']
    for run, row in frame.drop(index=waiting.index).iterrows():
      _left_out(console, group.label, str(run), row)
    if len(waiting):
      trials = ', '.join(str(trial) for trial in cells(waiting, 'trial') if trial >= 0)
      where = f', trial {trials}' if trials else ''
      layout.paragraph(console, f'{group.label:<3}{len(waiting)} waiting, not started{where}', style='dim')


def _left_out(console: Console, name: str, run: str, row: 'pd.Series') -> None:
  state, message = _state(row), row['message'].removeprefix(f'{run}: ')
  where = f' at step {row["step"]:,} of {shown(row["steps"])}'
  layout.line(console, f'{name:<3}', (state, blocks.STYLES.get(state, '')), where)
  layout.line(console, ' ' * 3, (run, 'dim'))
  if state == 'repeated':
    message = 'a later run has the same config, seeds and code: one seed counts once'
  layout.paragraph(console, message, indent=3, style='dim')


def _method_notes(view: View, found: Sequence[Group], baseline: Group | None) -> list[str]:
  methods = {groups.summarise(group, metric).final.method for group in found for metric in view.metrics}
  names = {'t': "Student's t (n < 30)", 'bootstrap': 'the BCa bootstrap (n >= 30)'}
  used = [text for method, text in names.items() if method in methods]
  lines = [f'±, [ ]: 95% interval of the mean over runs by {" and ".join(used)}'] if used else []
  if 'own' in methods:
    lines.append(
      'n = 1: [ ] is the 95% interval of the evaluation itself, over its samples; it tells nothing of other '
      'seeds: run more of them, as with --axis=run.seed=0:5'
    )
  if 'single' in methods:
    lines.append('n = 1: no interval; run more seeds, as with --axis=run.seed=0:5')
  if baseline is not None:
    lines += groups.DIFFERENCE_NOTES
  return lines
