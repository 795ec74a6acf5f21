"""Training curves made small enough for a page."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  import pandas as pd

POINTS = 500  # of one metric of one run
_DIGITS = 6


def figures(values: Iterable[float]) -> list[float | int | None]:
  """`values` as JSON numbers of six significant digits; NaN and infinities, which JSON has not, as None."""
  return [figure(value) for value in values]


def figure(value: Any) -> float | int | None:
  """One number as `figures` gives it."""
  if value is None or not np.isfinite(value):
    return None
  short = float(f'{float(value):.{_DIGITS}g}')
  return int(short) if short.is_integer() and abs(short) < 1e15 else short


def thin(metrics: 'pd.DataFrame', groups: 'pd.Series', points: int = POINTS) -> dict[str, Any]:
  """The curves of all runs with at most about `points` rows a metric, the last one among them.

  The runs of one group keep the same steps, so that their mean needs no interpolation.

  Args:
    metrics: one row a run and step, as `gen_ai.compare.load` gives.
    groups: group of each run; its index gives the order of the runs.
    points: rows that are kept of each metric of a run.

  Returns:
    names: metrics, evaluation first; runs: for each run {step, seconds, <metric>: [rows]}, None where there is no
    value; thinned: whether rows were left out.
  """
  names = [c for kind in ('eval/', 'train/') for c in metrics.columns if c.startswith(kind)]
  parts = {run: part.sort_values('step') for run, part in metrics.groupby('run', sort=False)}
  strides: dict[tuple[str, str], int] = {}
  for run, group in groups.items():
    for name in names:
      rows = int(parts[run][name].notna().sum()) if run in parts else 0
      stride = -(-rows // points) or 1
      strides[group, name] = max(stride, strides.get((group, name), 1))
  shown = [
    _thin(parts[run], {name: strides[group, name] for name in names}) if run in parts else {}
    for run, group in groups.items()
  ]
  return {'names': names, 'runs': shown, 'thinned': any(stride > 1 for stride in strides.values())}


def _thin(part: 'pd.DataFrame', strides: dict[str, int]) -> dict[str, list[float | int | None]]:
  """Columns of one run: every stride-th value of each metric and its last."""
  kept = {}
  for name, stride in strides.items():
    values = part[name].to_numpy(float)
    there = np.flatnonzero(~np.isnan(values))
    if there.size:
      kept[name] = np.full(len(values), np.nan)
      chosen = np.union1d(there[stride - 1 :: stride], there[-1:])
      kept[name][chosen] = values[chosen]
  if not kept:
    return {}
  rows = np.flatnonzero(~np.all([np.isnan(values) for values in kept.values()], axis=0))
  axes = {name: part[name].to_numpy(float) for name in ('step', 'seconds')}
  return {name: figures(values[rows]) for name, values in {**axes, **kept}.items()}
