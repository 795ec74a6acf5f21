"""Blocks that tables of groups and of single runs share: head, columns of fields, costs, notes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from gen_ai.compare import format as fmt
from gen_ai.compare import groups, layout
from gen_ai.compare.layout import Column
from gen_ai.compare.select import Metric, cells, label, missing, shown

if TYPE_CHECKING:
  import pandas as pd

BETTER = {'min': 'lower is better', 'max': 'higher is better'}
STYLES = {'diverged': 'red', 'failed': 'red', 'lost': 'red', 'pruned': 'yellow', 'running': 'cyan'}
_FIRST = ('experiment', 'data.name', 'run.steps', 'optim.', 'loss.', 'model.', 'data.')  # in the line of equal fields
_COSTS: dict[str, tuple[str, Callable[[float], str], bool]] = {  # header: (column, form, shared by lanes)
  'wall': ('wall_seconds', fmt.duration, True),
  'compile': ('compile_seconds', fmt.duration, True),
  'examples/s': ('examples_per_second', fmt.short, True),
  'FLOPs': ('flops', fmt.short, False),
  'peak memory': ('peak_memory_bytes', lambda value: fmt.short(value, 'B'), True),
  'parameters': ('parameters', fmt.short, False),
}
COSTS = tuple(column for column, _, _ in _COSTS.values())
_SHARED = '†'


@dataclass(frozen=True)
class View:
  """What is shown, the same for groups and for single runs."""

  frame: 'pd.DataFrame'
  metrics: Sequence[Metric]
  last_k: int
  stamp: str = ''  # of --force
  notes: Sequence[str] = ()
  left: Sequence[str] = ()  # what could not be read
  overview: bool = False  # nobody chose the metrics: the final figures of all, side by side


def head(console: Console, view: View, what: str) -> None:
  """The stamp, how many runs and groups there are, and what all runs share."""
  if view.stamp:
    layout.paragraph(console, view.stamp, style='bold red')
  layout.paragraph(console, what, style='bold')
  for line in view.left:
    layout.paragraph(console, line, style='yellow', hanging=2)
  differ = groups.differing(view.frame)
  config = [c for c in view.frame.columns if c.startswith('config.') and c not in (*groups.SEEDS, *differ)]
  same = {label(name): cells(view.frame, name)[0] for name in config}
  ranked = sorted(same, key=lambda name: next((i for i, p in enumerate(_FIRST) if name.startswith(p)), len(_FIRST)))
  parts = [f'{name} {shown(same[name])}' for name in ranked if not missing(same[name])]
  if parts:
    layout.paragraph(console, layout.folded(parts, console.width, 'same in all: '), style='dim')


def with_fields(
  console: Console,
  names: Sequence[str],
  fields: Sequence[Mapping[str, Any]],
  rest: Sequence[Column],
  again: bool = False,
) -> None:
  """A table of `names`, the fields that differ and `rest`; where it is too wide, the fields go into lines above it.

  Args:
    console: where to.
    names: of the rows.
    fields: {config column: value} of each row.
    rest: the other columns.
    again: an earlier table has told the fields; lines above this one would only repeat them.
  """
  first = Column('', names, right=names[0].isdigit())
  columns = [first, *_field_columns(fields), *rest]
  if layout.fits(console, columns):
    layout.grid(console, columns)
    return
  for name, row in zip(names, fields, strict=True) if not again else ():
    values = {label(field): shown(value) for field, value in row.items() if not missing(value)}
    text = ', '.join(f'{field}{layout.TIE}{value}' for field, value in values.items())
    layout.paragraph(console, f'{name.rjust(first.width)}  {text}', style='dim', hanging=first.width + 2)
  layout.grid(console, [first, *rest])


def overview(
  console: Console,
  view: View,
  names: Sequence[str],
  fields: Sequence[Mapping[str, Any]],
  rest: Sequence[Column],
  figures: Sequence[Column],
) -> None:
  """The final figures of all metrics of `view`, side by side as far as the terminal goes; see `with_fields`."""
  directed = {BETTER[mode]: [metric.name for metric in view.metrics if metric.mode == mode] for mode in BETTER}
  layout.title(console, 'final', '; '.join(f'{way}: {", ".join(known)}' for way, known in directed.items() if known))
  beside = [Column('', names), *_field_columns(fields), *rest]
  beside = beside if layout.fits(console, [*beside, figures[0]]) else [Column('', names), *rest]
  left, again = list(figures), False
  while left:
    count = next((n for n in range(len(left), 1, -1) if layout.fits(console, [*beside, *left[:n]])), 1)
    with_fields(console, names, fields, [*rest, *left[:count]], again)
    left, again = left[count:], True


def _field_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
  """Columns of config fields; names are cut to their last part where that is clear."""
  names = list(rows[0])
  last = [label(name).rpartition('.')[2] for name in names]
  headers = [short if last.count(short) == 1 else label(name) for name, short in zip(names, last, strict=True)]
  numeric = [all(isinstance(row[name], int | float) or missing(row[name]) for row in rows) for name in names]
  return [
    Column(header, [shown(row[name]) for row in rows], right)
    for name, header, right in zip(names, headers, numeric, strict=True)
  ]


def costs(
  console: Console, names: Sequence[str], rows: Sequence[Mapping[str, float]], lanes: Sequence[int], more: str = ''
) -> None:
  """Costs of each row by column of the frame; those of lanes of one program are marked, because they are shared."""
  layout.title(console, 'cost', more)
  some = any(n > 1 for n in lanes)
  columns = [Column('', names, right=names[0].isdigit())]
  for header, (name, form, clocked) in _COSTS.items():
    marks = [(_SHARED if clocked and n > 1 else ' ') * some for n in lanes]
    columns.append(Column(header, [f'{form(row[name])}{mark}' for row, mark in zip(rows, marks, strict=True)]))
  layout.grid(console, columns)
  if some:
    numbers = ' or '.join(map(str, sorted({n for n in lanes if n > 1})))
    layout.paragraph(
      console,
      f'{_SHARED} shared: these runs were lanes of one program, {numbers} at a time, so clock '
      'and memory are those of all its lanes together',
      style='dim',
    )


def notes(console: Console, view: View, more: Sequence[str]) -> None:
  """What must be known to read the tables."""
  best = 'best*: of all evaluations of a run, picked by this very figure, so it is optimistic: compare final'
  has_best = not view.overview and not all(metric.evaluated(view.frame) for metric in view.metrics)
  lines = [*more, *([best] if has_best else [])]
  for metric in () if view.overview else view.metrics:
    kind = 'final' if metric.evaluated(view.frame) else 'best_min'
    evaluated = np.isfinite(groups.values(view.frame, metric.of(view.frame, kind)))
    lacking = list(view.frame.index[(view.frame['state'] == 'done').to_numpy() & ~evaluated])
    if lacking:
      others = f' and {len(lacking) - 2} more' if len(lacking) > 2 else ''
      lines.append(f'without {metric.name}: {", ".join(lacking[:2])}{others}')
  console.print()
  for line in (*lines, *view.notes):
    layout.paragraph(console, line, style='dim', hanging=2)
