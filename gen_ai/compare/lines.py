"""Single runs on a terminal, one line each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from gen_ai.compare import blocks, evaluations, groups, layout, protocol
from gen_ai.compare import format as fmt
from gen_ai.compare.blocks import BETTER, View
from gen_ai.compare.layout import Column
from gen_ai.compare.protocol import count
from gen_ai.compare.select import Metric, cells

if TYPE_CHECKING:
  import pandas as pd


def show(console: Console, view: View) -> None:
  """Prints the runs of `view`, complete ones first, the best by the first metric on top."""
  metric = view.metrics[0]
  finals = groups.values(view.frame, metric.of(view.frame)) * {'min': 1, 'max': -1}.get(metric.mode or '', 0)
  unfinished = (view.frame['state'] != 'done').to_numpy()
  frame = view.frame.iloc[np.lexsort((finals, unfinished))]
  blocks.head(console, view, count(len(frame)))
  names = [str(number) for number in range(1, len(frame) + 1)]
  seeds = groups.differing(frame, [name for name in groups.SEEDS if name in frame.columns])
  differing = [*groups.differing(frame), *seeds]
  values = list(zip(*(cells(frame, name) for name in differing), strict=True)) if differing else [()] * len(frame)
  fields = [dict(zip(differing, row, strict=True)) for row in values]
  states = Column('state', cells(frame, 'state'), right=False)
  steps = Column('step', [f'{step:,}' for step in frame['step']])
  if view.overview:
    columns = [_figures(view, frame, metric)[0]._replace(header=metric.name) for metric in view.metrics]
    blocks.overview(console, view, names, fields, [states, steps], columns)
  for metric in () if view.overview else view.metrics:
    layout.title(console, metric.name, BETTER[metric.mode or 'min'])
    blocks.with_fields(console, names, fields, [states, steps, *_figures(view, frame, metric)])
  rows = [{name: float(row[name]) for name in blocks.COSTS} for _, row in frame.iterrows()]
  blocks.costs(console, names, rows, [int(lanes) for lanes in frame['lanes']])
  layout.title(console, 'runs')
  for name, (run, row) in zip(names, frame.iterrows(), strict=True):
    layout.line(console, f'{name:>{len(names[-1])}}  ', (str(run), blocks.STYLES.get(row['state'], '')))
    layout.paragraph(console, row['message'].removeprefix(f'{run}: '), indent=len(names[-1]) + 2, style='dim')
  notes = ['( ): so far; the run did not reach its last step'] if any(unfinished) else []
  if any(metric.evaluated(frame) for metric in view.metrics):
    notes.append('[ ]: 95% interval of the evaluation itself, over its samples')
  blocks.notes(console, view, notes)


def _figures(view: View, frame: 'pd.DataFrame', metric: Metric) -> list[Column]:
  """final, last k and best, of an evaluation final alone; in brackets where the run has not reached its end."""
  ended = [state == 'done' for state in cells(frame, 'state')]
  modes = [metric.mode if one else None for one in protocol.bounded(frame, metric.name)]
  if metric.evaluated(frame):
    texts = {'final': [fmt.interval(evaluations.own(row, metric.name)) for _, row in frame.iterrows()]}
  else:
    kinds = {'final': 'final', f'last {view.last_k}': 'last_k', 'best*': f'best_{metric.mode}'}
    values = {header: groups.values(frame, f'{kind}/{metric.name}') for header, kind in kinds.items()}
    texts = {header: [fmt.number(value) for value in found] for header, found in values.items()}
  texts['final'] = [fmt.bound(text, mode) for text, mode in zip(texts['final'], modes, strict=True)]
  return [_column(header, found, ended) for header, found in texts.items()]


def _column(header: str, texts: Sequence[str], ended: Sequence[bool]) -> Column:
  kept = [text if done or text == fmt.NOTHING else f'({text})' for text, done in zip(texts, ended, strict=True)]
  padded = kept if all(ended) else [text if text.endswith(')') else f'{text} ' for text in kept]
  return Column(header, padded, style='bold' if header == 'final' else '')
