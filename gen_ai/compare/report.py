"""One offline HTML page of a comparison: table, quality against cost, curves, search budget, samples, provenance.

The page opens from disk and asks nothing of a network, which its content security policy enforces: plotly.js (MIT
licence, from the plotly package), our scripts and style, all figures (JSON) and all pictures (PNG) lie inside it.
"""

import html
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_ai.compare import budget, curves, evaluations, groups, protocol, report_rows, report_samples, settings
from gen_ai.compare.select import Metric
from gen_ai.compare.statistics import Mode
from gen_ai.core.errors import UserError
from gen_ai.core.files import write_atomic

if TYPE_CHECKING:
  import pandas as pd

  from gen_ai.compare.records import Runs

_ASSETS = Path(__file__).resolve().parent / 'assets'
_SCRIPTS = (
  'page.js',
  'stamps.js',
  'table.js',
  'differences.js',
  'plots.js',
  'quality.js',
  'curves.js',
  'fields.js',
  'settings.js',
  'samples.js',
  'report.js',
)
_FEWEST = 3  # configurations that make a search-budget curve


def write(
  runs: 'Runs',
  path: str | Path,
  metrics: Sequence[tuple[str, Mode | None]],
  warnings: Sequence[str],
  baseline: Collection[str] = (),
) -> None:
  """Writes the page to `path`, atomically.

  Args:
    runs: what `gen_ai.compare.load` gives.
    metrics: (metric, 'min' or 'max', or None where neither is better); the first is the main one. Figures of
      evaluations whose stamps agree are shown beside them.
    warnings: lines that are stamped on top, such as why these runs should not be compared.
    baseline: the runs of the group that the others are compared with; by default, and where they are no group of the
      page, those of the best one by the main metric.

  Raises:
    UserError: no metric is named, none of the runs has one of them, or the file cannot be written.
  """
  path = Path(path)
  if not metrics:
    raise UserError('the HTML report needs a metric: --metric=NAME:min or --metric=NAME:max.')
  unknown = [name for name, _ in metrics if name not in runs.names]
  if unknown:
    raise UserError(f'no run has the metric {unknown[0]!r}: choose among {", ".join(runs.names) or "none"}.')
  page = _page(_data(runs, [Metric(*metric) for metric in metrics], warnings, baseline)).encode()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page)
  except OSError as error:
    raise UserError(f'cannot write --html={path}: {error.strerror}.') from error


def _left_out(unlike: Mapping[str, str]) -> list[str]:
  """A line for every set of fields, with the figures whose stamps differ in them."""
  figures: dict[str, list[str]] = {}
  for name, fields in unlike.items():
    figures.setdefault(fields, []).append(name)
  return [
    f'{", ".join(names)} {"is" if len(names) == 1 else "are"} left out: '
    f'{"its" if len(names) == 1 else "their"} stamps differ in {fields}'
    for fields, names in figures.items()
  ]


def _data(
  runs: 'Runs', metrics: Sequence[Metric], warnings: Sequence[str], baseline: Collection[str]
) -> dict[str, Any]:
  """All that the page shows, as JSON types."""
  frame = runs.runs
  figures, unlike = protocol.alike(frame)
  given = {metric.name for metric in metrics}
  others = [name for name in figures if name not in given]
  modes = {
    **{name: evaluations.direction(frame, name) for name in others},
    **{metric.name: metric.mode for metric in metrics},
  }
  shown = [*metrics, *(Metric(name, modes[name] or 'min') for name in others)]
  return {
    'made': datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC'),
    'warnings': [*warnings, *_left_out({name: fields for name, fields in unlike.items() if name not in given})],
    'metrics': [
      {
        'name': metric.name,
        'mode': modes[metric.name],
        'given': metric.name in given,
        'evaluated': metric.evaluated(frame),
        'copies': evaluations.tells_of_copies(metric.name),
      }
      for metric in shown
    ],
    'last_k': runs.last_k,
    **report_rows.describe(frame, shown, metrics, baseline),
    'curves': curves.thin(runs.metrics, frame['group']),
    'settings': [asdict(curve) for curve in settings.collect(list(frame.index))],
    'samples': report_samples.collect(list(frame.index)),
    'budget': _budget(frame, metrics[0]) if metrics[0].mode else [],
  }


def _budget(frame: 'pd.DataFrame', metric: Metric) -> list[dict[str, Any]]:
  """A search-budget curve for each method that has enough configurations; all diverged count as the worst of all."""
  assert metric.mode
  methods = groups.make(frame, None, ['name'])
  tried = {str(method.fields['name']): groups.configurations(method, metric) for method in methods}
  finite = [result for results in tried.values() for result in results if math.isfinite(result)]
  worst = (max if metric.mode == 'min' else min)(finite, default=None)
  drawn = []
  for method, results in tried.items():
    if len(results) >= _FEWEST and any(map(math.isfinite, results)):
      curve = budget.expected_best(results, metric.mode, worst=worst)._asdict()
      drawn.append({'method': method, **{name: curves.figures(values) for name, values in curve.items()}})
  return drawn


def _page(data: dict[str, Any]) -> str:
  """The template with everything put in. Text from runs enters as JSON only, and the scripts show it as text."""
  from plotly.offline import get_plotlyjs

  parts = {
    'title': html.escape(f'{len(data["runs"])} runs compared'),
    'style': (_ASSETS / 'report.css').read_text(encoding='utf-8'),
    # `<` would let a text of a run close the script element.
    'data': json.dumps(data, allow_nan=False, separators=(',', ':')).replace('<', '\\u003c'),
    'plotly': get_plotlyjs().replace('</script', '<\\/script'),
    'scripts': '\n'.join((_ASSETS / name).read_text(encoding='utf-8') for name in _SCRIPTS),
  }
  template = (_ASSETS / 'report.html').read_text(encoding='utf-8')
  return re.sub(r'\{\{(\w+)\}\}', lambda match: parts[match[1]], template)
