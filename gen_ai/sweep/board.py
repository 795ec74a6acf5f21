"""What a person sees of a sweep: a table of its trials, from their records; live while a launcher works."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from gen_ai.core import terminal, text
from gen_ai.core.command_line import printed
from gen_ai.core.errors import DONE, FAILED, REQUEUE
from gen_ai.sweep.directory import Sweep, TrialStatus
from gen_ai.sweep.trials import Trial, groups

if TYPE_CHECKING:  # rich is heavy for `launch.py --help`
  from rich.console import Console
  from rich.table import Table

COLOURS = {
  'waiting': 'dim',
  'starting': 'cyan',
  'running': 'cyan',
  'done': 'green',
  'pruned': 'dim green',
  'stopped': 'yellow',
  'diverged': 'red',
  'failed': 'red',
  'lost': 'red',
}
BAD = ('diverged', 'failed', 'lost')
_REFRESH_SECONDS = 0.5  # least time between two drawings
_TAIL_BYTES = 65536  # of metrics.jsonl, read to find the last evaluation
_LOG_LINES = 6  # of a failed trial's log, shown in the end
_MAX_COLUMNS = 4  # swept fields with a column each; more share one
_MAX_METRICS = 3  # with a column each
_BOOKKEEPING = ('step', 'kind', 'attempt', 'seconds')


def exit_code(states: Iterable[str]) -> int:
  """Of a launcher: 0 if all trials are done or pruned, 1 if one went wrong, 75 if something is left to do."""
  found = set(states)
  return FAILED if found & set(BAD) else DONE if found <= {'done', 'pruned'} else REQUEUE


def summary(states: Iterable[str]) -> str:
  """'3 done, 1 running' in the order of a trial's life."""
  counts = Counter(states)
  return ', '.join(f'{counts[state]} {state}' for state in COLOURS if counts[state])


def last_eval(run_dir: Path, config: ConfigDict) -> dict[str, float]:
  """The metrics of the run's last evaluation, that of config.eval.best first; {} before there is one."""
  try:
    with (run_dir / 'metrics.jsonl').open('rb') as file:
      file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
      lines = file.read().split(b'\n')
  except OSError:
    return {}
  for line in reversed(lines[:-1]):  # the last one is empty, or cut short
    if b'"eval"' not in line:
      continue
    try:
      row = json.loads(line)
    except ValueError:  # where the tail begins
      return {}
    best = config.eval.best.rpartition(':')[0]
    names = sorted((name for name in row if name not in _BOOKKEEPING), key=lambda name: name != best)
    return {name: float(row[name]) for name in names}
  return {}


def fields(trials: Sequence[Trial]) -> dict[str, str]:
  """{swept field: its heading}: the last part of its name, or all of it where two fields end alike."""
  paths = sorted({path for trial in trials for path in trial.overrides})  # sweep.json keeps no order
  ends = Counter(path.rpartition('.')[2] for path in paths)
  return {path: end if ends[end := path.rpartition('.')[2]] == 1 else path for path in paths}


def _cells(trial: Trial, headings: Mapping[str, str]) -> list[str]:
  if len(headings) <= _MAX_COLUMNS:
    return [text.value(trial.overrides[path]) if path in trial.overrides else '' for path in headings]
  return ['  '.join(f'{headings[path]}={text.value(value)}' for path, value in trial.overrides.items())]


def _table(headings: Mapping[str, str], *columns: str) -> 'Table':
  """An empty table: number, swept fields, `columns`."""
  from rich import box
  from rich.table import Table

  table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style='bold')
  table.add_column('#', justify='right', no_wrap=True)
  for heading in headings.values() if len(headings) <= _MAX_COLUMNS else ['overrides']:
    table.add_column(heading, overflow='fold')
  for column in columns:
    right = column not in ('state', 'progress', 'host', 'where')
    width = max(map(len, COLOURS)) if column == 'state' else None  # a live table that jumps is hard to read
    table.add_column(column, justify='right' if right else 'left', no_wrap=True, min_width=width)
  return table


class Row:
  """One trial as it is shown."""

  def __init__(self, sweep: Sweep, trial: Trial):
    self.trial, self.status = trial, sweep.status(trial)
    self.metrics = last_eval(sweep.run_dir(trial), trial.config)


def _metrics(rows: Iterable[Row]) -> tuple[list[str], dict[int, list[str]]]:
  """(headings, {number of a trial: its cells}): the first metrics of its last evaluation, or '' before one.

  Where not all trials have the same ones, a single cell names the first.
  """

  found = {row.trial.number: row.metrics for row in rows}
  leading = {tuple(metrics)[:_MAX_METRICS] for metrics in found.values() if metrics}
  if not leading:
    return [], dict.fromkeys(found, [])
  if len(leading) > 1:
    first = {key: next(iter(metrics.items()), None) for key, metrics in found.items()}
    return ['eval'], {key: [f'{one[0]} {text.number(one[1])}' if one else ''] for key, one in first.items()}
  names = list(leading.pop())
  return names, {key: [text.number(m[name]) if m else '' for name in names] for key, m in found.items()}


