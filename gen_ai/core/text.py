"""Numbers, durations and near names as text: what messages, tables and directory names show."""

import difflib
from collections.abc import Iterable
from typing import Any


def number(value: float, zeros: bool = False) -> str:
  """Four significant digits, without an exponent where that is legible: '0.5', '12346', '1.2e-05'.

  Args:
    value: may be infinite or NaN.
    zeros: whether zeros at the end are kept, so that a column shows how exact it is: '0.5000'.
  """
  if 1e4 <= abs(value) < 1e7:
    return f'{value:.0f}'
  return f'{value:#.4g}'.rstrip('.') if zeros else f'{value:.4g}'


def duration(seconds: float, tenths: bool = False) -> str:
  """'45s', '3m 20s' or '2h 05m'; with `tenths` '4.2s' below a minute."""
  if tenths and seconds < 60:
    return f'{seconds:.1f}s'
  whole = round(seconds)
  if whole < 60:
    return f'{whole}s'
  return f'{whole // 60}m {whole % 60:02d}s' if whole < 3600 else f'{whole // 3600}h {whole % 3600 // 60:02d}m'


def value(given: Any) -> str:
  """A setting: 0.0001, not 1e-04; the shortest text that loses nothing."""
  return f'{given:g}' if isinstance(given, float) and float(f'{given:g}') == given else str(given)


def near(word: str, words: Iterable[str], most: int = 1, cutoff: float = 0.4) -> list[str]:
  """Up to `most` of `words` that are like `word`, the closest first; `cutoff` from 0 (all) to 1 (equal ones)."""
  return difflib.get_close_matches(word, list(words), n=most, cutoff=cutoff)


def did_you_mean(word: str, words: Iterable[str], most: int = 1, cutoff: float = 0.4) -> str:
  """ " Did you mean 'X'?" for those of `words` that are like `word`, '' where none is."""
  found = near(word, words, most, cutoff)
  return f' Did you mean {" or ".join(map(repr, found))}?' if found else ''
