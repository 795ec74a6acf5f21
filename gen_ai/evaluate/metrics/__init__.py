"""Metrics, one module each; a module is found by existing: it holds its metrics in METRICS.

Code outside the package, such as a test or a plug-in that `config.experiment` names, calls `register`.
"""

import functools
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from gen_ai.core.errors import UserError

_registered: list[Any] = []


@functools.cache
def _found() -> list[Any]:
  modules = [importlib.import_module(f'{__name__}.{module.name}') for module in pkgutil.iter_modules(__path__)]
  return [metric for module in modules for metric in getattr(module, 'METRICS', ())]


def register(metric: Any) -> None:
  """Adds a `metric.Metric` that is not in this package; one of the same name and kind of data is replaced."""
  _registered.append(metric)


def every() -> list[Any]:
  """All metrics that are known."""
  return [*_found(), *_registered]


def of_kind(kind: str) -> dict[str, Any]:
  """{name: Metric} of the metrics of that kind of data."""
  return {metric.name: metric for metric in every() if kind in metric.kinds}


def parse(text: str, kind: str) -> tuple[Any, ...]:
  """The metrics named in 'fd,kid' for a kind of data.

  Raises:
    UserError: a name that there is not, or not for this kind.
  """
  own = of_kind(kind)
  names = list(dict.fromkeys(name.strip() for name in text.split(',') if name.strip()))
  for name in names:
    if name not in own:
      other = next((metric.kinds[0] for metric in every() if metric.name == name), '')
      why = f'is measured on {other}s, not on {kind}s' if other else 'is unknown'
      raise UserError(f"metric '{name}' {why}. For {kind}s there are {', '.join(own) or 'none'}.")
  return tuple(own[name] for name in names)


def figures(metrics: Sequence[Any]) -> list[str]:
  """The names of all figures that `metrics` give."""
  return [name for metric in metrics for name in metric.values]
