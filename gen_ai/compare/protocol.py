"""Whether the numbers of some runs may stand side by side: one data set, evaluation, step budget, like stamps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gen_ai.compare import evaluations
from gen_ai.compare.select import cells, is_hash, missing, shown
from gen_ai.core.errors import UserError

if TYPE_CHECKING:
  import pandas as pd

PROTOCOL = {
  'data_hash': 'content of the data set',
  'split_rule': 'split of the data set',
  'data_spec': 'form of the data',
  'steps': 'step budget',
  'arithmetic': 'precision that the environment asked for',
  'eval_split': 'split evaluated on',
  'eval_examples': 'number of examples evaluated on',
  'eval_seed': 'seed of the evaluation',
  'ema': 'whether averaged parameters, EMA, were evaluated',
  'observation': 'what the own metrics of the method are of',
  'extractor': 'feature extractor of the metrics',
  'eval_samples': 'number of samples a metric used',
}
# What also holds for figures with a stamp of their own.
TRAINED = ('data_hash', 'split_rule', 'data_spec', 'steps', 'arithmetic')
# Of a stamp: a run without it is not held against one that has it. Another family's sampler has other settings, and
# of external samples neither the seed nor the averaging need be known.
IF_KNOWN = ('sampler.', 'sample_seed', 'ema', 'evaluations')
CIRCUMSTANCES = {'devices': 'devices', 'versions': 'versions', 'compiler': 'flags of the compiler', 'commit': 'code'}
NOT_RECORDED = 'not recorded'
_NAMED = 2  # runs that a message names
_MANY = 6  # values that a note names
_NOTES = 4  # of evaluations that are shown


class Unlike(NamedTuple):
  """A field in which the runs' protocols differ."""

  field: str
  runs: dict[str, list[str]]  # value as shown: the runs that have it
  what: str  # the field in words

  def __str__(self) -> str:
    return f'{self.field} ' + ' and '.join(f'{value} ({count(len(runs))})' for value, runs in self.runs.items())


def count(n: int, noun: str = 'run') -> str:
  """'1 run', '3 runs'."""
  return f'{n:,} {noun}{"" if n == 1 else "s"}'


def unlike(frame: 'pd.DataFrame', fields: Sequence[str] = tuple(PROTOCOL)) -> list[Unlike]:
  """The protocol fields in which the runs of `frame` differ; trials that have not started have none yet."""
  frame = frame[(frame['state'] != 'waiting') | (frame['data_hash'] != '')]
  found = []
  for field in fields:
    runs: dict[str, list[str]] = {}
    for run, value in zip(frame.index, cells(frame, field), strict=True):
      runs.setdefault(_value(field, value), []).append(run)
    if len(runs) > 1:
      found.append(_unlike(field, runs, PROTOCOL.get(field, field)))
  return found


def unlike_stamps(frame: 'pd.DataFrame', figures: Sequence[str]) -> list[Unlike]:
  """The fields in which the stamps of `figures`, such as test/fd, differ between the runs that have the figure.

  Circumstances are left out (see `stamp_notes`). Where several figures differ in a field in the same way, one is named
  as the field and the others in words.
  """
  found: dict[str, tuple[str, dict[str, list[str]], list[str]]] = {}
  for name in figures:
    for field, runs in _stamp_values(frame, name).items():
      if len(runs) > 1 and field not in evaluations.CIRCUMSTANCES:
        key = f'{field} {sorted(runs.items())}'
        found.setdefault(key, (f'{name}/stamp.{field}', runs, []))[2].append(name)
  return [_unlike(field, runs, f'stamp of {", ".join(names)}') for field, runs, names in found.values()]


def alike(frame: 'pd.DataFrame') -> tuple[list[str], dict[str, str]]:
  """(figures of evaluations whose stamps agree, {another figure: the fields in which its stamps differ})."""
  values_of = {name: unlike_stamps(frame, [name]) for name in evaluations.names(frame)}
  named = {name: [one.field.partition('/stamp.')[2] for one in found] for name, found in values_of.items()}
  fields = {name: ', '.join(found) for name, found in named.items() if found}
  return [name for name in values_of if name not in fields], fields


def _stamp_values(frame: 'pd.DataFrame', name: str) -> dict[str, dict[str, list[str]]]:
  """{field: {value as shown: runs}} of the stamps of one figure; lacking a field is a value too, but for `IF_KNOWN`."""
  stamps = evaluations.stamps(frame, name)
  values: dict[str, dict[str, list[str]]] = {field: {} for stamp in stamps.values() for field in stamp}
  for run, stamp in stamps.items():
    for field, runs in values.items():
      if field not in stamp and field.startswith(IF_KNOWN):
        continue
      runs.setdefault(_stamped(f'{name}/stamp.{field}', stamp.get(field)), []).append(run)
  return values


def _stamped(field: str, value: object) -> str:
  """A field of a stamp as --where takes it: all digits of a number, the first characters of a hash."""
  if missing(value):
    return NOT_RECORDED
  return repr(value) if isinstance(value, float) else shown(value)[: 12 if is_hash(field, value) else None]


def _unlike(field: str, runs: dict[str, list[str]], what: str) -> Unlike:
  return Unlike(field, dict(sorted(runs.items(), key=lambda item: -len(item[1]))), what)


def _value(field: str, value: object) -> str:
  if missing(value) or (value == '' and field not in ('observation', 'extractor')):
    return NOT_RECORDED
  return str(value)[:12] if is_hash(field, value) else shown(value)


