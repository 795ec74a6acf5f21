"""How one field of a config is declared: its usual value, what it may be, and what reads it."""

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# {another field: (which values of it, in words; whether a value is one of them)}, all of which must hold; of a tuple of
# fields, for one of them.
Needs = Mapping[str | tuple[str, ...], tuple[str, Callable[[Any], bool]]]
NETWORK = 'model.network'  # the field that says which fields of its family a config has


def either(values: tuple[Any, ...]) -> str:
  """'a', 'b' or 'c', in words."""
  *head, last = map(repr, values)
  return f'{", ".join(head)} or {last}' if head else last


def one_of(*values: Any) -> tuple[str, Callable[[Any], bool]]:
  """For `Needs`: one of these values."""
  return either(values), lambda value: value in values


@dataclass(frozen=True)
class Field:
  """One field of a config.

  A number may have bounds; those of a tuple hold for each of its items. A whole number without a `min` must not be
  negative, and no float may be infinite or NaN.
  """

  default: Any  # or a function (name of the data) -> value
  min: float | None = None  # least value
  max: float | None = None  # largest value
  above: float | None = None  # the value must be larger
  below: float | None = None  # the value must be smaller
  choices: tuple[Any, ...] = ()  # the values that there are; (): any
  listed: bool = False  # the text is a list, 'a,b', of `choices`
  open: tuple[
    str, ...
  ] = ()  # with `choices`: forms 'name:WHAT' of other values, of which all that begin 'name:' are allowed
  networks: tuple[str, ...] = ()  # the networks (NETWORK) whose configs have the field; (): all
  used_with: Needs = dataclasses.field(default_factory=dict)  # what other fields must be for it to be read; {}: any
  tiny: Any = None  # its value in a run of seconds (--tiny); None: as it is

  def usual(self, data: str) -> Any:
    """The default, in a config for the data set `data`."""
    return self.default(data) if callable(self.default) else self.default

  def but(self, default: Any, **changes: Any) -> 'Field':
    """The same field with another default, and other `changes`."""
    return dataclasses.replace(self, default=default, **changes)

  def refusal(self, value: Any) -> str:
    """What is wrong with `value`, as in 'must be at least 1'; '' where it is allowed."""
    if self.choices:
      parts = value.split(',') if self.listed else [value]
      begins = tuple(form.partition(':')[0] + ':' for form in self.open)
      wrong = [part for part in parts if part not in self.choices and not str(part).startswith(begins)]
      names = ', '.join(map(str, (*self.choices, *self.open)))
      detail = f' has {wrong[0]!r}, which' if wrong and self.listed else ''
      return f'{detail} is none of {names}'.strip() if wrong else ''
    numbers = [item for item in (value if isinstance(value, list | tuple) else [value]) if type(item) in (int, float)]
    if not all(math.isfinite(number) for number in numbers):
      return 'is not a finite number'
    whole = any(type(number) is int for number in numbers)
    least = 0 if whole and self.min is None and self.above is None else self.min
    bounds: list[tuple[float | None, Callable[[Any, Any], bool], str]] = [
      (least, operator.ge, 'at least'),
      (self.above, operator.gt, 'more than'),
      (self.max, operator.le, 'at most'),
      (self.below, operator.lt, 'less than'),
    ]
    known = [(bound, holds, words) for bound, holds, words in bounds if bound is not None]
    if all(holds(number, bound) for bound, holds, _ in known for number in numbers):
      return ''
    if [words for _, _, words in known] == ['at least', 'at most']:
      return f'must be from {_text(least)} to {_text(self.max)}'
    return f'must be {" and ".join(f"{words} {_text(bound)}" for bound, _, words in known)}'


def _text(bound: Any) -> str:
  return f'{bound:g}' if isinstance(bound, float) else str(bound)


def size(default: Any, **options: Any) -> Field:
  """A count or a size, or a tuple of them: at least 1."""
  return Field(default, min=1, **options)


def weight(default: float, **options: Any) -> Field:
  """A float that is not negative."""
  return Field(default, min=0.0, **options)
