"""Aligned columns for a terminal of any width, or for a pipe."""

import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from gen_ai.core.terminal import printable

GAP = 2
TIE = '\u00a0'  # a space at which no line ends


class Column(NamedTuple):
  """A column of cells, which may hold several lines."""

  header: str
  cells: Sequence[str]
  right: bool = True  # as numbers; text stands left
  style: str = ''

  @property
  def width(self) -> int:
    """Characters of the longest line."""
    return max(len(line) for cell in (self.header, *self.cells) for line in cell.split('\n'))


def _printable(console: Console, columns: Iterable[Column]) -> list[Column]:
  """`columns` as the terminal shows them: where it lacks a character, another that may be wider."""
  return [
    column._replace(
      header=printable(column.header, console.encoding),
      cells=[printable(cell, console.encoding) for cell in column.cells],
    )
    for column in columns
  ]


def fits(console: Console, columns: Iterable[Column]) -> bool:
  """Whether `columns` stand side by side without a cut."""
  widths = [column.width for column in _printable(console, columns)]
  return sum(widths) + GAP * (len(widths) - 1) <= console.width


def grid(console: Console, columns: Sequence[Column]) -> None:
  """Prints `columns` under dim headers; a row too long for the terminal goes on in its next line."""
  columns = _printable(console, columns)
  _row(console, [(column.header, 'dim', column) for column in columns])
  for cells in zip(*(column.cells for column in columns), strict=True):
    parts = [cell.split('\n') for cell in cells]
    for line in itertools.zip_longest(*parts, fillvalue=''):
      _row(console, [(text, column.style, column) for text, column in zip(line, columns, strict=True)])


def _row(console: Console, parts: Sequence[tuple[str, str, Column]]) -> None:
  padded = [
    (text.rjust(column.width) if column.right else text.ljust(column.width), style) for text, style, column in parts
  ]
  text = Text(' ' * GAP).join(Text(*part) for part in padded)
  text.rstrip()
  console.print(text, soft_wrap=True)


def title(console: Console, text: str, more: str = '') -> None:
  """A line that begins a block."""
  console.print()
  console.print(Text.assemble((text, 'bold'), ('  ' if more else '', ''), (more, 'dim')))


def paragraph(console: Console, text: str, indent: int = 0, style: str = '', hanging: int = 0) -> None:
  """Text wrapped to the width; paths and `commands` stay whole; lines after the first stand `hanging` further in."""
  text = re.sub('`[^`]*`', lambda command: command[0].replace(' ', TIE), text)
  first, later = ' ' * indent, ' ' * (indent + hanging)
  for each in textwrap.wrap(
    _tied(text, console),
    console.width,
    initial_indent=first,
    subsequent_indent=later,
    break_long_words=False,
    break_on_hyphens=False,
  ):
    console.print(Text(each.replace(TIE, ' '), style=style), soft_wrap=True)


def _tied(text: str, console: Console) -> str:
  """`text` as the terminal shows it, but for ties, which are spaces in the end."""
  return TIE.join(printable(part, console.encoding) for part in text.split(TIE))


def line(console: Console, *parts: str | tuple[str, str]) -> None:
  """One line, not wrapped, so that a path in it can be copied."""
  console.print(Text.assemble(*parts), soft_wrap=True)


def folded(parts: Sequence[str], width: int, lead: str) -> str:
  """`lead` and as many of `parts` as one line of `width` holds; the rest is counted."""
  text = lead
  for shown, part in enumerate(parts):
    left = len(parts) - shown - 1
    tail = f', and {left} more' if left else ''
    joined = f'{text}{", " if shown else ""}{part}'
    if shown and len(joined + tail) > width:
      return f'{text}, and {left + 1} more'
    text = joined
  return text
