"""Numbers as a table shows them."""

import math

from gen_ai.compare.statistics import Interval, Mode
from gen_ai.core import text

NOTHING = '-'
_PREFIXES = ('', 'k', 'M', 'G', 'T', 'P', 'E', 'Z')


def number(value: float) -> str:
  """Four significant digits, as columns show them; '-' for a NaN."""
  return NOTHING if math.isnan(value) else text.number(value, zeros=True)


def interval(found: Interval, signed: bool = False) -> str:
  """'1.234 ± 0.012' for a symmetric interval, '1.234 [1.22, 1.25]' for the bootstrap's, '1.234' for a single run.

  The interval has two significant digits, and the mean ends where it ends.
  """
  if math.isnan(found.mean):
    return NOTHING
  plus = '+' if signed else ''
  if math.isnan(found.low):
    return plus * (found.mean >= 0) + number(found.mean)
  half = (found.high - found.low) / 2
  digits = _decimals(half, found.mean)
  if max(abs(found.mean), half) >= 1e7 or digits > 7:
    mean, low, high = (f'{value:{plus}.3g}' for value in (found.mean, found.low, found.high))
    return f'{mean} ± {half:.2g}' if found.method == 't' else f'{mean} [{low.lstrip("+")}, {high.lstrip("+")}]'
  mean = f'{found.mean:{plus}.{digits}f}'
  if found.method == 't':
    return f'{mean} ± {half:.{digits}f}'
  return f'{mean} [{found.low:.{digits}f}, {found.high:.{digits}f}]'


def bound(figure: str, better: Mode | None) -> str:
  """'≤ 1.234' of a figure that can only be lower, '≥ 1.234' of one that can only be higher, by the way it is better."""
  return figure if better is None or figure == NOTHING else f'{"≤" if better == "min" else "≥"} {figure}'


def _decimals(half: float, mean: float) -> int:
  """Decimals that show two significant digits of `half`, or four of `mean` where all runs agree."""
  scale, digits = (half, 2) if half > 0 else (abs(mean), 4)
  return max(0, digits - 1 - math.floor(math.log10(scale))) if scale > 0 else 0


def share(p: float, low: float, high: float) -> str:
  """A probability with its interval: '0.89 [0.56, 1.00]'."""
  if math.isnan(p):
    return NOTHING
  return f'{p:.2f}' if math.isnan(low) else f'{p:.2f} [{low:.2f}, {high:.2f}]'


def short(value: float, unit: str = '') -> str:
  """'1.23 T': three significant digits and an SI prefix."""
  if not math.isfinite(value):
    return NOTHING
  power = min(max(int(math.log10(abs(value)) // 3), 0), len(_PREFIXES) - 1) if value else 0
  if abs(value) / 1000**power >= 999.5 and power + 1 < len(_PREFIXES):
    power += 1
  scaled = value / 1000**power
  digits = max(0, 2 - math.floor(math.log10(abs(scaled)))) if abs(scaled) >= 1 else 2
  return f'{scaled:.{digits}f} {_PREFIXES[power]}{unit}'.rstrip()


def duration(seconds: float) -> str:
  """'4.2s', '3m 20s' or '2h 05m'; '-' where it is not known."""
  return text.duration(seconds, tenths=True) if math.isfinite(seconds) else NOTHING
