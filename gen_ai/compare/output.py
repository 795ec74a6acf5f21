"""Comparisons as text for other programs: CSV of the runs, and the rows of a query."""

import contextlib
import csv as csv_lib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gen_ai.core.errors import UserError
from gen_ai.core.files import write_atomic

if TYPE_CHECKING:
  import pandas as pd


@contextlib.contextmanager
def writing(file: Path, flag: str) -> Iterator[None]:
  """Makes the folder of `file`; what goes wrong there becomes a UserError that names the flag."""
  if file.is_dir():
    raise UserError(f'--{flag}={file} is a folder: name a file.')
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as error:
    at = f' ({error.filename})' if error.filename else ''
    raise UserError(f'--{flag}={file} cannot be written: {error.strerror}{at}. Name another place.') from error


def csv(frame: 'pd.DataFrame', path: str, stamp: str) -> None:
  """Writes the frame `runs` to `path`, or to standard output for '-'; a stamp of --force becomes the column `forced`.

  Raises:
    UserError: `path` cannot be written.
  """
  text = (frame.assign(forced=stamp) if stamp else frame).to_csv()
  if path == '-':
    sys.stdout.write(text)
    return
  with writing(Path(path), 'csv'):
    write_atomic(Path(path), text)


def sql(stream: TextIO, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
  """The rows of a query: aligned columns on a terminal, tab-separated values elsewhere."""
  if not stream.isatty():
    writer = csv_lib.writer(stream, delimiter='\t', lineterminator='\n')
    writer.writerow(names)
    writer.writerows(rows)
    return
  from rich.console import Console

  from gen_ai.compare.layout import Column, grid

  columns = [[_cell(row[i]) for row in rows] for i in range(len(names))]
  numeric = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(names))]
  grid(
    Console(file=stream, highlight=False),
    [Column(name, cells, right) for name, cells, right in zip(names, columns, numeric, strict=True)],
  )


def _cell(value: Any) -> str:
  return '-' if value is None else f'{value:.6g}' if isinstance(value, float) else str(value)
