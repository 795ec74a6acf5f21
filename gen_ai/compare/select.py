"""What a person names on the command line: fields, conditions on them, metrics."""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gen_ai.compare import evaluations, settings
from gen_ai.compare.records import COLUMNS
from gen_ai.compare.statistics import Mode
from gen_ai.core.errors import UserError
from gen_ai.core.text import did_you_mean

if TYPE_CHECKING:
  import pandas as pd

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
  '<=': operator.le,
  '>=': operator.ge,
  '!=': operator.ne,
  '==': operator.eq,
  '=': operator.eq,
  '<': operator.lt,
  '>': operator.gt,
}
HASHES = ('data_hash', 'commit', 'patch', 'group', 'config_hash')  # may be named by their first characters
_HASH = re.compile(r'[0-9a-f]{32,}')
_CONDITION = re.compile(r'\s*([\w./-]+?)\s*(<=|>=|!=|==|=|<|>)(.*)', re.DOTALL)


class Metric(NamedTuple):
  """An evaluation metric, and which way is better."""

  name: str
  mode: Mode | None  # None: neither way is, or nobody said

  def of(self, frame: 'pd.DataFrame', kind: str = 'final') -> str:
    """The column of `frame` that holds its `kind`: an evaluation has one figure, so no last k and no best of many."""
    return self.name if kind == 'final' and self.evaluated(frame) else f'{kind}/{self.name}'

  def evaluated(self, frame: 'pd.DataFrame') -> bool:
    """Whether it is a figure of evaluation records, such as test/fd, and not a metric of the training."""
    return f'{self.name}/stamp' in frame.columns and f'final/{self.name}' not in frame.columns


def missing(value: Any) -> bool:
  """Whether a cell of the frame `runs` holds nothing."""
  return value is None or (isinstance(value, float) and value != value)


def label(column: str) -> str:
  """What a person calls a column: 'optim.lr' for config.optim.lr."""
  return column.removeprefix('config.')


def column(frame: 'pd.DataFrame', name: str) -> str:
  """The column of `frame` that `name` means: 'state', 'optim.lr', 'config.optim.lr', 'final/nll_bpd', or 'run'.

  'test/fd/stamp.extractor' is a field of the stamps of a figure, which `cells` reads.

  Raises:
    UserError: there is none; names the nearest.
  """
  fields = [label(c) for c in frame.columns if c.startswith('config.')]
  for candidate in (name, f'config.{name}'):
    if candidate in frame.columns or candidate == 'run' or evaluations.is_field(frame, candidate):
      return candidate
  ends = [field for field in fields if field.endswith(f'.{name}')]
  if len(ends) == 1:
    return f'config.{ends[0]}'
  stamp = evaluations.fields(frame, name)
  if stamp:
    raise UserError(f"no stamp has a field '{name}'.{did_you_mean(name, stamp)} There are {', '.join(stamp)}.")
  hint = f' Did you mean {" or ".join(ends)}?' if ends else did_you_mean(name, [*fields, *frame.columns])
  raise UserError(
    f"no run has a field '{name}'.{hint} There are the fields of the config, such as optim.lr, and "
    f'{", ".join(list(COLUMNS)[:8])}, ...'
  )


def where(frame: 'pd.DataFrame', conditions: Sequence[str]) -> 'pd.DataFrame':
  """The rows for which all `conditions` hold, such as 'optim.lr>=1e-4' or 'state=done'.

  A run without the field fulfils '!=' alone. Hashes may be given by their first characters.

  Raises:
    UserError: a condition that cannot be read, an unknown field, or one that leaves no run (shows what there is).
  """
  for condition in conditions:
    match = _CONDITION.fullmatch(condition)
    if match is None or (not match[3].strip() and match[2] not in ('=', '==', '!=')):
      raise UserError(
        f"--where='{condition}' must read FIELD OPERATOR VALUE, as in --where 'optim.lr>=1e-4'; "
        'the operators are = != < <= > >=.'
      )
    name, sign, text = match[1], match[2], match[3].strip()
    values = cells(frame, found := column(frame, name))
    kept = [_holds(value, sign, text, is_hash(found, value)) for value in values]
    if not any(kept):
      seen = list(dict.fromkeys(shown(value)[: 12 if is_hash(found, value) else None] for value in values))
      raise UserError(
        f"--where='{condition}' leaves no run: {label(found)} is {', '.join(seen[:8])}"
        f'{f" and {len(seen) - 8} more" if len(seen) > 8 else ""}.'
      )
    frame = frame[np.array(kept)]
  return frame


def cells(frame: 'pd.DataFrame', name: str) -> list[Any]:
  """The values of a column, or of the index, as Python's own types."""
  if name == 'run':
    return list(frame.index)
  if name not in frame.columns and evaluations.is_field(frame, name):
    return evaluations.cells(frame, name)
  return [None if missing(value) else value for value in frame[name].tolist()]


def is_hash(column: str, value: Any) -> bool:
  """Whether a value may be named by its first characters; of a stamp, every field that looks like a hash."""
  return column in HASHES or ('/stamp.' in column and isinstance(value, str) and _HASH.fullmatch(value) is not None)


