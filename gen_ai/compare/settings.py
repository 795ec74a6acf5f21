"""Metrics against a setting of sampling, as `gen_ai.evaluate --axis` measured them: curves of each run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gen_ai.compare import layout
from gen_ai.compare.layout import Column
from gen_ai.run import directory

_FEW = 3  # curves that are shown where none is of a metric that is compared
AXIS = 'axis'  # of a row of evaluations.jsonl: {'section.field': value}, see `directory.append_evaluation`


@dataclasses.dataclass(frozen=True)
class Curve:
  """One metric of one run against one setting, the others being fixed.

  Attributes:
    run: index of the run.
    metric: 'split/metric'.
    setting: 'section.field', or 'ema'.
    fixed: 'section.field=value' of the other settings that were varied with it; '' for none.
    x, y: values of the setting and of the metric, by x.
    low, high: 95 % intervals; None where the record tells none.
  """

  run: int
  metric: str
  setting: str
  fixed: str
  x: list[Any]
  y: list[float]
  low: list[float | None]
  high: list[float | None]


def collect(runs: Sequence[str]) -> list[Curve]:
  """The curves of `runs`, newest measurements last. Raises UserError where a record is damaged."""
  found: dict[tuple[Any, ...], dict[Any, tuple[float, float | None, float | None]]] = {}
  for index, run in enumerate(runs):
    rows = [row for row in directory.read_evaluations(run) if row.get(AXIS)]
    for row in sorted(rows, key=lambda row: (row['step'], row['time'])):
      for setting, value in row[AXIS].items():
        fixed = ' '.join(f'{name}={other}' for name, other in row[AXIS].items() if name != setting)
        for name, figure in row['figures'].items():
          place = (index, f'{row["split"]}/{name}', setting, fixed)
          found.setdefault(place, {})[value] = (figure['value'], figure.get('low'), figure.get('high'))
  curves = []
  for place, points in found.items():
    if len({value for value, _, _ in points.values()}) > 1:  # the own metrics of a method know of no setting
      xs = sorted(points, key=lambda x: (isinstance(x, str), x))
      y, low, high = zip(*(points[x] for x in xs), strict=True)
      curves.append(Curve(*place, x=xs, y=list(y), low=list(low), high=list(high)))
  return curves


def show(console: Console, curves: Sequence[Curve], names: Sequence[str], metrics: Sequence[str]) -> None:
  """Prints a table a metric and setting, a column a run; nothing where there are no curves.

  Args:
    console: to print on.
    curves: see `collect`.
    names: of the runs, by index.
    metrics: those that are compared. Where no curve is of one of them, the first few curves are shown.
  """
  wanted = {name.rpartition('/')[2] for name in metrics}
  groups: dict[tuple[str, str, str], list[Curve]] = {}
  for curve in curves:
    groups.setdefault((curve.metric, curve.setting, curve.fixed), []).append(curve)
  of_compared = {place: members for place, members in groups.items() if place[0].rpartition('/')[2] in wanted}
  shown = of_compared or dict(list(groups.items())[:_FEW])
  for (metric, setting, fixed), members in shown.items():
    layout.title(console, f'{metric} against {directory.axis_name(setting)}', fixed)
    xs = sorted({x for curve in members for x in curve.x}, key=lambda x: (isinstance(x, str), x))
    columns = [Column(setting.rpartition('.')[2], [str(x) for x in xs])]
    for curve in members:
      values = dict(zip(curve.x, curve.y, strict=True))
      columns.append(Column(Path(names[curve.run]).name, [f'{values[x]:.4g}' if x in values else '' for x in xs]))
    layout.grid(console, columns)
  if len(shown) < len(groups):
    layout.paragraph(console, f'{len(groups) - len(shown)} more curves over settings: --html=report.html shows all')