def console() -> 'Console':
  """Standard output; wide where it is no terminal, so that no cell is cut for a file or for grep."""
  found = terminal.console(markup=False)
  return found if found.is_terminal else terminal.console(markup=False, width=200)


def _widest(out: 'Console', table: Callable[[int], 'Table'], most: int) -> 'Table':
  """The table with as many columns of metrics as there is room for, at least one."""
  for count in range(most, 1, -1):
    found = table(count)
    if out.measure(found).maximum <= out.width:
      return found
  return table(min(most, 1))


def show(sweep: Sweep) -> int:
  """Prints all trials, what went wrong with its log, and the way on. Returns the exit code of a launcher."""
  from rich.text import Text

  out, rows = console(), [Row(sweep, trial) for trial in sweep.trials]
  headings, hosts = fields(sweep.trials), {row.status.host for row in rows} - {''}
  names, metrics = _metrics(rows)

  def table(count: int) -> 'Table':
    table = _table(headings, 'state', 'step', *names[:count], *(['host'] if len(hosts) > 1 else []))
    for row in rows:
      status = row.status
      cells = [*metrics[row.trial.number][:count], *([status.host] if len(hosts) > 1 else [])]
      state = Text(status.state, COLOURS[status.state])
      table.add_row(str(row.trial.number), *_cells(row.trial, headings), state, _steps(status), *cells)
    return table

  out.print(_widest(out, table, len(names)))
  states = [row.status.state for row in rows]
  out.print(f'\n{len(rows)} trials: {summary(states)}', soft_wrap=True)
  messages: set[str] = set()
  for row in rows:
    if row.status.state in BAD:  # many trials may fail in one way: its log is shown once
      lines = 0 if row.status.message in messages else _LOG_LINES
      messages.add(row.status.message)
      out.print('\n' + problem(sweep, row.trial, row.status, lines), soft_wrap=True)
  if command := next_command(sweep, states):
    out.print('\n' + command, soft_wrap=True)
  elif 'done' in states:
    out.print(f'\ncompare them with {printed("gen_ai.compare", sweep.path)}', soft_wrap=True)
  return exit_code(states)


def _steps(status: TrialStatus) -> str:
  return f'{status.step}/{status.total}'


def problem(sweep: Sweep, trial: Trial, status: TrialStatus, lines: int = 0) -> str:
  """What is to be said of a trial that went wrong: overrides, message, path of its log and its last `lines` lines."""
  changes = ' '.join(f'{path}={text.value(value)}' for path, value in trial.overrides.items())
  text_lines = [f'trial {trial.number} {status.state}: {changes or "the config as it is"}']
  text_lines += [f'  {status.message}'] if status.message else []
  log = sweep.log(trial)
  if log.is_file():
    text_lines.append(f'  log: {log}')
    if lines and status.state != 'diverged':  # its message says all
      text_lines += [f'    | {line}' for line in log_tail(log, lines)]
  return '\n'.join(text_lines)


def log_tail(log: Path, lines: int) -> list[str]:
  """The last `lines` lines of a log that hold something."""
  try:
    text = log.read_bytes()[-_TAIL_BYTES:].decode(errors='replace')
  except OSError:
    return []
  return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def next_command(sweep: Sweep, states: Sequence[str]) -> str:
  """The command that goes on with what has not ended; '' where nothing is to be done."""
  found, command = set(states), printed('launch.py', resume=sweep.path)
  left = found & {'waiting', 'stopped', 'lost'}
  if 'failed' in found and not left:
    return f'go on with {command} --retry_failed'
  also = '--retry_failed takes the failed ones too; ' if 'failed' in found else ''
  return f'{also}go on with {command}' if left else ''


def dry_run(sweep: Sweep, launcher: str, plan: Iterable[str]) -> None:
  """Prints all trials, which of them share a compiled program, and the lines of the launcher's own plan."""
  trials = sweep.trials
  out, headings = console(), fields(trials)
  programs = groups(trials)
  program_of = {trial.number: str(i) for i, group in enumerate(programs) for trial in group}
  table = _table(headings, 'steps', 'program')
  for trial in trials:
    steps = str(trial.config.run.steps)
    table.add_row(str(trial.number), *_cells(trial, headings), steps, program_of[trial.number])
  out.print(table)
  out.print(f'\n{len(trials)} trials, {len(programs)} compiled program(s), launcher {launcher}. Nothing was started.')
  for line in plan:
    out.print(line, soft_wrap=True)