def shown(value: Any) -> str:
  """A cell as a person would type it."""
  if missing(value):
    return '-'
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float):
    return f'{value:.0f}' if value.is_integer() and 1 <= abs(value) < 1e6 else f'{value:g}'
  if isinstance(value, tuple):
    return f'({",".join(map(shown, value))})'
  return str(value) or "''"


def _holds(value: Any, sign: str, text: str, is_hash: bool) -> bool:
  if missing(value):
    return sign == '!='
  if is_hash and sign in ('=', '==', '!='):
    return str(value).startswith(text) == (sign != '!=')
  wanted = _as(value, text)
  if wanted is None:
    return sign == '!='
  return OPERATORS[sign](value, wanted)


def _as(value: Any, text: str) -> Any:
  """`text` as a value of the type of `value`; None where it is none. Nothing, or '', is the empty text."""
  try:
    if isinstance(value, bool):
      return {'true': True, '1': True, 'false': False, '0': False}.get(text.lower())
    if isinstance(value, int | float):
      return float(text)
    if isinstance(value, tuple):
      read = ast.literal_eval(text)
      return tuple(read) if isinstance(read, list | tuple) else (read,)
  except (ValueError, SyntaxError):
    return None
  return text.strip('\'"') if text in ("''", '""') else text


def metrics(names: Sequence[str], frame: 'pd.DataFrame', given: Sequence[str]) -> list[Metric]:
  """The metrics to compare.

  Args:
    names: metrics that any run has, those of evaluation records among them.
    frame: the runs; where nothing is given, their own config.eval.best decides (see `undeclared`).
    given: 'nll_bpd:min', 'nll_bpd' (the direction is that of config.eval.best, or known, as that of test/fd) or several
      with commas.

  Raises:
    UserError: a metric that no run has, or a direction missing. Lists the metrics.
  """
  own = _own(frame)
  there = f'The metrics are {", ".join(names)}.' if names else 'No run has been evaluated yet.'
  words = [word.strip() for text in given for word in text.split(',') if word.strip()]
  if not words:
    return [_metric(text) for text in own]
  known = {metric.name: metric for metric in map(_metric, own)}
  chosen = []
  for word in words:
    directed = word.endswith((':min', ':max'))
    name = (word[: -len(':min')] if directed else word).removeprefix('eval/')
    if name not in names:
      _refuse_curve(name, frame)
      raise UserError(f"no run has the metric '{name}'.{_nearest(name, names)} {there}")
    mode = None if name not in evaluations.names(frame) else evaluations.direction(frame, name)
    if not directed and name not in known and not mode:
      raise UserError(f'--metric={name} does not say what is better: --metric={name}:min or --metric={name}:max.')
    chosen.append(_metric(word.removeprefix('eval/')) if directed else known.get(name) or Metric(name, mode or 'min'))
  return list(dict.fromkeys(chosen))


def _refuse_curve(name: str, frame: 'pd.DataFrame') -> None:
  """Raises UserError where `name` was measured at other settings of sampling than the runs' own alone."""
  curve = next((curve for curve in settings.collect(list(frame.index)) if curve.metric == name), None)
  if curve:
    at = f'--axis={curve.setting}={",".join(map(str, curve.x))}'
    raise UserError(
      f"'{name}' was measured at other settings than the runs' own alone ({at}). Leave --metric out to see it against "
      'them, or measure it without --axis.'
    )


def _own(frame: 'pd.DataFrame') -> list[str]:
  """What the configs of the runs name in eval.best."""
  best = 'config.eval.best'
  return list(dict.fromkeys(value for value in cells(frame, best) if value)) if best in frame.columns else []


def undeclared(frame: 'pd.DataFrame') -> str:
  """Why the runs do not say by what to compare them; '' where their configs name one metric."""
  own = _own(frame)
  if len(own) == 1:
    return ''
  why = f'the configs name {" and ".join(own)} in eval.best' if own else 'no config names a metric in eval.best'
  return f'{why}, so all are shown: --metric=NAME:min or --metric=NAME:max compares the runs by one of them'


def every(names: Sequence[str], frame: 'pd.DataFrame') -> list[Metric]:
  """All metrics, those that the runs call leading first, each with its direction where it is known.

  Raises:
    UserError: there is none yet.
  """
  if not names:
    raise UserError('no run has been evaluated yet, so there is nothing to compare: see the runs with --csv=-.')
  modes: dict[str, Mode | None] = {}
  for text in dict.fromkeys(cells(frame, 'leading')):
    modes |= {metric.name: metric.mode for metric in map(_metric, (text or '').split())}
  ordered = dict.fromkeys([*(name for name in modes if name in names), *names])
  modes |= {name: evaluations.direction(frame, name) for name in evaluations.names(frame)}
  return [Metric(name, modes.get(name)) for name in ordered]


def _nearest(name: str, names: Sequence[str]) -> str:
  ends = [known for known in names if known.endswith(f'/{name}')]
  return f' Did you mean {" or ".join(ends)}?' if ends else did_you_mean(name, names)


def _metric(text: str) -> Metric:
  name, _, mode = text.rpartition(':')
  return Metric(name, 'min' if mode == 'min' else 'max' if mode == 'max' else None)