def refuse(found: Sequence[Unlike]) -> None:
  """Raises UserError for unlike protocols, with the reasons and the ways out."""
  if not found:
    return
  reasons = [f'{one.field} ({one.what}): {_who(one)}' for one in found]
  ways = []
  for one in found[:_NAMED]:
    value, runs = next((value, runs) for value, runs in one.runs.items() if value != NOT_RECORDED)
    wanted = '' if value == shown('') else value
    ways.append(f"--where '{one.field}={wanted}'  keeps {count(len(runs))}")
  lines = ''.join(f'\n  {text}' for text in [*reasons, *ways])
  raise UserError(
    'these runs do not share one protocol, so their figures do not compare. Keep like ones with --where, '
    f'or show all of them with --force, which marks every output:{lines}'
  )


def _who(one: Unlike) -> str:
  return '; '.join(f'{value} in {_names(runs)}' for value, runs in one.runs.items())


def _names(runs: Sequence[str]) -> str:
  named = ', '.join(runs[:_NAMED])
  return named if len(runs) <= _NAMED else f'{named} and {len(runs) - _NAMED:,} more'


def stamp(found: Sequence[Unlike]) -> str:
  """What --force writes on every output; '' for runs of one protocol."""
  return f'FORCED: unlike protocols side by side: {"; ".join(map(str, found))}' if found else ''


def notes(frame: 'pd.DataFrame') -> list[str]:
  """Circumstances that differ and may move figures a little, but forbid no comparison."""
  return [f'{CIRCUMSTANCES[one.field]} differ: {_circumstance(one)}' for one in unlike(frame, tuple(CIRCUMSTANCES))]


def spread_note(frame: 'pd.DataFrame', metrics: Sequence[str]) -> list[str]:
  """What the spread of samples is read beside, where it is one of `metrics`."""
  if not any(name.rpartition('/')[2] == 'spread' for name in metrics):
    return []
  found = dict.fromkeys(shown(value) for value in cells(frame, 'data_spread') if not missing(value))
  return [f'spread of the data: {" and ".join(found)}'] if found else []


def bounded(frame: 'pd.DataFrame', name: str) -> list[bool]:
  """Of each run, whether its figure `name` (bits_per_byte, test/bits_per_byte) bounds what it is named after."""
  figure = name.rpartition('/')[2].partition('.')[0]
  return [figure in str(bounds).split() for bounds in cells(frame, 'bounds')]


def bound_notes(frame: 'pd.DataFrame', metrics: Sequence[str]) -> list[str]:
  """Which of `metrics` are bounds in some runs: they may stand beside exact ones, which are told apart."""
  lines: dict[str, list[str]] = {}
  for name in metrics:
    which = bounded(frame, name)
    if any(which):
      families = sorted({str(one) for one, is_bound in zip(cells(frame, 'experiment'), which, strict=True) if is_bound})
      lines.setdefault(f'{count(sum(which))} ({", ".join(families)})', []).append(name)
  return [
    f'bounds: {", ".join(names)} of {runs} can only be better than shown (≤, ≥); without a sign a figure is itself'
    for runs, names in lines.items()
  ]


def stamp_notes(frame: 'pd.DataFrame', figures: Sequence[str]) -> list[str]:
  """Circumstances in which the stamps of `figures` differ, and what their evaluations said."""
  lines: dict[str, list[str]] = {}  # a line: the figures it is about
  for name in figures:
    values_of = {
      field: runs for field, runs in _stamp_values(frame, name).items() if field in evaluations.CIRCUMSTANCES
    }
    values_of.setdefault('step', _runs_by(frame, f'{name}/step'))
    for field, runs in values_of.items():
      if len(runs) > 1:
        lines.setdefault(f'{field} differ: {_circumstance(_unlike(field, runs, field))}', []).append(name)
  return [*(f'{", ".join(named)}: {line}' for line, named in lines.items()), *_said(frame, figures)]


def _said(frame: 'pd.DataFrame', figures: Sequence[str]) -> list[str]:
  """What the evaluations behind `figures` said; where every run says another thing, the first ones."""
  runs: dict[str, set[str]] = {}
  for name in figures:
    for text, having in _runs_by(frame, f'{name}/notes').items():
      for note in text.split(evaluations.BETWEEN):
        runs.setdefault(note, set()).update(having)
  ordered = sorted(runs, key=lambda note: -len(runs[note]))
  lines = [f'evaluation: {note} ({count(len(runs[note]))})' for note in ordered[:_NOTES]]
  left = len(ordered) - _NOTES
  return (
    [*lines, f'evaluation: {left:,} more notes, see the columns SPLIT/METRIC/notes of --csv'] if left > 0 else lines
  )


def _runs_by(frame: 'pd.DataFrame', column: str) -> dict[str, list[str]]:
  """{value as shown: runs} of a column where it tells something."""
  found: dict[str, list[str]] = {}
  for run, value in zip(frame.index, cells(frame, column), strict=True):
    if not missing(value) and value != '':
      found.setdefault(shown(value), []).append(str(run))
  return found


def _circumstance(one: Unlike) -> str:
  """The values, the most frequent ones where they are many; of versions only the packages that differ."""
  values = {value: len(runs) for value, runs in one.runs.items()}
  if one.field == 'versions':
    parts = {value: value.split(', ') for value in values}
    same = set.intersection(*(set(part) for part in parts.values()))
    values = {', '.join(p for p in parts[value] if p not in same) or 'fewer packages': n for value, n in values.items()}
  shown = [f'{value} ({count(n)})' for value, n in values.items()]
  return ' and '.join(
    shown if len(shown) <= _MANY else [*shown[: _MANY - 1], f'{len(shown) - _MANY + 1:,} other values']
  )
