"""A derived SQLite index of run directories, for `--sql`: disposable, and rebuilt when a record has changed.

Tables:
  runs     one row a run: the columns of `gen_ai.compare.COLUMNS` and its figures, such as [final/nll_bpd], [test/fd];
           a stamp is JSON: select json_extract([test/fd/stamp], '$.extractor') from runs
  metrics  one row a run and step: step, seconds, examples, flops, [train/<metric>], [eval/<metric>]
  config   one row a run and field: run, field, value; lists as text

Any number of processes may ask at once: a new index is a file of its own until it is complete, then takes the name.
"""

import contextlib
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_ai.compare import records
from gen_ai.compare.find import find
from gen_ai.compare.output import writing
from gen_ai.compare.select import cells, label, shown
from gen_ai.core.errors import UserError

if TYPE_CHECKING:
  import pandas as pd

NAME = 'index.sqlite'
VERSION = 4  # of the tables
_READ = (
  'run.json',
  'config.json',
  'status.json',
  'attempts.jsonl',
  'metrics.jsonl',
  'evaluations.jsonl',
  'summary.json',
  'lease.json',
)
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)


def ask(
  patterns: Sequence[str | os.PathLike], query: str, path: str = '', last_k: int = 5
) -> tuple[list[str], list, list[str]]:
  """Column names and rows of a `select` over the runs that `patterns` lead to, and what had to be left aside.

  Args:
    patterns: as for `gen_ai.compare.load`.
    query: SQL of SQLite; names with a slash or a dot in brackets, as in `select [final/nll_bpd] from runs`.
    path: file of the index; '' for index.sqlite in the folder of the runs.
    last_k: as for `load`.

  Raises:
    UserError: the query is wrong or would change something (names tables and columns), or the index cannot be written.
  """
  found = find(patterns)
  file = Path(path) if path else found.root / NAME
  with _fresh(file, patterns, signature([place.path for place in found.places], last_k), last_k) as base:
    try:
      cursor = base.execute(query)
      names, rows = [name for name, *_ in cursor.description or []], cursor.fetchall()
      base.set_authorizer(None)
      return names, rows, [text for (text,) in base.execute('select text from left_aside')]
    except sqlite3.Error as error:
      raise UserError(_explained(str(error), file, base)) from error


def signature(paths: Sequence[Path], last_k: int) -> str:
  """Hash of which runs there are, and of the size and time of each of their records."""
  lines = [f'{VERSION} {last_k}']
  for path in paths:
    lines.append(str(path))
    for name in _READ:
      with contextlib.suppress(OSError):
        about = (path / name).stat()
        lines.append(f'{name} {about.st_size} {about.st_mtime_ns}')
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


@contextlib.contextmanager
def _fresh(file: Path, patterns: Sequence[str | os.PathLike], sign: str, last_k: int) -> Iterator[sqlite3.Connection]:
  """A connection that can only read, to an index with the signature `sign`: that of `file`, or a new one in its place.

  The connection is to the very file that was checked or made, whatever takes its name meanwhile.
  """
  with contextlib.ExitStack() as stack:
    base = stack.enter_context(_open(file)) if file.is_file() else None
    if base is None or _signature(base) != sign:
      _check_ours(file, base)
      base = stack.enter_context(_replaced(file, records.load(*patterns, last_k=last_k), sign))
    yield base


def _signature(base: sqlite3.Connection) -> str:
  """What an index was made from; '' where it does not tell."""
  try:
    return (base.execute('select signature from about').fetchone() or [''])[0]
  except sqlite3.Error:
    return ''


@contextlib.contextmanager
def _replaced(file: Path, runs: records.Runs, sign: str) -> Iterator[sqlite3.Connection]:
  """Makes a new index in the place of `file`."""
  temporary = file.with_name(f'.{file.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp')
  with contextlib.ExitStack() as stack:
    with writing(file, 'index'):
      temporary.touch()  # sqlite3 says nothing of why it cannot open a file
      try:
        _build(temporary, runs, sign)
        base = stack.enter_context(_open(temporary))
        temporary.replace(file)
      except sqlite3.OperationalError as error:
        raise UserError(f'--index={file} cannot be written: {error}. Name another place.') from error
      finally:
        temporary.unlink(missing_ok=True)
    yield base


@contextlib.contextmanager
def _open(file: Path) -> Iterator[sqlite3.Connection]:
  """A connection that can only read."""
  with contextlib.closing(sqlite3.connect(f'{file.resolve().as_uri()}?mode=ro', uri=True)) as base:
    base.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
    yield base


def _check_ours(file: Path, base: sqlite3.Connection | None) -> None:
  """Raises UserError before a file that is no index would be replaced."""
  if base is None or not file.stat().st_size:
    return
  with contextlib.suppress(sqlite3.Error):
    base.execute('select * from about')
    return
  raise UserError(f'{file} is there and is no index of runs: name another file with --index=FILE.')


def _build(path: Path, runs: records.Runs, sign: str) -> None:
  with contextlib.closing(sqlite3.connect(path)) as base:
    base.execute('pragma synchronous = off')  # a part of a file is never read
    _fill(base, runs, sign)
    base.commit()


def _fill(base: sqlite3.Connection, runs: records.Runs, sign: str) -> None:
  config = [name for name in runs.runs.columns if name.startswith('config.')]
  _table(base, 'runs', runs.runs.drop(columns=config).reset_index())
  _table(base, 'metrics', runs.metrics)
  base.execute('create index by_run on metrics (run, step)')
  base.execute('create table config (run, field, value)')
  for name in config:
    rows = zip(runs.runs.index, cells(runs.runs, name), strict=True)
    kept = [(run, label(name), _stored(value)) for run, value in rows if value is not None]
    base.executemany('insert into config values (?, ?, ?)', kept)
  base.execute('create table left_aside (text)')
  base.executemany('insert into left_aside values (?)', [(text,) for text in runs.left])
  base.execute('create table about (signature)')
  base.execute('insert into about values (?)', (sign,))


def _table(base: sqlite3.Connection, name: str, frame: 'pd.DataFrame') -> None:
  columns = [[_stored(value) for value in frame[column].tolist()] for column in frame.columns]
  base.execute(f'create table {name} ({", ".join(f"[{column}]" for column in frame.columns)})')
  places = ', '.join('?' * len(columns))
  base.executemany(f'insert into {name} values ({places})', zip(*columns, strict=True))


def _stored(value: Any) -> Any:
  """A cell as SQLite holds it: a missing number as NULL, a list as text."""
  return shown(value) if isinstance(value, tuple) else value  # sqlite3 stores NaN as NULL by itself


def _explained(error: str, file: Path, base: sqlite3.Connection) -> str:
  """What is wrong with a query, and which tables and columns there are."""
  if 'prohibited' in error or 'not authorized' in error or 'readonly' in error:
    return f'--sql can only select: {file} is made from the run directories, which nothing here changes.'
  base.set_authorizer(None)
  tables = {name: [row[1] for row in base.execute(f'pragma table_info({name})')] for name in ('runs', 'metrics')}
  tables['config'] = ['run', 'field', 'value']
  listed = ''.join(f'\n  {name}: {", ".join(map(_quoted, columns))}' for name, columns in tables.items())
  return f'--sql: {error}. Tables and columns (write those with a slash in brackets):{listed}'


def _quoted(column: str) -> str:
  return column if column.isidentifier() else f'[{column}]'