class Board:
  """The trials of a sweep while a launcher works: a live table on a terminal, elsewhere a line for every change.

  Args:
    sweep: its records are read again and again, those of working trials only.
  """

  def __init__(self, sweep: Sweep):
    from rich.live import Live

    self.sweep, self.console = sweep, console()
    self._headings = fields(sweep.trials)
    self._rows = {trial.number: Row(sweep, trial) for trial in sweep.trials}
    self._where: dict[int, str] = {}  # of trials at work
    self._starting: set[int] = set()  # numbers of those that have not recorded anything yet
    self._began = time.monotonic()
    self._first_steps = self._steps_done()
    self._drawn = 0.0
    self._live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None

  def __enter__(self) -> 'Board':
    if self._live:
      self._live.start()
    return self

  def __exit__(self, *exc_info: Any) -> None:
    self._look()
    if self._live:
      self._live.stop()

  def _look(self) -> None:
    """Goes on with plain lines once the terminal is lost."""
    if self._live and terminal.lost(self.console):
      terminal.abandon(self.console, self._live)
      self.console, self._live = console(), None

  def say(self, text: str) -> None:
    """Text above the table."""
    self._look()
    self.console.print(text, soft_wrap=True)

  def started(self, trial: Trial, where: str) -> None:
    """A worker of `trial` was started at `where`."""
    self._where[trial.number] = where
    self._starting.add(trial.number)
    if not self._live:
      self._line(trial, 'started', where)
    self._drawn = 0.0

  def ended(self, trial: Trial) -> None:
    """The worker of `trial` has gone; its record says how."""
    self._where.pop(trial.number, None)
    self._starting.discard(trial.number)
    row = self._rows[trial.number] = Row(self.sweep, trial)
    if row.status.state in BAD:
      self.say(problem(self.sweep, trial, row.status))
    elif not self._live:
      names, metrics = _metrics([row])
      named = zip(names, metrics[trial.number], strict=True)
      figures = '  '.join([_steps(row.status), *(f'{name} {cell}' for name, cell in named)])
      self._line(trial, row.status.state, figures)
    self._drawn = 0.0

  def refresh(self) -> None:
    """Draws the table again, if it is time; call it often."""
    self._look()
    now = time.monotonic()
    if not self._live or now - self._drawn < _REFRESH_SECONDS:
      return
    self._drawn = now
    for number in self._where:
      row = self._rows[number] = Row(self.sweep, self._rows[number].trial)
      if row.status.state == 'running':
        self._starting.discard(number)
    self._live.update(self._draw(), refresh=True)

  def _line(self, trial: Trial, state: str, more: str) -> None:
    changes = ' '.join(f'{self._headings[path]}={text.value(value)}' for path, value in trial.overrides.items())
    self.say(f'{time.strftime("%H:%M:%S")}  trial {trial.number}  {state:8}  {changes}  ({more})')

  def _state(self, row: Row) -> str:
    return 'starting' if row.trial.number in self._starting else row.status.state

  def _steps_done(self) -> int:
    return sum(row.status.step for row in self._rows.values())

  def _draw(self) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    rows = list(self._rows.values())
    names, metrics = _metrics(rows)
    shown = self._chosen(max(3, self.console.height - 7))

    def table(count: int) -> 'Table':
      table = _table(self._headings, 'state', 'progress', 'step', *names[:count], 'where')
      for row in shown:
        status, state = row.status, self._state(row)
        bar = ProgressBar(total=status.total, completed=status.step, width=12)
        cells = [*metrics[row.trial.number][:count], self._where.get(row.trial.number, '')]
        overrides = _cells(row.trial, self._headings)
        table.add_row(str(row.trial.number), *overrides, Text(state, COLOURS[state]), bar, _steps(status), *cells)
      return table

    hidden = f' ({len(rows) - len(shown)} not shown)' if len(shown) < len(rows) else ''
    counts = f'{len(rows)} trials{hidden}: {summary(self._state(row) for row in rows)}'
    return Group(
      '', _widest(self.console, table, len(names)), '', Text(counts, overflow='fold'), Text(self._clock(), 'dim')
    )

  def _clock(self) -> str:
    """Time so far, and what is left at this pace, start-up and compilation of further trials included."""

    seconds, done = time.monotonic() - self._began, self._steps_done() - self._first_steps
    todo = [row.status for row in self._rows.values() if self._state(row) in ('waiting', 'starting', 'running')]
    left = sum(status.total - status.step for status in todo)
    pace = f', about {text.duration(seconds * left / done)} left' if done > 0 and left and seconds > 10 else ''
    return f'{text.duration(seconds)} so far{pace}'

  def _chosen(self, count: int) -> list[Row]:
    """At most `count` rows, by number: those at work, then those that went wrong, ended last, or are next."""
    rank = {'running': 0, 'starting': 0, 'lost': 1, 'failed': 1, 'diverged': 1, 'waiting': 3}
    rows = sorted(self._rows.values(), key=lambda row: (rank.get(self._state(row), 2), row.trial.number))
    return sorted(rows[:count], key=lambda row: row.trial.number)
