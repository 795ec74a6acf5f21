"""Seconds of a sweep as one program against a process a trial and a plain loop: python -m benchmarks.sweep."""

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import machine
from benchmarks.sweep_sides import SIDES, Job, Turn, commands, execute, largest, take_turn
from gen_ai import config as config_lib
from gen_ai.compare.reproducibility import Tolerance
from gen_ai.core import command_line, text
from gen_ai.core.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_list('configs', ['gan', 'vae'], 'names of files in configs/')
flags.DEFINE_list('sides', list(SIDES), 'which ways to run the sweep; the first is what the others are compared with')
flags.DEFINE_integer('steps', 100, 'updates of every trial', lower_bound=1)
flags.DEFINE_integer('rates', 4, "learning rates: the config's own, its half, its quarter, ...", lower_bound=1)
flags.DEFINE_integer('seeds', 4, 'seeds for every learning rate', lower_bound=1)
flags.DEFINE_integer('rounds', 1, 'times that every side runs the whole sweep; the sides take turns', lower_bound=1)
flags.DEFINE_bool('no_cache', False, 'no side keeps compiled programs on the disk: every process compiles its own')
flags.DEFINE_float('rtol', 0.05, 'relative part of the tolerance within which final metrics must agree')
flags.DEFINE_float('atol', 0.05, "its absolute part, in the metric's unit")
flags.DEFINE_bool('tiny', False, "apply each config's tiny(): only to see that the benchmark works")
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

HEADER = f'{"side":<10}{"seconds":>9}{"lane-steps/s":>14}{"ratio":>8}{"range":>15}{"programs":>10}{"compile s":>11}'


