"""Runs compared on a terminal: python -m gen_ai.compare runs/gan --metric=nll_bpd:min [--where 'optim.lr>=1e-4'] ..."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from absl import flags
from rich.console import Console

from gen_ai.compare import (
  blocks,
  diff,
  evaluations,
  groups,
  index,
  layout,
  lines,
  output,
  protocol,
  search,
  select,
  settings,
  table,
)
from gen_ai.compare.records import Runs, load
from gen_ai.core import command_line, terminal
from gen_ai.core.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_multi_string('metric', [], "'nll_bpd:min'; repeat it, or separate several by commas; the first orders")
flags.DEFINE_multi_string('where', [], "keep runs for which this holds: 'optim.lr>=1e-4', 'state=done'; repeatable")
flags.DEFINE_list('by', [], 'group by these fields alone and pool the rest: --by=optim.lr,loss.kind')
flags.DEFINE_integer('last_k', 5, 'evaluations in the column between final and best', lower_bound=1)
flags.DEFINE_string('baseline', '', "group that others are compared with: a letter, or a condition 'optim.lr=1e-3'")
flags.DEFINE_bool('runs', False, 'one line a run instead of groups')
flags.DEFINE_bool('budget', False, 'search-budget curves: expected best result against configurations tried')
flags.DEFINE_bool('diff', False, 'two run directories: what differs in config, code, data and environment')
flags.DEFINE_string('csv', '', "write one row a run to this file; '-' for the terminal")
flags.DEFINE_string('sql', '', 'a select over the tables runs, metrics and config of a derived SQLite index')
flags.DEFINE_string('index', '', 'file of that index; index.sqlite in the folder of the runs if not given')
flags.DEFINE_string('html', '', 'write one offline page with curves and samples to this file')
flags.DEFINE_bool('force', False, 'show runs of unlike protocols side by side, every output marked')

# What reads a flag.
COMPARISON, GROUPS, BUDGET, TERMINAL = 'a comparison', 'a comparison of groups', '--budget', '--csv=-'
DIFF, SQL = '--diff', '--sql'
READERS = {
  'metric': (COMPARISON, TERMINAL),
  'where': (COMPARISON, TERMINAL),
  'by': (GROUPS, BUDGET),
  'baseline': (GROUPS,),
  'runs': (COMPARISON,),
  'budget': (COMPARISON,),
  'html': (COMPARISON,),
  'csv': (COMPARISON, TERMINAL),
  'force': (COMPARISON, TERMINAL),
  'last_k': (COMPARISON, TERMINAL, SQL),
  'sql': (SQL,),
  'index': (SQL,),
  'diff': (DIFF,),
}


def _use() -> None:
  """Refuses flags that nothing would read."""
  command = DIFF if FLAGS.diff else SQL if FLAGS.sql else TERMINAL if FLAGS.csv == '-' else COMPARISON
  now = [command]
  if command == COMPARISON:
    now += [*([] if FLAGS.runs else [GROUPS]), *([BUDGET] if FLAGS.budget else [])]
  command_line.refuse_idle(
    READERS, now, f'{COMPARISON} run by run' if command == COMPARISON and FLAGS.runs else command
  )


def main(arguments: list[str], overrides: dict[str, str]) -> int:
  """Finds, checks and shows."""
  if overrides:
    raise UserError(
      f'--config.{next(iter(overrides))} changes a run before it starts; to choose among runs there is '
      '--where FIELD=VALUE.'
    )
  _use()
  console = terminal.console()
  if FLAGS.diff:
    if len(arguments) != 2:
      raise UserError(f'--diff takes two run directories, and {len(arguments)} were given.')
    diff.show(console, Path(arguments[0]), Path(arguments[1]))
    return 0
  if not arguments:
    raise UserError('name folders, run directories or quoted patterns: python -m gen_ai.compare runs/gan')
  if FLAGS.sql:
    names, rows, left = index.ask(arguments, FLAGS.sql, FLAGS.index, FLAGS.last_k)
    print(*left, sep='\n', end='\n' if left else '', file=sys.stderr)
    output.sql(sys.stdout, names, rows)
    return 0
  runs = load(*arguments, last_k=FLAGS.last_k)
  _compare(console, replace(runs, runs=select.where(runs.runs, FLAGS.where)))
  return 0


def _compare(console: Console, runs: Runs) -> None:
  frame = runs.runs
  named = {word.partition(':')[0] for words in FLAGS.metric for word in words.split(',')}
  stamped = bool(named) and named <= set(evaluations.names(frame))
  unlike = protocol.unlike(frame, protocol.TRAINED if stamped else tuple(protocol.PROTOCOL))
  if not FLAGS.force:
    protocol.refuse(unlike)
  bare = FLAGS.csv == '-' and not FLAGS.metric  # every column, that of the stamps too: nothing is set side by side
  why_all = '' if bare or FLAGS.metric else select.undeclared(frame)
  if why_all and (FLAGS.baseline or FLAGS.budget):
    flag = '--baseline' if FLAGS.baseline else '--budget'
    raise UserError(
      f'{flag} needs to know what is better: add --metric=NAME:min or --metric=NAME:max. '
      f'The metrics are {", ".join(runs.names)}.'
    )
  if why_all:
    figures, _ = protocol.alike(frame)
    shown = [name for name in runs.names if name in figures or f'final/{name}' in frame.columns]
    metrics = select.every(shown, frame)
  else:
    metrics = [] if bare else select.metrics(runs.names, frame, FLAGS.metric)
  figures = [metric.name for metric in metrics if metric.evaluated(frame)]
  stamps = protocol.unlike_stamps(frame, figures)
  if not FLAGS.force:
    protocol.refuse(stamps)
  unlike += stamps
  stamp, notes = protocol.stamp(unlike), [*protocol.notes(frame), *protocol.stamp_notes(frame, figures)]
  bounds = protocol.bound_notes(frame, [metric.name for metric in metrics])
  notes += [*bounds, *protocol.spread_note(frame, [metric.name for metric in metrics])]
  notes = [*notes, why_all] if why_all else notes
  if FLAGS.csv:
    output.csv(frame, FLAGS.csv, stamp)
    if FLAGS.csv == '-':
      print(*runs.left, sep='\n', end='\n' if runs.left else '', file=sys.stderr)
      return
  found = [] if FLAGS.runs else groups.make(frame, metrics[0], FLAGS.by)
  baseline = _baseline(found) if found and not why_all else None
  if FLAGS.html:
    circumstances = [*protocol.notes(frame), *bounds]  # what evaluations said stands beside their numbers
    _html(runs, metrics, [line for line in (stamp, *runs.left, *circumstances, why_all) if line], baseline)
  view = blocks.View(frame, metrics, runs.last_k, stamp, notes, runs.left, overview=bool(why_all))
  if FLAGS.runs:
    lines.show(console, view)
  else:
    table.show(console, view, found, baseline)
  settings.show(console, settings.collect(list(frame.index)), list(frame.index), [metric.name for metric in metrics])
  if FLAGS.budget:
    search.show(console, groups.make(frame, None, FLAGS.by or ['experiment']), metrics[0])
  written = [name for name in (FLAGS.csv, FLAGS.html) if name]
  if written:
    layout.title(console, 'written', ', '.join(written))


def _html(runs: Runs, metrics: Sequence[select.Metric], warnings: Sequence[str], baseline: groups.Group | None) -> None:
  from gen_ai.compare import report

  shown = replace(runs, metrics=runs.metrics[runs.metrics['run'].isin(runs.runs.index)])
  report.write(
    shown,
    Path(FLAGS.html),
    [(metric.name, metric.mode) for metric in metrics],
    warnings,
    [] if baseline is None else list(baseline.frame.index),
  )


def _baseline(found: Sequence[groups.Group]) -> groups.Group | None:
  """The group of --baseline, the best one without it; None where there is nothing to compare."""
  if not FLAGS.baseline:
    return found[0] if len(found) > 1 else None
  letter = next((group for group in found if group.label == FLAGS.baseline.upper()), None)
  if letter is not None:
    return letter
  if FLAGS.baseline.isalpha():
    raise UserError(f'--baseline={FLAGS.baseline} is no group: there are {found[0].label} to {found[-1].label}.')
  fitting = [group for group in found if _fulfils(group)]
  if len(fitting) != 1:
    raise UserError(
      f"--baseline='{FLAGS.baseline}' holds for {len(fitting)} groups, not for one: name the letter of "
      'one, or a condition on what sets it apart.'
    )
  return fitting[0]


def _fulfils(group: groups.Group) -> bool:
  """Whether the condition of --baseline holds for every run of `group`."""
  try:
    return len(select.where(group.frame, [FLAGS.baseline])) == len(group.frame)
  except UserError:
    return False


if __name__ == '__main__':
  command_line.run(main)
