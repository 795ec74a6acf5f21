"""Seconds and memory of FD, KID and PRDC against torchmetrics and prdc: python -m benchmarks.metrics [--rounds=3]."""

import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import machine, real_data
from benchmarks.metrics_agreement import disagreements
from benchmarks.metrics_sides import SIDES, take_turn, write_job
from gen_ai.core import command_line
from gen_ai.core.errors import DONE, FAILED, UserError

FLAGS = flags.FLAGS
flags.DEFINE_string('data', 'fashion_mnist', 'labelled images: a prepared data set')
flags.DEFINE_string('data_dir', '', 'where prepared data sets live; empty: as the config says')
flags.DEFINE_string(
  'extractor',
  '',
  'of features: classifier:RUN_DIR; empty: configs/classifier.py is trained on the '
  'data, or found trained, under --runs_dir',
)
flags.DEFINE_string('runs_dir', 'runs', 'where the run of the classifier goes')
flags.DEFINE_integer('samples', 10_000, 'training images that are judged against as many test images', lower_bound=20)
flags.DEFINE_integer('seed', 0, 'of the choice of images, and of random subsets', lower_bound=0)
flags.DEFINE_integer('rounds', 3, 'processes of each side; the sides take turns', lower_bound=1)
flags.DEFINE_string('out', '', 'also write the report here, as JSON')

PARTS = ('features', 'fd', 'kid', 'prdc')
NEEDED = ('torch', 'torchmetrics', 'prdc')


def report(turns: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
  """A row for each side: medians over its processes."""
  totals = {side: [sum(turn['second'].values()) for turn in some] for side, some in turns.items()}
  rows = []
  for side, some in turns.items():
    first = [sum(turn['first'].values()) for turn in some]
    ratios = [mine / ours for mine, ours in zip(totals[side], totals['ours'], strict=True)]
    rows.append(
      {
        'side': side,
        'seconds': statistics.median(totals[side]),
        'seconds_min': min(totals[side]),
        'seconds_max': max(totals[side]),
        'first_seconds': statistics.median(first),
        'ratio': statistics.median(totals[side]) / statistics.median(totals['ours']),
        'ratio_min': min(ratios),
        'ratio_max': max(ratios),
        'peak_mib': statistics.median(turn['peak'] for turn in some),
        'before_mib': statistics.median(turn['before'] for turn in some),
        **{part: statistics.median(turn['second'][part] for turn in some) for part in PARTS},
        'figures': some[-1]['figures'],
        'versions': some[-1]['versions'],
        'turns': list(some),
      }
    )
  return rows


HEADER = (
  f'{"side":<7}{"seconds":>9}{"range":>15}{"ratio":>8}{"first time":>12}'
  + ''.join(f'{part:>10}' for part in PARTS)
  + f'{"peak MiB":>11}{"above start":>13}'
)


def show(row: Mapping[str, Any]) -> str:
  """A row of the table."""
  span = f'{row["seconds_min"]:.2f} to {row["seconds_max"]:.2f}'
  return (
    f'{row["side"]:<7}{row["seconds"]:>9.2f}{span:>15}{row["ratio"]:>8.2f}{row["first_seconds"]:>12.2f}'
    + ''.join(f'{row[part]:>10.2f}' for part in PARTS)
    + f'{row["peak_mib"]:>11.0f}{row["peak_mib"] - row["before_mib"]:>13.0f}'
  )


def run(arguments: list[str], overrides: dict[str, str]) -> int:
  """Flags to table; 1 where the sides do not agree."""
  if arguments:
    raise UserError(f"'{arguments[0]}' is no flag: did you mean --data={arguments[0]}?")
  missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
  if missing:
    raise UserError(f'{missing[0]} is not installed: pip install -r requirements.txt -r requirements/benchmark.txt')
  request = real_data.Request(*(getattr(FLAGS, name) for name in real_data.Request._fields))
  about = machine.facts()
  print(machine.describe(about))
  data = real_data.open_data(request, overrides)
  turns: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
  with tempfile.TemporaryDirectory() as folder:
    job = write_job(Path(folder), data, FLAGS.samples, FLAGS.seed)
    for i in range(FLAGS.rounds):
      for side in SIDES:
        turns[side].append(take_turn(side, job))
        print(f'  round {i + 1}: {side} took {sum(turns[side][-1]["second"].values()):.2f} s', file=sys.stderr)
  rows = report(turns)
  print(
    f'FD, KID and PRDC of {FLAGS.samples:,} images against {FLAGS.samples:,} of {FLAGS.data}; features of '
    f'{data.extractor}; medians of {FLAGS.rounds} processes a side, in turns\n{HEADER}'
  )
  print('\n'.join(map(show, rows)))
  for row in rows:
    print(f'{row["side"]:<7}' + ', '.join(f'{name} {value:.6g}' for name, value in row['figures'].items()))
  problems = disagreements(rows[0]['figures'], rows[1]['figures'])
  print('\n'.join(problems) if problems else 'the figures agree')
  print('versions: ' + ', '.join(f'{name} {v}' for row in rows for name, v in row['versions'].items()))
  if FLAGS.out:
    settings = {**request._asdict(), 'extractor': data.extractor, 'rounds': FLAGS.rounds}
    found = {'machine': about, 'settings': settings, 'rows': rows, 'disagreements': problems}
    Path(FLAGS.out).write_text(json.dumps(found, indent=2) + '\n')
  return FAILED if problems else DONE


if __name__ == '__main__':
  command_line.run(run)