def make_job(name: str) -> Job:
  """The sweep of configs/NAME.py: one evaluation, one set of samples and one checkpoint, after the last update.

  Raises:
    UserError: no such config, or --steps is no multiple of what it trains in one dispatch.
  """
  reference = f'configs/{name}.py'
  config, shared = config_lib.load(reference), config_lib.tiny(reference) if FLAGS.tiny else {}
  config = config_lib.override(config, shared)
  chunk = min(config.run.log_every, FLAGS.steps)
  shared |= {'run.steps': FLAGS.steps, 'run.log_every': chunk, 'run.trackers': ''}
  shared |= dict.fromkeys(('run.eval_every', 'run.sample_every', 'run.save_every'), 0)
  shared['optim.warmup_steps'] = min(config.optim.warmup_steps, FLAGS.steps // 10)  # schedules end with the last update
  config_lib.validate(config_lib.override(config, shared))
  return Job(reference, shared, [config.optim.lr / 2**i for i in range(FLAGS.rates)], FLAGS.seeds)


def measure(job: Job) -> dict[str, list[Turn]]:
  """All sides in turns; each round begins with another one. Raises UserError where one recorded something else."""
  # Not counted: prepares the data, and files come into memory.
  warm = Job(job.reference, job.shared | config_lib.tiny(job.reference), job.rates[:1], 1)
  with tempfile.TemporaryDirectory() as temporary:
    execute(commands('separate', warm, Path(temporary) / 'runs', '')[0], Path(temporary) / 'log')
  turns: dict[str, list[Turn]] = {side: [] for side in FLAGS.sides}
  for i in range(FLAGS.rounds):
    at = i % len(FLAGS.sides)
    for side in FLAGS.sides[at:] + FLAGS.sides[:at]:
      turns[side].append(take_turn(side, job, not FLAGS.no_cache))
      print(f'  round {i + 1}: {side} took {turns[side][-1].seconds:.1f} s', file=sys.stderr, flush=True)
  did = {side: turn.work for side, some in turns.items() for turn in some}
  unlike = [side for side in did if did[side] != did[FLAGS.sides[0]]]
  if unlike:
    raise UserError(
      f'{FLAGS.sides[0]} recorded {did[FLAGS.sides[0]]}, {unlike[0]} recorded {did[unlike[0]]}: '
      'they did not do the same work.'
    )
  return turns


def report(job: Job, turns: Mapping[str, Sequence[Turn]], tolerance: Tolerance) -> list[dict[str, Any]]:
  """A row of the report for every side."""
  base, lane_steps = turns[FLAGS.sides[0]], len(job.trials) * FLAGS.steps
  rows = []
  for side, some in turns.items():
    seconds = statistics.median(turn.seconds for turn in some)
    ratios = [turn.seconds / first.seconds for turn, first in zip(some, base, strict=True)]
    excess, where = max(largest(base[0].metrics, turn.metrics, tolerance) for turn in some)
    rows.append(
      {
        'config': job.reference,
        'side': side,
        'seconds': seconds,
        'lane_steps_per_second': lane_steps / seconds,
        'ratio': seconds / statistics.median(turn.seconds for turn in base),
        'ratio_min': min(ratios),
        'ratio_max': max(ratios),
        'programs': some[0].programs,
        'compile_seconds': statistics.median(turn.compile_seconds for turn in some),
        'turns': [turn.seconds for turn in some],
        'difference': excess,
        'difference_at': where,
      }
    )
  return rows


def show(row: Mapping[str, Any]) -> str:
  """A row of the table."""
  span = f'{row["ratio_min"]:.2f} to {row["ratio_max"]:.2f}'
  return (
    f'{row["side"]:<10}{row["seconds"]:>9.1f}{row["lane_steps_per_second"]:>14.1f}{row["ratio"]:>8.2f}{span:>15}'
    f'{row["programs"]:>10}{row["compile_seconds"]:>11.1f}'
  )


def agree(rows: Sequence[Mapping[str, Any]], tolerance: Tolerance) -> bool:
  """Prints how far the final metrics of the sides are apart; whether they agree."""
  others = [row for row in rows if row['side'] != FLAGS.sides[0]]
  if not others:
    return True
  print(f'final metrics against {FLAGS.sides[0]}, largest difference as a share of {tolerance}:')
  for row in others:
    verdict = '' if row['difference'] <= 1 else ': NOT the same results'
    where = f' ({row["difference_at"]})' if row['difference'] else ', identical'
    print(f'  {row["side"]:<10}{row["difference"]:.2g}{where}{verdict}')
  return all(row['difference'] <= 1 for row in rows)


def check(arguments: Sequence[str], overrides: Mapping[str, str]) -> None:
  """Raises UserError for a command line that makes no sense."""
  if arguments or overrides:
    word = arguments[0] if arguments else f'--config.{next(iter(overrides))}'
    raise UserError(f"'{word}' is no flag of this benchmark: it runs the configs as they are.")
  for side in FLAGS.sides or ['']:
    if side not in SIDES:
      raise UserError(f"--sides: '{side}' is none of {', '.join(SIDES)}.{text.did_you_mean(side, list(SIDES))}")


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table; 1 where the sides do not agree."""
  check(arguments, overrides)
  jobs, tolerance = [make_job(name) for name in FLAGS.configs], Tolerance(FLAGS.rtol, FLAGS.atol)
  about = machine.facts()
  print(machine.describe(about))
  cache = 'no compilation cache' if FLAGS.no_cache else 'each side begins with an empty compilation cache'
  print(f'wall seconds of a whole sweep, medians of {FLAGS.rounds}; {cache}; ratio to {FLAGS.sides[0]}')
  rows, same = [], True
  for job in jobs:
    turns = measure(job)
    devices = turns[FLAGS.sides[0]][0].devices
    print(
      f'\n{job.reference}: {len(job.rates)} learning rates x {job.seeds} seeds x {FLAGS.steps} updates = '
      f'{len(job.trials) * FLAGS.steps:,} lane-steps on {", ".join(devices)}\n{HEADER}'
    )
    found = report(job, turns, tolerance)
    print('\n'.join(map(show, found)), flush=True)
    same = agree(found, tolerance) and same
    rows += found
  if FLAGS.out:
    names = ('steps', 'rates', 'seeds', 'rounds', 'no_cache', 'rtol', 'atol', 'tiny')
    settings = {name: getattr(FLAGS, name) for name in names}
    Path(FLAGS.out).write_text(json.dumps({'machine': about, 'settings': settings, 'rows': rows}, indent=2) + '\n')
  return 0 if same else 1


if __name__ == '__main__':
  command_line.run(run)
