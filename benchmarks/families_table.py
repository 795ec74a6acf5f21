"""The report of benchmarks.families as a table: means over seeds with intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine
from gen_ai.compare.statistics import mean_interval

Row = Mapping[str, Any]


class Column(NamedTuple):
  """A figure of the table: its title, how it is read off a run, and how a mean is written."""

  title: str
  read: Callable[[Row], float | None]
  form: str


def _figure(name: str) -> Callable[[Row], float | None]:
  return lambda row: row['figures'][name]['value'] if name in row.get('figures', {}) else None


def _field(name: str) -> Callable[[Row], float | None]:
  return lambda row: row.get(name)


QUALITY = (
  Column('FD', _figure('fd'), '.2f'),
  Column('KID', _figure('kid'), '.4f'),
  Column('precision', _figure('precision'), '.3f'),
  Column('recall', _figure('recall'), '.3f'),
  Column('coverage', _figure('coverage'), '.3f'),
  Column('classes', _figure('modes_covered'), '.3g'),
  Column('class KL, nats', _figure('modes_kl_nats'), '.3f'),
  Column('C_T', _figure('c_t'), '.1f'),
  Column('copies', _figure('duplicates_share'), '.2%'),
  Column('updates', _field('steps'), ',.0f'),
  Column('parameters', _field('parameters'), ',.0f'),
  Column('training, s', _field('train_seconds'), '.0f'),
  Column('in all, s', _field('seconds'), '.0f'),
)
LIKELIHOOD = (
  Column('ELBO, nats', _figure('elbo_nats'), '.1f'),
  Column('IWAE bound, nats', _figure('iwae_nats'), '.1f'),
  Column('bits/dim', lambda row: _figure('iwae_bpd')(row) or _figure('nll_bpd')(row), '.3f'),
  Column('KL, nats', _figure('kl_nats'), '.1f'),
  Column('active units', _figure('active_units'), '.3g'),
)
SURE = ('updates', 'parameters', 'training, s', 'in all, s', 'classes', 'copies')  # a mean says enough


def cell(column: Column, rows: Sequence[Row]) -> str:
  """'mean ± half the 95 % Student interval' over the seeds; one seed stands alone; nothing measured is empty."""
  values = [value for value in map(column.read, rows) if value is not None]
  if not values:
    return ''
  found = mean_interval(values)
  text = f'{found.mean:{column.form}}'
  if column.title in SURE or not np.isfinite(found.high):
    return text
  return f'{text} ± {(found.high - found.low) / 2:{column.form}}'


def by_method(report: Mapping[str, Any]) -> dict[str, list[Row]]:
  """{method: its runs}, in the order of the report's plans."""
  found = {name: [row for row in report['runs'] if row['method'] == name] for name in report['plans']}
  return {name: rows for name, rows in found.items() if rows}


def lines(report: Mapping[str, Any], columns: Sequence[Column]) -> list[list[str]]:
  """The header and a line a method; runs that failed are counted beside the others, never left out unseen."""
  out = [['method', 'family', 'seeds', *(column.title for column in columns)]]
  for name, rows in by_method(report).items():
    done = [row for row in rows if row['state'] == 'done']
    lost = len(rows) - len(done)
    cells = [cell(column, done) for column in columns]
    if any(cells):
      title = (
        f'{name} [1]'
        if any('conditioned_on' in figure.get('stamp', {}) for row in done for figure in row['figures'].values())
        else name
      )
      out.append([title, rows[0]['family'], f'{len(done)}{f", {lost} failed" if lost else ""}', *cells])
    elif lost:
      out.append([name, rows[0]['family'], f'0, {lost} failed', *cells])
  return out


def likelihoods(report: Mapping[str, Any]) -> list[list[str]]:
  """The table of methods with a likelihood, each with what it is a likelihood of: unlike ones do not compare."""
  measures = {
    row['method']: row['figures']['nll_bpd']['stamp']['observation']
    for row in report['runs']
    if 'nll_bpd' in row.get('figures', {})
  }
  table = lines({**report, 'runs': [row for row in report['runs'] if row['method'] in measures]}, LIKELIHOOD)
  return [[*line, 'observation' if number == 0 else measures[line[0]]] for number, line in enumerate(table)]


def aligned(table: Sequence[Sequence[str]]) -> str:
  """A table for the terminal."""
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return '\n'.join('  '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table)


def markdown(table: Sequence[Sequence[str]]) -> str:
  """A table for a document."""
  head, *rest = ['| ' + ' | '.join(line) + ' |' for line in table]
  return '\n'.join([head, '|' + '---|' * len(table[0]), *rest]) + '\n'


def budget(report: Mapping[str, Any]) -> str:
  """'10 minutes of training'."""
  minutes = report['settings']['minutes']
  return f'{minutes:g} minute{"" if minutes == 1 else "s"} of training'


def terms(report: Mapping[str, Any]) -> str:
  """What all figures rest on, in a sentence or two."""
  asked = report['settings']
  return (
    f'{asked["data"]}, {asked["samples"]:,} samples a run against the test split; features of '
    f'the {asked["extractor"]}; {budget(report)} a run by the speed measured before. '
    '± is half of the 95 % Student interval over the seeds.'
  )


def text(report: Mapping[str, Any]) -> str:
  """Both tables for the terminal."""
  table = likelihoods(report)
  parts = [terms(report), aligned(lines(report, QUALITY))]
  return '\n'.join([*parts, *([aligned(table)] if len(table) > 1 else [])])


def document(report: Mapping[str, Any]) -> str:
  """The Markdown file: tables, terms, machine, and the commands that repeat every run."""
  table = likelihoods(report)
  commands = '\n'.join(row['command'] for row in report['runs'])
  parts = [
    '# Methods under one budget and one protocol',
    '',
    f'Made by `python -m benchmarks.families`, which [README.md](README.md#families) explains. {terms(report)}',
    '',
    machine.describe(report['machine']),
    '',
    '## Samples',
    '',
    markdown(lines(report, QUALITY)),
    '[1] completions of test images with a hole, not samples from nothing: not to be compared with the other rows.',
    '',
  ]
  if len(table) > 1:
    parts += ['## Likelihoods', '', markdown(table)]
  return '\n'.join([*parts, '## Every run', '', '```bash', commands, '```', ''])
