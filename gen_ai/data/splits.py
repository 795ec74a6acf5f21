"""The rule that cuts a source into train, validation and test, in the slice syntax of TFDS.

A rule is three parts joined by '|', each a sum of slices: 'train[:90%]|train[90%:]|test'. A boundary is a number of
examples (characters for text), negative from the end, or a percentage, rounded to the closest example as TFDS rounds.
'auto' is the rule that the source's own splits suggest, and 'auto[:20%]' the first fifth of each of its parts.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from gen_ai.core.errors import UserError

NAMES = ('train', 'validation', 'test')
_AUTO = re.compile(r'(?:auto(?:\[:(?P<stop>\d+%?)\])?)?')
_SLICE = re.compile(r'(?P<name>[^\[\]|+]+?)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?')


class Range(NamedTuple):
  """Examples [start, stop) of one of the source's own splits."""

  name: str
  start: int
  stop: int


def resolve(rule: str, sizes: Mapping[str, int]) -> str:
  """The rule that 'auto' (or '') and 'auto[:STOP]' stand for, given {own split: size}; another is returned as it is.

  Raises:
    UserError: the source's own splits do not suggest a rule, or nothing is left of a part.
  """
  auto = _AUTO.fullmatch(rule)
  if not auto:
    return rule
  whole = _suggested(sizes)
  if auto['stop'] is None:
    return whole
  parts = []
  for (own,) in cut(whole, sizes).values():
    count = _boundary(auto['stop'], own.stop - own.start, 0)
    if not count:
      raise UserError(f'data.split={rule!r} leaves nothing of {own.name}[{own.start}:{own.stop}].')
    parts.append(f'{own.name}[{own.start}:{own.start + count}]')
  return '|'.join(parts)


def _suggested(sizes: Mapping[str, int]) -> str:
  if all(name in sizes for name in NAMES):
    return 'train|validation|test'
  if 'train' in sizes and 'test' in sizes:
    return 'train[:90%]|train[90%:]|test'
  if 'train' in sizes and 'validation' in sizes:
    return 'train[:90%]|train[90%:]|validation'
  if len(sizes) == 1 or 'train' in sizes:
    name = 'train' if 'train' in sizes else next(iter(sizes))
    return f'{name}[:80%]|{name}[80%:90%]|{name}[90%:]'
  raise UserError(f"data.split='auto' finds no train split among {sorted(sizes)}: give data.split a rule.")


def cut(rule: str, sizes: Mapping[str, int]) -> dict[str, list[Range]]:
  """The ranges of each of train, validation and test.

  Args:
    rule: a resolved rule, see the module.
    sizes: {own split: number of examples, or of characters}.

  Returns:
    {'train': ranges, 'validation': ranges, 'test': ranges}, all ranges non-empty. Validation and test may overlap
    each other (nanoGPT's 90/10 has no third part).

  Raises:
    UserError: a rule that does not parse, an unknown split, an empty part, or validation or test sharing examples
      with train.
  """
  parts = rule.split('|')
  if len(parts) != len(NAMES):
    raise UserError(
      f"data.split={rule!r} needs three parts TRAIN|VALIDATION|TEST, e.g. 'train[:90%]|train[90%:]|test'."
    )
  ranges = {
    name: [_range(text.strip(), rule, sizes) for text in part.split('+')]
    for name, part in zip(NAMES, parts, strict=True)
  }
  for name, own in ranges.items():
    for i, a in enumerate(own):
      if any(_overlap(a, b) for b in own[:i]):
        raise UserError(f'data.split={rule!r}: the {name} part takes some examples of {a.name!r} twice.')
  for name in ('validation', 'test'):
    if any(_overlap(a, b) for a in ranges['train'] for b in ranges[name]):
      raise UserError(f'data.split={rule!r}: the {name} part shares examples with the train part.')
  return ranges


def _range(text: str, rule: str, sizes: Mapping[str, int]) -> Range:
  match = _SLICE.fullmatch(text)
  if not match:
    raise UserError(f'data.split={rule!r}: cannot read {text!r}; write NAME, NAME[:90%], NAME[90%:] or NAME[100:200].')
  name = match['name'].strip()
  if name not in sizes:
    raise UserError(f'data.split={rule!r}: no split {name!r} in this source; it has {", ".join(sizes) or "none"}.')
  size = sizes[name]
  start = _boundary(match['start'], size, 0)
  stop = _boundary(match['stop'], size, size)
  if start >= stop:
    raise UserError(f'data.split={rule!r}: {text!r} is empty; {name!r} has {size} examples.')
  return Range(name, start, stop)


def _boundary(text: str | None, size: int, default: int) -> int:
  if text is None:
    return default
  value = round(int(text[:-1]) * size / 100) if text.endswith('%') else int(text)
  return min(max(value + size if value < 0 else value, 0), size)


def _overlap(a: Range, b: Range) -> bool:
  return a.name == b.name and a.start < b.stop and b.start < a.stop
