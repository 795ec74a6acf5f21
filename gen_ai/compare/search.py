"""Search-budget curves on a terminal: the best result to expect from n configurations tried."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from gen_ai.compare import budget, format, groups, layout
from gen_ai.compare.groups import Group
from gen_ai.compare.layout import Column
from gen_ai.compare.protocol import count
from gen_ai.compare.select import Metric, label, shown


def show(console: Console, methods: Sequence[Group], metric: Metric) -> None:
  """A row for n = 1, 2, 4, ... configurations and a column for each method.

  Args:
    console: where to.
    methods: groups by what is compared at equal tuning cost, pooled over all that was tuned.
    metric: whose final value, a mean over seeds, is the result of a configuration.
  """
  assert metric.mode, 'a direction is asked for before'
  tried = {_named(method): groups.configurations(method, metric) for method in methods}
  tried = {name: results for name, results in tried.items() if np.isfinite(results).any()}
  layout.title(console, f'expected best {metric.name} of n configurations', 'Dodge et al. 2019, arXiv 1909.03004')
  if not tried:
    layout.paragraph(console, 'no configuration has a final figure yet')
    return
  finite = np.concatenate(list(tried.values()))
  finite = finite[np.isfinite(finite)]
  worst = float(finite.max() if metric.mode == 'min' else finite.min())
  curves = {name: budget.expected_best(results, metric.mode, worst=worst) for name, results in tried.items()}
  most = max(map(len, tried.values()))
  numbers = sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most})
  first = Column('n', [str(n) for n in numbers])
  wide = [first, *(_column(name, curve, numbers, True) for name, curve in curves.items())]
  narrow = [first, *(_column(name, curve, numbers, False) for name, curve in curves.items())]
  layout.grid(console, wide if layout.fits(console, wide) else narrow)
  for name, results in tried.items():
    bad = int((~np.isfinite(results)).sum())
    if bad:
      layout.paragraph(
        console,
        f'{name}: {count(bad, "configuration")} of {len(results)} diverged or was pruned, and '
        f'counts as the worst result seen, {format.number(worst)}',
        style='dim',
      )


def _named(method: Group) -> str:
  """'gan', or 'loss.kind wgan' for methods that --by sets apart."""
  fields = method.fields.items()
  return ', '.join(shown(value) if name == 'experiment' else f'{label(name)} {shown(value)}' for name, value in fields)


def _column(name: str, curve: budget.Budget, numbers: Sequence[int], intervals: bool) -> Column:
  def cell(n: int) -> str:
    if n > len(curve.n):
      return format.NOTHING
    mean, low, high = (format.number(float(part[n - 1])) for part in (curve.expected, curve.low, curve.high))
    return f'{mean} [{low}, {high}]' if intervals and format.NOTHING not in (low, high) else mean

  return Column(name, [cell(n) for n in numbers])
